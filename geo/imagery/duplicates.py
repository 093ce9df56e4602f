"""Acquisitions of one tile and day: versions of the same pixels, or parts that complete each other.

The metadata of products state the data strip, or the fraction of pixels that are not nodata. If
they state neither, as those of GeoTIFFs and stacks, some pixels of the acquisitions are read.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from geo.imagery.acquisition import Acquisition
from geo.imagery.damaged import setting_aside
from geo.imagery.file_cache import cached_of
from geo.imagery.reduced_reading import read_coarse
from geo.imagery.valid_values import has_data

# The fractions of valid pixels of the two halves of a tile add up to 1. The sum can be larger by
# this: fractions are rounded, and both data strips contain the lines where they meet.
_OVERLAP = 0.02

# Coverage is compared at about this many rows and columns.
_SIDE = 700

# By id, which of the pixels that represent an acquisition are data.
Coverage = Mapping[str, NDArray[np.bool_]]


def compare_days(
    found: Sequence[Acquisition],
    without: Container[str],
    unreadable: dict[str, str] | None = None,
) -> tuple[list[Acquisition], dict[str, str]]:
    """Compare the acquisitions of each tile and day.

    Parameters
    ----------
    found
        All acquisitions.
    without
        Ids of those that are not used for another reason.
    unreadable
        Acquisitions that cannot be read are added, {id: problem}; None: they are refused.

    Returns
    -------
    found
        The acquisitions, with `valid_fraction` where it was measured.
    reasons
        By id, why acquisitions are not used; see `duplicates`.

    Raises
    ------
    InputError
        If a file cannot be read.
    """
    by_day: dict[tuple[str, date], list[Acquisition]] = {}
    for item in found:
        if item.id not in without:
            by_day.setdefault((item.tile, item.date), []).append(item)
    covered: dict[str, NDArray[np.bool_]] = {}
    for same_day in by_day.values():
        for item in same_day if _must_be_read(same_day) else ():
            with setting_aside(item.id, unreadable):
                covered[item.id] = _coverage(item)
    measured = {
        item.id: replace(item, valid_fraction=float(covered[item.id].mean()))
        for item in found
        if item.id in covered and item.valid_fraction is None
    }
    reasons: dict[str, str] = {}
    for same_day in by_day.values():
        readable = [item for item in same_day if item.id not in (unreadable or ())]
        reasons |= duplicates([measured.get(item.id, item) for item in readable], covered)
    return [measured.get(item.id, item) for item in found], reasons


def _must_be_read(same_day: Sequence[Acquisition]) -> bool:
    """Return whether acquisitions have the same extent, and no metadata that tell them apart."""
    unstated = [a for a in same_day if a.datastrip is None and a.valid_fraction is None]
    pairs = ((a, b) for a in unstated for b in same_day if b is not a)
    return any(a.grid.matches(b.grid) for a, b in pairs)


def _coverage(item: Acquisition) -> NDArray[np.bool_]:
    """Read which of the pixels that represent an acquisition are data."""
    band = next(band for band in item.bands.values() if band.grid == item.grid)
    return cached_of(
        *(item, ("coverage", band.name, _SIDE), np.ndarray),
        lambda: has_data(band, read_coarse(band, _SIDE)),
    )


def in_order_of_use(found: Iterable[Acquisition]) -> list[Acquisition]:
    """Sort acquisitions by date and tile, and those of one day in the order of merging.

    The acquisition with the most pixels comes first, among equals the newest processing, and at
    last the one whose id comes last.
    """
    by_preference = sorted(found, key=lambda item: (item.preference, item.id), reverse=True)
    return sorted(by_preference, key=lambda item: (item.date, item.tile))


def duplicates(
    same_day: Sequence[Acquisition], covered: Coverage = MappingProxyType({})
) -> dict[str, str]:
    """Return, by id, why acquisitions of one tile and day are not used.

    If an acquisition was processed more than once, the preferred version is used and the others
    are `superseded`. Acquisitions that complete each other are all used. Others are left out as
    `same_day`. Clouds are not considered, so that the choice does not depend on settings.

    Parameters
    ----------
    same_day
        The acquisitions.
    covered
        Which of their pixels are data, if the metadata do not tell.
    """
    reasons: dict[str, str] = {}
    used: list[Acquisition] = []
    for item in in_order_of_use(same_day):
        if any(_is_reprocessing(item, other, covered) for other in used):
            reasons[item.id] = "superseded"
        elif all(_is_complement(item, other, covered) for other in used):
            used.append(item)
        else:
            reasons[item.id] = "same_day"
    return reasons


def _is_reprocessing(item: Acquisition, other: Acquisition, covered: Coverage) -> bool:
    """Return whether two acquisitions of one tile and day are two versions of the same one.

    Two versions have the same data strip. If the data strip is unknown, they have the same time of
    sensing and the same fraction of valid pixels: the two halves of a tile that lies across two
    data strips have the same time, but different fractions.
    """
    if item.datastrip is not None and other.datastrip is not None:
        return item.datastrip == other.datastrip
    if _adds_pixels(item, other, covered):
        return False
    is_same_time = item.sensing_start is not None and item.sensing_start == other.sensing_start
    return is_same_time and item.preference[0] == other.preference[0]


def _is_complement(item: Acquisition, other: Acquisition, covered: Coverage) -> bool:
    """Return whether two acquisitions of one tile and day, not two versions, complete each other.

    They do if their data strips differ. If these are unknown, they do if their extents differ, or
    if one has data where the other has none. If only the fractions of valid pixels are known, these
    must add up to at most one tile.
    """
    if item.datastrip is not None and other.datastrip is not None:
        return True
    if not item.grid.matches(other.grid):
        return True
    adds_pixels = _adds_pixels(item, other, covered)
    if adds_pixels is not None:
        return adds_pixels
    fractions = [1.0 if a.valid_fraction is None else a.valid_fraction for a in (item, other)]
    return sum(fractions) <= 1 + _OVERLAP


def _adds_pixels(item: Acquisition, other: Acquisition, covered: Coverage) -> bool | None:
    """Return whether an acquisition has data where another has none, None if it is not known.

    Pixels are compared in whole percent, because reprocessed products differ by a few pixels.
    """
    if item.id not in covered or other.id not in covered or not item.grid.matches(other.grid):
        return None
    added = float((covered[item.id] & ~covered[other.id]).mean())
    return round(added, 2) > 0
