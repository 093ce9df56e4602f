"""What names and numbers mean by custom, where files do not say it themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from geo.acquisitions import SCENE_CLASSIFICATION

TIFF_ENDINGS = (".tif", ".tiff")
STACK_ENDINGS = (".nc", ".nc4")
ITEM_ENDINGS = (".json", ".geojson")

_BAND_NAME = re.compile(r"B0?([1-9]|1[0-2]|8A)(?![0-9A-Z])|(SCL)(?![0-9A-Z])", re.IGNORECASE)
# Grid zone and 100 km square of the Military Grid Reference System, which has no I and no O.
_TILE = re.compile(r"(?<![A-Za-z0-9])T?([0-6]\d[C-HJ-NP-X][A-HJ-NP-Z][A-HJ-NP-V])(?![A-Za-z0-9])")
_DATE = re.compile(r"(?<!\d)(20\d\d)([-_]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])(?!\d)")


def band_name(text: str) -> str | None:
    """Give the band that a text starts with (B02, b2, "B8A - 865 nm", SCL), or None."""
    match = _BAND_NAME.match(text.strip())
    if match is None:
        return None
    number = match[1]
    return SCENE_CLASSIFICATION if number is None else f"B{number.upper():0>2}"


def tile_name(text: str) -> str | None:
    """Give the MGRS tile that a text holds, without its leading T, or None."""
    match = _TILE.search(text)
    return match[1] if match else None


def date_in(text: str) -> date | None:
    """Give the first date (YYYYMMDD, YYYY-MM-DD, YYYY_MM_DD) that a text holds, or None.

    Names of Sentinel-2 products put the date of processing after that of sensing.

    Raises
    ------
    ValueError
        If the month has no such day.
    """
    match = _DATE.search(text)
    return date(int(match[1]), int(match[3]), int(match[4])) if match else None


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


def _rounded(value: float) -> float:
    """Round to the precision of single floats, as which files may store 0.0001."""
    return float(f"{value:.7g}")


def files_ending(path: Path, endings: tuple[str, ...]) -> Iterator[Path]:
    """Give the files with one of the endings: the path itself, or those in the folder, sorted."""
    candidates = sorted(path.iterdir()) if path.is_dir() else [path]
    for file in candidates:
        if file.suffix.lower() in endings and not file.name.startswith(".") and file.is_file():
            yield file
