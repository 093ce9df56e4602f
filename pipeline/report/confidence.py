"""What the report says of confidence: whether the model is as often right as it says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

THRESHOLDS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
# Fewer parcels say little of a share.
FEWEST_PARCELS = 20


@dataclass(frozen=True)
class Group:
    """Parcels of similar confidence; `low` and `high` bound their accuracy (95 % interval)."""

    count: int
    confidence: float
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class Threshold:
    """The parcels that are predicted with at least some confidence."""

    confidence: float
    count: int
    share: float
    accuracy: float


def confidence_groups(parcels: pd.DataFrame) -> list[Group]:
    """Compare confidence with accuracy in tenths of the parcels, the least confident first.

    There are fewer groups where a tenth would hold fewer than `FEWEST_PARCELS`.

    Parameters
    ----------
    parcels
        Out-of-fold predictions.
    """
    ranked = parcels.sort_values("confidence", kind="stable")
    right, confidence = _right(ranked), ranked["confidence"].to_numpy(np.float64)
    n_groups = min(10, max(1, len(ranked) // FEWEST_PARCELS))
    return [
        Group(
            len(part),
            float(confidence[part].mean()),
            float(right[part].mean()),
            *wilson_interval(int(right[part].sum()), len(part)),
        )
        for part in np.array_split(np.arange(len(ranked)), n_groups)
    ]


def confidence_thresholds(parcels: pd.DataFrame) -> list[Threshold]:
    """Tell, for rising confidences, how many parcels reach it and how many of them are right."""
    right, confidence = _right(parcels), parcels["confidence"].to_numpy(np.float64)
    kept = [(threshold, confidence >= threshold) for threshold in THRESHOLDS]
    return [
        Threshold(threshold, int(k.sum()), float(k.mean()), float(right[k].mean()))
        for threshold, k in kept
        if k.any()
    ]


def doubtful_parcels(parcels: pd.DataFrame, n: int = 10) -> pd.DataFrame:
    """Give the parcels whose declared class the model contradicts with most confidence."""
    differ = parcels[~_right(parcels)]
    return differ.sort_values("confidence", ascending=False, kind="stable").head(n)


def wilson_interval(n_right: int, n: int) -> tuple[float, float]:
    """Bound a share with 95 % confidence (Wilson 1927, J. Am. Stat. Assoc. 22, 209-212)."""
    z, share = 1.959964, n_right / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def _right(parcels: pd.DataFrame) -> NDArray[np.bool_]:
    return (parcels["declared_code"] == parcels["pred_code"]).to_numpy(bool)
