"""The pixel sets of many parcels in one packed array."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.errors import InputError


@dataclass(frozen=True, eq=False)
class PixelSets:
    """Hold the pixels, dates, features and labels of N parcels; S_i is the size of parcel i.

    Attributes
    ----------
    ids
        The N parcel ids, each once.
    pixels
        uint16 (sum S_i, T, C): a pixel's series is contiguous, a parcel's pixels lie together.
        May be memory-mapped.
    offsets
        int64 (N + 1,): parcel i owns the pixels offsets[i] .. offsets[i + 1] - 1.
    valid
        bool (sum S_i, T), False where a pixel was not seen (cloud); None where all are valid.
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
    pixels: NDArray[np.uint16]
    offsets: NDArray[np.int64]
    days: NDArray[np.int64]
    labels: NDArray[np.int64]
    valid: NDArray[np.bool_] | None = None
    observed: NDArray[np.bool_] | None = None
    features: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        n = len(self.ids)
        if self.pixels.ndim != 3:
            raise InputError(f"pixels: expected shape (pixels, T, C), found {self.pixels.shape}")
        n_pixels, n_dates, _ = self.pixels.shape
        for name, dtype, shape in (
            ("pixels", np.uint16, self.pixels.shape),
            ("offsets", np.int64, (n + 1,)),
            ("days", np.int64, (n, n_dates)),
            ("labels", np.int64, (n,)),
            ("valid", np.bool_, (n_pixels, n_dates)),
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
