"""Parcels of one tile on their way into the dataset: dates dropped, clouds filled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from geo.gap_filling import fill_linear
from pipeline.settings import Clouds
from pipeline.tile_series import TileSeries


@dataclass(frozen=True)
class ParcelBlock:
    """N parcels of a tile with P pixels on its T dates.

    Parameters
    ----------
    ids
        Parcel ids.
    offsets
        int64 (N + 1,): parcel i has the pixels offsets[i] up to offsets[i + 1].
    dates
        The dates.
    values
        uint16 (T, C, P), filled where the settings ask for it.
    clear
        bool (T, P): True where observed clearly, on a date that is kept.
    clear_fraction
        float64 (N, T): share of every parcel's pixels that were clear, whether kept or not.
    kept
        bool (N, T): False for dates that are dropped for having too few clear pixels.
    """

    ids: list[str]
    offsets: NDArray[np.int64]
    dates: list[date]
    values: NDArray[np.uint16]
    clear: NDArray[np.bool_]
    clear_fraction: NDArray[np.float64]
    kept: NDArray[np.bool_]

    @property
    def stored(self) -> NDArray[np.bool_]:
        """The dates that the dataset has of every parcel, bool (N, T).

        A parcel without a date left keeps all, none of them clear: it was never seen clearly.
        """
        stored: NDArray[np.bool_] = self.kept | ~self.kept.any(axis=1, keepdims=True)
        return stored

    @property
    def n_dates(self) -> NDArray[np.int64]:
        """Number of dates on which each parcel was seen clearly, in part at least, int64 (N,)."""
        seen: NDArray[np.int64] = ((self.clear_fraction > 0) & self.kept).sum(axis=1)
        return seen

    def arrays(self) -> Iterator[tuple[str, NDArray[np.uint16], NDArray[np.bool_]]]:
        """Give id, pixels (T, C, S) and clearness (T, S) of every parcel, on its own dates."""
        for i, (parcel_id, stored) in enumerate(zip(self.ids, self.stored, strict=True)):
            part = slice(self.offsets[i], self.offsets[i + 1])
            yield parcel_id, self.values[stored, :, part], self.clear[stored, part]


def read_blocks(series: TileSeries, clouds: Clouds, memory_mb: int) -> Iterator[ParcelBlock]:
    """Read the parcels of a tile block by block, drop dates, and fill what clouds hide.

    A date that is dropped is as if it had not been acquired: its few clear pixels do not take part
    in filling, either.

    Parameters
    ----------
    series
        The tile's extracted acquisitions.
    clouds
        fill, min_clear_fraction and drop.
    memory_mb
        Pixels held at once.
    """
    index = series.index
    tile_kept = np.ones(len(series.dates), bool)
    if clouds.drop == "run" and clouds.min_clear_fraction > 0:
        tile_kept = series.clear_fraction() >= clouds.min_clear_fraction
    for first, last in series.batches(memory_mb):
        block = slice(int(index.offsets[first]), int(index.offsets[last]))
        offsets = index.offsets[first : last + 1] - block.start
        values, clear = series.read(block)
        fraction = clear_fraction(clear, offsets)
        kept = np.tile(tile_kept, (last - first, 1))
        if clouds.drop == "parcel":
            kept = fraction >= clouds.min_clear_fraction
        clear &= np.repeat(kept, np.diff(offsets), axis=0).T
        if clouds.fill == "linear":
            values = fill_linear(values, clear, series.days)
        ids = index.parcel_ids[first:last]
        yield ParcelBlock(ids, offsets, series.dates, values, clear, fraction, kept)


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
