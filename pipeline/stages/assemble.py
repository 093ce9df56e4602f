"""Stage assemble: pack the pixels of one tile's parcels from its extracted acquisitions."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from geo.cluster import connected
from geo.errors import InputError
from geo.imagery.acquisition import first_five
from geo.pixels.pixel_index import PixelIndex
from pipeline.dataset.packed_tiles import write_tile
from pipeline.dataset.tile_assembly import assemble_tile
from pipeline.dataset.tile_series import TileSeries
from pipeline.workflow.acquisition_table import AcquisitionRow, read_used
from pipeline.workflow.artefacts import read_json
from pipeline.workflow.paths import TilePaths
from pipeline.workflow.settings import AssembleSettings

logger = logging.getLogger(__name__)


def assemble(
    acquisitions: Path,
    extracted: Path,
    pixel_index: Path,
    tile: Path,
    settings: AssembleSettings,
    threads: int = 1,
    counts: Path | None = None,
    scheduler: str = "threads",
) -> None:
    """Pack the pixels of a tile's parcels into one file that is mapped into memory.

    A parcel has the dates of its tile. Acquisitions of the same date are merged. Acquisitions that
    extract has set aside are left out, and so are pixels that are clear on no date. A parcel with
    fewer than parcels.min_pixels other pixels is left out; parcels.parquet contains the number of
    every parcel.

    Parameters
    ----------
    acquisitions
        Table of acquisitions: which are used, and their dates.
    extracted
        Folder of the extracted acquisitions.
    pixel_index
        Pixels of the tile's parcels.
    tile
        Folder of the tile. Written into it: pixels.npy, clear.npy, parcels.parquet, tile.json and
        observations.parquet.
    settings
        clouds, imagery.bands, imagery.damaged, parcels.min_pixels, assemble.memory_mb.
    threads
        Batches of parcels that are processed at the same time. The memory setting applies to all
        of them together.
    counts
        Folder in which extract has counted the pixels, and has said which acquisitions cannot be
        read. None: all can.
    scheduler
        Where batches are processed: "threads" of this machine, or dask.scheduler, the address of a
        Dask cluster.

    Raises
    ------
    InputError
        If an acquisition cannot be read and imagery.damaged is refuse, or if none can be read.
    """
    paths, index = TilePaths(tile), PixelIndex.load(pixel_index)
    rows = [row for row in read_used(acquisitions).values() if row.tile == index.tile]
    damaged = _read_damaged(rows, counts) if counts is not None and index.parcel_ids else {}
    if damaged and (settings.imagery.damaged == "refuse" or len(damaged) == len(rows)):
        raise InputError(_refusal(index.tile, damaged, len(rows)))
    rows = [row for row in rows if row.acquisition not in damaged]
    # The extracted files of a tile without parcels are empty, and empty files cannot be mapped.
    series = TileSeries.open(index, rows if index.parcel_ids else [], extracted)
    if not index.parcel_ids:
        logger.info("tile %s has no parcels: %d acquisitions", index.tile, len(rows))
    paths.root.mkdir(parents=True, exist_ok=True)
    with connected(scheduler) as cluster:
        packed = assemble_tile(index, series, rows, paths, settings, threads, cluster)
    write_tile(paths, replace(packed, damaged=damaged))


def _read_damaged(rows: Iterable[AcquisitionRow], counts: Path) -> dict[str, str]:
    """Return why acquisitions were set aside while their pixels were read, by id."""
    problems = {
        row.acquisition: read_json(counts / f"{row.acquisition}.json", lambda n: n.get("damaged"))
        for row in rows
    }
    return {name: problem for name, problem in problems.items() if problem is not None}


def _refusal(tile: str, damaged: dict[str, str], n: int) -> str:
    """Return the message about acquisitions that cannot be read."""
    remedy = (
        "Replace them, or set imagery.damaged to set_aside to leave them out."
        if len(damaged) < n
        else "Replace them, or leave out the tile (imagery.tile)."
    )
    problems = first_five(list(damaged.values()), "\n  ")
    return (
        f"{len(damaged)} of {n} acquisitions of tile {tile} cannot be read:\n  {problems}\n"
        f"{remedy} If the files are intact, read them again: snakemake -R extract."
    )
