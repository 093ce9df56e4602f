"""The error of models and their training that a user can correct."""

from __future__ import annotations


class InputError(Exception):
    """Models, data or settings cannot be used; the message says what to do."""


def expect(holds: bool, name: str, expected: object, found: object) -> None:
    """Raise an InputError that names a value, unless it is as expected."""
    if not holds:
        raise InputError(f"{name}: expected {expected}, found {found}")
