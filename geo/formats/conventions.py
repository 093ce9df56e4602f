"""What names and numbers mean by custom, where files do not say it themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, TypeVar

from geo.errors import InputError
from geo.imagery.acquisition import BANDS, MASKS, NATIVE_RESOLUTION_M, SCENE_CLASSIFICATION, Band

if TYPE_CHECKING:
    import numpy as np

_Found = TypeVar("_Found")

# Of masks, those whose names mean one thing: a layer called "mask" may as well show what is clear.
_BAND_NAME = re.compile(r"(?:B0?([1-9]|1[0-2]|8A)|(SCL|CLDPRB|CLD|CLM))(?![0-9A-Z])", re.IGNORECASE)
# Grid zone and 100 km square of the Military Grid Reference System, which has no I and no O.
_TILE = re.compile(r"(?<![A-Za-z0-9])T?([0-6]\d[C-HJ-NP-X][A-HJ-NP-Z][A-HJ-NP-V])(?![A-Za-z0-9])")
_DATE = re.compile(r"(?<!\d)(20\d\d)([-_]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])(?!\d)")

# Reflectance of one unit, by what files write as units. Counts are what is stored, not a unit of
# what scale and offset make of it.
_UNITS = {
    **dict.fromkeys(("", "1", "-", "none", "unitless", "dimensionless", "reflectance"), 1.0),
    **dict.fromkeys(("dn", "digital_counts", "digital counts", "digital number", "counts"), 1.0),
    **dict.fromkeys(("%", "percent"), 0.01),
}


@dataclass(frozen=True)
class Encoding:
    """What a file says of a band's numbers: reflectance = (raw x scale + offset) of `units`.

    Parameters
    ----------
    dtype
        Data type of the raw numbers.
    scale, offset
        1 and 0 where the file is silent.
    nodata
        Raw value that means no data, None where the file is silent.
    units
        As the file writes them, "" where it is silent.
    """

    dtype: np.dtype[np.generic]
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    units: str = ""


def band_name(text: str) -> str | None:
    """Return the band that a text starts with (B02, b2, "B8A - 865 nm", SCL), or None."""
    match = _BAND_NAME.match(text.strip())
    if match is None:
        return None
    number = match[1]
    if number is None:
        return "CLDPRB" if match[2].upper() == "CLD" else match[2].upper()
    return f"B{number.upper():0>2}"


def tile_name(text: str) -> str | None:
    """Return the MGRS tile that a text holds, without its leading T, or None."""
    match = _TILE.search(text)
    return match[1] if match else None


def date_in(text: str) -> date | None:
    """Return the first date (YYYYMMDD, YYYY-MM-DD, YYYY_MM_DD) that a text holds, or None.

    Names of Sentinel-2 products put the date of processing after that of sensing.

    Raises
    ------
    ValueError
        If the month has no such day.
    """
    match = _DATE.search(text)
    return date(int(match[1]), int(match[3]), int(match[4])) if match else None


def decoding(
    name: str, encoding: Encoding, reflectance_scale: float | None
) -> tuple[float, float, float | None]:
    """Return scale, offset and nodata of a `Band`, from what a file says and by custom.

    Where the file says none, no data is 0 in integers, the custom of Sentinel-2, and NaN in floats.

    Raises
    ------
    ValueError
        If the units are none of reflectance, or the numbers too small to hold it.
    """
    is_integer = encoding.dtype.kind in "iu"
    nodata = encoding.nodata
    if name in MASKS:
        # 0 is class "no data" of the scene classification, and "clear" in every other mask.
        by_custom = 0.0 if name == SCENE_CLASSIFICATION else None
        return 1.0, 0.0, by_custom if nodata in (None, 0) else nodata
    if nodata is None:
        nodata = 0.0 if is_integer else float("nan")
    if reflectance_scale is not None:
        return *scale_and_offset(1, 0, is_integer, reflectance_scale), nodata
    unit = _reflectance_of(encoding.units)
    if encoding.scale != 1 and unit not in (1.0, 0.01):
        raise ValueError(
            f"it is unclear whether both the scale {encoding.scale} and the units "
            f"{encoding.units!r} apply: set reflectance_scale to the reflectance of one raw unit"
        )
    scale, offset = encoding.scale * unit, encoding.offset * unit
    if scale == 1 and is_integer and encoding.dtype.itemsize == 1:
        raise ValueError(
            f"{name} holds {encoding.dtype} and says no scale: its values, 255 at most, are not "
            "reflectance x 10,000. Set reflectance_scale to the reflectance of 1"
        )
    return *scale_and_offset(scale, offset, is_integer, None), nodata


def scale_and_offset(
    scale: float, offset: float, is_integer: bool, reflectance_scale: float | None
) -> tuple[float, float]:
    """Turn a file's scale and offset (reflectance = raw x scale + offset) into those of a band.

    A scale of 1 is what files say that say nothing: it means 0.0001 for integers, the custom of
    Sentinel-2, and reflectance as it is for floats.
    """
    if reflectance_scale is not None:
        return _rounded(reflectance_scale * 10_000), 0.0
    if scale == 1 and is_integer:
        return 1.0, offset
    return _rounded(scale * 10_000), _rounded(offset / scale)


def finest(bands: Iterable[Band]) -> dict[str, Band]:
    """Take every band once: of several resolutions the finest, but none that is interpolated.

    Raises
    ------
    InputError
        If two of them are equally fine.
    """

    def order(band: Band) -> tuple[bool, float]:
        native = NATIVE_RESOLUTION_M.get(band.name, 0)
        # Clips have pixels of 9.99 m.
        return band.grid.pixel_width < 0.9 * native, band.grid.pixel_width

    chosen: dict[str, Band] = {}
    for band in bands:
        other = chosen.setdefault(band.name, band)
        if band is not other and order(band) == order(other):
            raise InputError(
                f"{band.name} of one acquisition is twice there, in {_place(other)} and in "
                f"{_place(band)}: keep one of them."
            )
        chosen[band.name] = min(other, band, key=order)
    return chosen


def bands_and_masks(
    found: Mapping[str, _Found], wanted: Sequence[str] | None
) -> tuple[dict[str, _Found], dict[str, _Found]]:
    """Part what was found into the wanted bands, in order of wavelength, and the masks."""
    names = BANDS if wanted is None else wanted
    return (
        {name: found[name] for name in BANDS if name in found and name in names},
        {name: found[name] for name in MASKS if name in found},
    )


def _reflectance_of(units: str) -> float:
    """Return the reflectance of one unit: of "1", "percent", "1e-4" and their like."""
    text = units.strip().lower()
    if text in _UNITS:
        return _UNITS[text]
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if factor <= 0:
        raise ValueError(
            f"the units {units!r} are none of reflectance (1, percent, 0.0001): set "
            "reflectance_scale to the reflectance of one raw unit, or correct the units"
        )
    return factor


def _rounded(value: float) -> float:
    """Round to the precision of single floats, as which files may store 0.0001."""
    return float(f"{value:.7g}")


def _place(band: Band) -> str:
    """Say where a band lies."""
    if isinstance(band.layer, int):
        return f"{band.source} layer {band.layer}"
    return f"{band.source} ({band.layer.variable})"
