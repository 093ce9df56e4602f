"""What raw numbers mean: reflectance, and whether pixels and metadata agree about its offset.

Since processing baseline 04.00 (25 January 2022, and everything reprocessed since) the digital
numbers of Sentinel-2 are reflectance x 10,000 + 1,000, and the metadata announce -1,000 to be
added. Catalogues and mirrors get this wrong in both directions: numbers whose offset was removed
already are still announced with it (Element84/earth-search issues 9, 66, 71), and numbers that hold
it come without any word of it (torchgeo issue 3224). Either is an error of 0.1 in reflectance.
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
from geo.imagery.raster_reading import read_coarse, read_window

logger = logging.getLogger(__name__)

# Added to reflectance x 10,000 since baseline 04.00, in all bands.
OFFSET = 1000.0

# One band of each group is looked at. Land is dark in red and blue where plants grow, in the short
# wave infrared where there is water or snow; haze, which lifts red and blue much as an offset does,
# is hardly seen in the infrared.
_GROUPS = (("B04", "B05", "B03"), ("B12", "B11", "B8A", "B08", "B07", "B06"), ("B02", "B03"))

_SIDE = 700  # pixels along each axis that stand for a band
_MIN_PIXELS = 500
# Reduced resolutions mix pixels at the edge of what was sensed with the zeros beyond.
_EDGE = 3

# Reflectance x 10,000 with the offset still in it. A share of _DARK below _DARK_LEVEL would be
# reflectances below -0.04 if the offset were in the pixels: it is not. No more than _NONE below
# _FLOOR in any band, and the darkest percent below _LOWEST in red and infrared alike: it is.
_DARK, _DARK_LEVEL = 0.05, 600.0
_NONE, _FLOOR, _LOWEST = 0.005, 900.0, 1500.0
# So many acquisitions with the same announcement must show it together, and so many of them be so
# dark: of one alone, thin clouds all over would do so, too.
_MIN_TOGETHER, _SHOWN_BY = 5, 3

# Quantiles that are compared among neighbours in time, how many of those, and the tolerance.
_QUANTILES = (0.01, 0.05, 0.25)
_NEIGHBOURS, _MIN_NEIGHBOURS, _TOLERANCE = 7, 3, 0.25 * OFFSET

Verdict = Literal["agrees", "undecided", "contradicts"]


@dataclass(frozen=True)
class DarkPixels:
    """How dark an acquisition is: B bands, in reflectance x 10,000 without any offset applied.

    Parameters
    ----------
    acquisition
        Where they are from.
    announced
        Whether its metadata announce the offset.
    bands
        Names of the bands.
    quantiles
        float (B, Q).
    below_dark, below_floor
        float (B,): share of pixels below what only pixels without the offset reach.
    """

    acquisition: Acquisition
    announced: bool
    bands: tuple[str, ...]
    quantiles: NDArray[np.float64]
    below_dark: NDArray[np.float64]
    below_floor: NDArray[np.float64]

    @property
    def levels(self) -> NDArray[np.float64]:
        """Quantiles that are compared among neighbours, without the very lowest: float (B, Q)."""
        return self.quantiles[:, 1:]


def can_lie(acquisition: Acquisition) -> bool:
    """Tell whether metadata and pixels could disagree: not before the offset was invented."""
    announced = _announced(acquisition)
    baseline = acquisition.baseline
    return announced is not None and (announced or baseline is None or baseline >= "04.00")


def measure(acquisition: Acquisition) -> DarkPixels | None:
    """Measure the dark pixels of an acquisition; None where too few were sensed.

    Raises
    ------
    InputError
        If a file cannot be read.
    """
    announced = _announced(acquisition)
    bands = _chosen_bands(acquisition)
    values = [_sensed_values(acquisition.bands[name]) for name in bands]
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


def judge(measured: Sequence[DarkPixels]) -> Mapping[str, Verdict]:
    """Say of every acquisition whether its pixels agree with what its metadata announce.

    Acquisitions are judged from their own pixels where these are dark enough, and else beside
    those of the same tile that are nearest in time: an offset shifts every quantile of every band
    by the same, which neither clouds nor seasons do. What is not clear stays undecided.

    Parameters
    ----------
    measured
        Acquisitions of one tile, with the same bands. Those that cannot lie help to judge others.

    Returns
    -------
    dict of str
        By acquisition id.
    """
    known = {item.acquisition.id: False for item in measured if not can_lie(item.acquisition)}
    known |= _known_alone(measured)
    known |= _known_together(measured, known)
    known |= _known_beside_others(measured, known)
    return {
        item.acquisition.id: "undecided"
        if item.acquisition.id not in known
        else ("agrees" if known[item.acquisition.id] == item.announced else "contradicts")
        for item in measured
    }


def check_radiometry(used: Sequence[Acquisition], threads: int) -> Mapping[str, str]:
    """Check that the pixels of acquisitions agree with the additive offset that is announced.

    Returns
    -------
    dict of str
        By acquisition id: agrees or undecided; those of before the offset are left out.

    Raises
    ------
    InputError
        If some contradict, or a file cannot be read.
    """
    doubtful = [item for item in used if can_lie(item)]
    tiles = sorted({item.tile for item in doubtful})
    with ThreadPoolExecutor(threads) as pool:
        measured = pool.map(measure, [item for item in used if item.tile in tiles])
        dark = [item for item in measured if item is not None]
    judged: dict[str, str] = {}
    for tile in tiles:
        judged |= judge([item for item in dark if item.acquisition.tile == tile])
    verdicts = {item.id: judged.get(item.id, "undecided") for item in doubtful}
    lying = [item for item in dark if verdicts.get(item.acquisition.id) == "contradicts"]
    if lying:
        raise InputError(
            f"Metadata and pixels of {len(lying)} of {len(used)} acquisitions disagree about the "
            f"additive offset of processing baseline 04.00, {OFFSET / 10_000} in reflectance:\n  "
            f"{first_five([_explain(item) for item in lying], chr(10) + '  ')}\n"
            "Get these acquisitions from elsewhere, correct their metadata (of GeoTIFFs: "
            "gdal_edit -scale and -offset), or set imagery.radiometry to trust, to read them as "
            "their metadata say."
        )
    for verdict, count in Counter(verdicts.values()).most_common():
        logger.info("Offset in metadata and pixels of %d acquisitions: %s.", count, verdict)
    return verdicts


def _explain(item: DarkPixels) -> str:
    """Say what the metadata and the pixels of an acquisition say."""
    band, level = item.bands[0], item.levels[0, 0]
    metadata = f"announces {-OFFSET:.0f}" if item.announced else "announces no offset"
    pixels = "are without it" if item.announced else f"hold {OFFSET:.0f}"
    return (
        f"{item.acquisition.id} {metadata}, but its pixels {pixels}: its darkest, such as 5 % of "
        f"{band} below {level:.0f}, show it"
    )


def _announced(acquisition: Acquisition) -> bool | None:
    """Tell whether the offset is announced; None where something else is, which is not judged."""
    offsets = {band.offset * band.scale for band in acquisition.bands.values()}
    if all(abs(offset + OFFSET) < 1 for offset in offsets):
        return True
    return False if all(abs(offset) < 1 for offset in offsets) else None


def _chosen_bands(acquisition: Acquisition) -> tuple[str, ...]:
    """Choose the bands that are looked at: one of each group, where there is one."""
    chosen = [
        next((name for name in group if name in acquisition.bands), None) for group in _GROUPS
    ]
    return tuple(dict.fromkeys(name for name in chosen if name is not None))


def _sensed_values(band: Band) -> NDArray[np.float64]:
    """Read pixels that stand for a band, without those that were not sensed or lie beside them."""
    # Imported here: most acquisitions leave no doubt, and scipy takes its time.
    from scipy import ndimage

    raw = read_coarse(band, _SIDE)
    sensed = np.isfinite(raw) if band.nodata is None else np.isfinite(raw) & (raw != band.nodata)
    around = np.ones((1, 2 * _EDGE + 1, 2 * _EDGE + 1), bool)
    sensed = ndimage.binary_erosion(sensed, around, border_value=1)
    values: NDArray[np.float64] = raw[sensed].astype(np.float64) * band.scale
    return values


def _known_alone(measured: Sequence[DarkPixels]) -> Mapping[str, bool]:
    """Find, by id, the acquisitions so dark that the offset cannot be in them (False)."""
    return {item.acquisition.id: False for item in measured if item.below_dark[:2].max() >= _DARK}


def _known_together(
    measured: Sequence[DarkPixels], known: Mapping[str, bool]
) -> Mapping[str, bool]:
    """Find, by id, the acquisitions whose darkest pixels all end at the offset (True)."""
    found: dict[str, bool] = {}
    for announced in (False, True):
        same = [
            item
            for item in measured
            if item.announced == announced and item.acquisition.id not in known
        ]
        if len(same) < _MIN_TOGETHER or len(same[0].bands) < 2:
            continue
        lowest = np.sort([item.quantiles[:2, 0] for item in same], axis=0)[_SHOWN_BY - 1]
        if all(item.below_floor.max() < _NONE for item in same) and lowest.max() < _LOWEST:
            found |= {item.acquisition.id: True for item in same}
    return found


def _known_beside_others(
    measured: Sequence[DarkPixels], known: Mapping[str, bool]
) -> Mapping[str, bool]:
    """Find, by id, the acquisitions that are as dark as their neighbours, or lighter by the offset.

    Neighbours are those that are known, and those that announce the offset: where that is wrong,
    most are known to be without.
    """
    sure = {
        item.acquisition.id: known.get(item.acquisition.id, item.announced)
        for item in measured
        if item.acquisition.id in known or item.announced
    }
    found: dict[str, bool] = {}
    for item in measured:
        neighbours = [
            other
            for other in measured
            if other.acquisition.id in sure and other.acquisition.id != item.acquisition.id
        ]
        if item.acquisition.id in known or len(neighbours) < _MIN_NEIGHBOURS:
            continue
        neighbours.sort(key=lambda other: abs(other.acquisition.date - item.acquisition.date))
        levels = [
            other.levels - OFFSET * sure[other.acquisition.id] for other in neighbours[:_NEIGHBOURS]
        ]
        lighter = item.levels - np.median(levels, axis=0)
        could_be_in_pixels = bool(item.below_floor.max() < _NONE)
        if (np.abs(lighter - OFFSET * could_be_in_pixels) < _TOLERANCE).all():
            found[item.acquisition.id] = could_be_in_pixels
    return found


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


# Above what clouds and snow reflect, below what percent and counts of land are.
_GREATEST_REFLECTANCE = 2.0
_WINDOW = 256


def check_float_scale(found: Sequence[Acquisition]) -> None:
    """Check a window of the first, the middle and the last acquisition with floats.

    Processing turns counts (x 10,000) into floats as often as into reflectance, and files seldom
    say which they hold.

    Raises
    ------
    InputError
        If half of the pixels are brighter than anything on land.
    """
    plain = [item for item in found if any(band.scale == 10_000 for band in item.bands.values())]
    for item in {
        id(i): i for i in (plain[:1] + plain[len(plain) // 2 :][:1] + plain[-1:])
    }.values():
        band = next(band for band in item.bands.values() if band.scale == 10_000)
        median = _median(band)
        if median > _GREATEST_REFLECTANCE:
            raise InputError(
                f"{band.name} of {band.source} would be taken as reflectance (0 to 1), and half of "
                f"its pixels are above {median:.4g}. Set reflectance_scale to the reflectance of "
                "1: 0.0001 for counts, 0.01 for percent."
            )


def _median(band: Band) -> float:
    """Return the median raw value of a window in the middle of a band; 0 if it has no data."""
    top, left = ((size - min(size, _WINDOW)) // 2 for size in band.grid.shape)
    raw = read_window(band, slice(top, top + _WINDOW), slice(left, left + _WINDOW))
    known = raw[np.isfinite(raw) & (raw != band.nodata)]
    return float(np.median(known)) if known.size else 0.0
