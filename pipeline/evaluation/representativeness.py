"""Tests of whether labelled parcels can be a random sample of all: what speaks against it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.stats import chi2_contingency, ks_2samp, mannwhitneyu, norm

# Share of random samples for which any of the tests would find a difference.
FALSE_ALARMS = 0.001
# Tests compare groups of at least this size.
FEWEST = 20

Labelled = NDArray[np.bool_]


@dataclass(frozen=True)
class Difference:
    """How the labelled parcels differ from the others.

    Attributes
    ----------
    what
        area, position, neighbours or predicted_class.
    p_value
        Probability of a difference at least as large in a random sample, for this test alone.
    words
        The difference in words.
    """

    what: str
    p_value: float
    words: str


def find_differences(
    areas: NDArray[np.float64],
    positions: NDArray[np.float64],
    mapped: NDArray[np.int64],
    is_labelled: Labelled,
    strata: NDArray[np.int64],
) -> list[Difference]:
    """Return the differences that a random sample would hardly have, the least plausible first.

    Every test is done within every stratum. The tests together raise a false alarm for one random
    sample in a thousand (Bonferroni's correction).

    Parameters
    ----------
    areas
        float64 (N,), m2.
    positions
        float64 (N, 2), metres.
    mapped
        int64 (N,), predicted class.
    is_labelled
        bool (N,).
    strata
        int64 (N,), from 0.
    """
    found: list[Difference] = []
    order = np.argsort(strata, kind="stable")
    for own in np.split(order, np.flatnonzero(np.diff(strata[order])) + 1):
        labelled = is_labelled[own]
        if min(labelled.sum(), (~labelled).sum()) >= FEWEST:
            found += [
                _compare_areas(areas[own], labelled),
                *_compare_positions(positions[own], labelled),
                _compare_neighbours(positions[own], labelled),
                *_compare_classes(mapped[own], labelled),
            ]
    limit = FALSE_ALARMS / max(1, len(found))
    return sorted((d for d in found if d.p_value < limit), key=lambda d: d.p_value)


def _compare_areas(areas: NDArray[np.float64], labelled: Labelled) -> Difference:
    """Compare the areas (Mann and Whitney 1947)."""
    own, others = areas[labelled], areas[~labelled]
    test = mannwhitneyu(own, others, method="asymptotic")
    medians = np.median(own) / 10_000, np.median(others) / 10_000
    words = f"their median area is {medians[0]:.2g} ha, that of the others {medians[1]:.2g} ha"
    return Difference("area", float(test.pvalue), words)


def _compare_positions(positions: NDArray[np.float64], labelled: Labelled) -> Iterator[Difference]:
    """Compare both coordinates (Kolmogorov and Smirnov)."""
    for axis, sides in enumerate((("west", "east"), ("south", "north"))):
        own, others = positions[labelled, axis], positions[~labelled, axis]
        test = ks_2samp(own, others, method="asymp")
        shift = np.median(own) - np.median(others)
        words = f"they lie farther {sides[int(shift > 0)]} than the others, or less spread"
        yield Difference("position", float(test.pvalue), words)


def _compare_neighbours(positions: NDArray[np.float64], labelled: Labelled) -> Difference:
    """Compare how often the nearest neighbour of a labelled parcel is labelled, too.

    The test of Cuzick and Edwards (1990, Journal of the Royal Statistical Society B 52, 73-104)
    with one neighbour, by its normal approximation.
    """
    # The second nearest point is the nearest other one, or one at the same place.
    nearest = cKDTree(positions).query(positions, k=2)[1]
    own = np.arange(len(positions))
    neighbour = np.where(nearest[:, 0] == own, nearest[:, 1], nearest[:, 0])
    n_both = int((labelled & labelled[neighbour]).sum())
    mean, variance = pair_moments(neighbour, int(labelled.sum()))
    p_value = float(2 * norm.sf(abs(n_both - mean) / sqrt(variance))) if variance > 0 else 1.0
    n = labelled.sum()
    words = (
        f"the nearest neighbour of {n_both / n:.0%} of them is labelled, too; in a random sample, "
        f"it would be {mean / n:.0%}"
    )
    return Difference("neighbours", p_value, words)


def pair_moments(neighbour: NDArray[np.int64], n_labelled: int) -> tuple[float, float]:
    """Return mean and variance of the number of labelled points whose neighbour is labelled.

    Over all choices of `n_labelled` of the points. The variance follows from the number of pairs of
    points that concern two, three or four points together with their neighbours.

    Parameters
    ----------
    neighbour
        int64 (N,), another point for every point.
    n_labelled
        Number of labelled points.
    """
    n = len(neighbour)
    # Probability that 2, 3 and 4 points are all labelled.
    chances = np.cumprod([(n_labelled - i) / (n - i) if n > i else 0.0 for i in range(4)])[1:]
    two, three, four = np.maximum(chances, 0)
    n_mutual = int((neighbour[neighbour] == np.arange(n)).sum())
    popularity = np.bincount(neighbour, minlength=n)
    n_shared = int((popularity * (popularity - 1)).sum())
    of_two = n + n_mutual
    of_three = n_shared + 2 * (n - n_mutual)
    square = of_two * two + of_three * three + (n * n - of_two - of_three) * four
    mean = n * two
    return float(mean), float(square - mean**2)


def _compare_classes(mapped: NDArray[np.int64], labelled: Labelled) -> Iterator[Difference]:
    """Compare the predicted classes (Pearson's chi-squared test)."""
    _, classes = np.unique(mapped, return_inverse=True)
    table: NDArray[Any] = np.array(
        [np.bincount(classes[part], minlength=classes.max() + 1) for part in (labelled, ~labelled)]
    )
    # The approximation needs five expected parcels in every cell: rare classes count as one.
    rare = table.sum(axis=0) * table.sum(axis=1).min() / table.sum() < 5
    if rare.any():
        table = np.column_stack([table[:, ~rare], table[:, rare].sum(axis=1)])
    if table.shape[1] > 1:
        p_value = float(chi2_contingency(table, correction=False).pvalue)
        words = "their predicted classes have other shares than those of the others"
        yield Difference("predicted_class", p_value, words)
