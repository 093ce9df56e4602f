"""The extracted acquisitions of one tile become the series of its parcels' pixels.

A pixel that is clear on no date that is kept was never observed: it has no reflectance, and is not
in the pixel set of its parcel, whichever way clouds are filled. The share of clear pixels, by which
dates are dropped, and the geometric features count all pixels of the outline.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from geo.errors import InputError
from geo.pixels.gap_filling import fill_linear
from geo.pixels.pixel_index import PixelIndex
from pipeline.dataset.npy_files import batches
from pipeline.dataset.packed_tiles import arrow
from pipeline.workflow.acquisition_table import AcquisitionRow
from pipeline.workflow.sections import Clouds

# Bytes of every date of a pixel beside its channels: clear, the dates kept, and working space.
MASKS = 4
# Larger batches are no faster.
LARGEST_BATCH = 64_000_000
# Pixels whose axes are exchanged at a time.
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
class TileSeries:
    """The acquisitions of a tile in order of time, as files that are mapped into memory.

    Parameters
    ----------
    index
        Pixels of the tile's parcels.
    dates
        The T dates, each once.
    pixels, clear
        For every date what was extracted of its acquisitions, uint16 (C, P) and bool (P,) each, in
        the order in which they are merged.
    """

    index: PixelIndex
    dates: list[date]
    pixels: list[list[NDArray[np.uint16]]]
    clear: list[list[NDArray[np.bool_]]]

    @classmethod
    def open(cls, index: PixelIndex, rows: Iterable[AcquisitionRow], extracted: Path) -> TileSeries:
        """Map the files of a tile's used acquisitions, rows in the order of the table."""
        days = {
            day: [row.acquisition for row in same_date]
            for day, same_date in groupby(rows, key=lambda row: row.date)
        }
        return cls(
            index,
            list(days),
            [[_map(extracted / f"{i}.npy", index) for i in ids] for ids in days.values()],
            [[_map(extracted / f"{i}.valid.npy", index) for i in ids] for ids in days.values()],
        )

    @property
    def days(self) -> NDArray[np.int64]:
        """Days since the first date, int64 (T,)."""
        return np.array([(d - self.dates[0]).days for d in self.dates], np.int64)

    @property
    def n_channels(self) -> int:
        """Number of channels C."""
        return int(self.pixels[0][0].shape[0])

    def batches(self, n_bytes: int) -> list[tuple[int, int]]:
        """Divide the parcels into batches whose pixels fit the memory, at least one parcel each."""
        bytes_per_pixel = len(self.dates) * (2 * self.n_channels + MASKS)
        limit = min(n_bytes, LARGEST_BATCH) // bytes_per_pixel
        return list(batches(self.index.offsets, limit))

    def pixels_of(self, first: int, last: int) -> slice:
        """Return where the pixels of the parcels from `first` up to `last` lie."""
        return slice(int(self.index.offsets[first]), int(self.index.offsets[last]))

    def read(self, pixels: slice) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
        """Read pixels of all dates: uint16 (T, C, P) and bool (T, P).

        Where several acquisitions share a date, each pixel comes from the first one in which it is
        clear, and from the first of all where none is.
        """
        values = np.stack([own[0][:, pixels] for own in self.pixels])
        clear = np.stack([own[0][pixels] for own in self.clear])
        for day, (more, more_clear) in enumerate(zip(self.pixels, self.clear, strict=True)):
            for other, other_clear in zip(more[1:], more_clear[1:], strict=True):
                taken = other_clear[pixels] & ~clear[day]
                values[day][:, taken] = other[:, pixels][:, taken]
                clear[day] |= taken
        return values, clear

    def read_clear(self, pixels: slice) -> NDArray[np.bool_]:
        """Read which pixels are clear on each date, bool (T, P)."""
        return np.stack([np.logical_or.reduce([c[pixels] for c in own]) for own in self.clear])

    def clear_fraction(self) -> NDArray[np.float64]:
        """Compute the share of clear pixels of every date over all parcels, float64 (T,)."""
        return np.array([np.logical_or.reduce(own).mean() for own in self.clear])


