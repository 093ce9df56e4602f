"""Readers of imagery, one a format: each finds acquisitions and never reads their pixels."""
