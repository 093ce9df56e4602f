"""Check that floats that are taken as reflectance are of its size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geo.errors import InputError
from geo.imagery.acquisition import Acquisition, Band
from geo.imagery.raster_reading import read_window

# Above what clouds and snow reflect, below what percent and counts of land are.
_GREATEST_REFLECTANCE = 2.0
_WINDOW = 256


def check_float_scale(found: Sequence[Acquisition]) -> None:
    """Check a window of the first, the middle and the last acquisition with floats.

    Processing turns counts (x 10,000) into floats as often as into reflectance, and files seldom
    say which they hold.

    Raises
    ------
    InputError
        If half of the pixels are brighter than anything on land.
    """
    plain = [item for item in found if any(band.scale == 10_000 for band in item.bands.values())]
    for item in {
        id(i): i for i in (plain[:1] + plain[len(plain) // 2 :][:1] + plain[-1:])
    }.values():
        band = next(band for band in item.bands.values() if band.scale == 10_000)
        median = _median(band)
        if median > _GREATEST_REFLECTANCE:
            raise InputError(
                f"{band.name} of {band.source} would be taken as reflectance (0 to 1), and half of "
                f"its pixels are above {median:.4g}. Set reflectance_scale to the reflectance of "
                "1: 0.0001 for counts, 0.01 for percent."
            )


def _median(band: Band) -> float:
    """Give the median raw value of a window in the middle of a band; 0 if it has no data."""
    top, left = ((size - min(size, _WINDOW)) // 2 for size in band.grid.shape)
    raw = read_window(band, slice(top, top + _WINDOW), slice(left, left + _WINDOW))
    known = raw[np.isfinite(raw) & (raw != band.nodata)]
    return float(np.median(known)) if known.size else 0.0
