"""Radiometry: the reflectance of raw values, and a check of the offset that metadata announce.

Since processing baseline 04.00 (25 January 2022, and everything reprocessed since), the digital
numbers of Sentinel-2 are reflectance x 10,000 + 1,000, and the metadata announce an offset of
-1,000. Catalogues and mirrors make two errors. Some announce the offset although they removed it
from the pixels (Element84/earth-search issues 9, 66, 71). Others do not announce it although the
pixels contain it (torchgeo issue 3224). Both are errors of 0.1 in reflectance.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from geo.errors import InputError
from geo.imagery.acquisition import Acquisition, Band, first_five
from geo.imagery.raster_reading import read_coarse
from geo.imagery.valid_values import has_data

logger = logging.getLogger(__name__)

# Added to reflectance x 10,000 since baseline 04.00, in all bands.
OFFSET = 1000.0

# One band of each group is measured: red, short-wave infrared and blue. Land is dark in red and
# blue where plants grow, and in the infrared where there is water or snow. Haze brightens red and
# blue much like an offset does, but not the infrared.
_GROUPS = (("B04", "B05", "B03"), ("B12", "B11", "B8A", "B08", "B07", "B06"), ("B02", "B03"))

_SIDE = 700  # a band is read at about 700 x 700 pixels
_MIN_PIXELS = 500
# Pixels within this distance of nodata are left out: at reduced resolution they are mixed with 0.
_EDGE = 3

# Reflectance x 10,000 without any offset applied. The offset is absent if the fraction _DARK of
# the pixels is below _DARK_LEVEL: with the offset, that would be reflectances below -0.04. It is
# present if at most the fraction _NONE is below _FLOOR in all bands, and the darkest percent is
# below _LOWEST in red and infrared.
_DARK, _DARK_LEVEL = 0.05, 600.0
_NONE, _FLOOR, _LOWEST = 0.005, 900.0, 1500.0
# Presence is decided for at least _MIN_TOGETHER acquisitions with the same announcement, of which
# at least _SHOWN_BY are this dark. A single acquisition can look the same under thin clouds.
_MIN_TOGETHER, _SHOWN_BY = 5, 3

# Quantiles that are compared with the nearest acquisitions in time, their number, and the
# tolerance.
_QUANTILES = (0.01, 0.05, 0.25)
_NEIGHBOURS, _MIN_NEIGHBOURS, _TOLERANCE = 7, 3, 0.25 * OFFSET

Agreement = Literal["agrees", "undecided", "contradicts"]


@dataclass(frozen=True)
class DarkPixels:
    """The darkest pixels of B bands, in reflectance x 10,000 without any offset applied.

    Parameters
    ----------
    acquisition
        The acquisition that was measured.
    announced
        Whether its metadata announce the offset.
    bands
        Names of the bands.
    quantiles
        float (B, Q).
    below_dark, below_floor
        float (B,): fractions of the pixels below levels that only pixels without offset reach.
    """

    acquisition: Acquisition
    announced: bool
    bands: tuple[str, ...]
    quantiles: NDArray[np.float64]
    below_dark: NDArray[np.float64]
    below_floor: NDArray[np.float64]

    @property
    def levels(self) -> NDArray[np.float64]:
        """Quantiles that are compared among neighbours, all but the lowest: float (B, Q - 1)."""
        return self.quantiles[:, 1:]


def check_radiometry(used: Sequence[Acquisition], threads: int) -> Mapping[str, str]:
    """Check that the pixels of acquisitions agree with the offset that their metadata announce.

    Returns
    -------
    dict of str
        "agrees" or "undecided" by acquisition id, without acquisitions older than the offset.

    Raises
    ------
    InputError
        If pixels contradict the metadata, or a file cannot be read.
    """
    uncertain = [item for item in used if can_contradict(item)]
    tiles = sorted({item.tile for item in uncertain})
    with ThreadPoolExecutor(threads) as pool:
        measured = pool.map(measure_dark_pixels, [item for item in used if item.tile in tiles])
        dark = [item for item in measured if item is not None]
    compared: dict[str, Agreement] = {}
    for tile in tiles:
        compared |= compare([item for item in dark if item.acquisition.tile == tile])
    results = {item.id: compared.get(item.id, "undecided") for item in uncertain}
    wrong = [item for item in dark if results.get(item.acquisition.id) == "contradicts"]
    if wrong:
        raise InputError(
            f"Metadata and pixels of {len(wrong)} of {len(used)} acquisitions disagree about the "
            f"additive offset of processing baseline 04.00, {OFFSET / 10_000} in reflectance:\n  "
            f"{first_five([_explain(item) for item in wrong], chr(10) + '  ')}\n"
            "Get these acquisitions from another source, or correct their metadata (GeoTIFFs: "
            "gdal_edit -scale and -offset). To read them as their metadata say, set "
            "imagery.radiometry to trust."
        )
    for result, count in Counter(results.values()).most_common():
        logger.info("Offset in metadata and pixels of %d acquisitions: %s.", count, result)
    return results


def can_contradict(acquisition: Acquisition) -> bool:
    """Return whether metadata and pixels can disagree: not before baseline 04.00."""
    announced = _announced(acquisition)
    baseline = acquisition.baseline
    return announced is not None and (announced or baseline is None or baseline >= "04.00")


def measure_dark_pixels(acquisition: Acquisition) -> DarkPixels | None:
    """Return the dark pixels of an acquisition, None if too few pixels have data.

    Raises
    ------
    InputError
        If a file cannot be read.
    """
    announced = _announced(acquisition)
    candidates = [[name for name in group if name in acquisition.bands] for group in _GROUPS]
    bands = tuple(dict.fromkeys(names[0] for names in candidates if names))
    values = [_values_with_data(acquisition.bands[name]) for name in bands]
    if announced is None or not values or min(map(len, values)) < _MIN_PIXELS:
        return None
    return DarkPixels(
        acquisition=acquisition,
        announced=announced,
        bands=bands,
        quantiles=np.array([np.quantile(band, _QUANTILES) for band in values]),
        below_dark=np.array([(band < _DARK_LEVEL).mean() for band in values]),
        below_floor=np.array([(band < _FLOOR).mean() for band in values]),
    )


def compare(measured: Sequence[DarkPixels]) -> dict[str, Agreement]:
    """Return, by acquisition id, whether the pixels agree with the announced offset.

    Three rules decide whether the pixels contain the offset: dark pixels show that it is absent; a
    group of acquisitions without dark pixels shows that it is present; the acquisitions of nearest
    dates show it by comparison. An offset shifts every quantile of every band by the same amount,
    which clouds and seasons do not. If no rule applies, the result is "undecided".

    Parameters
    ----------
    measured
        Acquisitions of one tile, with the same bands. Those that cannot contradict their metadata
        are used for comparison.
    """
    # Whether the pixels contain the offset, by acquisition id.
    contained = {
        item.acquisition.id: False
        for item in measured
        if not can_contradict(item.acquisition) or item.below_dark[:2].max() >= _DARK
    }
    contained |= _contained_in_groups(measured, contained)
    contained |= _contained_by_neighbours(measured, contained)
    return {
        item.acquisition.id: "undecided"
        if item.acquisition.id not in contained
        else ("agrees" if contained[item.acquisition.id] == item.announced else "contradicts")
        for item in measured
    }


def _contained_in_groups(
    measured: Sequence[DarkPixels], decided: Mapping[str, bool]
) -> dict[str, bool]:
    """Return True by id for acquisitions of groups whose darkest pixels all end at the offset."""
    contained: dict[str, bool] = {}
    for announced in (False, True):
        group = [
            item
            for item in measured
            if item.announced == announced and item.acquisition.id not in decided
        ]
        if len(group) < _MIN_TOGETHER or len(group[0].bands) < 2:
            continue
        lowest = np.sort([item.quantiles[:2, 0] for item in group], axis=0)[_SHOWN_BY - 1]
        if all(item.below_floor.max() < _NONE for item in group) and lowest.max() < _LOWEST:
            contained |= {item.acquisition.id: True for item in group}
    return contained


def _contained_by_neighbours(
    measured: Sequence[DarkPixels], decided: Mapping[str, bool]
) -> dict[str, bool]:
    """Return by id whether acquisitions are brighter than their neighbours by the offset.

    Neighbours are acquisitions that are decided, and those that announce the offset: if the latter
    is wrong, dark pixels have decided most of them already.
    """
    neighbours = [item for item in measured if item.acquisition.id in decided or item.announced]
    contained: dict[str, bool] = {}
    for item in measured:
        others = [other for other in neighbours if other is not item]
        if item.acquisition.id in decided or len(others) < _MIN_NEIGHBOURS:
            continue
        others.sort(key=lambda other: abs(other.acquisition.date - item.acquisition.date))
        levels = [
            other.levels - OFFSET * decided.get(other.acquisition.id, other.announced)
            for other in others[:_NEIGHBOURS]
        ]
        brighter = item.levels - np.median(levels, axis=0)
        is_possible = bool(item.below_floor.max() < _NONE)
        if (np.abs(brighter - OFFSET * is_possible) < _TOLERANCE).all():
            contained[item.acquisition.id] = is_possible
    return contained


def _explain(item: DarkPixels) -> str:
    """Return what the metadata and the pixels of an acquisition say."""
    band, level = item.bands[0], item.levels[0, 0]
    metadata = f"announces {-OFFSET:.0f}" if item.announced else "announces no offset"
    pixels = "are without it" if item.announced else f"hold {OFFSET:.0f}"
    return (
        f"{item.acquisition.id} {metadata}, but its pixels {pixels}: the darkest pixels show it, "
        f"such as 5 % of {band} below {level:.0f}"
    )


def _announced(acquisition: Acquisition) -> bool | None:
    """Return whether the offset is announced, None if another offset is: that is not checked."""
    offsets = {band.offset * band.scale for band in acquisition.bands.values()}
    if all(abs(offset + OFFSET) < 1 for offset in offsets):
        return True
    return False if all(abs(offset) < 1 for offset in offsets) else None


def _values_with_data(band: Band) -> NDArray[np.float64]:
    """Read pixels that represent a band, without nodata and the pixels beside it."""
    # Imported here: most runs need no check, and scipy is slow to import.
    from scipy import ndimage

    raw = read_coarse(band, _SIDE)
    around = np.ones((1, 2 * _EDGE + 1, 2 * _EDGE + 1), bool)
    inside = ndimage.binary_erosion(has_data(band, raw), around, border_value=1)
    values: NDArray[np.float64] = raw[inside].astype(np.float64) * band.scale
    return values


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
