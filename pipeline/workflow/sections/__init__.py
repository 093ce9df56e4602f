"""The settings, by section: every one with its type, range, default, unit and description.

`make configs` writes configs/default.yaml and configs/schema.json from these modules.
"""
