"""Stage index: list the acquisitions of the imagery and say which are used."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from geo.errors import InputError
from geo.grid import Grid
from geo.imagery.acquisition import Acquisition, Damaged, first_five
from geo.imagery.cloud_fraction import cloud_fraction, stated_cloud_fraction
from geo.imagery.cloud_masks import CloudRules
from geo.imagery.discovery import find_acquisitions
from pipeline.acquisitions.cloud_rules import check_masks, cloud_rules, with_own_masks
from pipeline.acquisitions.damaged_products import damaged_rows
from pipeline.acquisitions.duplicates import in_order_of_use, mark_merged, same_day_reasons
from pipeline.acquisitions.radiometry import check_radiometry
from pipeline.acquisitions.tiles import most_seen_first
from pipeline.workflow.acquisition_table import AcquisitionRow, write_acquisitions
from pipeline.workflow.settings import IndexSettings
from pipeline.workflow.writing import write_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decision:
    """What is decided on the imagery of a run.

    Attributes
    ----------
    found
        Every acquisition that was found.
    rows
        Their rows of acquisitions.csv.
    grids
        Grid of every tile that is used, the most often seen first.
    """

    found: list[Acquisition]
    rows: list[AcquisitionRow]
    grids: dict[str, Grid]


def index(
    imagery: str | Path,
    acquisitions: Path,
    grids: Path,
    settings: IndexSettings,
    items: Path | None = None,
    register: Path | None = None,
    threads: int = 1,
) -> None:
    """List the acquisitions of the imagery, say which are used, and give the grids of their tiles.

    Parameters
    ----------
    imagery
        Folder of SAFE products or GeoTIFFs, or a NetCDF stack; path or address of a STAC source.
    acquisitions
        Written: one row for every acquisition found.
    grids
        Written: {tile: pixel grid of the finest bands}, the most often seen tile first.
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
    decision = decide(imagery, settings, items, register, threads)
    write_acquisitions(acquisitions, decision.rows)
    write_json(grids, {tile: asdict(grid) for tile, grid in decision.grids.items()})
    _log_counts(decision.rows)
    _warn_of_unmasked(decision.rows, settings)


def decide(
    imagery: str | Path,
    settings: IndexSettings,
    items: Path | None = None,
    register: Path | None = None,
    threads: int = 1,
    *,
    read_pixels: bool = True,
) -> Decision:
    """Find the acquisitions, and decide which are used; see `index`.

    Parameters
    ----------
    imagery, settings, items, register, threads
        As in `index`.
    read_pixels
        False: only what metadata and file headers tell. Acquisitions whose clouds only their
        masks tell are used, whatever these say, and the radiometry is not checked.
    """
    if items is not None:
        from pipeline.acquisitions.stac_items import fetch_items  # local imagery does without HTTP

        fetch_items(imagery, items, register, settings)
    damaged: list[Damaged] = []
    found = find_acquisitions(
        items or Path(imagery),
        "stac" if items else settings.imagery.format,
        bands=settings.imagery.bands,
        file_bands=settings.imagery.file_bands,
        reflectance_scale=settings.imagery.reflectance_scale,
        signed_by=settings.imagery.sign,
        damaged=damaged if settings.imagery.damaged == "set_aside" else None,
    )
    for item in damaged:
        logger.warning("Set aside: %s", item.problem)
    found = with_own_masks(found, settings)
    tiles = choose_tiles(found, settings.imagery.tile)
    tile_grids = {tile: tile_grid([item for item in found if item.tile == tile]) for tile in tiles}
    reasons = reasons_not_to_use(found, tile_grids, settings)
    rules = cloud_rules(settings.clouds)
    clouds = {
        item.id: cloud_fraction(item, rules) if read_pixels else stated_cloud_fraction(item, rules)
        for item in found
        if item.id not in reasons
    }
    limit = settings.imagery.max_cloud_fraction
    reasons |= {id_: "too_cloudy" for id_, cloudy in clouds.items() if (cloudy or 0) > limit}
    _check_any_left(found, reasons)
    used = [item for item in found if item.id not in reasons]
    check_masks(used, rules)
    is_checked = read_pixels and settings.imagery.radiometry == "check"
    radiometry = check_radiometry(used, threads) if is_checked else {}
    rows = [_row(item, clouds, reasons, rules) for item in in_order_of_use(found)]
    rows = [row._replace(radiometry=radiometry.get(row.acquisition, "")) for row in rows]
    rows = sorted([*rows, *damaged_rows(damaged)], key=lambda row: (row.date, row.tile))
    seen = most_seen_first({(row.tile, row.date) for row in rows if row.used})
    return Decision(found, mark_merged(rows), {tile: tile_grids[tile] for tile in seen})


