"""What a user can mend: the one error of models and their training."""

from __future__ import annotations


class InputError(Exception):
    """Models, data or settings that cannot be used; the message says what to do."""