@dataclass(frozen=True)
class ObservedParcels:
    """N parcels of a tile, and how much of them is clear on its T dates.

    Attributes
    ----------
    clear_fraction
        float64 (N, T): share of the pixels of every parcel's outline that are clear, whether the
        date is kept or not.
    kept
        bool (N, T): False for dates that are dropped for having too few clear pixels.
    n_pixels
        int64 (N,): pixels of every parcel that are clear on at least one date that is kept.
    """

    clear_fraction: NDArray[np.float64]
    kept: NDArray[np.bool_]
    n_pixels: NDArray[np.int64]

    @property
    def n_dates(self) -> NDArray[np.int64]:
        """Number of kept dates on which each parcel is clear, in part at least, int64 (N,)."""
        counts: NDArray[np.int64] = ((self.clear_fraction > 0) & self.kept).sum(axis=1)
        return counts


def kept_dates(series: TileSeries, clouds: Clouds) -> NDArray[np.bool_]:
    """Return which dates of a tile stay for all parcels, bool (T,): all, unless drop is `run`."""
    if clouds.drop == "run" and clouds.min_clear_fraction > 0:
        kept: NDArray[np.bool_] = series.clear_fraction() >= clouds.min_clear_fraction
        return kept
    return np.ones(len(series.dates), bool)


def observe(
    series: TileSeries, clouds: Clouds, tile_kept: NDArray[np.bool_], first: int, last: int
) -> ObservedParcels:
    """Find out how much of a tile's parcels is clear, and which of their dates are kept.

    Parameters
    ----------
    series
        The tile's extracted acquisitions.
    clouds
        min_clear_fraction and drop.
    tile_kept
        What `kept_dates` returns.
    first, last
        The parcels from `first` up to `last`.
    """
    pixels = series.pixels_of(first, last)
    offsets = series.index.offsets[first : last + 1] - pixels.start
    clear = series.read_clear(pixels)
    fraction = clear_fraction(clear, offsets)
    kept = np.broadcast_to(tile_kept, fraction.shape)
    if clouds.drop == "parcel":
        kept = fraction >= clouds.min_clear_fraction
    _drop(clear, kept, offsets)
    ever_clear: NDArray[np.bool_] = np.any(clear, axis=0)
    n_pixels = np.add.reduceat(ever_clear, offsets[:-1], dtype=np.int64)
    return ObservedParcels(fraction, kept, n_pixels)


def packed(
    series: TileSeries,
    clouds: Clouds,
    kept: NDArray[np.bool_],
    held: NDArray[np.bool_],
    width: int,
    first: int,
    last: int,
) -> Iterator[tuple[NDArray[np.uint16], NDArray[np.bool_]]]:
    """Read a batch of a tile's parcels, drop dates, fill what clouds hide, and pack the rest.

    A date that is dropped is as if it had not been acquired: its few clear pixels do not take part
    in filling, either.

    Parameters
    ----------
    series
        The tile's extracted acquisitions.
    clouds
        fill.
    kept
        bool (N, T), the dates of the parcels of this batch.
    held
        bool (N,), which of them are packed.
    width
        Number of dates that each pixel gets; behind those of its parcel there is padding.
    first, last
        The batch: the parcels from `first` up to `last`.

    Yields
    ------
    uint16 (n, width, C) and bool (n, width): the pixels of the held parcels that are clear at
    least once, in order, a few at a time, and whether they are clear.
    """
    pixels = series.pixels_of(first, last)
    offsets = series.index.offsets[first : last + 1] - pixels.start
    values, clear = series.read(pixels)
    _drop(clear, kept, offsets)
    if clouds.fill == "linear":
        fill_linear(values, clear, series.days)
    of_parcel = np.repeat(np.arange(last - first), np.diff(offsets))
    chosen = np.any(clear, axis=0) & held[of_parcel]
    # Parcels that have the same dates, as nearly always, have them in the same places.
    own = kept[held]
    shared = np.flatnonzero(own[0]) if len(own) and (own == own[0]).all() else None
    for start in range(0, len(chosen), CHUNK):
        some = slice(start, start + CHUNK)
        if not (mask := chosen[some]).any():
            continue
        # Exchanged first and chosen then: copying rows takes least.
        rows = np.ascontiguousarray(values[:, :, some].transpose(2, 0, 1))
        rows_clear = np.ascontiguousarray(clear[:, some].T)
        if not mask.all():
            rows, rows_clear = rows[mask], rows_clear[mask]
        if shared is not None:
            if len(shared) < rows.shape[1]:
                rows, rows_clear = rows[:, shared], rows_clear[:, shared]
        else:
            rows, rows_clear = _kept_first(rows, rows_clear, kept[of_parcel[some][mask]])
        if rows.shape[1] != width:
            rows, rows_clear = _of_width(rows, width), _of_width(rows_clear, width)
        yield rows, rows_clear


