"""Prediction sets: for each parcel the classes that cannot be excluded at a stated error rate.

A class is in the set of a parcel unless the parcel looks strange for it: unless its probability of
the class is as low as that of only few parcels that are declared as the class. "Few" is the error
rate, and every class is compared with its own parcels only, so that a rare or difficult class is
missed no more often than others (class-conditional conformal prediction: Vovk et al. 2005,
Algorithmic Learning in a Random World, section 4.5; Sadinle, Lei and Wasserman 2019, Least
Ambiguous Set-Valued Classifiers).

A set can be empty: then the parcel is unlike all classes, as one of a crop that was not trained on.
No class is forced into it.

The parcels to compare with are the out-of-fold predictions. The temperature of a fold is fitted on
those of the other folds.

A parcel without a label is predicted by all folds. The probability by each fold's model is compared
with that fold's test parcels, and the counts are added up (cross-conformal: Vovk 2015,
Cross-conformal predictors). A labelled parcel, which one fold predicts, is compared with the test
parcels of all other folds.

What is proven, and what is measured:

- If a parcel without a label is exchangeable with the labelled ones of its class, as in a random
  sample, comparing it with a single fold covers its class with a probability of at least 1 - error.
  For the sum over K folds, 1 - 2 (error + (1 - error) (K - 1) / (n + K)) is proven, n the labelled
  parcels of the class, because twice a mean of p-values is a p-value (Vovk and Wang 2020, Combining
  p-values via averaging).
- For labelled parcels, nothing exact is proven, because those of a fold share a model. Their
  coverage is measured, and is that of the report. With random folds it is near 1 - error.
- Nothing is proven for parcels that differ from the labelled ones, as in another region. With folds
  by block, the coverage on the test parts shows how much is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.classes.crop_class import CropClass
from pipeline.evaluation.out_of_fold import OutOfFold

# Parcels whose counts are in memory together.
ROWS_AT_A_TIME = 20_000


class PredictionSets:
    """Decide which classes are in the sets of parcels.

    Parameters
    ----------
    predictions
        Out-of-fold predictions of the labelled parcels.
    error
        Share of the parcels of a class whose set may lack it, between 0 and 1.
    """

    def __init__(self, predictions: OutOfFold, error: float) -> None:
        self._predictions = predictions
        n_classes = predictions.probabilities.shape[1]
        own = np.take_along_axis(predictions.probabilities, predictions.labels[:, None], 1)[:, 0]
        # Ascending probabilities of the declared class, by fold (from 0) and class
        self._sorted = [
            [
                np.sort(own[(predictions.fold == number) & (predictions.labels == index)])
                for index in range(n_classes)
            ]
            for number in range(1, predictions.n_folds + 1)
        ]
        self._error = error

    @property
    def never_excluded(self) -> NDArray[np.bool_]:
        """Which classes have too few parcels to be ever excluded: fewer than 1 / error - 1."""
        return np.asarray(self._fewest(self._counts.sum(axis=0)) == 0)

    def of_tested(self) -> NDArray[np.bool_]:
        """Return which classes are in the set of each labelled parcel, bool (N, K).

        A parcel is compared with those of the other folds.
        """
        found = self._predictions
        members = np.empty(found.probabilities.shape, np.bool_)
        for number in range(1, found.n_folds + 1):
            others = [f for f in range(found.n_folds) if f != number - 1]
            fewest, own = self._fewest(self._counts[others].sum(axis=0)), found.rows_of(number)
            for start in range(0, len(own), ROWS_AT_A_TIME):
                rows = own[start : start + ROWS_AT_A_TIME]
                as_strange = sum(self._as_strange(f, found.probabilities[rows]) for f in others)
                members[rows] = as_strange >= fewest
        return members

    def of_new(self, probabilities: Sequence[NDArray[np.float64]]) -> NDArray[np.bool_]:
        """Return which classes are in the set of each of n parcels without a label, bool (n, K).

        Parameters
        ----------
        probabilities
            By the model of every fold, in order: float64 (n, K), calibrated.
        """
        as_strange = sum(self._as_strange(fold, own) for fold, own in enumerate(probabilities))
        return np.asarray(as_strange >= self._fewest(self._counts.sum(axis=0)))

    @property
    def _counts(self) -> NDArray[np.int64]:
        """Number of labelled parcels by fold and class, int64 (folds, K)."""
        return np.array([[len(own) for own in by_class] for by_class in self._sorted], np.int64)

    def _as_strange(self, fold: int, probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
        """Count the parcels of every class in a fold that are at least as strange; (n, K)."""
        columns = zip(self._sorted[fold], probabilities.T, strict=True)
        return np.stack([np.searchsorted(own, p, side="right") for own, p in columns], axis=1)

    def _fewest(self, n: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many of n parcels must be as strange for a class to be in a set.

        A class is in the set if its p-value (count + 1) / (n + 1) exceeds the error rate: if its
        probability is not below the finite-sample quantile ceil((n + 1) (1 - error)) of n.
        """
        # An error rate such as 0.29 is not exact in binary.
        return np.asarray(np.floor(self._error * (n + 1) + 1e-9), np.int64)


def describe_sets(
    predictions: OutOfFold, classes: Sequence[CropClass], error: float
) -> dict[str, Any]:
    """Measure coverage and size of the sets of the labelled parcels.

    Returns
    -------
    dict
        Values of JSON: error; coverage, the share of parcels whose declared class is in their set;
        mean_size; empty, the share of sets without a class; per_class, the same with code, name
        and support, and never_excluded, whether the class has too few parcels to be ever excluded.
        Coverage, size and share are null for a class without parcels.
    """
    sets = PredictionSets(predictions, error)
    members = sets.of_tested()
    labels = predictions.labels
    never = sets.never_excluded.tolist()
    rows = [
        {"code": crop.code, "name": crop.name, "never_excluded": never[index]}
        | _shares(members[labels == index], labels[labels == index])
        for index, crop in enumerate(classes)
    ]
    return {"error": error, **_shares(members, labels), "per_class": rows}


def _shares(members: NDArray[np.bool_], labels: NDArray[np.int64]) -> dict[str, float | int | None]:
    """Return number, coverage, mean size and share of empty sets of some parcels."""
    if not len(labels):
        return {"support": 0, "coverage": None, "mean_size": None, "empty": None}
    sizes = members.sum(axis=1)
    return {
        "support": len(labels),
        "coverage": float(members[np.arange(len(labels)), labels].mean()),
        "mean_size": float(sizes.mean()),
        "empty": float((sizes == 0).mean()),
    }
