"""The extracted acquisitions of a tile as one series in time, read in batches of parcels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from datetime import date
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geo.errors import InputError
from geo.pixels.pixel_index import PixelIndex
from pipeline.dataset.packed_tiles import batches, map_array
from pipeline.workflow.acquisition_table import AcquisitionRow

# Bytes of a pixel and date in addition to its channels: clear, observed, and working space.
MASK_BYTES = 4
# Larger batches are not faster.
LARGEST_BATCH = 64_000_000


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

    def __str__(self) -> str:
        """Name the batch in messages."""
        return f"parcels {self.parcels.start}-{self.parcels.stop}"

    @property
    def starts(self) -> NDArray[np.int64]:
        """First pixel of each parcel within the batch, int64 (n,)."""
        return np.cumsum(self.sizes) - self.sizes


@dataclass(frozen=True)
class TileSeries:
    """The acquisitions of a tile in order of time, mapped into memory.

    Parameters
    ----------
    tile
        Name of the tile.
    n_pixels
        Number P of pixels of its parcels.
    dates
        The T dates, each once.
    files
        For every date the extracted files of its acquisitions, pixels and clear, uint16 (C, P) and
        bool (P,), in the order in which they are merged. Only these paths are sent to other
        processes, which map the files themselves.
    """

    tile: str
    n_pixels: int
    dates: list[date]
    files: list[list[tuple[Path, Path]]]

    @classmethod
    def open(cls, index: PixelIndex, rows: Iterable[AcquisitionRow], extracted: Path) -> TileSeries:
        """Map the files of a tile's used acquisitions, rows in the order of the table."""
        # Absolute, because workers have other current folders.
        folder = extracted.absolute()
        files = {
            day: [
                (folder / f"{i}.npy", folder / f"{i}.valid.npy")
                for i in (row.acquisition for row in same_date)
            ]
            for day, same_date in groupby(rows, key=lambda row: row.date)
        }
        series = cls(index.tile, len(index.rows), list(files), list(files.values()))
        series._maps  # noqa: B018 (refuses files that do not fit)
        return series

    @cached_property
    def _maps(
        self,
    ) -> tuple[list[list[NDArray[np.uint16]]], list[list[NDArray[np.bool_]]]]:
        """The files of every date, mapped into memory: pixels and clear."""
        pixels, clear = (
            [[self._map(own[which], *kind) for own in of_date] for of_date in self.files]
            for which, kind in ((0, (np.uint16, 2)), (1, (bool, 1)))
        )
        return pixels, clear

    def _map(self, path: Path, dtype: type, ndim: int) -> NDArray[Any]:
        """Map an extracted file; refuse one with another number of pixels than the index."""
        array = map_array(path, dtype, ndim)
        if array.shape[-1] != self.n_pixels:
            raise InputError(
                f"{path} has {array.shape[-1]} pixels, the pixel index of tile {self.tile} has "
                f"{self.n_pixels}: the file was extracted with another index. Extract again: "
                "snakemake -R extract."
            )
        return array

    def __getstate__(self) -> dict[str, Any]:
        """Return what is sent to another process: paths, not the mapped pixels."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def select(self, dates: NDArray[np.bool_]) -> TileSeries:
        """Return the series on some of the dates, bool (T,)."""
        chosen = np.flatnonzero(dates).tolist()
        selected = replace(
            self,
            dates=[self.dates[t] for t in chosen],
            files=[self.files[t] for t in chosen],
        )
        # A further map would be a further open file.
        pixels, clear = self._maps
        selected.__dict__["_maps"] = [pixels[t] for t in chosen], [clear[t] for t in chosen]
        return selected

    @property
    def days(self) -> NDArray[np.int64]:
        """Days since the first date, int64 (T,)."""
        return np.array([(day - self.dates[0]).days for day in self.dates], np.int64)

    def batches(self, index: PixelIndex, n_bytes: int) -> list[Batch]:
        """Divide the parcels into batches whose pixels fit the memory, at least one parcel each."""
        if not index.parcel_ids:
            return []
        n_channels = self._maps[0][0][0].shape[0]
        bytes_per_pixel = len(self.dates) * (2 * n_channels + MASK_BYTES)
        limit = min(n_bytes, LARGEST_BATCH) // bytes_per_pixel
        offsets, sizes = index.offsets, index.sizes
        return [
            Batch(slice(i, j), slice(int(offsets[i]), int(offsets[j])), sizes[i:j])
            for i, j in batches(offsets, limit)
        ]

    def read(self, pixels: slice) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
        """Read pixels of all dates: uint16 (T, C, P) and bool (T, P).

        Where several acquisitions share a date, each pixel comes from the first one in which it is
        clear, and from the first acquisition if it is clear in none.
        """
        values = np.stack([own[0][:, pixels] for own in self._maps[0]])
        clear = np.stack([own[0][pixels] for own in self._maps[1]])
        for t, (others, others_clear) in enumerate(zip(*self._maps, strict=True)):
            for other, other_clear in zip(others[1:], others_clear[1:], strict=True):
                taken = other_clear[pixels] & ~clear[t]
                values[t][:, taken] = other[:, pixels][:, taken]
                clear[t] |= taken
        return values, clear

    def read_clear(self, pixels: slice) -> NDArray[np.bool_]:
        """Read which pixels are clear on each date, bool (T, P)."""
        return np.stack([np.logical_or.reduce([c[pixels] for c in own]) for own in self._maps[1]])

    def is_nodata(self) -> bool:
        """Return whether no acquisition has a value at any pixel: extract writes 0 for nodata."""
        return not any(pixels.any() for own in self._maps[0] for pixels in own)

    def clear_fraction(self) -> NDArray[np.float64]:
        """Compute the share of all parcels' pixels that is clear on each date, float64 (T,)."""
        return np.array([np.logical_or.reduce(own).mean() for own in self._maps[1]])
