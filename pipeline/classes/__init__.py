"""Crop classes, and the ledger of the parcels."""
