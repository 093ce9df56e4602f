"""A population of parcels of which some are labelled, and what can be estimated of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.areas import (
    Accuracy,
    Estimate,
    Float,
    Index,
    Sample,
    accuracy,
    difference,
    error_adjusted,
    sum_by,
)

# A group of fewer labelled parcels is joined with others: its shares would be too uncertain, and a
# group in which all happen to be right would look as if it had no error.
FEWEST_IN_GROUP = 10
# With fewer labelled parcels, variances are not known well enough for an interval: in all, ...
FEWEST_LABELLED = 20
# ... and of a class. These are effective numbers, because a sample that lacks one of a few very
# large parcels knows nothing of them. docs/accuracy.md has how often intervals are right then.
FEWEST_OF_CLASS = 5


@dataclass(frozen=True)
class Population:
    """N parcels, of which some are labelled.

    Attributes
    ----------
    areas
        float64 (N,), m2, positive.
    labels
        int64 (N,), declared class, in 0 .. K - 1; -1 for parcels that are not labelled.
    mapped
        int64 (N,), predicted class, for labelled parcels by a model that was not trained on them.
    predicted
        float (N, K), probabilities of the classes, for labelled parcels as `mapped`; for the others
        the mean of the models.
    strata
        int64 (N,), in 0 .. S - 1. The labelled parcels are a random sample of each stratum.
    """

    areas: Float
    labels: Index
    mapped: Index
    predicted: NDArray[np.floating]
    strata: Index

    @property
    def n_classes(self) -> int:
        """Number K of classes."""
        return int(self.predicted.shape[1])

    @property
    def is_labelled(self) -> NDArray[np.bool_]:
        """Which parcels are labelled, bool (N,)."""
        labelled: NDArray[np.bool_] = self.labels >= 0
        return labelled

    def part(self, chosen: NDArray[np.bool_] | Index) -> Population:
        """Return some of the parcels as a population of their own."""
        return Population(
            self.areas[chosen],
            self.labels[chosen],
            self.mapped[chosen],
            self.predicted[chosen],
            self.strata[chosen],
        )

    def areas_by(self, classes: Index, chosen: NDArray[np.bool_] | None = None) -> Float:
        """Add up the areas by class (N,), of all parcels or of some: float64 (K,), m2."""
        where = slice(None) if chosen is None else chosen
        return sum_by(classes[where], self.areas[where], self.n_classes)

    def counts(self) -> Index:
        """Count the labelled parcels of every class, int64 (K,)."""
        return np.bincount(self.labels[self.is_labelled], minlength=self.n_classes)

    def sample(self, groups: Index) -> Sample:
        """Return the labelled parcels in groups (N,), numbered from 0."""
        labelled = self.is_labelled
        rest = sum_by(groups[~labelled], self.areas[~labelled], int(groups.max(initial=0)) + 1)
        return Sample(self.areas[labelled], groups[labelled], rest)

    def by_stratum(self) -> Sample:
        """Return the labelled parcels by stratum."""
        return self.sample(np.unique(self.strata, return_inverse=True)[1])

    def by_predicted_class(self) -> Sample:
        """Return the labelled parcels by stratum and predicted class."""
        groups = join_small_groups(self.strata, self.mapped, self.is_labelled, self.n_classes)
        return self.sample(groups)

    def error_adjusted(self) -> Estimate:
        """Estimate the areas from the labelled parcels by predicted class."""
        labels = self.labels[self.is_labelled]
        return error_adjusted(self.by_predicted_class(), labels, self.n_classes)

    def difference(self) -> Estimate:
        """Estimate the areas from the probabilities, corrected by their errors."""
        labelled = self.is_labelled
        predicted = self.predicted[labelled].astype(np.float64)
        rest = np.array(self.areas[~labelled] @ self.predicted[~labelled], np.float64)
        return difference(self.by_stratum(), self.labels[labelled], predicted, rest)

    def accuracy(self) -> Accuracy:
        """Estimate the accuracies of the predicted classes by area."""
        labelled = self.is_labelled
        return accuracy(
            self.by_predicted_class(),
            self.labels[labelled],
            self.mapped[labelled],
            self.areas_by(self.mapped),
        )

    @property
    def is_too_small(self) -> bool:
        """Whether the labelled parcels are too few for the others, in all or in a stratum."""
        labelled = self.is_labelled
        if labelled.all():
            return False
        counts = np.bincount(self.strata[labelled], minlength=int(self.strata.max()) + 1)
        own = self.areas[labelled]
        [number] = effective_numbers(own, np.zeros(len(own), np.int64), 1)
        return bool(number < FEWEST_LABELLED or counts[self.strata[~labelled]].min() < 2)

    def has_interval(self) -> NDArray[np.bool_]:
        """Return the classes with enough labelled parcels for an interval, bool (K,)."""
        labelled = self.is_labelled
        own = self.labels[labelled]
        numbers = effective_numbers(self.areas[labelled], own, self.n_classes)
        return (numbers >= FEWEST_OF_CLASS) | labelled.all()


def effective_numbers(areas: Float, groups: Index, n_groups: int) -> Float:
    """Return how many parcels of equal area would tell as much: (sum of a)^2 / sum of a^2.

    Kish (1992, Journal of Official Statistics 8, 183-200). float64 (n_groups,); 0 without parcels.
    """
    total, squares = (sum_by(groups, areas**power, n_groups) for power in (1, 2))
    numbers = np.divide(total**2, squares, out=np.zeros(n_groups), where=squares > 0)
    # Rounded, so that parcels of equal area count as many as they are.
    return np.asarray(np.round(numbers, 9), np.float64)


def join_small_groups(
    strata: Index, mapped: Index, is_labelled: NDArray[np.bool_], n_classes: int
) -> Index:
    """Group parcels by stratum and predicted class, and join groups with too few labelled parcels.

    The smallest groups of a stratum are joined with each other until the result has at least
    `FEWEST_IN_GROUP` labelled parcels, or is the whole stratum.

    Parameters
    ----------
    strata
        int64 (N,), stratum of every parcel, in 0 .. S - 1.
    mapped
        int64 (N,), predicted class.
    is_labelled
        bool (N,).
    n_classes
        Number of classes that can be predicted.

    Returns
    -------
    int64 (N,), group of every parcel, numbered from 0 without gaps.
    """
    cells, cell_of = np.unique(strata * n_classes + mapped, return_inverse=True)
    counts = np.bincount(cell_of[is_labelled], minlength=len(cells))
    joined = np.arange(len(cells))
    for stratum in np.unique(cells // n_classes):
        own = np.flatnonzero(cells // n_classes == stratum)
        own = own[np.argsort(counts[own], kind="stable")]
        if counts[own[0]] < FEWEST_IN_GROUP:
            enough = np.cumsum(counts[own]) >= FEWEST_IN_GROUP
            n_joined = int(enough.argmax()) + 1 if enough.any() else len(own)
            joined[own[:n_joined]] = own[0]
    groups: Index = np.unique(joined[cell_of], return_inverse=True)[1].astype(np.int64)
    return groups