def _kept_first(
    rows: NDArray[np.uint16], clear: NDArray[np.bool_], kept: NDArray[np.bool_]
) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """Put the kept dates (P, T) of every pixel first, in order of time, and 0 behind them."""
    order = np.argsort(~kept, axis=1, kind="stable")
    rows = np.take_along_axis(rows, order[:, :, None], axis=1)
    clear = np.take_along_axis(clear, order, axis=1)
    padding = np.arange(kept.shape[1]) >= kept.sum(axis=1)[:, None]
    rows[padding] = 0
    clear[padding] = False
    return rows, clear


def _of_width(rows: NDArray[Any], width: int) -> NDArray[Any]:
    """Cut or pad rows (P, T, ...) to so many dates; what is cut is padding."""
    whole: NDArray[Any] = np.zeros((len(rows), width, *rows.shape[2:]), rows.dtype)
    n_dates = min(width, rows.shape[1])
    whole[:, :n_dates] = rows[:, :n_dates]
    return whole


def clear_fraction(clear: NDArray[np.bool_], offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Compute the share of clear pixels of every parcel on every date.

    Parameters
    ----------
    clear
        bool (T, P).
    offsets
        int64 (N + 1,): parcel i has the pixels offsets[i] up to offsets[i + 1], one at least.

    Returns
    -------
    float64 (N, T), 0 to 1.
    """
    counts = np.add.reduceat(clear, offsets[:-1], axis=1, dtype=np.int64)
    share: NDArray[np.float64] = (counts / np.diff(offsets)).T
    return share


class ObservationWriter:
    """Write the table of observations batch by batch, one row for every date of a parcel's tile.

    Parameters
    ----------
    path
        Parquet file to write.
    tile
        The tile.
    dates
        Its T dates.
    """

    def __init__(self, path: Path, tile: str, dates: Sequence[date]) -> None:
        self._file = pq.ParquetWriter(path, OBSERVATIONS)
        self._tile = tile
        # As Arrow counts them: days since 1970.
        self._dates = np.asarray(dates, "datetime64[D]").astype(np.int32)

    def __enter__(self) -> ObservationWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(self, parcel_ids: Sequence[str], observed: ObservedParcels) -> None:
        """Add parcels."""
        n, n_dates = observed.kept.shape
        parcel = pa.DictionaryArray.from_arrays(
            arrow(np.repeat(np.arange(n), n_dates), pa.int32()), arrow(parcel_ids, pa.string())
        )
        columns = [
            parcel.cast(pa.string()),
            pa.repeat(arrow([self._tile], pa.string())[0], n * n_dates),
            arrow(np.tile(self._dates, n), pa.int32()).view(pa.date32()),
            arrow(observed.clear_fraction.ravel(), pa.float32()),
            arrow(observed.kept.ravel(), pa.bool_()),
        ]
        self._file.write_table(pa.Table.from_arrays(columns, schema=OBSERVATIONS))


def _drop(clear: NDArray[np.bool_], kept: NDArray[np.bool_], offsets: NDArray[np.int64]) -> None:
    """Mark the dates (N, T) that are not kept as not clear, in place: clear is bool (T, P)."""
    if not kept.all():
        clear &= np.repeat(kept, np.diff(offsets), axis=0).T


def _map(path: Path, index: PixelIndex) -> NDArray[Any]:
    """Map an extracted file; refuse one of another number of pixels than the index has."""
    array: NDArray[Any] = np.load(path, mmap_mode="r")
    if array.shape[-1] != len(index.rows):
        raise InputError(
            f"{path} has {array.shape[-1]} pixels and the index of tile {index.tile} "
            f"{len(index.rows)}: it was extracted with another. Extract again: "
            "snakemake -R extract."
        )
    return array
