"""Imagery: the acquisition as a record, its discovery, masks, radiometry and reading."""
