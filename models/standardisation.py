"""Standardisation of pixels and parcel features with statistics that were computed before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from models.errors import InputError, expect


@dataclass(frozen=True, eq=False)
class _MeansAndStds:
    """Means and standard deviations, both float64 of the same shape."""

    means: NDArray[np.float64]
    stds: NDArray[np.float64]

    # Of the values, for messages.
    _name: ClassVar[str]

    def __post_init__(self) -> None:
        for name in ("means", "stds"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        self._check_shapes()
        # Models compute in float32.
        limits = np.finfo(np.float32)
        for name, values in (("means", self.means), ("stds", self.stds)):
            if wrong := np.count_nonzero(~(np.abs(values) <= limits.max)):
                raise InputError(
                    f"{self._name}: {wrong} of {values.size} {name} are not finite numbers"
                )
        if wrong := np.count_nonzero(
            (self.stds < 0) | ((self.stds > 0) & (self.stds < limits.tiny))
        ):
            raise InputError(
                f"{self._name}: {wrong} of {self.stds.size} stds are negative or smaller than "
                f"{limits.tiny:.0e}; expected positive ones, or 0 for values that are all the same"
            )

    def _check_shapes(self) -> None:
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """Return the values as nested lists."""
        return {"means": self.means.tolist(), "stds": self.stds.tolist()}

    @classmethod
    def from_json(cls, values: object) -> Self:
        """Read back the result of `to_json`, or refuse other values from a JSON file."""
        if not isinstance(values, dict) or values.keys() != {"means", "stds"}:
            raise InputError(f"{cls._name}: expected means and stds, found {str(values)[:100]}")
        arrays = {}
        for name in ("means", "stds"):
            try:
                array = np.asarray(values[name])
            except ValueError:  # rows of different lengths
                array = np.asarray(None)
            if array.dtype.kind not in "iuf":
                raise InputError(
                    f"{cls._name}: {name} are not all numbers: {str(values[name])[:100]}"
                )
            arrays[name] = array.astype(np.float64)
        return cls(**arrays)


class Normalisation(_MeansAndStds):
    """Means and standard deviations to normalise pixels with.

    Attributes
    ----------
    means, stds
        float64, both of shape (), (C,) for channels, or (T, C) for dates and channels; in the unit
        of the pixels.
    """

    _name = "normalisation"

    def _check_shapes(self) -> None:
        if self.means.shape != self.stds.shape or self.means.ndim > 2 or self.means.size == 0:
            raise InputError(
                "normalisation: expected means and stds of one shape, (), (C,) or (T, C); found "
                f"{self.means.shape} and {self.stds.shape}"
            )

    def check_fits(self, n_dates: int, n_channels: int) -> None:
        """Raise InputError unless the values apply to (n_dates, n_channels) pixels."""
        if self.means.shape not in {(), (n_channels,), (n_dates, n_channels)}:
            raise InputError(
                f"normalisation: values of shape {self.means.shape} do not fit pixels of "
                f"{n_dates} dates and {n_channels} channels: expected (), ({n_channels},) or "
                f"({n_dates}, {n_channels})"
            )

    def scale(self) -> NDArray[np.float64]:
        """Return 1 / stds; 1 where a deviation is 0, so that a constant channel becomes 0."""
        return np.asarray(1 / np.where(self.stds == 0, 1.0, self.stds))


class FeatureScaling(_MeansAndStds):
    """Means and standard deviations to standardise parcel features with.

    Attributes
    ----------
    means, stds
        float64 (F,).
    """

    _name = "feature scaling"

    def _check_shapes(self) -> None:
        if self.means.ndim != 1 or self.means.shape != self.stds.shape:
            raise InputError(
                "feature scaling: expected means and stds of shape (F,); found "
                f"{self.means.shape} and {self.stds.shape}"
            )

    @classmethod
    def fit(cls, features: NDArray[np.float64]) -> FeatureScaling:
        """Compute the statistics (ddof 1) of the training parcels' features (N, F)."""
        if len(features) == 0:
            raise InputError("feature scaling: no parcel to compute it from")
        stds = features.std(0, ddof=1) if len(features) > 1 else np.zeros(features.shape[1])
        return cls(features.mean(0), stds)

    def apply(self, features: NDArray[np.float64]) -> NDArray[np.float32]:
        """Standardise features (N, F); one that is constant in the training parcels becomes 0."""
        found, expected = features.shape[1], len(self.means)
        expect(found == expected, "feature scaling", f"{expected} features", found)
        # The deviation of a constant column is a rounding error, not exactly 0.
        constant = self.stds <= 1e-12 * np.abs(self.means)
        scaled = (features - self.means) / np.where(constant, 1.0, self.stds)
        return np.where(constant, 0.0, scaled).astype(np.float32)
