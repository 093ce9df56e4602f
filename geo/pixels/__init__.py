"""Parcels' pixels: rasterising, reading, filling, describing."""
