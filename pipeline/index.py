"""Stage index: list the acquisitions of the imagery and say which are used."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from geo.acquisitions import Acquisition, AcquisitionError, first_five
from geo.finding import find_acquisitions
from geo.grid import Grid
from geo.reading import read_window
from pipeline.acquisition_table import AcquisitionRow, write_acquisitions
from pipeline.settings import Settings
from pipeline.writing import write_json

logger = logging.getLogger(__name__)


def index(imagery: Path, acquisitions: Path, grids: Path, settings: Settings) -> None:
    """List the acquisitions of the imagery, say which are used, and give the grid of their tile.

    Parameters
    ----------
    imagery
        Folder of SAFE products or GeoTIFFs, or a NetCDF stack.
    acquisitions
        Written: one row for every acquisition found.
    grids
        Written: {tile: pixel grid of the finest band}.
    settings
        imagery, clouds.mask and clouds.classes.
    """
    found = find_acquisitions(
        imagery,
        settings.imagery.format,
        bands=settings.imagery.bands,
        file_bands=settings.imagery.file_bands,
        reflectance_scale=settings.imagery.reflectance_scale,
    )
    tile = choose_tile(found, settings.imagery.tile)
    grid = most_common_grid([item for item in found if item.tile == tile])
    reasons = reasons_not_to_use(found, tile, grid, settings)
    clouds = {item.id: cloud_fraction(item, settings) for item in found if item.id not in reasons}
    limit = settings.imagery.max_cloud_fraction
    reasons |= {id_: "too_cloudy" for id_, cloudy in clouds.items() if (cloudy or 0) > limit}
    _check_any_left(found, reasons)

    write_acquisitions(acquisitions, [_row(item, clouds, reasons) for item in found])
    write_json(grids, {tile: asdict(grid)})
    _log_counts(found, clouds, reasons)


def choose_tile(found: Sequence[Acquisition], wanted: str | None) -> str:
    """Give the one tile of a run.

    Raises
    ------
    AcquisitionError
        If the wanted tile is not there, or there are several and none is wanted.
    """
    counts = Counter(item.tile for item in found)
    listing = first_five([f"{tile} ({count})" for tile, count in sorted(counts.items())])
    if wanted is not None:
        tile = wanted if wanted in counts else wanted.upper().removeprefix("T")
        if tile not in counts:
            raise AcquisitionError(f"There is no tile {wanted} in the imagery. It has: {listing}.")
        return tile
    if len(counts) > 1:
        raise AcquisitionError(
            f"The imagery has {len(counts)} tiles, and a run reads one: {listing}. "
            "Name it as imagery.tile."
        )
    return next(iter(counts))


def most_common_grid(found: Sequence[Acquisition]) -> Grid:
    """Give the grid that most acquisitions have; among equals the earliest one's."""
    grids: list[Grid] = []
    counts: list[int] = []
    for item in found:
        at = next((i for i, grid in enumerate(grids) if grid.matches(item.grid)), len(grids))
        if at == len(grids):
            grids.append(item.grid)
            counts.append(0)
        counts[at] += 1
    return grids[int(np.argmax(counts))]


def reasons_not_to_use(
    found: Sequence[Acquisition], tile: str, grid: Grid, settings: Settings
) -> dict[str, str]:
    """Give, by id, why acquisitions are not used; clouds, which cost reading, are left aside."""
    start, end = settings.imagery.start, settings.imagery.end
    reasons: dict[str, str] = {}
    by_day: dict[object, list[Acquisition]] = {}
    for item in found:
        if item.tile != tile:
            reasons[item.id] = "other_tile"
        elif start is not None and item.date < start:
            reasons[item.id] = "before_start"
        elif end is not None and item.date > end:
            reasons[item.id] = "after_end"
        elif not grid.matches(item.grid):
            reasons[item.id] = "other_grid"
        else:
            by_day.setdefault(item.date, []).append(item)
    for same_day in by_day.values():
        # Clouds do not take part: which of two acquisitions stays must not depend on settings.
        kept = max(same_day, key=lambda item: item.preference)
        for item in same_day:
            if item is not kept:
                reasons[item.id] = "superseded" if _is_reprocessing(item, kept) else "same_day"
    return reasons


