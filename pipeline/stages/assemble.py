"""Stage assemble: pack the pixels of one tile's parcels from its extracted acquisitions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from itertools import compress
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from geo.pixels.pixel_index import PixelIndex
from pipeline.dataset.packed_tiles import PackedTile, packing, write_tile
from pipeline.dataset.tile_assembly import (
    OBSERVATIONS,
    Batch,
    TileSeries,
    dates_of_tile,
    observe,
    pack,
    write_observations,
)
from pipeline.workflow.acquisition_table import read_used
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
    paths.root.mkdir(parents=True, exist_ok=True)
    # The extracted files of a tile without parcels are empty, and empty files cannot be mapped.
    series = TileSeries.open(index, rows if index.parcel_ids else [], extracted)
    if not index.parcel_ids:
        logger.info("tile %s has no parcels: %d acquisitions", index.tile, len(rows))
    batches = series.batches(settings.assemble.memory_mb * 1_000_000 // threads)
    observed, n_pixels, n_dates = _observe(series, batches, paths, settings, threads)
    held = n_pixels >= settings.parcels.min_pixels
    _pack(series, batches, observed, np.where(held, n_pixels, 0), paths, settings, threads)
    dates, parcel_dates = _packed_dates(series, observed, held)
    write_tile(
        paths,
        PackedTile(
            tile=index.tile,
            crs=index.grid.crs,
            parcel_ids=index.parcel_ids,
            n_pixels=n_pixels,
            n_dates=n_dates,
            held=held,
            dates=dates,
            parcel_dates=parcel_dates,
            bands=list(settings.imagery.bands),
            fill=settings.clouds.fill,
            mask=settings.clouds.mask,
            acquisitions=[row.acquisition for row in rows],
            simulated=any(row.platform == "Simulated" for row in rows),
            dropped_observations=int((~observed).sum()),
            min_clear_fraction=settings.clouds.min_clear_fraction,
            min_pixels=settings.parcels.min_pixels,
            # Not read where a parcel was seen: then there are values.
            is_nodata=bool(index.parcel_ids) and not n_pixels.any() and series.is_nodata(),
        ),
    )


def _observe(
    series: TileSeries,
    batches: Sequence[Batch],
    paths: TilePaths,
    settings: AssembleSettings,
    threads: int,
) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Find on which of T dates all N parcels are observed, and write the table of observations.

    Returns
    -------
    observed, n_pixels, n_dates
        bool (N, T), int64 (N,) and int64 (N,), as in `Observations`.
    """
    clouds, index = settings.clouds, series.index
    tile_dates = dates_of_tile(series, clouds)
    n = len(index.parcel_ids)
    observed = np.empty((n, len(series.dates)), bool)
    n_pixels, n_dates = np.empty(n, np.int64), np.empty(n, np.int64)
    with (
        replacing(paths.observations) as temporary,
        pq.ParquetWriter(temporary, OBSERVATIONS) as table,
        ThreadPoolExecutor(threads) as pool,
    ):
        results = pool.map(lambda batch: observe(series, clouds, tile_dates, batch), batches)
        for batch, counts in zip(batches, results, strict=True):
            own = batch.parcels
            write_observations(table, index.tile, series.dates, index.parcel_ids[own], counts)
            observed[own], n_pixels[own] = counts.observed, counts.n_pixels
            n_dates[own] = counts.n_dates
    return observed, n_pixels, n_dates


def _pack(
    series: TileSeries,
    batches: Sequence[Batch],
    observed: NDArray[np.bool_],
    sizes: NDArray[np.int64],
    paths: TilePaths,
    settings: AssembleSettings,
    threads: int,
) -> None:
    """Write the packed pixels: `sizes` of every parcel, 0 for parcels that are left out."""
    # A date that is dropped for all parcels is not read.
    any_observed: NDArray[np.bool_] = np.any(observed, axis=0)
    series, observed, held = series.select(any_observed), observed[:, any_observed], sizes > 0
    rows = np.concatenate([[0], np.cumsum(sizes)])
    n_dates = int(observed[held].sum(axis=1).max(initial=0))
    shape = (int(rows[-1]), n_dates, len(settings.imagery.bands))
    progress = ProgressLog(f"tile {series.index.tile}:", len(sizes), "parcels")
    with packing(paths, shape) as write, ThreadPoolExecutor(threads) as pool:

        def pack_batch(batch: Batch) -> int:
            own = batch.parcels
            row = int(rows[own.start])
            for values, clear in pack(
                series, settings.clouds.fill, observed[own], held[own], batch
            ):
                write(row, values, clear)
                row += len(values)
            return len(batch.sizes)

        # Without a packed parcel there may be no date left to read.
        for n in pool.map(pack_batch, batches if held.any() else []):
            progress.add(n)


def _packed_dates(
    series: TileSeries, observed: NDArray[np.bool_], held: NDArray[np.bool_]
) -> tuple[tuple[date, ...], dict[str, tuple[date, ...]] | None]:
    """Return all dates of the packed parcels, and {id: its dates} where they differ, else None."""
    ids, observed = list(compress(series.index.parcel_ids, held)), observed[held]
    # Usually all parcels have the same dates: `unique` is slow, and not needed then.
    choices, which = observed[:1], np.zeros(len(observed), np.int64)
    if (observed != choices).any():
        choices, which = np.unique(observed, axis=0, return_inverse=True)
    # Parcels with the same dates share one tuple.
    own = [tuple(compress(series.dates, choice)) for choice in choices]
    dates = tuple(sorted(set().union(*own)))
    if len(own) <= 1:
        return dates, None
    return dates, dict(zip(ids, (own[w] for w in which.ravel()), strict=True))
