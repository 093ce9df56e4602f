"""Decide which acquisitions of the imagery are used."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from geo.errors import SET_ASIDE, InputError, did_you_mean
from geo.formats.archives import file_name, own_convention
from geo.formats.conventions import tile_name
from geo.formats.dates import date_in
from geo.formats.file_dates import dates_of
from geo.grid import Grid
from geo.imagery.acquisition import Acquisition, first_five, is_address
from geo.imagery.array_reading import ChunkFiles, lost_chunks
from geo.imagery.cloud_masks import (
    CloudRules,
    check_masks,
    cloud_fraction,
    cloud_rules,
)
from geo.imagery.damaged import Damaged, setting_aside
from geo.imagery.discovery import find_acquisitions
from geo.imagery.duplicates import compare_days, in_order_of_use
from geo.imagery.mask_files import with_mask_files
from geo.imagery.offset_check import check_offsets
from geo.imagery.tile_grids import tile_grid
from pipeline.classes.reasons import AcquisitionReason
from pipeline.workflow.acquisition_table import AcquisitionRow
from pipeline.workflow.settings import IndexSettings
from pipeline.workflow.writing import write_changed

logger = logging.getLogger(__name__)

# Tiles whose numbers of dates differ by less than this fraction rank equally.
RANK_TOLERANCE = 0.1

# Before December 2016, the date of sensing stood behind that of processing in product names:
# S2A_OPER_PRD_MSIL1C_PDMC_20160607T183552_R094_V20160607T105031_20160607T105031
_LONG_NAME = re.compile(r"_V(20\d{6})T\d{6}")

_RADIOMETRY_REMEDY = (
    "Get these acquisitions from another source, or correct their metadata (GeoTIFFs: gdal_edit "
    "-scale and -offset). GeoTIFFs and stacks whose names announce an offset that was removed from "
    "the pixels: set imagery.reflectance_scale to 0.0001. To leave out all acquisitions that are "
    "wrong or in doubt, set imagery.radiometry to set_aside. To read them as their metadata say, "
    "set imagery.radiometry to trust."
)


@dataclass(frozen=True)
class Decision:
    """The acquisitions of a run, and which of them are used.

    Attributes
    ----------
    found
        All acquisitions.
    rows
        The decision on each of them.
    grids
        Grid of every tile that is used, the tile with the most dates first.
    """

    found: list[Acquisition]
    rows: list[AcquisitionRow]
    grids: dict[str, Grid]


def decide(
    imagery: str | Path,
    settings: IndexSettings,
    source_items: Path | None = None,
    register: Path | None = None,
    threads: int = 1,
    *,
    read_pixels: bool = True,
) -> Decision:
    """Find the acquisitions, and decide which are used; see `index`.

    Parameters
    ----------
    imagery, settings, source_items, register, threads
        As in `index`.
    read_pixels
        False: read only metadata and file headers. Acquisitions whose cloud fraction is only in
        their masks are used, and the radiometry is not checked.
    """
    if source_items is not None:
        _fetch_items(imagery, source_items, register, settings)
    damaged: list[Damaged] = []
    own = settings.imagery.convention
    found = find_acquisitions(
        source_items or Path(imagery),
        "stac" if source_items else settings.imagery.format,
        bands=settings.imagery.bands,
        file_bands=settings.imagery.file_bands,
        reflectance_scale=settings.imagery.reflectance_scale,
        convention=None if own is None else own_convention(own.model_dump()),
        signed_by=settings.imagery.sign,
        damaged=damaged if settings.imagery.damaged == "set_aside" else None,
    )
    _say_set_aside(damaged)
    if settings.clouds.files is not None:
        found = with_mask_files(found, settings.clouds.files)
    tiles = choose_tiles(found, settings.imagery.tile)
    tile_grids = {tile: tile_grid([item for item in found if item.tile == tile]) for tile in tiles}
    reasons = reasons_not_to_use(found, tile_grids, settings)
    _warn_of_places(found, reasons, tile_grids)
    reasons |= _unlike_catalogue([i for i in found if i.id not in reasons], settings, threads)
    # Damage that metadata do not show: {id: problem}. None: it is refused.
    unreadable: dict[str, str] | None = {} if settings.imagery.damaged == "set_aside" else None
    _find_lost_chunks([i for i in found if i.id not in reasons], unreadable)
    reasons |= dict.fromkeys(unreadable or (), "damaged")
    found, duplicate = compare_days(found, reasons, unreadable)
    reasons |= duplicate | dict.fromkeys(unreadable or (), "damaged")
    rules = cloud_rules(settings.clouds)
    clouds: dict[str, float | None] = {}
    for item in found:
        if item.id not in reasons:
            with setting_aside(item.id, unreadable):
                clouds[item.id] = cloud_fraction(item, rules, read_pixels=read_pixels)
    reasons |= dict.fromkeys(unreadable or (), "damaged")
    limit = settings.imagery.max_cloud_fraction
    reasons |= {id_: "too_cloudy" for id_, cloudy in clouds.items() if (cloudy or 0) > limit}
    _check_any_left(found, reasons)
    used = [item for item in found if item.id not in reasons]
    check_masks(used, rules)
    radiometry: Mapping[str, str] = {}
    if read_pixels and settings.imagery.radiometry != "trust":
        radiometry, doubtful = _check_radiometry(used, settings, threads, unreadable)
        reasons |= doubtful | dict.fromkeys(unreadable or (), "damaged")
        _check_any_left(found, reasons)
    for problem in (unreadable or {}).values():
        logger.warning("Set aside: %s", problem)
    rows = [
        _row(item, clouds, reasons, rules, radiometry.get(item.id, ""))
        for item in in_order_of_use(found)
    ]
    rows = sorted([*rows, *damaged_rows(damaged)], key=lambda row: (row.date, row.tile))
    ranked = rank_tiles({(row.tile, row.date) for row in rows if row.used})
    return Decision(found, mark_merged(rows), {tile: tile_grids[tile] for tile in ranked})


def _say_set_aside(damaged: Sequence[Damaged]) -> None:
    """Warn once of all products that are set aside; the log has every reason."""
    if damaged:
        problems = first_five([item.problem for item in damaged], "\n  ")
        logger.warning("Set aside: %d products.\n  %s", len(damaged), problems)
    for item in damaged[5:]:
        logger.debug("Set aside: %s", item.problem)


def _check_radiometry(
    used: Sequence[Acquisition],
    settings: IndexSettings,
    threads: int,
    unreadable: dict[str, str] | None,
) -> tuple[Mapping[str, str], dict[str, str]]:
    """Compare pixels with announced offsets; refuse errors, set them aside, or warn of them.

    Returns
    -------
    tuple of dict of str
        The result by acquisition id, and the reasons of those that are set aside.

    Raises
    ------
    InputError
        If an acquisition contradicts its metadata, and imagery.radiometry is `check`.
    """
    findings = check_offsets(used, cloud_rules(settings.clouds), threads, unreadable)
    for result, count in Counter(findings.results.values()).most_common():
        logger.info("Offset in metadata and pixels of %d acquisitions: %s.", count, result)
    for line in findings.undecided:
        logger.info(line)
    if not findings.problem:
        return findings.results, {}
    if settings.imagery.radiometry == "check":
        raise InputError(f"{findings.problem}\n{_RADIOMETRY_REMEDY}")
    if settings.imagery.radiometry == "warn":
        logger.warning("%s\nAll of them are used as their metadata say.", findings.problem)
        return findings.results, {}
    logger.warning("Set aside: %s", findings.problem)
    reasons = dict.fromkeys(findings.wrong, "wrong_offset")
    return findings.results, reasons | dict.fromkeys(findings.unsafe, "undecided_offset")


def _fetch_items(
    imagery: str | Path, folder: Path, register: Path | None, settings: IndexSettings
) -> None:
    """Write the items of a collection, catalogue or API as files, so that all stages read the same.

    If imagery.bbox is not set, an API is searched within the bounds of the register.
    """
    from geo.formats.stac_search import Search, search_items  # not needed for local imagery
    from geo.register.reading import read_bounds

    wanted = settings.imagery
    bbox = wanted.bbox
    if bbox is None and register is not None and is_address(imagery):  # it may be an API
        bbox = list(read_bounds(register, settings.parcels.layer))
    source = imagery if is_address(imagery) else Path(imagery)
    found = search_items(source, Search(wanted.collections, bbox, wanted.start, wanted.end))
    write_changed(
        {
            folder / f"{name}.json": json.dumps(item, indent=1, ensure_ascii=False)
            for name, item in found.items()
        },
        folder,
    )


def choose_tiles(found: Sequence[Acquisition], wanted: str | Sequence[str] | None) -> list[str]:
    """Return the tiles of a run: the wanted ones, or all if none is wanted.

    Raises
    ------
    InputError
        If the imagery lacks a wanted tile.
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
            f"It has: {listing}.{did_you_mean(unknown[0], counts)}"
        )
    return sorted(set(tiles.values()))


