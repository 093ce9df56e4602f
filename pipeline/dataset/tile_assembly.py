"""Combine the extracted acquisitions of a tile into time series of its parcels' pixels.

`assemble_tile` has the steps in order; what they need follows below it.

A date with too few clear pixels can be dropped, for one parcel or for the whole tile. A parcel has
the dates that are not dropped: on these it is observed.

A pixel that is clear on no observed date has no reflectance and is left out, however clouds are
treated. The share of clear pixels, by which dates are dropped, and the shape features still include
all pixels of the outline.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import date
from itertools import compress
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from geo.block_tasks import run_blocks
from geo.cluster import Cluster
from geo.pixels.gap_filling import fill_linear
from geo.pixels.pixel_index import PixelIndex
from pipeline.dataset.packed_tiles import PackedTile, arrow, packing
from pipeline.dataset.tile_series import Batch, TileSeries
from pipeline.workflow.acquisition_table import AcquisitionRow
from pipeline.workflow.paths import TilePaths
from pipeline.workflow.progress import ProgressLog
from pipeline.workflow.sections.imagery import Clouds
from pipeline.workflow.settings import AssembleSettings
from pipeline.workflow.writing import replacing

# Pixels whose axes are exchanged at a time: they fit the CPU cache.
CHUNK = 2048

OBSERVATIONS = pa.schema(
    {
        "parcel_id": pa.string(),
        "tile": pa.string(),
        "date": pa.date32(),
        "clear_fraction": pa.float32(),
        "kept": pa.bool_(),
    }
)


def assemble_tile(
    index: PixelIndex,
    series: TileSeries,
    rows: Sequence[AcquisitionRow],
    paths: TilePaths,
    settings: AssembleSettings,
    threads: int,
    cluster: Cluster | None = None,
) -> PackedTile:
    """Write a tile's packed pixels and its table of observations, and return its description.

    Parameters
    ----------
    index
        Pixels of the tile's parcels.
    series
        The tile's extracted acquisitions.
    rows
        Their rows in the table of acquisitions.
    paths
        Files to write: pixels, clear and observations.
    settings
        clouds, imagery.bands, parcels.min_pixels, assemble.memory_mb.
    threads
        Batches of parcels that are processed at the same time.
    cluster
        A Dask cluster that processes the batches; None: threads of this process.
    """
    # The parcels are read twice, in batches that fit the memory. The first pass reads the clear
    # masks only. It decides which dates and pixels remain, and thus the shape of the packed arrays
    # and every parcel's place in them. The second pass reads the pixels, and writes each batch to
    # its place. Therefore, batches can be finished in any order.
    clouds = settings.clouds
    workers = threads if cluster is None else cluster
    batches = series.batches(index, settings.assemble.memory_mb * 1_000_000 // threads)
    observed, n_pixels, n_dates = _observe_parcels(index, series, batches, clouds, paths, workers)
    held = n_pixels >= settings.parcels.min_pixels
    sizes = np.where(held, n_pixels, 0)
    _pack_parcels(series, batches, observed, sizes, paths, settings, workers)
    dates, parcel_dates = _packed_dates(index, series, observed, held)
    return PackedTile(
        tile=index.tile,
        crs=index.grid.crs,
        parcel_ids=index.parcel_ids,
        n_pixels=n_pixels,
        n_dates=n_dates,
        held=held,
        dates=dates,
        parcel_dates=parcel_dates,
        bands=list(settings.imagery.bands),
        fill=clouds.fill,
        mask=clouds.mask,
        acquisitions=[row.acquisition for row in rows],
        simulated=any(row.platform == "Simulated" for row in rows),
        dropped_observations=int((~observed).sum()),
        min_clear_fraction=clouds.min_clear_fraction,
        min_pixels=settings.parcels.min_pixels,
        # Not read where a parcel was seen: then there are values.
        is_nodata=bool(index.parcel_ids) and not n_pixels.any() and series.is_nodata(),
    )


def _observe_parcels(
    index: PixelIndex,
    series: TileSeries,
    batches: Sequence[Batch],
    clouds: Clouds,
    paths: TilePaths,
    workers: int | Cluster,
) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Find on which of T dates all N parcels are observed, and write the table of observations.

    Returns
    -------
    observed, n_pixels, n_dates
        bool (N, T), int64 (N,) and int64 (N,), as in `Observations`.
    """
    n = len(index.parcel_ids)
    tile_dates = _dates_of_tile(series, clouds)
    observed = np.empty((n, len(series.dates)), bool)
    n_pixels, n_dates = np.empty(n, np.int64), np.empty(n, np.int64)
    with (
        replacing(paths.observations) as temporary,
        pq.ParquetWriter(temporary, OBSERVATIONS) as table,
    ):
        # The table has the batches in order, whichever is finished first.
        finished: dict[int, Observations] = {}
        waiting = [batch.parcels for batch in reversed(batches)]
        lock = Lock()

        def write(batch: Batch, counts: Observations) -> None:
            own = batch.parcels
            observed[own], n_pixels[own] = counts.observed, counts.n_pixels
            n_dates[own] = counts.n_dates
            with lock:
                finished[own.start] = counts
                while waiting and waiting[-1].start in finished:
                    first = waiting.pop()
                    ids, counts = index.parcel_ids[first], finished.pop(first.start)
                    _write_observations(table, index.tile, series.dates, ids, counts)

        run_blocks(
            _observe_batch,
            nullcontext,
            batches,
            lambda batch: ObservePart(series, clouds, tile_dates, batch),
            write,
            workers,
        )
    return observed, n_pixels, n_dates


