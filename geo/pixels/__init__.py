"""Pixels of parcels: finding, reading, resampling, and interpolating them."""
