"""Which raw values of a band are data, and whether they have a scale that makes them reflectance.

Files may contain values that are not data without saying so: -9999 or 65535 as a fill value, the
numbers between it and the data where software has interpolated across the edge, infinity.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from geo.errors import SET_ASIDE, InputError, UnavailableError
from geo.imagery.acquisition import MASKS, PLAUSIBLE_REFLECTANCE, Acquisition, Band
from geo.imagery.raster_reading import read_window
from geo.imagery.reflectance_scale import DARK, DARKEST, fitting_scale

logger = logging.getLogger(__name__)

_Read = TypeVar("_Read")

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


def check_scale(
    found: Sequence[Acquisition], *, is_stated: bool = False, is_refused: bool = True
) -> None:
    """Check that raw values and scale of acquisitions are those of reflectance.

    Files rarely state the unit of floats, and may state a wrong scale. A window of every band of
    the first, the middle and the last acquisition is read, more windows if it is dark.

    Parameters
    ----------
    found
        The acquisitions.
    is_stated
        Whether the settings state the scale: then there is no warning of dark images.
    is_refused
        Whether damaged acquisitions are refused.

    Raises
    ------
    InputError
        If most pixels of a band are impossible as reflectance, or all are darker than any surface.
    """

    def read(window: Callable[[Band], NDArray[Any]]) -> list[list[tuple[Band, NDArray[Any]]]]:
        def of_item(item: Acquisition) -> list[tuple[Band, NDArray[Any]]]:
            return [(band, window(band)) for band in item.bands.values()]

        return _read_examples(found, of_item, is_refused=is_refused)

    examples = read(_centre)
    for band, raw in itertools.chain.from_iterable(examples):
        impossible = raw[is_impossible(band, raw)]
        if impossible.size:
            n_data = int(np.count_nonzero(has_data(band, raw)))
            example = float(np.sort(impossible)[impossible.size // 2])
            n_varied = count_varied(impossible)
            if n_data == 0 and n_varied == 0 and _is_value(example):
                n_varied = raw.size
            refuse_wrong_scale(band, raw.size, n_data, n_varied, example)
    # In visible light alone, dense forest reflects 0.02 to 0.04.
    may_be_dark = is_stated or _VISIBLE.issuperset(band.name for e in examples for band, _ in e)
    limit = DARKEST if may_be_dark else DARK
    usual = _usual_brightness(examples)
    if usual is not None and usual[0] < limit:
        usual = _usual_brightness(read(_scattered))  # the centre may be a lake
    if usual is not None and usual[0] < limit:
        _say_dark(*usual)


# Fill values that a wrong scale could explain, too.
_FILLS = (99.0, 255.0, 999.0, 9999.0)
_VISIBLE = frozenset({"B01", "B02", "B03", "B04", "B09", "B10"})


def _is_value(constant: float) -> bool:
    """Return whether the only number of an image is a value in another unit, not a fill value."""
    return constant > 0 and constant not in _FILLS and fitting_scale(constant) is not None


def _centre(band: Band) -> NDArray[Any]:
    """Read the raw values of a window in the middle of a band."""
    top, left = ((size - min(size, _WINDOW)) // 2 for size in band.grid.shape)
    return read_window(band, slice(top, top + _WINDOW), slice(left, left + _WINDOW))


def _scattered(band: Band) -> NDArray[Any]:
    """Read the raw values of nine windows, which are spread over a band."""
    rows, cols = (_thirds(length) for length in band.grid.shape)
    windows = [read_window(band, row, col).ravel() for row in rows for col in cols]
    return np.concatenate(windows)


_Brightness = tuple[float, float, Band]


def _usual_brightness(
    examples: Sequence[Sequence[tuple[Band, NDArray[Any]]]],
) -> _Brightness | None:
    """Return the brightness of the median acquisition in its brightest band.

    It is the value that nine tenths of the pixels are below: reflectance, raw, and the band. None
    if no band has data in more than few pixels.
    """
    brightest: list[_Brightness] = []
    for example in examples:
        of_bands: list[_Brightness] = []
        for band, raw in example:
            values = raw[has_data(band, raw)]
            if values.size >= max(_FEW, _SEAM * raw.size):
                at = values.size * 9 // 10
                stored = float(np.partition(values, at)[at])
                # A wrong offset is not a wrong scale: `geo.imagery.offset_check` finds it.
                largest = max(stored, stored + band.offset)
                of_bands.append((largest * band.scale / 10_000, stored, band))
        brightest += sorted(of_bands, key=lambda found: found[0])[-1:]
    brightest.sort(key=lambda found: found[0])
    return brightest[len(brightest) // 2] if brightest else None


def _say_dark(reflectance: float, stored: float, band: Band) -> None:
    """Refuse what no surface reflects; warn of what only lakes and burnt areas reflect."""
    fitting = fitting_scale(stored)
    found = (
        f"Nine tenths of the pixels of {band.name} of {band.source} are below {reflectance:.2g} as "
        f"reflectance (stored as {stored:.6g}), and its other bands are darker"
    )
    remedy = "set imagery.reflectance_scale to the factor from stored values to reflectance" + (
        f", probably {fitting:g}" if fitting else ""
    )
    if reflectance < DARKEST:
        raise InputError(f"{found}: no surface is so dark. Probably the scale is wrong: {remedy}.")
    logger.warning("%s. If this is not water or burnt land, %s.", found, remedy)
