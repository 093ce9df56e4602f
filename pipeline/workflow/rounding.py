"""Rounded numbers for people: a small share is never written as 0, nor a large one as 100 %."""

from __future__ import annotations

import math


def rounded(value: float, digits: int, whole: float = math.inf) -> str:
    """Round a number, and write values that round to 0 or to the whole as <0.1 and >99.9.

    Parameters
    ----------
    value
        At least 0. NaN and infinity, which a loss can be, become "not finite".
    digits
        Decimals to write.
    whole
        Largest possible value: 1 for a share, 100 for per cent. Default: none.
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
    """Write a share in per cent, rounded by `rounded`."""
    # The no-break space keeps number and sign on one line.
    return f"{rounded(100 * share, digits, 100)}\N{NARROW NO-BREAK SPACE}%"


def score(share: float, digits: int = 3) -> str:
    """Write a score from 0 to 1, rounded by `rounded`."""
    return rounded(share, digits, 1)
