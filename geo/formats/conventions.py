"""Conventions for names and numbers, for everything that a file does not state itself."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING

from geo.errors import InputError
from geo.imagery.acquisition import BANDS, MASKS, NATIVE_RESOLUTION_M, SCENE_CLASSIFICATION, Band

if TYPE_CHECKING:
    import numpy as np

# MASK is not among the names: in a layer that is called "mask", 1 may mean clear as well as cloudy.
_BAND_NAME = re.compile(
    r"(?:B0?([1-9]|1[0-2]|8A)|(SCL|(?:MSK_)?CLDPRB|CLD|CLM))(?![0-9A-Z])", re.IGNORECASE
)
# Common names, of the STAC extension eo and of other software, without "-", "_" and spaces.
# "rededge" without a number is left out, because it is used for three bands.
COMMON_BANDS = {
    **{"coastal": "B01", "coastalaerosol": "B01", "blue": "B02", "green": "B03", "red": "B04"},
    **dict.fromkeys(("rededge071", "rededge1", "rededge705", "re1", "vre1"), "B05"),
    **dict.fromkeys(("rededge075", "rededge2", "rededge740", "re2", "vre2"), "B06"),
    **dict.fromkeys(("rededge078", "rededge3", "rededge783", "re3", "vre3"), "B07"),
    **dict.fromkeys(("nir", "nirbroad", "broadnir"), "B08"),
    **dict.fromkeys(("nir08", "nirnarrow", "narrownir"), "B8A"),
    **dict.fromkeys(("swir16", "swir1"), "B11"),
    **dict.fromkeys(("swir22", "swir2"), "B12"),
    # Masks as SNAP and other software call them, and s2cloudless in Earth Engine.
    **dict.fromkeys(("sceneclassification", "qualitysceneclassification"), "SCL"),
    **dict.fromkeys(("probability", "cloudprobability", "qualitycloudconfidence"), "CLDPRB"),
}
# What follows a common name: "red (665 nm)", "blue_10m", "green reflectance".
_AFTER_COMMON = re.compile(
    r"[-_ ]*(?:band|reflectance|[(]?\d+(?:[.]\d+)? ?n?m[)]?)$", re.IGNORECASE
)
# Grid zone and 100 km square of the Military Grid Reference System, without the letters I and O.
# In lower case, only with the leading t.
_TILE = re.compile(
    r"(?<![A-Za-z0-9])(?:T?([0-6]\d[C-HJ-NP-X][A-HJ-NP-Z][A-HJ-NP-V])"
    r"|t([0-6]\d[c-hj-np-x][a-hj-np-z][a-hj-np-v]))(?![A-Za-z0-9])"
)
# Processing baseline in names of products and of files made from them: ..._N0400_R051_...
_BASELINE = re.compile(r"(?<![A-Za-z0-9])N(0\d)\.?(\d\d)(?![A-Za-z0-9])")
# Reflectance of one unit, by the text that files write as units. "Counts" describes the stored
# numbers, and not the unit after scale and offset are applied: it has the factor 1.
_UNITS = {
    **dict.fromkeys(("", "1", "-", "none", "unitless", "dimensionless", "reflectance"), 1.0),
    **dict.fromkeys(("dn", "digital_counts", "digital counts", "digital number", "counts"), 1.0),
    **dict.fromkeys(("%", "percent"), 0.01),
}


@dataclass(frozen=True)
class Encoding:
    """The encoding of a band as a file states it: raw x scale + offset is reflectance in `units`.

    Parameters
    ----------
    dtype
        Data type of the raw numbers.
    scale, offset
        1 and 0 if not stated.
    nodata
        Raw value of pixels without data, None if not stated.
    units
        As the file writes them, "" if not stated.
    """

    dtype: np.dtype[np.generic]
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    units: str = ""


def band_name(text: str) -> str | None:
    """Return the band of a text (B02, b2, "B8A - 865 nm", SCL, red, nir08), or None.

    A number or a mask may be followed by other words; a common name may not.
    """
    common = re.sub(r"[-_ ]", "", _AFTER_COMMON.sub("", text.strip())).lower()
    return numbered_band(text) or COMMON_BANDS.get(common)


def numbered_band(text: str) -> str | None:
    """Return the band at the start of a text by its number, or the mask (SCL), or None."""
    match = _BAND_NAME.match(text.strip())
    if match is None:
        return None
    number = match[1]
    if number is None:
        return "CLDPRB" if "CLD" in match[2].upper() else match[2].upper()
    return f"B{number.upper():0>2}"


def tile_name(text: str) -> str | None:
    """Return the MGRS tile in a text, without the leading T, or None."""
    match = _TILE.search(text)
    return (match[1] or match[2]).upper() if match else None


def baseline_in(text: str) -> str | None:
    """Return the processing baseline ("04.00") in a text, or None."""
    match = _BASELINE.search(text)
    return f"{match[1]}.{match[2]}" if match else None


def offset_of_baseline(baseline: str | None) -> float:
    """Return the offset, in digital numbers, of bands that state no offset.

    Since processing baseline 04.00, ESA adds 1000 to the digital numbers of every band (ESA,
    "Copernicus Sentinel-2: Major Products Upgrade Upcoming", 2021). Copies of the pixels that do
    not state the offset leave it to the reader to subtract 1000. Among them are the items of the
    Planetary Computer ("Baseline Change" of its sentinel-2-l2a; microsoft/PlanetaryComputer,
    issue 134). 99.99 is not a baseline: Sen2Cor writes it when users run it themselves.
    """
    return -1000.0 if baseline is not None and "04.00" <= baseline < "99" else 0.0


def with_unstated_offset(band: Band, offset: float) -> Band:
    """Return a band of digital numbers with an offset, unless it states a scale or an offset."""
    if band.name in BANDS and (band.scale, band.offset) == (1.0, 0.0):
        return replace(band, offset=offset)
    return band


def decoding(
    name: str, encoding: Encoding, reflectance_scale: float | None
) -> tuple[float, float, float | None]:
    """Return scale, offset and nodata of a `Band`, from the statements of a file and conventions.

    If the file states no nodata value, it is 0, as in Sentinel-2; see `stated_nodata`.

    Raises
    ------
    ValueError
        If the units are not units of reflectance, the data type is not one for reflectance, or the
        scale is not positive.
    """
    if encoding.dtype.kind not in "iufb":
        raise ValueError(f"{name} holds {encoding.dtype}, expected integers or floats")
    is_integer = encoding.dtype.kind in "iu"
    nodata = stated_nodata(encoding.nodata, encoding.dtype)
    if name in MASKS:
        # 0 is the class "no data" of the scene classification, but "clear" in every other mask.
        default = 0.0 if name == SCENE_CLASSIFICATION else None
        return 1.0, 0.0, default if nodata in (None, 0) else nodata
    if encoding.dtype.kind == "b":
        raise ValueError(f"{name} holds {encoding.dtype}, expected integers or floats")
    if nodata is None:
        nodata = 0.0
    if reflectance_scale is not None:
        return *scale_and_offset(1, 0, is_integer, reflectance_scale), nodata
    if not (isfinite(encoding.scale) and isfinite(encoding.offset) and encoding.scale > 0):
        raise ValueError(
            f"{name} has the scale {encoding.scale} and the offset {encoding.offset}, expected a "
            "scale above 0: set reflectance_scale to the reflectance of one raw unit"
        )
    unit = _reflectance_of(encoding.units)
    if encoding.scale != 1 and unit not in (1.0, 0.01):
        raise ValueError(
            f"it is unclear whether both the scale {encoding.scale} and the units "
            f"{encoding.units!r} apply: set reflectance_scale to the reflectance of one raw unit"
        )
    scale, offset = encoding.scale * unit, encoding.offset * unit
    if scale == 1 and is_integer and encoding.dtype.itemsize == 1:
        raise ValueError(
            f"{name} holds {encoding.dtype} and says no scale: values of at most 255 are not "
            "reflectance x 10,000. Set reflectance_scale to the reflectance of 1"
        )
    return *scale_and_offset(scale, offset, is_integer, None), nodata


def stated_nodata(nodata: float | None, dtype: np.dtype[np.generic]) -> float | None:
    """Return the nodata value that a file states for raw numbers of a type, None if it states none.

    A value that the type cannot hold states nothing, and nor does NaN: floats that are NaN are
    nodata in any case, and software writes NaN as the nodata value of all its floats.
    """
    if nodata is None or nodata != nodata:
        return None
    if dtype.kind in "iu":
        lowest, highest = (-128, 127) if dtype.kind == "i" else (0, 255)
        n = 256 ** (dtype.itemsize - 1)
        if not (nodata.is_integer() and lowest * n <= nodata < (highest + 1) * n):
            return None
    return nodata


def scale_and_offset(
    scale: float, offset: float, is_integer: bool, reflectance_scale: float | None
) -> tuple[float, float]:
    """Return scale and offset of a band from those of a file (reflectance = raw x scale + offset).

    Files without a scale report 1. For integers, this means 0.0001, as in Sentinel-2; floats are
    reflectance.
    """
    if reflectance_scale is not None:
        return _rounded(reflectance_scale * 10_000), 0.0
    if scale == 0:
        raise ValueError("it states the scale 0, by which every value would be the same")
    if scale == 1 and is_integer:
        return 1.0, offset
    return _rounded(scale * 10_000), _rounded(offset / scale)


def finest(bands: Iterable[Band]) -> dict[str, Band]:
    """Return every band once, by name, at the finest resolution that is not interpolated.

    Raises
    ------
    InputError
        If a band exists twice at this resolution.
    """

    def order(band: Band) -> tuple[bool, float]:
        native = NATIVE_RESOLUTION_M.get(band.name, 0)
        # 0.9, because clips have pixels of 9.99 m.
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


def _reflectance_of(units: str) -> float:
    """Return the reflectance of one unit, such as "1", "percent" or "1e-4"."""
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
    """Round to single precision: files may store a scale of 0.0001 as a single float."""
    return float(f"{value:.7g}")


def _place(band: Band) -> str:
    """Return file and layer of a band for messages."""
    if isinstance(band.layer, int):
        return f"{band.source} layer {band.layer}"
    return f"{band.source} ({band.layer.variable})"
