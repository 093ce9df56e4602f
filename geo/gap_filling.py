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
    step = np.arange(n_dates, dtype=np.int32)[:, None]
    # For every date and pixel: the last valid date up to it, and the first from it on.
    before = np.maximum.accumulate(np.where(valid, step, -1), axis=0)
    after = np.minimum.accumulate(np.where(valid, step, n_dates)[::-1], axis=0)[::-1]
    dates, places = np.nonzero(~valid & valid.any(axis=0))
    first, last = before[dates, places], after[dates, places]
    first, last = np.where(first < 0, last, first), np.where(last == n_dates, first, last)
    weight = (days[dates] - days[first]) / np.maximum(days[last] - days[first], 1)
    filled = pixels.copy()
    # One channel at a time: the interpolation works in float64, four times the size of the pixels.
    for channel in range(pixels.shape[1]):
        low = pixels[first, channel, places].astype(np.float64)
        values = low + weight * (pixels[last, channel, places] - low)
        filled[dates, channel, places] = np.floor(values + 0.5).astype(np.uint16)
    return filled
