"""Standardise pixels and parcel features with statistics that were computed before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.errors import InputError


@dataclass(frozen=True, eq=False)
class Normalisation:
    """Hold the means and standard deviations that pixels are normalised with.

    Attributes
    ----------
    means, stds
        float64, both of shape (), (C,) for channels, or (T, C) for dates and channels; in the unit
        of the pixels.
    """

    means: NDArray[np.float64]
    stds: NDArray[np.float64]

    def __post_init__(self) -> None:
        _set_arrays(self, "means", "stds")
        if self.means.shape != self.stds.shape or self.means.ndim > 2 or self.means.size == 0:
            raise InputError(
                "normalisation: expected means and stds of one shape, (), (C,) or (T, C); found "
                f"{self.means.shape} and {self.stds.shape}"
            )
        _check_values(self.means, self.stds, "normalisation")

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

    def to_json(self) -> dict[str, Any]:
        """Return the values as nested lists."""
        return {"means": self.means.tolist(), "stds": self.stds.tolist()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Normalisation:
        """Read back what `to_json` returned."""
        return cls(*_means_and_stds(values, "normalisation"))


@dataclass(frozen=True, eq=False)
class FeatureScaling:
    """Hold the means and standard deviations that parcel features are scaled with.

    Attributes
    ----------
    means, stds
        float64 (F,).
    """

    means: NDArray[np.float64]
    stds: NDArray[np.float64]

    def __post_init__(self) -> None:
        _set_arrays(self, "means", "stds")
        if self.means.ndim != 1 or self.means.shape != self.stds.shape:
            raise InputError(
                "feature scaling: expected means and stds of shape (F,); found "
                f"{self.means.shape} and {self.stds.shape}"
            )
        _check_values(self.means, self.stds, "feature scaling")

    @classmethod
    def fit(cls, features: NDArray[np.float64]) -> FeatureScaling:
        """Compute means and deviations (ddof 1) of the training parcels' features (N, F)."""
        if len(features) == 0:
            raise InputError("feature scaling: no parcel to compute it from")
        stds = features.std(0, ddof=1) if len(features) > 1 else np.zeros(features.shape[1])
        return cls(features.mean(0), stds)

    def apply(self, features: NDArray[np.float64]) -> NDArray[np.float32]:
        """Scale features (N, F); one that is constant in the training parcels becomes 0."""
        if features.shape[1] != len(self.means):
            raise InputError(
                f"feature scaling: expected {len(self.means)} features, found {features.shape[1]}"
            )
        # A constant column's deviation is rounding, not exactly 0.
        constant = self.stds <= 1e-12 * np.abs(self.means)
        scaled = (features - self.means) / np.where(constant, 1.0, self.stds)
        return np.where(constant, 0.0, scaled).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """Return the values as lists."""
        return {"means": self.means.tolist(), "stds": self.stds.tolist()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> FeatureScaling:
        """Read back what `to_json` returned."""
        return cls(*_means_and_stds(values, "feature scaling"))


def _means_and_stds(values: object, what: str) -> list[NDArray[np.float64]]:
    """Read means and stds from the values of a JSON file, which may be anything."""
    if not isinstance(values, dict) or values.keys() != {"means", "stds"}:
        raise InputError(f"{what}: expected means and stds, found {str(values)[:100]}")
    arrays = []
    for name in ("means", "stds"):
        try:
            array = np.asarray(values[name])
        except ValueError:  # rows of different lengths
            array = np.asarray(None)
        if array.dtype.kind not in "iuf":
            raise InputError(f"{what}: {name} are not all numbers: {str(values[name])[:100]}")
        arrays.append(array.astype(np.float64))
    return arrays


def _set_arrays(instance: object, *names: str) -> None:
    for name in names:
        value: ArrayLike = getattr(instance, name)
        object.__setattr__(instance, name, np.asarray(value, dtype=np.float64))


def _check_values(means: NDArray[np.float64], stds: NDArray[np.float64], what: str) -> None:
    """Refuse values that are not finite in float32, in which the models compute."""
    limits = np.finfo(np.float32)
    for name, values in (("means", means), ("stds", stds)):
        if wrong := np.count_nonzero(~(np.abs(values) <= limits.max)):
            raise InputError(f"{what}: {wrong} of {values.size} {name} are not finite numbers")
    if wrong := np.count_nonzero((stds < 0) | ((stds > 0) & (stds < limits.tiny))):
        raise InputError(
            f"{what}: {wrong} of {stds.size} stds are negative or smaller than {limits.tiny:.0e}; "
            "expected positive ones, or 0 for values that are all the same"
        )
