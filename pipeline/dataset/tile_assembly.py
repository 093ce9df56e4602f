"""Combine the extracted acquisitions of a tile into time series of its parcels' pixels.

`assemble_tile` has the steps in order; what they need follows below it.

A date with too few clear pixels can be dropped, for one parcel or for the whole tile. A parcel has
the dates that are not dropped: on these it is observed.

A pixel that is clear on no observed date has no reflectance and is left out, however clouds are
treated. The share of clear pixels, by which dates are dropped, and the shape features still include
all pixels of the outline.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from itertools import compress, groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from geo.errors import InputError
from geo.pixels.gap_filling import fill_linear
from geo.pixels.pixel_index import PixelIndex
from pipeline.dataset.packed_tiles import PackedTile, arrow, batches, map_array, packing
from pipeline.workflow.acquisition_table import AcquisitionRow
from pipeline.workflow.paths import TilePaths
from pipeline.workflow.progress import ProgressLog
from pipeline.workflow.sections.imagery import Clouds
from pipeline.workflow.settings import AssembleSettings
from pipeline.workflow.writing import replacing

# Bytes of a pixel and date in addition to its channels: clear, observed, and working space.
MASK_BYTES = 4
# Larger batches are not faster.
LARGEST_BATCH = 64_000_000
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
    series: TileSeries,
    rows: Sequence[AcquisitionRow],
    paths: TilePaths,
    settings: AssembleSettings,
    threads: int,
) -> PackedTile:
    """Write a tile's packed pixels and its table of observations, and return its description.

    Parameters
    ----------
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
    """
    # The parcels are read twice, in batches that fit the memory. The first pass reads the clear
    # masks only. It decides which dates and pixels remain, and thus the shape of the packed arrays
    # and every parcel's place in them. The second pass reads the pixels, and writes each batch to
    # its place. Therefore, batches can be finished in any order.
    clouds, index = settings.clouds, series.index
    batches = series.batches(settings.assemble.memory_mb * 1_000_000 // threads)
    observed, n_pixels, n_dates = _observe_parcels(series, batches, clouds, paths, threads)
    held = n_pixels >= settings.parcels.min_pixels
    sizes = np.where(held, n_pixels, 0)
    _pack_parcels(series, batches, observed, sizes, paths, settings, threads)
    dates, parcel_dates = _packed_dates(series, observed, held)
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
    series: TileSeries,
    batches: Sequence[Batch],
    clouds: Clouds,
    paths: TilePaths,
    threads: int,
) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Find on which of T dates all N parcels are observed, and write the table of observations.

    Returns
    -------
    observed, n_pixels, n_dates
        bool (N, T), int64 (N,) and int64 (N,), as in `Observations`.
    """
    index, n = series.index, len(series.index.parcel_ids)
    tile_dates = _dates_of_tile(series, clouds)
    observed = np.empty((n, len(series.dates)), bool)
    n_pixels, n_dates = np.empty(n, np.int64), np.empty(n, np.int64)
    with (
        replacing(paths.observations) as temporary,
        pq.ParquetWriter(temporary, OBSERVATIONS) as table,
        ThreadPoolExecutor(threads) as pool,
    ):
        results = pool.map(lambda batch: _observe_batch(series, clouds, tile_dates, batch), batches)
        for batch, counts in zip(batches, results, strict=True):
            own = batch.parcels
            _write_observations(table, index.tile, series.dates, index.parcel_ids[own], counts)
            observed[own], n_pixels[own] = counts.observed, counts.n_pixels
            n_dates[own] = counts.n_dates
    return observed, n_pixels, n_dates


def _dates_of_tile(series: TileSeries, clouds: Clouds) -> NDArray[np.bool_]:
    """Return which dates are not dropped for the whole tile, bool (T,).

    That happens only if clouds.drop is `run`; the share of clear pixels is that of all parcels.
    """
    if clouds.drop == "run" and clouds.min_clear_fraction > 0:
        observed: NDArray[np.bool_] = series.clear_fraction() >= clouds.min_clear_fraction
        return observed
    return np.ones(len(series.dates), bool)


def _observe_batch(
    series: TileSeries, clouds: Clouds, tile_dates: NDArray[np.bool_], batch: Batch
) -> Observations:
    """Count the clear pixels of parcels, and decide on which dates they are observed.

    Parameters
    ----------
    series
        The tile's extracted acquisitions.
    clouds
        min_clear_fraction and drop.
    tile_dates
        Result of `_dates_of_tile`.
    batch
        The parcels.
    """
    clear = series.read_clear(batch.pixels)
    counts = np.add.reduceat(clear, batch.starts, axis=1, dtype=np.int64)
    fraction: NDArray[np.float64] = (counts / batch.sizes).T
    observed = np.broadcast_to(tile_dates, fraction.shape)
    if clouds.drop == "parcel":
        observed = fraction >= clouds.min_clear_fraction
    _mask_dropped(clear, observed, batch)
    n_pixels = np.add.reduceat(np.any(clear, axis=0), batch.starts, dtype=np.int64)
    return Observations(fraction, observed, n_pixels)


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

        def write_batch(batch: Batch) -> int:
            own = batch.parcels
            row = int(rows[own.start])
            for values, clear in _pack_batch(
                series, settings.clouds.fill, observed[own], held[own], batch
            ):
                write(row, values, clear)
                row += len(values)
            return len(batch.sizes)

        # Without a packed parcel there may be no date left to read.
        for n in pool.map(write_batch, batches if held.any() else []):
            progress.add(n)