def choose_tiles(found: Sequence[Acquisition], wanted: str | Sequence[str] | None) -> list[str]:
    """Give the tiles of a run: those that are wanted, or all there are.

    Raises
    ------
    InputError
        If a wanted tile is not there.
    """
    counts = Counter(item.tile for item in found)
    if wanted is None:
        return sorted(counts)
    names = [wanted] if isinstance(wanted, str) else wanted
    tiles = {name: name if name in counts else name.upper().removeprefix("T") for name in names}
    unknown = [name for name, tile in tiles.items() if tile not in counts]
    if unknown:
        listing = first_five([f"{tile} ({count})" for tile, count in sorted(counts.items())])
        raise InputError(
            f"imagery.tile asks for {first_five(unknown)}, which the imagery does not have. "
            f"It has: {listing}."
        )
    return sorted(set(tiles.values()))


def tile_grid(found: Sequence[Acquisition]) -> Grid:
    """Give the grid of a tile: of the pixels that most of its acquisitions have, the whole extent.

    Among equals the earliest acquisition's pixels are taken.
    """
    groups: list[list[Grid]] = []
    for item in found:
        group = next((g for g in groups if g[0].is_aligned(item.grid)), None)
        if group is None:
            groups.append([item.grid])
        else:
            group.append(item.grid)
    first, *others = max(groups, key=len)
    return first.union(others)


def reasons_not_to_use(
    found: Sequence[Acquisition], grids: Mapping[str, Grid], settings: IndexSettings
) -> dict[str, str]:
    """Give, by id, why acquisitions are not used; clouds, which cost reading, are left aside."""
    start, end = settings.imagery.start, settings.imagery.end
    reasons: dict[str, str] = {}
    by_day: dict[tuple[str, date], list[Acquisition]] = {}
    for item in found:
        if item.tile not in grids:
            reasons[item.id] = "other_tile"
        elif start is not None and item.date < start:
            reasons[item.id] = "before_start"
        elif end is not None and item.date > end:
            reasons[item.id] = "after_end"
        elif not grids[item.tile].is_aligned(item.grid):
            reasons[item.id] = "other_grid"
        else:
            by_day.setdefault((item.tile, item.date), []).append(item)
    for same_day in by_day.values():
        reasons |= same_day_reasons(same_day)
    return reasons


def _check_any_left(found: Sequence[Acquisition], reasons: dict[str, str]) -> None:
    """Check that some acquisition is used."""
    if len(reasons) == len(found):
        counts = ", ".join(f"{n} {reason}" for reason, n in Counter(reasons.values()).most_common())
        dates = [item.date for item in found]
        raise InputError(
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


def _log_counts(rows: Sequence[AcquisitionRow]) -> None:
    """Log how many acquisitions were found, used and set aside."""
    logger.info("%d acquisitions found, %d used.", len(rows), sum(row.used for row in rows))
    for reason, count in Counter(row.reason for row in rows if not row.used).most_common():
        logger.info("%d not used: %s.", count, reason)


def _warn_of_unmasked(rows: Sequence[AcquisitionRow], settings: IndexSettings) -> None:
    """Log how many acquisitions have no mask, unless none is wanted."""
    unmasked = [row.acquisition for row in rows if row.used and not row.masks]
    if unmasked and settings.clouds.mask != "none":
        logger.warning(
            "%d acquisitions have no cloud mask, so that their clouds count as observed: %s.",
            len(unmasked),
            first_five(unmasked),
        )
