"""Which raw values of a band are data, and whether they have a scale that makes them reflectance.

Files may contain values that are not data without saying so: -9999 or 65535 as a fill value, the
numbers between it and the data where software has interpolated across the edge, infinity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geo.errors import InputError
from geo.imagery.acquisition import MASKS, PLAUSIBLE_REFLECTANCE, Acquisition, Band
from geo.imagery.raster_reading import read_window
from geo.imagery.reflectance_scale import fitting_scale, is_too_dark

# In reflectance x 10,000, as all bands are converted.
LOWEST, HIGHEST = (10_000 * limit for limit in PLAUSIBLE_REFLECTANCE)

# If most values of a band are impossible, its scale is wrong, unless these are fewer than this
# fraction of all: beside an area of fill values, interpolation leaves a seam of such values.
_MOST, _SEAM = 0.5, 0.1

# So few pixels do not tell whether an image is too dark.
_FEW = 100

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
            "file. Products and catalogues (SAFE, THEIA, STAC) state theirs in their metadata: "
            "download those again."
        )


def _examples(found: Sequence[Acquisition]) -> list[Acquisition]:
    """Return the first, the middle and the last acquisition."""
    return [found[at] for at in sorted({0, len(found) // 2, len(found) - 1})] if found else []


def with_fill_values(found: Sequence[Acquisition]) -> list[Acquisition]:
    """Return the acquisitions with the fill values that files do not name, such as -999 or -1.

    A small negative number is possible as reflectance. It is the nodata value of a band if it is
    its lowest number, more than a hundredth of all, and most of the negative ones, in windows of
    the first, the middle or the last acquisition.
    """
    fills: dict[str, float] = {}
    for item in _examples(found):
        for band in item.bands.values():
            fill = _negative_fill(band) if band.nodata == 0 else None
            if fill is not None:
                fills[band.name] = fill
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


def check_scale(found: Sequence[Acquisition], *, is_stated: bool = False) -> None:
    """Check that raw values and scale of acquisitions are those of reflectance.

    Files rarely state the unit of floats, and may state a wrong scale. A window of every band of
    the first, the middle and the last acquisition is read, more windows if it is dark.

    Parameters
    ----------
    found
        The acquisitions.
    is_stated
        Whether the settings state the scale: then darker images are accepted.

    Raises
    ------
    InputError
        If most pixels of a band are impossible as reflectance, or all are darker than land.
    """
    examples = _examples(found)
    for item in examples:
        for band in item.bands.values():
            raw = _window(band)
            impossible = raw[is_impossible(band, raw)]
            if impossible.size:
                n_data = int(np.count_nonzero(has_data(band, raw)))
                example = float(np.sort(impossible)[impossible.size // 2])
                n_varied = count_varied(impossible)
                if n_data == 0 and n_varied == 0 and _is_value(example):
                    n_varied = raw.size
                refuse_wrong_scale(band, raw.size, n_data, n_varied, example)
    # Bands of which land can be dark: dense forest reflects 0.02 to 0.04 in them.
    is_certain = is_stated or all(_VISIBLE.issuperset(item.bands) for item in examples)
    for read in (_window, _scattered):
        brightest = [max(_brightness(item, read), key=_first, default=None) for item in examples]
        known = sorted((found for found in brightest if found is not None), key=_first)
        if not known or not is_too_dark(known[len(known) // 2][0], is_certain=is_certain):
            return
        usual = known[len(known) // 2]
    reflectance, stored, band = usual
    fitting = fitting_scale(stored)
    raise InputError(
        f"{band.name} of {band.source} would be taken as reflectance (0 to 1), but nine tenths of "
        f"its pixels are below {reflectance:.2g} (stored as {stored:.6g}), and its other bands are "
        "darker: too dark for land. Set reflectance_scale to the reflectance of 1"
        + (f", probably {fitting:g}" if fitting else "")
        + ("." if is_certain else f"; to {band.scale / 10_000:g}, if the imagery is dark.")
    )


_first = itemgetter(0)

# Fill values that a wrong scale could explain, too.
_FILLS = (99.0, 255.0, 999.0, 9999.0)
_VISIBLE = frozenset({"B01", "B02", "B03", "B04", "B09", "B10"})


def _is_value(constant: float) -> bool:
    """Return whether the only number of an image is a value in another unit, not a fill value."""
    return constant > 0 and constant not in _FILLS and fitting_scale(constant) is not None


def _window(band: Band) -> NDArray[Any]:
    """Read the centre of a band."""
    top, left = ((size - min(size, _WINDOW)) // 2 for size in band.grid.shape)
    return read_window(band, slice(top, top + _WINDOW), slice(left, left + _WINDOW))


def _scattered(band: Band) -> NDArray[Any]:
    """Read nine windows of a band, which are spread over it."""
    rows, cols = (_thirds(length) for length in band.grid.shape)
    windows = [read_window(band, row, col).ravel() for row in rows for col in cols]
    return np.concatenate(windows)


def _brightness(
    item: Acquisition, read: Callable[[Band], NDArray[Any]]
) -> Iterator[tuple[float, float, Band]]:
    """Yield, of every band, the value that nine tenths of the pixels are below: reflectance, raw.

    Bands that have data in few pixels there are left out.
    """
    for band in item.bands.values():
        raw = read(band)
        values = raw[has_data(band, raw)]
        if values.size >= max(_FEW, _SEAM * raw.size):
            at = values.size * 9 // 10
            stored = float(np.partition(values, at)[at])
            yield (stored + band.offset) * band.scale / 10_000, stored, band