def _pack_batch(
    series: TileSeries,
    fill: str,
    observed: NDArray[np.bool_],
    held: NDArray[np.bool_],
    batch: Batch,
) -> Iterator[tuple[NDArray[np.uint16], NDArray[np.bool_]]]:
    """Read a batch of parcels, treat clouds, and yield the pixels to pack in order.

    A dropped date has no effect: its few clear pixels are not used for interpolation either.

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

    Yields
    ------
    uint16 (p, T, C) and bool (p, T): the pixels of held parcels that are clear at least once, and
    whether they are clear. The dates of each pixel are those of its parcel; behind them is padding.
    """
    values, clear = series.read(batch.pixels)
    _mask_dropped(clear, observed, batch)
    if fill == "linear":
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
        yield rows, rows_clear


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


@dataclass(frozen=True)
class Batch:
    """Parcels of a tile that are read together.

    Attributes
    ----------
    parcels, pixels
        Their positions, and those of their pixels, in the pixel index of the tile.
    sizes
        int64 (n,): number of pixels of each of the n parcels, at least one.
    """

    parcels: slice
    pixels: slice
    sizes: NDArray[np.int64]

    @property
    def starts(self) -> NDArray[np.int64]:
        """First pixel of each parcel within the batch, int64 (n,)."""
        return np.cumsum(self.sizes) - self.sizes


@dataclass(frozen=True)
class TileSeries:
    """The acquisitions of a tile in order of time, mapped into memory.

    Parameters
    ----------
    index
        Pixels of the tile's parcels.
    dates
        The T dates, each once.
    pixels, clear
        For every date the extracted files of its acquisitions, uint16 (C, P) and bool (P,) each,
        in the order in which they are merged.
    """

    index: PixelIndex
    dates: list[date]
    pixels: list[list[NDArray[np.uint16]]]
    clear: list[list[NDArray[np.bool_]]]

    @classmethod
    def open(cls, index: PixelIndex, rows: Iterable[AcquisitionRow], extracted: Path) -> TileSeries:
        """Map the files of a tile's used acquisitions, rows in the order of the table."""
        ids = {
            day: [row.acquisition for row in same_date]
            for day, same_date in groupby(rows, key=lambda row: row.date)
        }
        pixels, clear = (
            [[_map(extracted / f"{i}{suffix}", index, kind) for i in own] for own in ids.values()]
            for suffix, kind in ((".npy", (np.uint16, 2)), (".valid.npy", (bool, 1)))
        )
        return cls(index, list(ids), pixels, clear)

    def select(self, dates: NDArray[np.bool_]) -> TileSeries:
        """Return the series on some of the dates, bool (T,)."""
        chosen = np.flatnonzero(dates).tolist()
        return replace(
            self,
            dates=[self.dates[t] for t in chosen],
            pixels=[self.pixels[t] for t in chosen],
            clear=[self.clear[t] for t in chosen],
        )

    @property
    def days(self) -> NDArray[np.int64]:
        """Days since the first date, int64 (T,)."""
        return np.array([(day - self.dates[0]).days for day in self.dates], np.int64)

    def batches(self, n_bytes: int) -> list[Batch]:
        """Divide the parcels into batches whose pixels fit the memory, at least one parcel each."""
        if not self.index.parcel_ids:
            return []
        n_channels = self.pixels[0][0].shape[0]
        bytes_per_pixel = len(self.dates) * (2 * n_channels + MASK_BYTES)
        limit = min(n_bytes, LARGEST_BATCH) // bytes_per_pixel
        offsets, sizes = self.index.offsets, self.index.sizes
        return [
            Batch(slice(i, j), slice(int(offsets[i]), int(offsets[j])), sizes[i:j])
            for i, j in batches(offsets, limit)
        ]

    def read(self, pixels: slice) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
        """Read pixels of all dates: uint16 (T, C, P) and bool (T, P).

        Where several acquisitions share a date, each pixel comes from the first one in which it is
        clear, and from the first acquisition if it is clear in none.
        """
        values = np.stack([own[0][:, pixels] for own in self.pixels])
        clear = np.stack([own[0][pixels] for own in self.clear])
        for t, (others, others_clear) in enumerate(zip(self.pixels, self.clear, strict=True)):
            for other, other_clear in zip(others[1:], others_clear[1:], strict=True):
                taken = other_clear[pixels] & ~clear[t]
                values[t][:, taken] = other[:, pixels][:, taken]
                clear[t] |= taken
        return values, clear

    def read_clear(self, pixels: slice) -> NDArray[np.bool_]:
        """Read which pixels are clear on each date, bool (T, P)."""
        return np.stack([np.logical_or.reduce([c[pixels] for c in own]) for own in self.clear])

    def is_nodata(self) -> bool:
        """Return whether no acquisition has a value at any pixel: extract writes 0 for nodata."""
        return not any(pixels.any() for own in self.pixels for pixels in own)

    def clear_fraction(self) -> NDArray[np.float64]:
        """Compute the share of all parcels' pixels that is clear on each date, float64 (T,)."""
        return np.array([np.logical_or.reduce(own).mean() for own in self.clear])


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


def _map(path: Path, index: PixelIndex, kind: tuple[type, int]) -> NDArray[Any]:
    """Map an extracted file; refuse a file with another number of pixels than the index."""
    array = map_array(path, *kind)
    if array.shape[-1] != len(index.rows):
        raise InputError(
            f"{path} has {array.shape[-1]} pixels, the pixel index of tile {index.tile} has "
            f"{len(index.rows)}: the file was extracted with another index. Extract again: "
            "snakemake -R extract."
        )
    return array
