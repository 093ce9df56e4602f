"""Stage assemble: pack the pixels of one tile's parcels from its extracted acquisitions."""

from __future__ import annotations

import logging
from pathlib import Path

from geo.pixels.pixel_index import PixelIndex
from pipeline.dataset.packed_tiles import write_tile
from pipeline.dataset.tile_assembly import TileSeries, assemble_tile
from pipeline.workflow.acquisition_table import read_used
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
) -> None:
    """Pack the pixels of a tile's parcels into one file that is mapped into memory.

    A parcel has the dates of its tile. Acquisitions of the same date are merged. Pixels that are
    clear on no date are left out. A parcel with fewer than parcels.min_pixels other pixels is left
    out; parcels.parquet contains the number of every parcel.

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
        clouds, imagery.bands, parcels.min_pixels, assemble.memory_mb.
    threads
        Batches of parcels that are processed at the same time. The memory setting applies to all
        of them together.
    """
    paths, index = TilePaths(tile), PixelIndex.load(pixel_index)
    rows = [row for row in read_used(acquisitions).values() if row.tile == index.tile]
    # The extracted files of a tile without parcels are empty, and empty files cannot be mapped.
    series = TileSeries.open(index, rows if index.parcel_ids else [], extracted)
    if not index.parcel_ids:
        logger.info("tile %s has no parcels: %d acquisitions", index.tile, len(rows))
    paths.root.mkdir(parents=True, exist_ok=True)
    write_tile(paths, assemble_tile(series, rows, paths, settings, threads))
