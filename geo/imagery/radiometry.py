"""Radiometry: the reflectance of raw values, and a check of the scale of floats."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geo.errors import InputError
from geo.imagery.acquisition import Acquisition, Band
from geo.imagery.raster_reading import has_data, read_window


def reflectance(band: Band, values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[np.uint16]:
    """Return reflectance x 10,000 of raw values, which may be resampled.

    Parameters
    ----------
    band
        The band, with scale and offset.
    values
        Raw values, float if they are interpolated.
    dtype
        Data type of the file.
    """
    if dtype.kind != "f" and values.dtype != dtype:
        # Interpolated integers are rounded to integers first, as gdalwarp does.
        limits = np.iinfo(dtype)
        values = np.clip(np.floor(values + 0.5), limits.min, limits.max).astype(dtype)
    if dtype == np.uint16 and (band.scale, band.offset) == (1.0, 0.0):
        return values
    if dtype.kind != "f" and dtype.itemsize <= 2:
        table = _reflectance_table(band.scale, band.offset, dtype)
        return table.take(values.view(f"u{dtype.itemsize}"))
    return _scaled(band.scale, band.offset, values)


@lru_cache(maxsize=16)
def _reflectance_table(scale: float, offset: float, dtype: np.dtype[Any]) -> NDArray[np.uint16]:
    """Return the reflectance of all integers of 8 or 16 bits; bits as unsigned are the index."""
    bits = np.arange(2 ** (8 * dtype.itemsize), dtype=f"u{dtype.itemsize}")
    return _scaled(scale, offset, bits.view(dtype))


def _scaled(scale: float, offset: float, raw: NDArray[Any]) -> NDArray[np.uint16]:
    """Return reflectance x 10,000 of raw values, rounded and clipped to uint16."""
    rounded = np.floor((raw.astype(np.float64) + offset) * scale + 0.5)
    return np.clip(rounded, 0, 65535).astype(np.uint16)


# Above the reflectance of clouds and snow, below percent and counts of land.
_MAX_REFLECTANCE = 2.0
_WINDOW = 256


def check_float_scale(found: Sequence[Acquisition]) -> None:
    """Check that floats that are read as reflectance (0 to 1) are not counts or percent.

    Files rarely state the unit of floats. A window of the first, the middle and the last
    acquisition with floats is read.

    Raises
    ------
    InputError
        If half of the pixels are brighter than any land.
    """
    floats = [item for item in found if any(band.scale == 10_000 for band in item.bands.values())]
    chosen = sorted({0, len(floats) // 2, len(floats) - 1}) if floats else []
    for item in (floats[at] for at in chosen):
        band = next(band for band in item.bands.values() if band.scale == 10_000)
        median = _median_in_the_middle(band)
        if median > _MAX_REFLECTANCE:
            raise InputError(
                f"{band.name} of {band.source} would be taken as reflectance (0 to 1), but half of "
                f"its pixels are above {median:.4g}. Set reflectance_scale to the reflectance of "
                "1: 0.0001 for counts, 0.01 for percent."
            )


def _median_in_the_middle(band: Band) -> float:
    """Return the median raw value of a window in the middle of a band; 0 if it is all nodata."""
    top, left = ((size - min(size, _WINDOW)) // 2 for size in band.grid.shape)
    raw = read_window(band, slice(top, top + _WINDOW), slice(left, left + _WINDOW))
    values = raw[has_data(band, raw)]
    return float(np.median(values)) if values.size else 0.0
