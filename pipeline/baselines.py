"""What a model has to beat, on the same folds: a majority guess and a random forest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier

from models.metrics import confusion_matrix
from models.pixel_sets import PixelSets
from pipeline.folds import Fold

Matrix = NDArray[np.int64]


# Between the dates of parcels that have their own, one value every so many days.
STEP_DAYS = 10
# Their pixels are held at once as float64: 0.3 GB of parcels of 83 pixels, 24 dates and 10 bands.
PARCELS_AT_A_TIME = 2000


def majority(labels: NDArray[np.int64], folds: Sequence[Fold], n_classes: int) -> list[Matrix]:
    """Predict the most frequent class of each fold's training part: a confusion matrix a fold."""
    matrices = []
    for fold in folds:
        guess = np.bincount(labels[fold.train]).argmax()
        predicted = np.full(len(fold.test), guess)
        matrices.append(confusion_matrix(labels[fold.test], predicted, n_classes))
    return matrices


def random_forest(
    data: PixelSets, folds: Sequence[Fold], n_classes: int, *, seed: int, threads: int
) -> list[Matrix]:
    """Classify parcel means by a random forest: a confusion matrix a fold.

    It needs no validation, so it is trained on the training and the validation part.
    """
    means = parcel_means(data)
    series = means if data.observed is None else resample(means, data.days, data.observed)
    table = series.reshape(len(series), -1)
    matrices = []
    for fold in folds:
        known = np.concatenate([fold.train, fold.validation])
        forest = RandomForestClassifier(500, random_state=seed, n_jobs=threads)
        forest.fit(table[known], data.labels[known])
        predicted = forest.predict(table[fold.test])
        matrices.append(confusion_matrix(data.labels[fold.test], predicted, n_classes))
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
        if data.valid is None:
            counts = data.sizes[chosen, None]
        else:
            valid = data.valid[part]
            values *= valid[:, :, None]
            counts = np.add.reduceat(valid, first - first[0], axis=0, dtype=np.int64)
        totals = np.add.reduceat(values, first - first[0], axis=0)
        with np.errstate(invalid="ignore"):
            means[chosen] = totals / counts[:, :, None]
    return means


def resample(
    series: NDArray[np.float64], days: NDArray[np.int64], observed: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Interpolate series on dates of their own to days that all share.

    Parameters
    ----------
    series
        float64 (N, T, C), NaN where a date was not seen.
    days, observed
        int64 and bool (N, T): the day of each date, and whether it is one.

    Returns
    -------
    float64 (N, D, C): linear between a parcel's dates, constant before the first and after the
    last; NaN for a parcel without any.
    """
    known = observed & np.isfinite(series).all(axis=2)
    grid = np.arange(days[observed].min(), days[observed].max() + STEP_DAYS, STEP_DAYS)
    resampled = np.full((len(series), len(grid), series.shape[2]), np.nan)
    for i in np.flatnonzero(known.any(axis=1)):
        for channel in range(series.shape[2]):
            values = series[i, known[i], channel]
            resampled[i, :, channel] = np.interp(grid, days[i, known[i]], values)
    return resampled