def _dates_of_tile(series: TileSeries, clouds: Clouds) -> NDArray[np.bool_]:
    """Return which dates are not dropped for the whole tile, bool (T,).

    That happens only if clouds.drop is `run`; the share of clear pixels is that of all parcels.
    """
    if clouds.drop == "run" and clouds.min_clear_fraction > 0:
        observed: NDArray[np.bool_] = series.clear_fraction() >= clouds.min_clear_fraction
        return observed
    return np.ones(len(series.dates), bool)


@dataclass(frozen=True)
class ObservePart:
    """What is needed to observe a batch: `tile_dates` is the result of `_dates_of_tile`."""

    series: TileSeries
    clouds: Clouds
    tile_dates: NDArray[np.bool_]
    batch: Batch

    def __str__(self) -> str:
        """Name the batch in messages."""
        return f"{self.batch} of tile {self.series.tile}"


def _observe_batch(part: ObservePart, _: None) -> Iterator[Observations]:
    """Count the clear pixels of parcels, and decide on which dates they are observed."""
    clouds, batch = part.clouds, part.batch
    clear = part.series.read_clear(batch.pixels)
    counts = np.add.reduceat(clear, batch.starts, axis=1, dtype=np.int64)
    fraction: NDArray[np.float64] = (counts / batch.sizes).T
    observed = np.broadcast_to(part.tile_dates, fraction.shape)
    if clouds.drop == "parcel":
        observed = fraction >= clouds.min_clear_fraction
    _mask_dropped(clear, observed, batch)
    n_pixels = np.add.reduceat(np.any(clear, axis=0), batch.starts, dtype=np.int64)
    yield Observations(fraction, observed, n_pixels)


def _write_observations(
    file: pq.ParquetWriter,
    tile: str,
    dates: Sequence[date],
    parcel_ids: Sequence[str],
    counts: Observations,
) -> None:
    """Write a row for every parcel and date to an open table of `OBSERVATIONS`."""
    n, n_dates = counts.observed.shape
    # Arrow dates are days since 1970.
    days = np.asarray(dates, "datetime64[D]").astype(np.int32)
    parcel = pa.DictionaryArray.from_arrays(
        arrow(np.repeat(np.arange(n), n_dates), pa.int32()), arrow(parcel_ids, pa.string())
    )
    columns = [
        parcel.cast(pa.string()),
        pa.repeat(arrow([tile], pa.string())[0], n * n_dates),
        arrow(np.tile(days, n), pa.int32()).view(pa.date32()),
        arrow(counts.clear_fraction.ravel(), pa.float32()),
        arrow(counts.observed.ravel(), pa.bool_()),
    ]
    file.write_table(pa.Table.from_arrays(columns, schema=OBSERVATIONS))


def _pack_parcels(
    series: TileSeries,
    batches: Sequence[Batch],
    observed: NDArray[np.bool_],
    sizes: NDArray[np.int64],
    paths: TilePaths,
    settings: AssembleSettings,
    workers: int | Cluster,
) -> None:
    """Write the packed pixels: `sizes` of every parcel, 0 for parcels that are left out."""
    # A date that is dropped for all parcels is not read.
    any_observed: NDArray[np.bool_] = np.any(observed, axis=0)
    series, observed, held = series.select(any_observed), observed[:, any_observed], sizes > 0
    rows = np.concatenate([[0], np.cumsum(sizes)])
    n_dates = int(observed[held].sum(axis=1).max(initial=0))
    shape = (int(rows[-1]), n_dates, len(settings.imagery.bands))
    progress = ProgressLog(f"tile {series.tile}:", len(sizes), "parcels")

    def part(batch: Batch) -> PackPart:
        own = batch.parcels
        row = int(rows[own.start])
        return PackPart(series, settings.clouds.fill, observed[own], held[own], batch, row)

    with packing(paths, shape) as write:
        run_blocks(
            _pack_batch,
            nullcontext,
            # Without a packed parcel there may be no date left to read.
            batches if held.any() else [],
            part,
            lambda _, packed: write(packed.row, packed.values, packed.clear),
            workers,
            finished=lambda batch: progress.add(len(batch.sizes)),
        )


