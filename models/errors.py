"""The one error of models and their training for what a user can mend."""

from __future__ import annotations


class InputError(Exception):
    """Models, data or settings that cannot be used; the message says what to do."""
