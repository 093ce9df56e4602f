"""What raw values of a band mean: no data, or reflectance x 10,000."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geo.imagery.acquisition import Band


def has_data(band: Band, raw: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell which raw values are data."""
    known = np.ones(raw.shape, bool) if band.nodata is None else raw != band.nodata
    if raw.dtype.kind == "f":
        known &= np.isfinite(raw)
    return known


def reflectance(band: Band, values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[np.uint16]:
    """Turn samples of raw values of a type into reflectance x 10,000."""
    if dtype.kind != "f" and values.dtype != dtype:
        # Raw integers are resampled to raw integers first, as a warp of the band would give.
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
    """Tabulate the reflectance of all integers of 8 or 16 bits, by their bits."""
    bits = np.arange(2 ** (8 * dtype.itemsize), dtype=f"u{dtype.itemsize}")
    return _scaled(scale, offset, bits.view(dtype))


def _scaled(scale: float, offset: float, raw: NDArray[Any]) -> NDArray[np.uint16]:
    """Compute reflectance x 10,000 of raw values."""
    rounded = np.floor((raw.astype(np.float64) + offset) * scale + 0.5)
    return np.clip(rounded, 0, 65535).astype(np.uint16)
