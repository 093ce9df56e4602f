"""Stage export: the packed pixels as the files that other software reads."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geo.grid import main_crs
from pipeline.dataset.metadata import write_metadata
from pipeline.dataset.npy_files import batches, file_name, map_array, unmap, write_array
from pipeline.dataset.packed_tiles import PackedTile, read_tile, refuse_none_held
from pipeline.workflow.paths import DatasetPaths, TilePaths
from pipeline.workflow.progress import ProgressLog
from pipeline.workflow.settings import ExportSettings
from pipeline.workflow.writing import replacing_folder

logger = logging.getLogger(__name__)

# Larger batches are no faster.
LARGEST_BATCH = 16_000_000


def export(tiles: list[Path], dataset: Path, settings: ExportSettings, threads: int = 1) -> None:
    """Write META of the dataset, and a file a parcel, as the reference's PixelSetData reads them.

    Parameters
    ----------
    tiles
        Folders of the tiles' packed pixels, in the order in which their parcels stand in the
        dataset.
    dataset
        Pixel-Set dataset. Written into it: META but for labels and features; DATA/<id>.npy, uint16
        (T, C, S), and VALID/<id>.npy, bool (T, S), of every parcel on its own dates.
    settings
        dataset.npy_files: whether DATA and VALID are written; those of an earlier run go.
        assemble.memory_mb.
    threads
        Batches of parcels that are read and written at the same time; the memory is that of all of
        them together.

    Raises
    ------
    InputError
        If no parcel of any tile has enough pixels that are clear on a date.
    """
    paths = DatasetPaths(dataset)
    found = {folder: read_tile(TilePaths(folder)) for folder in tiles}
    refuse_none_held(list(found.values()))
    _write_meta(paths, list(found.values()))
    if settings.dataset.npy_files:
        write_npy_files(paths, found, settings.assemble.memory_mb * 1_000_000, threads)
    else:
        for folder in (paths.pixels, paths.valid):
            shutil.rmtree(folder, ignore_errors=True)
    sizes = [size for tile in found.values() for size in tile.sizes]
    logger.info("%d parcels with %d pixels", len(sizes), sum(sizes))


def _write_meta(paths: DatasetPaths, tiles: Sequence[PackedTile]) -> None:
    """Join what the tiles say."""
    with_parcels = [tile for tile in tiles if tile.parcel_ids]
    held = [tile for tile in tiles if tile.held.any()]
    parcel_dates = {i: tile.dates_of(i) for tile in held for i in tile.held_ids}
    # Which are the same for all, nearly always.
    differ = len(set(parcel_dates.values())) > 1
    write_metadata(
        paths,
        tiles=[tile.tile for tile in held],
        dates=sorted({day for tile in held for day in tile.dates}),
        parcel_dates=parcel_dates if differ else None,
        sizes={i: n for tile in held for i, n in zip(tile.held_ids, tile.sizes, strict=True)},
        n_dates={
            i: n
            for tile in held
            for i, n in zip(tile.held_ids, tile.n_dates[tile.held].tolist(), strict=True)
        },
        description={
            "bands": tiles[0].bands,
            "tiles": {tile.tile: tile.crs for tile in with_parcels},
            "crs": main_crs((tile.crs, len(tile.parcel_ids)) for tile in with_parcels),
            "fill": tiles[0].fill,
            "mask": tiles[0].mask,
            "dropped_observations": sum(tile.dropped_observations for tile in tiles),
            "acquisitions": [a for tile in with_parcels for a in tile.acquisitions],
            "simulated": any(tile.simulated for tile in with_parcels),
        },
    )


def write_npy_files(
    paths: DatasetPaths, tiles: dict[Path, PackedTile], n_bytes: int, threads: int
) -> None:
    """Write DATA and VALID anew: two files a parcel, many at the same time.

    Parameters
    ----------
    paths
        The dataset.
    tiles
        The tiles, by the folder of their packed pixels.
    n_bytes
        Memory that may be used.
    threads
        Batches that are written at the same time.
    """
    with replacing_folder(paths.pixels) as data, replacing_folder(paths.valid) as validity:
        # A path is looked up from the root; a name in an open folder is not.
        folders = [os.open(folder, os.O_RDONLY) for folder in (data, validity)]
        try:
            for folder, tile in tiles.items():
                if tile.held.any():
                    _write_tile(TilePaths(folder), tile, folders, n_bytes, threads)
        finally:
            for opened in folders:
                os.close(opened)


def _write_tile(
    paths: TilePaths, tile: PackedTile, folders: Sequence[int], n_bytes: int, threads: int
) -> None:
    """Write the files of a tile's parcels."""
    pixels, clear = map_array(paths.pixels, np.uint16, 3), map_array(paths.clear, bool, 2)
    ids, offsets = tile.held_ids, tile.offsets
    # Of a memmap every view is one again, which takes its time.
    values, is_clear = np.asarray(pixels), np.asarray(clear)
    _, n_dates, n_channels = pixels.shape

    def write(batch: tuple[int, int]) -> int:
        first, last = batch
        for i in range(first, last):
            rows, own = slice(offsets[i], offsets[i + 1]), len(tile.dates_of(ids[i]))
            write_parcel(ids[i], values[rows, :own], is_clear[rows, :own], folders)
        return last - first

    limit = min(n_bytes // threads, LARGEST_BATCH) // max(n_dates * (2 * n_channels + 1), 1)
    progress = ProgressLog(f"exported of tile {tile.tile}", len(ids), "parcels")
    with ThreadPoolExecutor(threads) as pool:
        for n in pool.map(write, batches(offsets, limit)):
            progress.add(n)
            for array in (pixels, clear):
                unmap(array)


def write_parcel(
    parcel_id: str,
    pixels: NDArray[np.uint16],
    clear: NDArray[np.bool_],
    folders: Sequence[int],
) -> None:
    """Write the two files of a parcel into the open folders of DATA and VALID.

    Parameters
    ----------
    parcel_id
        Its id, which names the files.
    pixels, clear
        uint16 (S, T, C) and bool (S, T).
    folders
        Descriptors of the folders.
    """
    name = file_name(parcel_id)
    write_array(name, pixels.transpose(1, 2, 0), folders[0])
    write_array(name, clear.T, folders[1])
