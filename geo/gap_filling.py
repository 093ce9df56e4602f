"""Filling of cloudy observations in time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def fill_linear(
    pixels: NDArray[np.uint16], valid: NDArray[np.bool_], days: NDArray[np.int64]
) -> NDArray[np.uint16]:
    """Replace every observation that is not valid by linear interpolation in time, per pixel.

    Before its first and after its last valid date a pixel keeps the value of that date; a pixel
    that was never seen clearly keeps what was read.

    Parameters
    ----------
    pixels
        uint16 (T, C, P).
    valid
        bool (T, P).
    days
        int64 (T,), increasing.

    Returns
    -------
    uint16 (T, C, P), a new array; half digital numbers are rounded up.
    """
    n_dates = len(days)
    step = np.arange(n_dates)[:, None]
    # For every date and pixel: the last valid date up to it, and the first from it on.
    before = np.maximum.accumulate(np.where(valid, step, -1), axis=0)
    after = np.minimum.accumulate(np.where(valid, step, n_dates)[::-1], axis=0)[::-1]
    seen = valid.any(axis=0)
    before = np.where(before < 0, after, before)
    after = np.where(after >= n_dates, before, after)
    filled = pixels.copy()
    dates, places = np.nonzero(~valid & seen)
    first, last = before[dates, places], after[dates, places]
    span = days[last] - days[first]
    weight = (days[dates] - days[first]) / np.maximum(span, 1)
    low = pixels[first, :, places].astype(np.float64)
    high = pixels[last, :, places].astype(np.float64)
    values = low + weight[:, None] * (high - low)
    filled[dates, :, places] = np.floor(values + 0.5).astype(np.uint16)
    return filled