def reasons_not_to_use(
    found: Sequence[Acquisition], grids: Mapping[str, Grid], settings: IndexSettings
) -> dict[str, str]:
    """Return, by id, why acquisitions are not used by their tile, date and grid."""
    start, end = settings.imagery.start, settings.imagery.end
    reasons: dict[str, str] = {}
    for item in found:
        if item.tile not in grids:
            reasons[item.id] = "other_tile"
        elif start is not None and item.date < start:
            reasons[item.id] = "before_start"
        elif end is not None and item.date > end:
            reasons[item.id] = "after_end"
        elif not grids[item.tile].is_aligned(item.grid):
            reasons[item.id] = "other_grid"
        elif not grids[item.tile].contains(item.grid):
            reasons[item.id] = "misplaced"
    return reasons


def _warn_of_places(
    found: Sequence[Acquisition], reasons: Mapping[str, str], grids: Mapping[str, Grid]
) -> None:
    """Warn of acquisitions that are not used because they are on other pixels than their tile."""
    for reason in (AcquisitionReason.OTHER_GRID, AcquisitionReason.MISPLACED):
        items = [item for item in found if reasons.get(item.id) == reason]
        if items:
            grid, own = grids[items[0].tile], items[0].grid
            logger.warning(
                "%d acquisitions are not used, as they are %s: %s. The first has its corner at "
                "%.10g, %.10g (%s), tile %s at %.10g, %.10g (%s).",
                *(len(items), reason.words, first_five([str(item.product) for item in items])),
                *(own.x_min, own.y_max, own.crs, items[0].tile, grid.x_min, grid.y_max, grid.crs),
            )


