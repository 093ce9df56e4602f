"""Ids and codes of a column as text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

# Whole numbers up to here are exact in float64.
LARGEST_EXACT = 2**53


def as_text(column: pd.Series[Any]) -> NDArray[np.object_]:
    """Express the ids or codes of a column as text, str (P,); "" where there is none.

    Whole numbers have no decimals, also where gaps made the column one of floats; text loses the
    blanks around it and keeps its leading zeros.
    """
    values = column.astype(object).where(column.notna(), "")
    return np.array([str(_whole(value)).strip() for value in values], object)


def _whole(value: Any) -> Any:
    """Turn a float that is a whole number into an integer."""
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST_EXACT
    return int(value) if is_whole else value
