"""The predictions: their columns and files."""