def cloud_fraction(item: Acquisition, settings: Settings) -> float | None:
    """Give the share of cloudy pixels, by the product's metadata, else by its SCL, else None.

    By SCL it is the share of `clouds.classes` among the pixels that were sensed, and 1 where none
    was.
    """
    scl = item.masks.get("SCL")
    if item.cloud_fraction is not None or scl is None or settings.clouds.mask == "none":
        return item.cloud_fraction
    counts = np.zeros(256, np.int64)
    step = max(scl.block_shape[0], 512)
    for top in range(0, scl.grid.height, step):
        values = read_window(scl, slice(top, top + step), slice(None))
        counts += np.bincount(np.nan_to_num(values).astype(np.uint8).ravel(), minlength=256)
    sensed = [scl_class for scl_class in range(1, 12) if counts[scl_class]]  # 0 is no data
    total = sum(counts[scl_class] for scl_class in sensed)
    cloudy = sum(counts[scl_class] for scl_class in sensed if scl_class in settings.clouds.classes)
    return float(cloudy / total) if total else 1.0


def _is_reprocessing(item: Acquisition, kept: Acquisition) -> bool:
    """Tell whether two acquisitions of one day are the same, processed twice.

    The two halves of a tile that a change of data strip cuts apart share their time, too, but not
    their share of sensed pixels.
    """
    is_same_time = item.sensed is not None and item.sensed == kept.sensed
    return is_same_time and item.preference[0] == kept.preference[0]


def _check_any_left(found: Sequence[Acquisition], reasons: dict[str, str]) -> None:
    """Check that some acquisition is used."""
    if len(reasons) == len(found):
        counts = ", ".join(f"{n} {reason}" for reason, n in Counter(reasons.values()).most_common())
        dates = [item.date for item in found]
        raise AcquisitionError(
            f"None of the {len(found)} acquisitions from {min(dates)} to {max(dates)} is left to "
            f"use: {counts}. Change imagery.start, imagery.end or imagery.max_cloud_fraction."
        )


def _row(
    item: Acquisition, clouds: dict[str, float | None], reasons: dict[str, str]
) -> AcquisitionRow:
    """Make the row of one acquisition."""
    return AcquisitionRow(
        acquisition=item.id,
        tile=item.tile,
        date=item.date,
        product=item.product,
        format=item.format,
        baseline=item.baseline or "",
        platform=item.platform or "",
        offset=_offset_text(item),
        cloud_fraction=clouds.get(item.id, item.cloud_fraction),
        used=item.id not in reasons,
        reason=reasons.get(item.id, ""),
    )


def _offset_text(item: Acquisition) -> str:
    """Write the offset of an acquisition's bands: one number if they share it, else one a band."""
    offsets = {name: f"{band.offset:g}" for name, band in item.bands.items()}
    if len(set(offsets.values())) == 1:
        return next(iter(offsets.values()))
    return " ".join(f"{name}={offset}" for name, offset in offsets.items())


def _log_counts(
    found: Sequence[Acquisition], clouds: dict[str, float | None], reasons: dict[str, str]
) -> None:
    """Log how many acquisitions were found, used and set aside."""
    logger.info("%d acquisitions found, %d used.", len(found), len(found) - len(reasons))
    for reason, count in Counter(reasons.values()).most_common():
        logger.info("%d not used: %s.", count, reason)
    unmasked = [item for item in found if item.id in clouds and "SCL" not in item.masks]
    if unmasked:
        logger.warning(
            "%d acquisitions have no scene classification (SCL): their clouds are not masked.",
            len(unmasked),
        )