def _unlike_catalogue(
    found: Sequence[Acquisition], settings: IndexSettings, threads: int
) -> dict[str, str]:
    """Return, by id, the reason `damaged` for acquisitions whose files differ from their catalogue.

    Raises
    ------
    InputError
        If there are some, and imagery.damaged is not set_aside.
    """
    of_catalogue = [item for item in found if item.format == "stac"]
    if not of_catalogue:
        return {}
    from geo.formats.stac import unlike_files  # not needed for other imagery

    problems = unlike_files(of_catalogue, threads)
    if problems and settings.imagery.damaged != "set_aside":
        raise InputError(
            f"{len(problems)} of {len(of_catalogue)} acquisitions are not as their catalogue "
            f"states:\n  {first_five(list(problems.values()), chr(10) + '  ')}\n{SET_ASIDE}"
        )
    for problem in problems.values():
        logger.warning("Set aside: %s", problem)
    return dict.fromkeys(problems, "damaged")


def _find_lost_chunks(found: Sequence[Acquisition], unreadable: dict[str, str] | None) -> None:
    """Add the acquisitions of Zarr stacks that have lost chunks to `unreadable`, or refuse them."""
    chunks = ChunkFiles()
    for item in found:
        with setting_aside(item.id, unreadable):
            if problem := lost_chunks(item, chunks):
                raise InputError(problem)


def rank_tiles(used: Iterable[tuple[str, date]]) -> list[str]:
    """Return the tiles by number of dates; tiles that differ by less than 10 % by name.

    The rank decides which of several overlapping tiles a parcel is assigned to. Tiles of one orbit
    have the same dates, apart from single acquisitions that are cloudy or have not arrived yet.
    With exact ranks, a new acquisition could move parcels to another tile, whose pixels would all
    have to be read again.

    Parameters
    ----------
    used
        Tile and date of the used acquisitions, each pair once.
    """
    counts = dict(Counter(tile for tile, _ in used))
    ranked = []
    while counts:
        least = (1 - RANK_TOLERANCE) * max(counts.values())
        ranked.append(min(tile for tile, count in counts.items() if count >= least))
        del counts[ranked[-1]]
    return ranked


def _check_any_left(found: Sequence[Acquisition], reasons: dict[str, str]) -> None:
    """Check that at least one acquisition is used."""
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
    radiometry: str,
) -> AcquisitionRow:
    """Return the row of one acquisition."""
    masks = rules.choose(item)
    # A required MASK is the user's; otherwise it is a mask of the product.
    own_mask = masks.get("MASK") if "MASK" in rules.required else None
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
        mask_file=None if own_mask is None else Path(own_mask.source),
        radiometry=radiometry,
    )


def damaged_rows(damaged: Iterable[Damaged]) -> list[AcquisitionRow]:
    """Return one row for each product that is set aside as `damaged`.

    Raises
    ------
    InputError
        If the name of a product contains no date, which its row needs.
    """
    problems = {item.product: item.problem for item in damaged}
    return [
        AcquisitionRow(
            acquisition=product.stem,
            tile=tile_name(product.stem) or "",
            date=_date_of(product, problem),
            product=product,
            reason="damaged",
        )
        for product, problem in problems.items()
    ]


def _date_of(product: Path, problem: str) -> date:
    """Return the date of sensing in the name of a damaged product."""
    long_name = _LONG_NAME.search(product.stem)
    try:
        day = date_in(long_name[1] if long_name else product.stem)
    except ValueError:
        day = None
    if day is None:  # it may be in the names of folders
        day = dates_of([file_name(product)])[0].get(product)
    if day is None:
        raise InputError(
            f"{problem}\nIt cannot be set aside, as its name contains no date: remove it, or write "
            "its date into its name."
        )
    return day


def mark_merged(rows: Sequence[AcquisitionRow]) -> list[AcquisitionRow]:
    """Mark used acquisitions as `merged` if they complete an earlier row of their tile and day."""
    earlier: set[tuple[str, object]] = set()
    marked = []
    for row in rows:
        is_later_part = row.used and (row.tile, row.date) in earlier
        marked.append(row._replace(reason="merged") if is_later_part else row)
        if row.used:
            earlier.add((row.tile, row.date))
    return marked


def _offset_text(item: Acquisition) -> str:
    """Return the offset as text: one number if all bands have the same, else one for each band."""
    offsets = {name: f"{band.offset:g}" for name, band in item.bands.items()}
    if len(set(offsets.values())) == 1:
        return next(iter(offsets.values()))
    return " ".join(f"{name}={offset}" for name, offset in offsets.items())
