"""Stage index: list the acquisitions of the imagery and say which are used."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from geo.acquisitions import Acquisition, AcquisitionError, first_five
from geo.cloud_fraction import cloud_fraction
from geo.clouds import CloudRules
from geo.finding import find_acquisitions
from geo.grid import Grid
from pipeline.acquisition_table import AcquisitionRow, write_acquisitions
from pipeline.cloud_masks import check_masks, cloud_rules, with_own_masks
from pipeline.radiometry import check_radiometry
from pipeline.settings import Settings
from pipeline.writing import write_json

logger = logging.getLogger(__name__)


def index(
    imagery: str | Path,
    acquisitions: Path,
    grids: Path,
    settings: Settings,
    items: Path | None = None,
    register: Path | None = None,
    threads: int = 1,
) -> None:
    """List the acquisitions of the imagery, say which are used, and give the grid of their tile.

    Parameters
    ----------
    imagery
        Folder of SAFE products or GeoTIFFs, or a NetCDF stack; path or address of a STAC source.
    acquisitions
        Written: one row for every acquisition found.
    grids
        Written: {tile: pixel grid of the finest band}.
    settings
        imagery, parcels.layer, and clouds but for fill.
    items
        Written: the items of a STAC source, one file each, which the later stages read. None:
        the imagery is no STAC source.
    register
        Parcels whose bounds a STAC API is searched for where imagery.bbox is not set.
    threads
        Acquisitions looked at at the same time.
    """
    if items is not None:
        from pipeline.stac_items import fetch_items  # local imagery does without HTTP

        fetch_items(imagery, items, register, settings)
    found = find_acquisitions(
        items or Path(imagery),
        "stac" if items else settings.imagery.format,
        bands=settings.imagery.bands,
        file_bands=settings.imagery.file_bands,
        reflectance_scale=settings.imagery.reflectance_scale,
        signed_by=settings.imagery.sign,
    )
    found = with_own_masks(found, settings)
    tile = choose_tile(found, settings.imagery.tile)
    grid = most_common_grid([item for item in found if item.tile == tile])
    reasons = reasons_not_to_use(found, tile, grid, settings)
    rules = cloud_rules(settings.clouds)
    clouds = {item.id: cloud_fraction(item, rules) for item in found if item.id not in reasons}
    limit = settings.imagery.max_cloud_fraction
    reasons |= {id_: "too_cloudy" for id_, cloudy in clouds.items() if (cloudy or 0) > limit}
    _check_any_left(found, reasons)
    used = [item for item in found if item.id not in reasons]
    check_masks(used, rules)
    is_checked = settings.imagery.radiometry == "check"
    radiometry = check_radiometry(used, threads) if is_checked else {}

    rows = [_row(item, clouds, reasons, rules) for item in found]
    rows = [row._replace(radiometry=radiometry.get(row.acquisition, "")) for row in rows]
    write_acquisitions(acquisitions, rows)
    write_json(grids, {tile: asdict(grid)})
    _log_counts(found, reasons)
    _warn_of_unmasked(used, rules)


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
    item: Acquisition,
    clouds: dict[str, float | None],
    reasons: dict[str, str],
    rules: CloudRules,
) -> AcquisitionRow:
    """Make the row of one acquisition."""
    masks = rules.choose(item)
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
        masks=" ".join(masks),
        mask_file=_mask_file(item, rules),
    )


def _mask_file(item: Acquisition, rules: CloudRules) -> Path | None:
    """Give the user's own mask: of the required ones, which all others are the products'."""
    own = item.masks.get("MASK") if "MASK" in rules.required else None
    return None if own is None else Path(own.source)


def _offset_text(item: Acquisition) -> str:
    """Write the offset of an acquisition's bands: one number if they share it, else one a band."""
    offsets = {name: f"{band.offset:g}" for name, band in item.bands.items()}
    if len(set(offsets.values())) == 1:
        return next(iter(offsets.values()))
    return " ".join(f"{name}={offset}" for name, offset in offsets.items())


def _log_counts(found: Sequence[Acquisition], reasons: dict[str, str]) -> None:
    """Log how many acquisitions were found, used and set aside."""
    logger.info("%d acquisitions found, %d used.", len(found), len(found) - len(reasons))
    for reason, count in Counter(reasons.values()).most_common():
        logger.info("%d not used: %s.", count, reason)


def _warn_of_unmasked(used: Sequence[Acquisition], rules: CloudRules) -> None:
    """Log how many acquisitions have no mask, unless none is wanted."""
    unmasked = [item.id for item in used if not rules.choose(item)]
    if unmasked and rules.masks:
        logger.warning(
            "%d acquisitions have no cloud mask, so that their clouds count as observed: %s.",
            len(unmasked),
            first_five(unmasked),
        )
