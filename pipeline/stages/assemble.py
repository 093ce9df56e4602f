"""Stage assemble: the extracted acquisitions of one tile become its packed pixels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geo.pixels.pixel_index import PixelIndex
from pipeline.dataset.npy_files import new_rows
from pipeline.dataset.packed_tiles import PackedTile, write_tile
from pipeline.dataset.tile_assembly import (
    ObservationWriter,
    TileSeries,
    kept_dates,
    observe,
    packed,
)
from pipeline.workflow.acquisition_table import AcquisitionRow, read_used
from pipeline.workflow.paths import TilePaths
from pipeline.workflow.progress import ProgressLog
from pipeline.workflow.settings import AssembleSettings
from pipeline.workflow.writing import replacing

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

    Training draws a few pixels of many parcels: in the packed pixels, a pixel's series is
    contiguous, and the pixels of a parcel lie together. A parcel has the dates of its tile.
    Acquisitions of one date are merged. Pixels that are clear on no date are left out, and so are
    parcels that keep too few: parcels.parquet says how many each has.

    Parameters
    ----------
    acquisitions
        Table of acquisitions: which are used, and their dates.
    extracted
        Folder of what extract wrote for each of them.
    pixel_index
        Pixels of the tile's parcels.
    tile
        Folder of the tile. Written into it: pixels.npy, clear.npy, parcels.parquet, tile.json and
        observations.parquet.
    settings
        clouds, imagery.bands, parcels.min_pixels, assemble.memory_mb.
    threads
        Batches of parcels that are read, filled and written at the same time; the memory is that
        of all of them together.
    """
    paths, index = TilePaths(tile), PixelIndex.load(pixel_index)
    rows = [row for row in read_used(acquisitions).values() if row.tile == index.tile]
    paths.root.mkdir(parents=True, exist_ok=True)
    # Extractions of a tile without parcels are empty, which cannot be mapped.
    series = TileSeries.open(index, rows if index.parcel_ids else [], extracted)
    if not index.parcel_ids:
        logger.info("tile %s has no parcels: %d acquisitions", index.tile, len(rows))
    observed = _observe(series, paths, settings, threads)
    _write_pixels(series, observed, paths, settings, threads)
    write_tile(paths, _described(series, observed, rows, settings))


@dataclass(frozen=True)
class _Observed:
    """What is known of the N parcels of a tile on its T dates before their pixels are read.

    `kept` is bool (N, T), n_pixels and n_dates int64 (N,), held bool (N,).
    """

    kept: NDArray[np.bool_]
    n_pixels: NDArray[np.int64]
    n_dates: NDArray[np.int64]
    held: NDArray[np.bool_]

    @property
    def width(self) -> int:
        """Number of dates of the held parcel that has most of them."""
        return int(self.kept[self.held].sum(axis=1).max(initial=0))


def _observe(
    series: TileSeries, paths: TilePaths, settings: AssembleSettings, threads: int
) -> _Observed:
    """Count what is clear of every parcel, and write the table of observations."""
    clouds, ids = settings.clouds, series.index.parcel_ids
    n, n_dates = len(ids), len(series.dates)
    tile_kept = kept_dates(series, clouds)
    kept = np.broadcast_to(tile_kept, (n, n_dates))
    if clouds.drop == "parcel":
        kept = np.empty((n, n_dates), bool)
    counts = np.zeros((2, n), np.int64)
    parcels = _batches(series, settings, threads)
    with (
        replacing(paths.observations) as temporary,
        ObservationWriter(temporary, series.index.tile, series.dates) as table,
        ThreadPoolExecutor(threads) as pool,
    ):
        found = pool.map(lambda batch: observe(series, clouds, tile_kept, *batch), parcels)
        for (first, last), own in zip(parcels, found, strict=True):
            table.add(ids[first:last], own)
            counts[:, first:last] = own.n_pixels, own.n_dates
            if clouds.drop == "parcel":
                kept[first:last] = own.kept
    return _Observed(kept, counts[0], counts[1], counts[0] >= settings.parcels.min_pixels)


def _write_pixels(
    series: TileSeries,
    observed: _Observed,
    paths: TilePaths,
    settings: AssembleSettings,
    threads: int,
) -> None:
    """Write the packed pixels; every thread reads, fills and writes batches of its own."""
    held, width = observed.held, observed.width
    places = np.concatenate([[0], np.cumsum(np.where(held, observed.n_pixels, 0))])
    shape = (int(places[-1]), width, len(settings.imagery.bands))
    progress = ProgressLog(f"tile {series.index.tile}:", len(held), "parcels")
    with (
        new_rows(paths.pixels, shape, np.uint16) as pixels,
        new_rows(paths.clear, shape[:2], bool) as clear,
        ThreadPoolExecutor(threads) as pool,
    ):

        def write(batch: tuple[int, int]) -> int:
            first, last = batch
            place, own = int(places[first]), slice(first, last)
            kept, chosen = observed.kept[own], held[own]
            for values, is_clear in packed(series, settings.clouds, kept, chosen, width, *batch):
                pixels.write(values, place)
                clear.write(is_clear, place)
                place += len(values)
            return last - first

        for n in pool.map(write, _batches(series, settings, threads)):
            progress.add(n)


def _batches(series: TileSeries, settings: AssembleSettings, threads: int) -> list[tuple[int, int]]:
    if not series.index.parcel_ids:
        return []
    return series.batches(settings.assemble.memory_mb * 1_000_000 // threads)


def _described(
    series: TileSeries,
    observed: _Observed,
    rows: Sequence[AcquisitionRow],
    settings: AssembleSettings,
) -> PackedTile:
    """Say what the packed pixels are."""
    index, clouds = series.index, settings.clouds
    ids = list(compress(index.parcel_ids, observed.held))
    # Parcels share their dates with many others, nearly always with all: one tuple for all of them.
    kept = observed.kept[observed.held]
    choices, which = kept[:1], np.zeros(len(kept), np.int64)
    if (kept != choices).any():
        choices, which = np.unique(kept, axis=0, return_inverse=True)
    own = [tuple(compress(series.dates, choice)) for choice in choices]
    parcel_dates = dict(zip(ids, (own[w] for w in which.ravel()), strict=True))
    return PackedTile(
        tile=index.tile,
        crs=index.grid.crs,
        parcel_ids=index.parcel_ids,
        n_pixels=observed.n_pixels,
        n_dates=observed.n_dates,
        held=observed.held,
        dates=tuple(sorted(set().union(*own))),
        parcel_dates=parcel_dates if len(own) > 1 else None,
        bands=list(settings.imagery.bands),
        fill=clouds.fill,
        mask=clouds.mask,
        acquisitions=[row.acquisition for row in rows],
        simulated=any(row.platform == "Simulated" for row in rows),
        dropped_observations=int((~observed.kept).sum()),
        min_clear_fraction=clouds.min_clear_fraction,
        min_pixels=settings.parcels.min_pixels,
    )
