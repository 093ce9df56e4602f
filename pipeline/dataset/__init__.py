"""The Pixel-Set dataset on disk."""
