"""The extracted acquisitions of one tile as a series of dates, read block by block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geo.errors import InputError
from geo.pixels.pixel_index import PixelIndex
from pipeline.workflow.acquisition_table import AcquisitionRow

# Bytes of every date of a pixel beside its channels: clear, the dates kept, and working space.
MASKS = 4
# Larger blocks are no faster.
LARGEST_BLOCK = 64_000_000


@dataclass(frozen=True)
class TileSeries:
    """The acquisitions of a tile in order of time, as files that are mapped into memory.

    Parameters
    ----------
    index
        Pixels of the tile's parcels.
    dates
        The T dates, each once.
    pixels, valid
        For every date what was extracted of its acquisitions, uint16 (C, P) and bool (P,) each, in
        the order in which they are merged.
    """

    index: PixelIndex
    dates: list[date]
    pixels: list[list[NDArray[np.uint16]]]
    valid: list[list[NDArray[np.bool_]]]

    @classmethod
    def open(cls, index: PixelIndex, rows: Iterable[AcquisitionRow], extracted: Path) -> TileSeries:
        """Map the files of a tile's used acquisitions, rows in the order of acquisitions.csv."""
        days = {
            day: [row.acquisition for row in same_day]
            for day, same_day in groupby(rows, key=lambda row: row.date)
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

    def blocks(self, n_bytes: int) -> Iterator[tuple[int, int]]:
        """Cut the parcels into runs whose pixels fit the memory, at least one parcel each."""
        offsets = self.index.offsets
        n_channels = self.pixels[0][0].shape[0]
        bytes_per_pixel = len(self.dates) * (2 * n_channels + MASKS)
        limit = min(n_bytes, LARGEST_BLOCK) // bytes_per_pixel
        first = 0
        while first < len(self.index.parcel_ids):
            last = int(np.searchsorted(offsets, offsets[first] + limit, side="right")) - 1
            last = max(last, first + 1)
            yield first, last
            first = last

    def read(self, block: slice) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
        """Read the pixels of a block: uint16 (T, C, P) and bool (T, P).

        Of several acquisitions of a date, each pixel has the first that is clear there, and the
        first of all where none is.
        """
        values = np.stack([parts[0][:, block] for parts in self.pixels])
        clear = np.stack([parts[0][block] for parts in self.valid])
        for day, (pixels, valid) in enumerate(zip(self.pixels, self.valid, strict=True)):
            for more, its_valid in zip(pixels[1:], valid[1:], strict=True):
                taken = its_valid[block] & ~clear[day]
                values[day][:, taken] = more[:, block][:, taken]
                clear[day] |= taken
        return values, clear

    def clear_fraction(self) -> NDArray[np.float64]:
        """Compute the share of clear pixels of every date over all parcels, float64 (T,)."""
        return np.array([np.logical_or.reduce(parts).mean() for parts in self.valid])


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
