"""The pixels of all parcels as one file that is mapped into memory, and what lies where in it."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geo.errors import InputError
from pipeline.dataset.pixel_set_store import (
    read_dates,
    read_description,
    read_ids,
    read_parcel_dates,
    read_sizes,
)
from pipeline.workflow.paths import DatasetPaths


@dataclass(frozen=True)
class PackedLayout:
    """Where the pixels of N parcels lie in the packed file; it follows from META.

    Attributes
    ----------
    ids
        Parcel ids, in the dataset's order.
    offsets
        int64 (N + 1,): parcel i has the pixels offsets[i] up to offsets[i + 1].
    n_dates
        int64 (N,): dates that each parcel has; the others are padding, behind them.
    width, n_channels
        Dates T of the parcel that has most of them, and channels C.
    masked
        Whether clouds were kept, so that validity comes with the pixels.
    """

    ids: list[str]
    offsets: NDArray[np.int64]
    n_dates: NDArray[np.int64]
    width: int
    n_channels: int
    masked: bool

    @classmethod
    def of(cls, dataset: DatasetPaths) -> PackedLayout:
        """Read the layout that a dataset has, packed or not."""
        ids, description = read_ids(dataset), read_description(dataset)
        own = read_parcel_dates(dataset)
        if own is None:
            n_dates = np.full(len(ids), len(read_dates(dataset)), np.int64)
        else:
            n_dates = np.array([len(own[i]) for i in ids], np.int64)
        return cls(
            ids=ids,
            offsets=np.concatenate([[0], np.cumsum(read_sizes(dataset))]).astype(np.int64),
            n_dates=n_dates,
            width=int(n_dates.max(initial=0)),
            n_channels=len(description["bands"]),
            masked=description["fill"] == "none",
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the packed pixels."""
        return int(self.offsets[-1]), self.width, self.n_channels

    @property
    def is_ragged(self) -> bool:
        """Whether some parcels lack dates that others have."""
        return bool((self.n_dates < self.width).any())

    def blocks(self, n_bytes: int) -> Iterator[tuple[int, int]]:
        """Cut the parcels into runs of no more bytes of pixels, at least one parcel each."""
        limit = n_bytes // max(2 * self.width * self.n_channels, 1)
        first = 0
        while first < len(self.ids):
            end = self.offsets[first] + limit
            last = max(int(np.searchsorted(self.offsets, end, side="right")) - 1, first + 1)
            yield first, last
            first = last

    def observed(self, first: int, last: int) -> NDArray[np.bool_]:
        """Tell which observations of a run of parcels are no padding: bool (pixels, T)."""
        sizes = np.diff(self.offsets[first : last + 1])
        dates: NDArray[np.bool_] = np.arange(self.width) < self.n_dates[first:last, None]
        return np.repeat(dates, sizes, axis=0)


def map_pixels(dataset: DatasetPaths, layout: PackedLayout) -> NDArray[np.uint16]:
    """Map the packed pixels, uint16 (sum of S, T, C), read-only.

    Raises
    ------
    InputError
        If they are missing or of other parcels, dates or bands than the dataset.
    """
    return _map(dataset.packed_pixels, layout.shape, np.dtype(np.uint16))


def map_valid(dataset: DatasetPaths, layout: PackedLayout) -> NDArray[np.bool_] | None:
    """Map which observations are clear, bool (sum of S, T); None where clouds were filled."""
    if not layout.masked:
        return None
    return _map(dataset.packed_valid, layout.shape[:2], np.dtype(bool))


def unmap(array: np.memmap[Any, Any]) -> None:
    """Let the memory go in which a file is mapped; what is read again is mapped again.

    It is no memory of our own, but it would be counted as such, up to the size of the file.
    """
    # Where the system has no such call, it takes what it needs by itself.
    if hasattr(mmap, "MADV_DONTNEED"):
        array._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


def _map(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(
            f"The dataset lacks {path}, its arrays in one file: "
            f"parcelwise pack --dataset {path.parent} --config ..."
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable array: {error}") from error
    if array.shape != shape or array.dtype != dtype:
        raise InputError(
            f"{path} is {array.dtype} of shape {array.shape}, the dataset's META says {dtype} of "
            f"{shape}. Pack it anew: parcelwise pack --dataset {path.parent} --config ..."
        )
    return array