@dataclass(frozen=True)
class PackPart:
    """What is needed to pack a batch of n parcels.

    Parameters
    ----------
    series
        The tile's extracted acquisitions.
    fill
        clouds.fill: linear or none.
    observed
        bool (n, T), the dates on which each parcel of the batch is observed.
    held
        bool (n,), which of the parcels are packed.
    batch
        The n parcels.
    row
        Place of its first pixel in the packed file.
    """

    series: TileSeries
    fill: str
    observed: NDArray[np.bool_]
    held: NDArray[np.bool_]
    batch: Batch
    row: int

    def __str__(self) -> str:
        """Name the batch in messages."""
        return f"{self.batch} of tile {self.series.tile}"


@dataclass(frozen=True)
class Packed:
    """Pixels of held parcels that are clear at least once, and whether they are clear.

    `values` is uint16 (p, T, C), `clear` bool (p, T); the first one belongs to `row` of the packed
    file. The dates of each pixel are those of its parcel; behind them is padding.
    """

    row: int
    values: NDArray[np.uint16]
    clear: NDArray[np.bool_]


def _pack_batch(part: PackPart, _: None) -> Iterator[Packed]:
    """Read a batch of parcels, treat clouds, and yield the pixels to pack in order.

    A dropped date has no effect: its few clear pixels are not used for interpolation either.
    """
    series, observed, held = part.series, part.observed, part.held
    batch, row = part.batch, part.row
    values, clear = series.read(batch.pixels)
    _mask_dropped(clear, observed, batch)
    if part.fill == "linear":
        fill_linear(values, clear, series.days)
    parcel = np.repeat(np.arange(len(held)), batch.sizes)
    packed = np.any(clear, axis=0) & held[parcel]
    for start in range(0, len(packed), CHUNK):
        some = slice(start, start + CHUNK)
        if not (chosen := packed[some]).any():
            continue
        # (T, C, P) to (P, T, C) before pixels are chosen: then whole rows are copied, which is
        # faster than choosing on the last axis.
        rows = np.ascontiguousarray(values[:, :, some].transpose(2, 0, 1))
        rows_clear = np.ascontiguousarray(clear[:, some].T)
        if not chosen.all():
            rows, rows_clear = rows[chosen], rows_clear[chosen]
        dates = observed[parcel[some][chosen]]
        if not dates.all():
            rows, rows_clear = _move_dropped_behind(rows, rows_clear, dates)
        yield Packed(row, rows, rows_clear)
        row += len(rows)


def _mask_dropped(clear: NDArray[np.bool_], observed: NDArray[np.bool_], batch: Batch) -> None:
    """Set dropped dates to not clear, in place: clear is bool (T, P), observed bool (n, T)."""
    if not observed.all():
        clear &= np.repeat(observed, batch.sizes, axis=0).T


def _move_dropped_behind(
    rows: NDArray[np.uint16], clear: NDArray[np.bool_], observed: NDArray[np.bool_]
) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """Move the observed dates, bool (P, T), of every pixel to the front; pad behind with 0."""
    order = np.argsort(~observed, axis=1, kind="stable")
    rows = np.take_along_axis(rows, order[:, :, None], axis=1)
    clear = np.take_along_axis(clear, order, axis=1)
    padding = np.arange(observed.shape[1]) >= observed.sum(axis=1)[:, None]
    rows[padding] = 0
    clear[padding] = False
    return rows, clear


def _packed_dates(
    index: PixelIndex, series: TileSeries, observed: NDArray[np.bool_], held: NDArray[np.bool_]
) -> tuple[tuple[date, ...], dict[str, tuple[date, ...]] | None]:
    """Return all dates of the packed parcels, and {id: its dates} where they differ, else None."""
    ids, observed = list(compress(index.parcel_ids, held)), observed[held]
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


@dataclass(frozen=True)
class Observations:
    """The dates on which N parcels of a tile are observed, out of its T dates.

    Attributes
    ----------
    clear_fraction
        float64 (N, T): share of the pixels of a parcel's outline that are clear, on all dates.
    observed
        bool (N, T): False for dates that are dropped because they have too few clear pixels.
    n_pixels
        int64 (N,): pixels of each parcel that are clear on at least one observed date.
    """

    clear_fraction: NDArray[np.float64]
    observed: NDArray[np.bool_]
    n_pixels: NDArray[np.int64]

    @property
    def n_dates(self) -> NDArray[np.int64]:
        """Observed dates on which at least one pixel of the parcel is clear, int64 (N,)."""
        counts: NDArray[np.int64] = ((self.clear_fraction > 0) & self.observed).sum(axis=1)
        return counts
