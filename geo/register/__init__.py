"""Parcel registers: reading, mending, placement on tiles, and writing."""
