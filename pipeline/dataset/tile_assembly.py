"""Combine the extracted acquisitions of a tile into time series of its parcels' pixels.

A date with too few clear pixels can be dropped, for one parcel or for the whole tile. A parcel has
the dates that are not dropped: on these it is observed.

A pixel that is clear on no observed date has no reflectance and is left out, however clouds are
treated. The share of clear pixels, by which dates are dropped, and the shape features still include
all pixels of the outline.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from geo.errors import InputError
from geo.pixels.gap_filling import fill_linear
from geo.pixels.pixel_index import PixelIndex
from pipeline.dataset.packed_tiles import arrow, batches
from pipeline.workflow.acquisition_table import AcquisitionRow
from pipeline.workflow.sections import Clouds

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
            [[_map(extracted / f"{i}{suffix}", index) for i in own] for own in ids.values()]
            for suffix in (".npy", ".valid.npy")
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


def dates_of_tile(series: TileSeries, clouds: Clouds) -> NDArray[np.bool_]:
    """Return which dates are not dropped for the whole tile, bool (T,).

    That happens only if clouds.drop is `run`; the share of clear pixels is that of all parcels.
    """
    if clouds.drop == "run" and clouds.min_clear_fraction > 0:
        observed: NDArray[np.bool_] = series.clear_fraction() >= clouds.min_clear_fraction
        return observed
    return np.ones(len(series.dates), bool)


def observe(
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
        Result of `dates_of_tile`.
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


def pack(
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


def write_observations(
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


def _map(path: Path, index: PixelIndex) -> NDArray[Any]:
    """Map an extracted file; refuse a file with another number of pixels than the index."""
    array: NDArray[Any] = np.load(path, mmap_mode="r")
    if array.shape[-1] != len(index.rows):
        raise InputError(
            f"{path} has {array.shape[-1]} pixels, the pixel index of tile {index.tile} has "
            f"{len(index.rows)}: the file was extracted with another index. Extract again: "
            "snakemake -R extract."
        )
    return array
