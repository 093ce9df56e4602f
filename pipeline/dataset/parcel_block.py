"""Parcels of one tile on their way into the dataset: dates dropped, clouds filled.

A pixel that is clear on no date that is kept was never observed: it has no reflectance, and does
not belong to the pixel set of its parcel, whichever way clouds are filled. The share of clear
pixels, by which dates are dropped, and the geometric features count all pixels of the outline.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geo.pixels.gap_filling import fill_linear
from pipeline.dataset.npy_files import write_array
from pipeline.dataset.pixel_set_store import file_name
from pipeline.dataset.tile_series import TileSeries
from pipeline.workflow.sections import Clouds


@dataclass(frozen=True)
class ObservedParcels:
    """N parcels of a tile, and how much of them was clear on its T dates.

    Parameters
    ----------
    ids
        Parcel ids.
    dates
        The dates.
    clear_fraction
        float64 (N, T): share of the pixels of every parcel's outline that were clear, whether kept
        or not.
    kept
        bool (N, T): False for dates that are dropped for having too few clear pixels.
    n_pixels
        int64 (N,): pixels of every parcel that were clear on at least one date that is kept.
    enough
        bool (N,): True for parcels with so many of them that the dataset holds the parcel.
    """

    ids: list[str]
    dates: list[date]
    clear_fraction: NDArray[np.float64]
    kept: NDArray[np.bool_]
    n_pixels: NDArray[np.int64]
    enough: NDArray[np.bool_]

    @property
    def n_dates(self) -> NDArray[np.int64]:
        """Number of dates on which each parcel was seen clearly, in part at least, int64 (N,)."""
        seen: NDArray[np.int64] = ((self.clear_fraction > 0) & self.kept).sum(axis=1)
        return seen


@dataclass(frozen=True)
class ParcelBlock:
    """N parcels of a tile with their P pixels on its T dates.

    Parameters
    ----------
    observed
        The parcels.
    offsets
        int64 (N + 1,): the outline of parcel i holds the pixels offsets[i] up to offsets[i + 1].
    values
        uint16 (T, C, P), filled where the settings ask for it.
    clear
        bool (T, P): True where observed clearly, on a date that is kept.
    ever_clear
        bool (P,): True for pixels that are clear on at least one date.
    """

    observed: ObservedParcels
    offsets: NDArray[np.int64]
    values: NDArray[np.uint16]
    clear: NDArray[np.bool_]
    ever_clear: NDArray[np.bool_]

    def write(self, data: Path, validity: Path) -> None:
        """Write two files a parcel, on its own dates: pixels (T, C, S) and clearness (T, S).

        S are the pixels that were ever clear. Parcels with too few of them get no files.
        """
        offsets, kept = self.offsets.tolist(), self.observed.kept
        on_all_dates: NDArray[np.bool_] = np.all(kept, axis=1)
        whole = self.observed.n_pixels == np.diff(self.offsets)
        # A path is looked up from the root; a name in an open folder is not.
        folders = [os.open(folder, os.O_RDONLY) for folder in (data, validity)]
        try:
            for i in np.flatnonzero(self.observed.enough).tolist():
                part, name = slice(offsets[i], offsets[i + 1]), file_name(self.observed.ids[i])
                dates = slice(None) if on_all_dates[i] else kept[i]
                values, clear = self.values[dates, :, part], self.clear[dates, part]
                if not whole[i]:
                    seen = self.ever_clear[part]
                    values, clear = values[..., seen], clear[:, seen]
                write_array(name, values, folders[0])
                write_array(name, clear, folders[1])
        finally:
            for folder in folders:
                os.close(folder)


def kept_dates(series: TileSeries, clouds: Clouds) -> NDArray[np.bool_]:
    """Tell which dates of a tile stay for all parcels, bool (T,): all, unless drop is `run`."""
    if clouds.drop == "run" and clouds.min_clear_fraction > 0:
        kept: NDArray[np.bool_] = series.clear_fraction() >= clouds.min_clear_fraction
        return kept
    return np.ones(len(series.dates), bool)


def read_block(
    series: TileSeries,
    clouds: Clouds,
    min_pixels: int,
    tile_kept: NDArray[np.bool_],
    first: int,
    last: int,
) -> ParcelBlock:
    """Read a run of a tile's parcels, drop dates, and fill what clouds hide.

    A date that is dropped is as if it had not been acquired: its few clear pixels do not take part
    in filling, either.

    Parameters
    ----------
    series
        The tile's extracted acquisitions.
    clouds
        fill, min_clear_fraction and drop.
    min_pixels
        Parcels with fewer pixels that were ever clear are set aside.
    tile_kept
        What `kept_dates` gives.
    first, last
        The parcels from `first` up to `last`.
    """
    index = series.index
    pixels = slice(int(index.offsets[first]), int(index.offsets[last]))
    offsets = index.offsets[first : last + 1] - pixels.start
    values, clear = series.read(pixels)
    fraction = clear_fraction(clear, offsets)
    kept = np.tile(tile_kept, (last - first, 1))
    if clouds.drop == "parcel":
        kept = fraction >= clouds.min_clear_fraction
    if not kept.all():
        clear &= np.repeat(kept, np.diff(offsets), axis=0).T
    ever_clear: NDArray[np.bool_] = np.any(clear, axis=0)
    n_pixels = np.add.reduceat(ever_clear, offsets[:-1], dtype=np.int64)
    if clouds.fill == "linear":
        fill_linear(values, clear, series.days)
    ids = index.parcel_ids[first:last]
    enough = n_pixels >= min_pixels
    observed = ObservedParcels(ids, series.dates, fraction, kept, n_pixels, enough)
    return ParcelBlock(observed, offsets, values, clear, ever_clear)


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
