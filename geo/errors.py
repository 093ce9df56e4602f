"""What a user can mend: the one error of imagery, registers, settings and datasets."""

from __future__ import annotations


class InputError(Exception):
    """Input or settings that cannot be used; the message says what, where, and what to do."""
