"""Numbers as people read them: shares and scores that are rounded, but never to 0 or to all."""

from __future__ import annotations

import math


def rounded(value: float, digits: int, whole: float = math.inf) -> str:
    """Round a number to the nearest; a little is not written as nothing, nor nearly all as all.

    Parameters
    ----------
    value
        At least 0; NaN and infinity, which a loss can be, are written as such.
    digits
        Decimals to write.
    whole
        The value of all: 1 for a share, 100 for one in per cent; other numbers have none.
    """
    if not math.isfinite(value):
        return "not finite"
    step = 10.0**-digits
    text = f"{value:.{digits}f}"
    if float(text) == 0 and value > 0:
        return f"<{step:.{digits}f}"
    if float(text) >= whole > value:
        return f">{whole - step:.{digits}f}"
    return text


def percent(share: float, digits: int = 1) -> str:
    """Write a share in per cent, as `rounded` does."""
    # A no-break space, so that no line starts with the sign.
    return f"{rounded(100 * share, digits, 100)}\N{NARROW NO-BREAK SPACE}%"


def score(share: float, digits: int = 3) -> str:
    """Write a score from 0 to 1, as `rounded` does."""
    return rounded(share, digits, 1)
