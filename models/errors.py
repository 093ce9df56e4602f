"""The error of models and their training that a user can correct."""

from __future__ import annotations


class InputError(Exception):
    """Models, data or settings cannot be used; the message says what to do."""
