"""Pixel-set and temporal attention encoders, trained and run on arrays."""
