"""Radiometry: the reflectance of raw values, and a check of the scale of floats."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geo.imagery.acquisition import Band


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
