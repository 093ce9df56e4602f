"""Masks of other archives as scene classifications: bits and codes become classes of the SCL."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geo.imagery.acquisition import ClassRules


def as_classes(values: NDArray[Any], rules: ClassRules) -> NDArray[np.uint8]:
    """Return the classes of raw values of a mask; see `geo.imagery.acquisition.Band`."""
    if values.dtype.kind in "iu" and values.dtype.itemsize <= 2:
        table = _table(rules, values.dtype)
        return table.take(values.view(f"u{values.dtype.itemsize}"))
    if values.dtype.kind == "f":
        is_number = np.isfinite(values)
        whole = np.where(is_number, values, 0).astype(np.int64)
        return np.where(is_number, _classes(whole, rules), 0).astype(np.uint8)
    return _classes(values.astype(np.int64), rules)


@lru_cache(maxsize=16)
def _table(rules: ClassRules, dtype: np.dtype[Any]) -> NDArray[np.uint8]:
    """Return the classes of all integers of 8 or 16 bits; bits as unsigned are the index."""
    bits = np.arange(2 ** (8 * dtype.itemsize), dtype=f"u{dtype.itemsize}")
    return _classes(bits.view(dtype).astype(np.int64), rules)


def _classes(values: NDArray[np.int64], rules: ClassRules) -> NDArray[np.uint8]:
    """Return the class of the first rule that applies to each value, 0 if none does."""
    found = np.zeros(values.shape, np.uint8)
    for bits, value, class_ in reversed(rules):
        found[(values & bits) == value] = class_
    return found
