"""Which raw values of a band are data, and whether they have a scale that makes them reflectance.

Files may contain values that are not data without saying so: -9999 or 65535 as a fill value, the
numbers between it and the data where software has interpolated across the edge, infinity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from geo.errors import SET_ASIDE, InputError, UnavailableError
from geo.imagery.acquisition import MASKS, PLAUSIBLE_REFLECTANCE, Acquisition, Band
from geo.imagery.raster_reading import read_window

_Read = TypeVar("_Read")

# In reflectance x 10,000, as all bands are converted.
LOWEST, HIGHEST = (10_000 * limit for limit in PLAUSIBLE_REFLECTANCE)

# If most values of a band are impossible, its scale is wrong, unless these are fewer than this
# fraction of all: beside an area of fill values, interpolation leaves a seam of such values.
_MOST, _SEAM = 0.5, 0.1

# Side of the window in which the scale is checked.
_WINDOW = 256


def has_data(band: Band, raw: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which raw values of a band are data.

    Not data are its nodata value, NaN, and values that are impossible as reflectance. Values of
    masks may be any number.
    """
    with_data = _has_value(band, raw)
    if band.name not in MASKS:
        lowest, highest = (bound / band.scale - band.offset for bound in (LOWEST, HIGHEST))
        if raw.dtype.kind in "iu":
            lowest, highest = math.ceil(lowest), math.floor(highest)
        with_data &= raw <= highest
        if raw.dtype.kind != "u" or lowest > 0:
            with_data &= raw >= lowest
    return with_data


def is_impossible(band: Band, raw: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which raw values of a band are neither nodata nor possible as reflectance."""
    return _has_value(band, raw) & ~has_data(band, raw)


def _has_value(band: Band, raw: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which raw values of a band are neither its nodata value nor NaN."""
    nodata = band.nodata
    if nodata is None:
        with_value = np.ones(raw.shape, bool)
    elif raw.dtype.kind in "iu" and float(nodata).is_integer():
        with_value = raw != int(nodata)  # numpy would convert all values to compare with a float
    else:
        with_value = raw != nodata
    if raw.dtype.kind == "f":
        with_value &= ~np.isnan(raw)
    return with_value


def count_varied(impossible: NDArray[Any]) -> int:
    """Return how many impossible values differ from the most frequent one, the fill value.

    If one value is more than half of them, it is also their median.
    """
    return int(np.count_nonzero(impossible != np.median(impossible))) if impossible.size else 0


def refuse_wrong_scale(band: Band, n: int, n_data: int, n_varied: int, example: float) -> None:
    """Raise an error if most values of a band are impossible, and not one fill value.

    Parameters
    ----------
    band
        The band.
    n, n_data, n_varied
        Number of its values, of those that are data, and of those that `count_varied` counts.
    example
        An impossible raw value.
    """
    if n_varied > _MOST * (n_varied + n_data) and n_varied >= _SEAM * n:
        reflectance = (example + band.offset) * band.scale / 10_000
        raise InputError(
            f"{band.name} of {band.source} would be taken as reflectance (0 to 1), but most of its "
            f"pixels are beyond {LOWEST / 10_000} to {HIGHEST / 10_000:g}, such as "
            f"{reflectance:.4g} (stored as {example:.6g}). Set reflectance_scale to the "
            "reflectance of 1: 0.0001 for counts, 0.01 for percent; or correct the scale in the "
            "file."
        )


def _read_examples(
    found: Sequence[Acquisition], read: Callable[[Acquisition], _Read], *, is_refused: bool
) -> list[_Read]:
    """Read the first, the middle and the last acquisition.

    If a damaged one is not refused, the examples are those of the others. Whatever reads all of its
    pixels sets it aside.
    """
    readable = list(found)
    values: dict[int, _Read] = {}
    while readable:
        examples = [readable[at] for at in sorted({0, len(readable) // 2, len(readable) - 1})]
        unread = next((item for item in examples if id(item) not in values), None)
        if unread is None:
            return [values[id(item)] for item in examples]
        try:
            values[id(unread)] = read(unread)
        except UnavailableError:
            raise
        except InputError as error:
            if is_refused:
                raise InputError(f"{error}\n{SET_ASIDE}") from error
            readable = [item for item in readable if item is not unread]
    return []


def with_fill_values(found: Sequence[Acquisition], *, is_refused: bool = True) -> list[Acquisition]:
    """Return the acquisitions with the fill values that files do not name, such as -999 or -1.

    A small negative number is possible as reflectance. It is the nodata value of a band if it is
    its lowest number, more than a hundredth of all, and most of the negative ones, in windows of
    the first, the middle or the last acquisition. `is_refused` tells whether damaged ones are.
    """

    def fills_of(item: Acquisition) -> dict[str, float]:
        bands = [band for band in item.bands.values() if band.nodata == 0]
        read = {band.name: _negative_fill(band) for band in bands}
        return {name: fill for name, fill in read.items() if fill is not None}

    fills: dict[str, float] = {}
    for own in _read_examples(found, fills_of, is_refused=is_refused):
        fills |= own
    if not fills:
        return list(found)
    return [
        replace(
            item,
            bands={
                name: replace(band, nodata=fills.get(name, 0.0)) if band.nodata == 0 else band
                for name, band in item.bands.items()
            },
        )
        for item in found
    ]


def _negative_fill(band: Band) -> float | None:
    """Return the negative number that fills a band of signed integers, None if there is none."""
    rows, cols = (_thirds(length) for length in band.grid.shape)
    windows = []
    for row in rows:
        for col in cols:
            raw = read_window(band, row, col)
            if raw.dtype.kind != "i":
                return None
            windows.append(raw.ravel())
    values = np.concatenate(windows)
    negative = values[(values < 0) & has_data(band, values)]
    if not negative.size:
        return None
    lowest = negative.min()
    n = np.count_nonzero(negative == lowest)
    return float(lowest) if n > values.size / 100 and n > negative.size / 2 else None


def _thirds(length: int) -> list[slice]:
    """Return windows at the start, in the middle and at the end of a length."""
    size = min(length, _WINDOW // 4)
    return [slice(at, at + size) for at in sorted({0, (length - size) // 2, length - size})]


def check_scale(found: Sequence[Acquisition], *, is_refused: bool = True) -> None:
    """Check that raw values and scale of acquisitions are those of reflectance.

    Files rarely state the unit of floats, and may state a wrong scale. A window of every band of
    the first, the middle and the last acquisition is read. `is_refused` tells whether damaged ones
    are refused.

    Raises
    ------
    InputError
        If most pixels of a band are impossible as reflectance.
    """

    def centres(item: Acquisition) -> list[tuple[Band, NDArray[Any]]]:
        return [(band, _centre(band)) for band in item.bands.values()]

    for example in _read_examples(found, centres, is_refused=is_refused):
        for band, raw in example:
            impossible = raw[is_impossible(band, raw)]
            if impossible.size:
                refuse_wrong_scale(
                    band,
                    raw.size,
                    int(np.count_nonzero(has_data(band, raw))),
                    count_varied(impossible),
                    float(np.sort(impossible)[impossible.size // 2]),
                )


def _centre(band: Band) -> NDArray[Any]:
    """Read the raw values of a window in the middle of a band."""
    top, left = ((size - min(size, _WINDOW)) // 2 for size in band.grid.shape)
    return read_window(band, slice(top, top + _WINDOW), slice(left, left + _WINDOW))
