"""Filling of cloudy observations in time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Pixels at a time: what is computed of them stays in the cache.
CHUNK = 4096


def fill_linear(
    pixels: NDArray[np.uint16], clear: NDArray[np.bool_], days: NDArray[np.int64]
) -> None:
    """Replace, in place, what is not clear by linear interpolation in time, per pixel.

    Before its first and after its last clear date a pixel keeps the value of that date; a pixel
    that is never clear keeps what was read. Half digital numbers are rounded up.

    Parameters
    ----------
    pixels
        uint16 (T, C, P), in C order.
    clear
        bool (T, P).
    days
        int64 (T,), increasing.
    """
    n_channels, n_pixels = pixels.shape[1:]
    # A view, as the pixels are in C order: every channel of a date is a row of all pixels.
    flat = pixels.reshape(-1, copy=False)
    for start in range(0, n_pixels, CHUNK):
        dates, places, first, last = _neighbours(clear[:, start : start + CHUNK])
        if not len(dates):
            continue
        weight = (days[dates] - days[first]) / np.maximum(days[last] - days[first], 1)
        at, at_first, at_last = (
            t * (n_channels * n_pixels) + (places + start) for t in (dates, first, last)
        )
        for channel in range(n_channels):
            row = flat[channel * n_pixels :]
            low = row.take(at_first).astype(np.float64)
            values = row.take(at_last) - low
            values *= weight
            values += low
            values += 0.5
            # Positive, so that the cast rounds down.
            row[at] = values.astype(np.uint16)


def _neighbours(
    clear: NDArray[np.bool_],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Find what can be filled, and between which dates; of clear, bool (T, P).

    Returns
    -------
    int64 (n,) each: date and pixel, its last clear date before and the first after it; where there
    is none on one side, that of the other.
    """
    n_dates, n_pixels = clear.shape
    missing = ~clear & clear.any(axis=0)
    where = np.flatnonzero(missing)
    dates = np.repeat(np.arange(n_dates), missing.sum(axis=1))
    # Row by row: accumulate along the first axis takes every pixel by itself, 18 times as long.
    first = _carried(clear, range(n_dates)).take(where)
    last = _carried(clear, range(n_dates - 1, -1, -1)).take(where)
    first, last = np.where(first < 0, last, first), np.where(last < 0, first, last)
    return dates, where - dates * n_pixels, first, last


def _carried(clear: NDArray[np.bool_], dates: range) -> NDArray[np.int64]:
    """Carry the date of the last clear observation on, in the order of dates: int64 (T, P).

    -1 where there was none yet.
    """
    carried = np.empty(clear.shape, np.int64)
    latest = np.full(clear.shape[1], -1, np.int64)
    for date in dates:
        np.copyto(latest, date, where=clear[date])
        carried[date] = latest
    return carried
