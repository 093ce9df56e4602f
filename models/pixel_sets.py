"""The pixel sets of many parcels in one packed array, or in one a tile."""

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
    """Show several arrays as one, row behind row, without copying them.

    The second axis (dates) may differ: it is padded behind to the longest with 0 or False, as rows
    are read.

    Parameters
    ----------
    arrays
        The K arrays, of shape (n_k, T_k, ...); at least one. May be memory-mapped.
    """

    def __init__(self, arrays: Sequence[NDArray[Value]]) -> None:
        self.arrays = tuple(arrays)
        first = self.arrays[0]
        for array in self.arrays:
            if array.dtype != first.dtype or array.shape[2:] != first.shape[2:]:
                raise InputError(
                    f"expected arrays of one type and shape but for rows and dates; found "
                    f"{first.dtype} of {first.shape} and {array.dtype} of {array.shape}"
                )
        # Row starts[k] is the first one of array k.
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
        """Read rows: those of a slice without steps, or those of indices of any shape."""
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step != 1:
                raise IndexError(f"rows are read in order, found a step of {step}")
            return self._in_order(start, max(start, stop))
        return self._gather(np.asarray(rows))

    def between(self, start: int, stop: int) -> NDArray[Value] | StackedRows[Value]:
        """Return rows start .. stop - 1 as views, nothing of which is copied."""
        first, last = self._arrays_of(start, stop)
        views = [
            self.arrays[k][max(start - self.starts[k], 0) : stop - self.starts[k]]
            for k in range(first, last + 1)
        ]
        if len(views) == 1 and views[0].shape[1] == self.shape[1]:
            return views[0]
        # Without rows, but as wide as all: the parts are padded alike.
        widest = max(self.arrays, key=lambda array: int(array.shape[1]))
        return StackedRows([*views, widest[:0]])

    def _arrays_of(self, start: int, stop: int) -> tuple[int, int]:
        """Return the first and the last array that hold rows start .. stop - 1."""
        first, last = np.searchsorted(self.starts[1:-1], [start, max(stop - 1, start)], "right")
        return int(first), int(last)

    def _in_order(self, start: int, stop: int) -> NDArray[Value]:
        first, last = self._arrays_of(start, stop)
        if first == last and self.arrays[first].shape[1] == self.shape[1]:
            return self.arrays[first][start - self.starts[first] : stop - self.starts[first]]
        read: NDArray[Value] = np.zeros((stop - start, *self.shape[1:]), self.dtype)
        for k in range(first, last + 1):
            array, begin = self.arrays[k], int(self.starts[k])
            here = slice(max(start, begin), min(stop, begin + len(array)))
            own = array[here.start - begin : here.stop - begin]
            read[here.start - start : here.stop - start, : array.shape[1]] = own
        return read

    def _gather(self, rows: NDArray[np.int64]) -> NDArray[Value]:
        gathered: NDArray[Value] = np.zeros((*rows.shape, *self.shape[1:]), self.dtype)
        which = np.searchsorted(self.starts[1:-1], rows, side="right")
        for k in np.unique(which):
            array, here = self.arrays[k], which == k
            gathered[here, : array.shape[1]] = array[rows[here] - self.starts[k]]
        return gathered


def stacked(arrays: Sequence[NDArray[Value]]) -> NDArray[Value] | StackedRows[Value]:
    """Return arrays as one, row behind row: a single one as it is."""
    return arrays[0] if len(arrays) == 1 else StackedRows(arrays)


def arrays_of(rows: NDArray[Any] | StackedRows[Any]) -> tuple[NDArray[Any], ...]:
    """Return the arrays that the rows lie in."""
    return rows.arrays if isinstance(rows, StackedRows) else (rows,)


def _between(
    rows: NDArray[Value] | StackedRows[Value], start: int, stop: int
) -> NDArray[Value] | StackedRows[Value]:
    return rows.between(start, stop) if isinstance(rows, StackedRows) else rows[start:stop]


@dataclass(frozen=True, eq=False)
class PixelSets:
    """Hold the pixels, dates, features and labels of N parcels; S_i is the size of parcel i.

    Attributes
    ----------
    ids
        The N parcel ids, each once.
    pixels
        uint16 (sum S_i, T, C): a pixel's series is contiguous, a parcel's pixels lie together.
        May be memory-mapped, and `StackedRows` of several arrays.
    offsets
        int64 (N + 1,): parcel i owns the pixels offsets[i] .. offsets[i + 1] - 1.
    clear
        bool (sum S_i, T), False where a pixel has no data or is cloudy; None where all are clear.
    days
        int64 (N, T): days since the start of the season, the same for all parcels, or since the
        first date.
    observed
        bool (N, T), False where a parcel lacks the date; None where it has all.
    features
        float64 (N, F) parcel features; None where there are none.
    labels
        int64 (N,) class indices; -1 for no label.
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
        if repeated := [i for i, count in Counter(self.ids).items() if count > 1]:
            raise InputError(f"ids: found more than once: {', '.join(repeated[:5])}")
        if self.offsets[0] != 0 or self.offsets[-1] != n_pixels or (self.sizes < 0).any():
            raise InputError(
                f"offsets: expected to rise from 0 to the number of pixels, {n_pixels}; found "
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
            raise InputError(f"{message}; {refused.sum()} parcels are not, such as {first}")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """int64 (N,): the number of pixels of every parcel."""
        return np.diff(self.offsets)

    def sizes_of(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Give the number of pixels of some parcels, int64 (len(indices),)."""
        return self.offsets[indices + 1] - self.offsets[indices]

    def between(self, first: int, last: int) -> PixelSets:
        """Return the parcels first .. last - 1; their pixels are views, nothing is copied."""
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
