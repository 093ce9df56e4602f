"""Imagery and parcels: from products and registers to the pixels of every parcel."""
