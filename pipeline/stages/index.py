"""Stage index: list the acquisitions of the imagery and decide which are used."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import asdict
from pathlib import Path

from geo.imagery.acquisition import Acquisition, first_five, to_item
from geo.imagery.file_cache import cached, caching
from geo.imagery.imagery_files import digests
from models.model_files import first_description
from pipeline.dataset.acquisition_choice import decide
from pipeline.dataset.season import season_of
from pipeline.workflow.acquisition_table import AcquisitionRow, write_acquisitions, write_view
from pipeline.workflow.settings import IndexSettings
from pipeline.workflow.writing import write_changed, write_json

logger = logging.getLogger(__name__)

# A file of stage extract, its log, or what Snakemake measured of it: <id> and one of these.
_EXTRACTED = re.compile(r"(?P<acquisition>[^.].*?)(\.valid\.npy|\.npy|\.json|\.log|\.tsv)")


def index(
    imagery: str | Path,
    acquisitions: Path,
    table: Path,
    items: Path,
    grids: Path,
    settings: IndexSettings,
    source_items: Path | None = None,
    register: Path | None = None,
    threads: int = 1,
    weights: str = "null",
    cache: Path | None = None,
    extracted: list[Path] | None = None,
) -> None:
    """List the acquisitions of the imagery, which of them are used, and the grids of their tiles.

    Parameters
    ----------
    imagery
        Folder of products, GeoTIFFs or stacks, or one of them; path or address of a STAC source.
    acquisitions
        Written: the decision on every acquisition.
    table
        Written: the same as CSV, for people.
    items
        Folder, written: <id>.json, a STAC item for every acquisition, with all that is needed to
        read its pixels. An item that has not changed is not written again and keeps its time.
    grids
        Written: {tile: pixel grid of the finest bands}, the tile with the most dates first.
    settings
        imagery, parcels.layer, and clouds without fill.
    source_items
        Folder, written: the original items of a STAC source, one file each. None: the imagery is
        not a STAC source.
    register
        Parcels; a STAC API is searched within their bounds if imagery.bbox is not set.
    threads
        Number of acquisitions that are read at the same time.
    weights
        JSON: folder of existing weights, or null. The dates are compared with those of their
        training here, before any pixel is read, but nothing that is written here depends on it.
    cache
        Read and written: what was read of each acquisition. Only what is new or has changed is read
        again. None: everything is.
    extracted
        Folders of what stage extract wrote, named after acquisitions. Files of acquisitions that do
        not exist any more are deleted.

    Raises
    ------
    InputError
        If the imagery cannot be used, or most dates are far from those of the training.
    """
    with caching(cache):
        decision = decide(imagery, settings, source_items, register, threads)
        _check_season(json.loads(weights), decision.rows)
        write_items(items, decision.found)
    write_acquisitions(acquisitions, decision.rows)
    write_view(table, decision.rows)
    write_json(grids, {tile: asdict(grid) for tile, grid in decision.grids.items()})
    _log(decision.rows, settings)
    _remove_others(extracted or [], {item.id for item in decision.found})


def _remove_others(folders: Sequence[Path], acquisitions: Set[str]) -> None:
    """Delete the files that are named after other acquisitions than these."""
    others = [
        path
        for folder in folders
        for path in (sorted(folder.iterdir()) if folder.is_dir() else ())
        if (name := _EXTRACTED.fullmatch(path.name)) and name["acquisition"] not in acquisitions
    ]
    for path in others:
        path.unlink()
    if others:
        names = list(map(str, others))
        logger.info("Deleted, as their acquisitions are not there: %s", first_five(names))


def _check_season(weights: str | None, rows: Sequence[AcquisitionRow]) -> None:
    """Refuse existing weights, or warn, if the dates are not those of their training."""
    model = None if weights is None else first_description(Path(weights))
    if model is not None:
        season = season_of(model, sorted({row.date for row in rows if row.used}))
        season.refuse()
        if text := season.explain():
            logger.warning("%s", text)


def write_items(folder: Path, found: Sequence[Acquisition]) -> None:
    """Write the item of every acquisition, and remove items whose acquisition no longer exists.

    Snakemake extracts an acquisition again if its item is newer than the extraction. Items that
    have not changed are therefore not written.
    """

    def text(item: Acquisition, digest: str) -> str:
        return cached(
            *(("item", item, folder, digest), [], str),
            lambda: json.dumps(to_item(item, folder, digest), indent=1),
        )

    digest = digests(found)
    texts = {folder / f"{item.id}.json": text(item, digest[item.id]) for item in found}
    write_changed(texts, folder)


def _log(rows: Sequence[AcquisitionRow], settings: IndexSettings) -> None:
    """Log how many acquisitions are used and why others are not; warn of missing cloud masks."""
    logger.info("%d acquisitions found, %d used.", len(rows), sum(row.used for row in rows))
    for reason, count in Counter(row.reason for row in rows if not row.used).most_common():
        logger.info("%d not used: %s.", count, reason)
    unmasked = [row.acquisition for row in rows if row.used and not row.masks]
    if unmasked and settings.clouds.mask != "none":
        logger.warning(
            "%d acquisitions have no cloud mask, so their clouds are taken for clear pixels: %s.",
            len(unmasked),
            first_five(unmasked),
        )
