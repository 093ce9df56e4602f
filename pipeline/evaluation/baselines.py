"""Baselines on the same folds: a majority guess, a random forest and a logistic regression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from models.metrics import confusion_matrix
from models.pixel_sets import PixelSets
from pipeline.dataset.folds import Fold

Matrix = NDArray[np.int64]

# Between the dates of parcels that have their own, one value every so many days.
STEP_DAYS = 10
# Their pixels are held at once as float64: 0.3 GB of parcels of 83 pixels, 24 dates and 10 bands.
PARCELS_AT_A_TIME = 2000
# A bound that is not reached: standardised series converge within some hundred iterations.
MOST_ITERATIONS = 10_000


def majority(labels: NDArray[np.int64], folds: Sequence[Fold], n_classes: int) -> list[Matrix]:
    """Predict the most frequent class of each fold's training part: a confusion matrix a fold."""
    matrices = []
    for fold in folds:
        guess = np.bincount(labels[fold.train]).argmax()
        predicted = np.full(len(fold.test), guess)
        matrices.append(confusion_matrix(labels[fold.test], predicted, n_classes))
    return matrices


def classify_series(
    data: PixelSets, folds: Sequence[Fold], n_classes: int, *, seed: int, threads: int
) -> dict[str, list[Matrix]]:
    """Classify the series of parcel means by a random forest and by a logistic regression.

    Neither needs a validation part, so both are trained on that too.

    Parameters
    ----------
    data
        All parcels.
    folds
        Their parts.
    n_classes
        Number of classes.
    seed, threads
        Seed and threads of the forest.

    Returns
    -------
    dict
        {"random_forest" or "logistic_regression": the confusion matrix of each fold}.
    """
    means = parcel_means(data)
    if data.observed is None:
        series, days = means, data.days[0]
    else:
        days = shared_days(data.days, data.observed)
        series = resample(means, data.days, data.observed, days)
    forest = RandomForestClassifier(500, random_state=seed, n_jobs=threads)
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=MOST_ITERATIONS))
    return {
        "random_forest": _cross_validate(forest, series, data.labels, folds, n_classes),
        # It takes no NaN, as the forest does.
        "logistic_regression": _cross_validate(
            regression, fill_gaps(series, days), data.labels, folds, n_classes
        ),
    }


def _cross_validate(
    classifier: Any,
    series: NDArray[np.float64],
    labels: NDArray[np.int64],
    folds: Sequence[Fold],
    n_classes: int,
) -> list[Matrix]:
    """Fit a classifier of scikit-learn in every fold: its confusion matrix on the test part."""
    table = series.reshape(len(series), -1)
    matrices = []
    for fold in folds:
        known = np.concatenate([fold.train, fold.validation])
        predicted = np.full(len(fold.test), labels[known[0]])
        # A regression needs two classes to tell apart.
        if (labels[known] != labels[known[0]]).any():
            predicted = classifier.fit(table[known], labels[known]).predict(table[fold.test])
        matrices.append(confusion_matrix(labels[fold.test], predicted, n_classes))
    return matrices


def parcel_means(data: PixelSets) -> NDArray[np.float64]:
    """Average the valid pixels of every parcel, per date and channel.

    Returns
    -------
    float64 (N, T, C), NaN where a parcel has no valid pixel on a date.
    """
    means = np.full((len(data.ids), *data.pixels.shape[1:]), np.nan)
    some = np.flatnonzero(data.sizes)
    for start in range(0, len(some), PARCELS_AT_A_TIME):
        chosen = some[start : start + PARCELS_AT_A_TIME]
        first = data.offsets[chosen]
        part = slice(first[0], data.offsets[chosen[-1] + 1])
        values = data.pixels[part].astype(np.float64)
        if data.clear is None:
            counts = data.sizes[chosen, None]
        else:
            valid = data.clear[part]
            values *= valid[:, :, None]
            counts = np.add.reduceat(valid, first - first[0], axis=0, dtype=np.int64)
        totals = np.add.reduceat(values, first - first[0], axis=0)
        with np.errstate(invalid="ignore"):
            means[chosen] = totals / counts[:, :, None]
    return means


def shared_days(days: NDArray[np.int64], observed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return days at equal steps that span those of all parcels, int64 (D,)."""
    return np.arange(days[observed].min(), days[observed].max() + STEP_DAYS, STEP_DAYS)


def resample(
    series: NDArray[np.float64],
    days: NDArray[np.int64],
    observed: NDArray[np.bool_],
    to: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Interpolate series on dates of their own to days that all share.

    Parameters
    ----------
    series
        float64 (N, T, C), NaN where a date was not seen.
    days, observed
        int64 and bool (N, T): the day of each date, and whether it is one.
    to
        int64 (D,): the days; None for `shared_days`.

    Returns
    -------
    float64 (N, D, C): linear between a parcel's dates, constant before the first and after the
    last; NaN for a parcel without any.
    """
    known = observed & np.isfinite(series).all(axis=2)
    to = shared_days(days, observed) if to is None else to
    resampled = np.full((len(series), len(to), series.shape[2]), np.nan)
    for i in np.flatnonzero(known.any(axis=1)):
        for channel in range(series.shape[2]):
            values = series[i, known[i], channel]
            resampled[i, :, channel] = np.interp(to, days[i, known[i]], values)
    return resampled


def fill_gaps(series: NDArray[np.float64], days: NDArray[np.int64]) -> NDArray[np.float64]:
    """Interpolate in time where series (N, D, C) on the days (D,) that all share have NaN.

    A parcel that was not seen on any day becomes the mean of the others.
    """
    filled = series.copy()
    gaps = np.flatnonzero(np.isnan(series).any(axis=(1, 2)))
    own = np.broadcast_to(days, (len(gaps), len(days)))
    filled[gaps] = resample(series[gaps], own, np.ones(own.shape, np.bool_), days)
    unseen = np.isnan(filled).any(axis=(1, 2))
    if not unseen.all():
        filled[unseen] = filled[~unseen].mean(axis=0)
    return filled
