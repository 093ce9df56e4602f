"""Parcel registers: reading, mending, placing on tiles, and writing."""
