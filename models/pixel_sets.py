"""The pixel sets of many parcels in one packed array, or in one array per tile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.errors import InputError

Value = TypeVar("Value", bound=np.generic)


class StackedRows(Generic[Value]):
    """Several arrays that are read as one, concatenated along the rows, without a copy.

    Their second axis (dates) may differ in length. Rows are padded at the end with 0 or False when
    they are read.

    Parameters
    ----------
    arrays
        K >= 1 arrays of shape (n_k, T_k, ...). They may be memory-mapped.
    """

    def __init__(self, arrays: Sequence[NDArray[Value]]) -> None:
        self.arrays = tuple(arrays)
        first = self.arrays[0]
        for array in self.arrays:
            if array.dtype != first.dtype or array.shape[2:] != first.shape[2:]:
                raise InputError(
                    f"expected arrays that differ only in their rows and dates; found "
                    f"{first.dtype} of {first.shape} and {array.dtype} of {array.shape}"
                )
        # starts[k] is the row number of the first row of array k.
        self.starts = np.cumsum([0, *map(len, self.arrays)])
        width = max(int(array.shape[1]) for array in self.arrays)
        self._n_rows = int(self.starts[-1])
        self.shape: tuple[int, ...] = (self._n_rows, width, *first.shape[2:])
        self.dtype = first.dtype

    def __len__(self) -> int:
        return self._n_rows

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of a value."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all values, padding included."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.itemsize

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[Value]:
        """Read the rows of a slice (without a step), or of an index array of any shape."""
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step != 1:
                raise IndexError(f"expected a slice with a step of 1, found a step of {step}")
            part = self.between(start, max(start, stop))
            return part if isinstance(part, np.ndarray) else part._concatenated()
        rows = np.asarray(rows)
        read: NDArray[Value] = np.zeros((*rows.shape, *self.shape[1:]), self.dtype)
        number = np.searchsorted(self.starts[1:-1], rows, side="right")  # of each row's array
        for k in np.unique(number):
            array, here = self.arrays[k], number == k
            read[here, : array.shape[1]] = array[rows[here] - self.starts[k]]
        return read

    def between(self, start: int, stop: int) -> NDArray[Value] | StackedRows[Value]:
        """Return rows start .. stop - 1 as views, without a copy."""
        edges = [start, max(stop - 1, start)]
        first, last = np.searchsorted(self.starts[1:-1], edges, side="right")
        views = [
            self.arrays[k][max(start - self.starts[k], 0) : stop - self.starts[k]]
            for k in range(first, last + 1)
        ]
        if len(views) == 1 and views[0].shape[1] == self.shape[1]:
            return views[0]
        # An empty array of the full width makes sure that all parts are padded to it.
        widest = max(self.arrays, key=lambda array: int(array.shape[1]))
        return StackedRows([*views, widest[:0]])

    def _concatenated(self) -> NDArray[Value]:
        read: NDArray[Value] = np.zeros(self.shape, self.dtype)
        for start, array in zip(self.starts, self.arrays, strict=False):
            read[start : start + len(array), : array.shape[1]] = array
        return read


def stacked(arrays: Sequence[NDArray[Value]]) -> NDArray[Value] | StackedRows[Value]:
    """Return arrays as one `StackedRows`; a single array is returned unchanged."""
    return arrays[0] if len(arrays) == 1 else StackedRows(arrays)


def arrays_of(rows: NDArray[Any] | StackedRows[Any]) -> tuple[NDArray[Any], ...]:
    """Return the arrays that contain the rows."""
    return rows.arrays if isinstance(rows, StackedRows) else (rows,)


def _between(
    rows: NDArray[Value] | StackedRows[Value], start: int, stop: int
) -> NDArray[Value] | StackedRows[Value]:
    return rows.between(start, stop) if isinstance(rows, StackedRows) else rows[start:stop]


def _repeated(ids: Sequence[str]) -> list[str]:
    """Return the ids that occur more than once."""
    # A set of the ids would be larger than their hashes.
    hashes = np.sort(np.fromiter(map(hash, ids), np.int64, len(ids)))
    if not (hashes[1:] == hashes[:-1]).any():
        return []
    return [i for i, count in Counter(ids).items() if count > 1]


@dataclass(frozen=True, eq=False)
class PixelSets:
    """Pixels, dates, features and labels of N parcels; parcel i has S_i pixels.

    Attributes
    ----------
    ids
        N different parcel ids.
    pixels
        uint16 (sum S_i, T, C): the series of a pixel is contiguous, and the pixels of a parcel are
        consecutive. May be memory-mapped, and `StackedRows`.
    offsets
        int64 (N + 1,): parcel i has the pixels offsets[i] .. offsets[i + 1] - 1.
    clear
        bool (sum S_i, T), False where a pixel has no data or is cloudy; None where all are clear.
    days
        int64 (N, T): days since a start that all parcels share, the first date or the start of the
        season.
    observed
        bool (N, T), False where the parcel does not have the date; None if all have all dates.
    features
        float64 (N, F) parcel features; None if there are none.
    labels
        int64 (N,) class indices, -1 for no label.
    """

    ids: list[str]
    pixels: NDArray[np.uint16] | StackedRows[np.uint16]
    offsets: NDArray[np.int64]
    days: NDArray[np.int64]
    labels: NDArray[np.int64]
    clear: NDArray[np.bool_] | StackedRows[np.bool_] | None = None
    observed: NDArray[np.bool_] | None = None
    features: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        n = len(self.ids)
        if self.pixels.ndim != 3:
            raise InputError(f"pixels: expected shape (pixels, T, C), found {self.pixels.shape}")
        n_pixels, n_dates = self.pixels.shape[:2]
        for name, dtype, shape in (
            ("pixels", np.uint16, self.pixels.shape),
            ("offsets", np.int64, (n + 1,)),
            ("days", np.int64, (n, n_dates)),
            ("labels", np.int64, (n,)),
            ("clear", np.bool_, (n_pixels, n_dates)),
            ("observed", np.bool_, (n, n_dates)),
            ("features", np.float64, (n, self.n_features)),
        ):
            array = getattr(self, name)
            if array is not None and (array.dtype != dtype or array.shape != shape):
                raise InputError(
                    f"{name}: expected {np.dtype(dtype)} of shape {shape} for {n} parcels; found "
                    f"{array.dtype} of shape {array.shape}"
                )
        if repeated := _repeated(self.ids):
            raise InputError(f"ids: found more than once: {', '.join(repeated[:5])}")
        if self.offsets[0] != 0 or self.offsets[-1] != n_pixels or (self.sizes < 0).any():
            raise InputError(
                f"offsets: expected to increase from 0 to the number of pixels, {n_pixels}; found "
                f"{self.offsets[0]} to {self.offsets[-1]}"
            )
        wrong: NDArray[np.bool_] = np.less(self.labels, -1)
        self._refuse_parcels(wrong, "labels: expected class indices, or -1 for none")
        if self.features is not None:
            infinite: NDArray[np.bool_] = np.any(~np.isfinite(self.features), axis=1)
            self._refuse_parcels(infinite, "features: expected finite numbers")

    def _refuse_parcels(self, refused: NDArray[np.bool_], message: str) -> None:
        if refused.any():
            first = ", ".join(self.ids[i] for i in np.flatnonzero(refused)[:5])
            raise InputError(f"{message}; found others in {refused.sum()} parcels, such as {first}")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """int64 (N,): the number of pixels of every parcel."""
        return np.diff(self.offsets)

    def sizes_of(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers of pixels of some parcels, int64 (len(indices),)."""
        return self.offsets[indices + 1] - self.offsets[indices]

    def between(self, first: int, last: int) -> PixelSets:
        """Return the parcels first .. last - 1; their pixels are views, not copies."""
        start, stop = int(self.offsets[first]), int(self.offsets[last])
        parcels = slice(first, last)
        return replace(
            self,
            ids=self.ids[parcels],
            pixels=_between(self.pixels, start, stop),
            offsets=self.offsets[first : last + 1] - start,
            clear=None if self.clear is None else _between(self.clear, start, stop),
            days=self.days[parcels],
            observed=None if self.observed is None else self.observed[parcels],
            features=None if self.features is None else self.features[parcels],
            labels=self.labels[parcels],
        )

    def chosen(self, parcels: NDArray[np.int64]) -> PixelSets:
        """Return some parcels, in this order; their pixels are copies."""
        sizes = self.sizes_of(parcels)
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[parcels] - offsets[:-1], sizes)
        return replace(
            self,
            ids=[self.ids[i] for i in parcels],
            pixels=self.pixels[rows],
            offsets=offsets,
            clear=None if self.clear is None else self.clear[rows],
            days=self.days[parcels],
            observed=None if self.observed is None else self.observed[parcels],
            features=None if self.features is None else self.features[parcels],
            labels=self.labels[parcels],
        )

    @property
    def n_dates(self) -> int:
        """Number of dates T."""
        return int(self.pixels.shape[1])

    @property
    def n_channels(self) -> int:
        """Number of channels C."""
        return int(self.pixels.shape[2])

    @property
    def n_features(self) -> int:
        """Number of parcel features F; 0 for none."""
        return 0 if self.features is None else int(self.features.shape[1])
