"""Baselines on the same folds: majority guess, boosted trees, random forest and regression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from models.metrics import confusion_matrix
from models.pixel_sets import PixelSets
from pipeline.dataset.pixel_set_dataset import Fold
from pipeline.evaluation.scores import Matrix

# If dates differ between parcels, series are interpolated to days at this step.
STEP_DAYS = 10
# Values of pixels that are in memory at once as float64: 0.3 GB.
VALUES_AT_A_TIME = 40_000_000
# This limit is not reached: on standardised series the regression converges within some hundred
# iterations.
MOST_ITERATIONS = 10_000
# From this number of parcels on, boosting and regression use several threads.
MANY_PARCELS = 20_000
# At most as many parcels are trained on and tested, drawn at random: the memory of a forest and of
# the table grows with them.
MOST_PARCELS = 100_000


def majority(labels: NDArray[np.int64], folds: Sequence[Fold], n_classes: int) -> list[Matrix]:
    """Predict the most frequent class of each training part; return a confusion matrix a fold."""
    matrices = []
    for fold in folds:
        guess = np.bincount(labels[fold.train]).argmax()
        predicted = np.full(len(fold.test), guess)
        matrices.append(confusion_matrix(labels[fold.test], predicted, n_classes))
    return matrices


def classify_series(
    data: PixelSets, folds: Sequence[Fold], n_classes: int, *, seed: int, threads: int
) -> dict[str, list[Matrix]]:
    """Classify the series of parcel means by gradient boosting, a random forest and a regression.

    None of them uses a validation part, so all are trained on training and validation part. All get
    the same table: gaps are interpolated in time, although trees could do without. Of more than
    MOST_PARCELS labelled parcels, as many are drawn at random, to train and to test.

    Parameters
    ----------
    data
        All parcels.
    folds
        The folds.
    n_classes
        Number of classes.
    seed, threads
        Seed of the trees, and threads.

    Returns
    -------
    dict
        {"gradient_boosting", "random_forest" or "logistic_regression": the confusion matrix of each
        fold}.
    """
    parcels = np.arange(len(data))
    if len(data) > MOST_PARCELS:
        parcels, folds = _draw(folds, seed)
    series, days = parcel_means(data, parcels), data.days[0]
    if data.observed is not None:
        days = shared_days(data.days, data.observed)
        series = resample(series, data.days[parcels], data.observed[parcels], days)
    table = fill_gaps(series, days)
    # scikit-learn's defaults, except that no parcels are set aside to stop early, and that leaves
    # may have fewer than 20 parcels where there are fewer than 1000: they could not be split.
    n = sum(len(fold.test) for fold in folds)
    boosting = HistGradientBoostingClassifier(
        early_stopping=False, min_samples_leaf=max(1, min(20, n // 50)), random_state=seed
    )
    classifiers = {
        "gradient_boosting": boosting,
        "random_forest": RandomForestClassifier(500, random_state=seed, n_jobs=threads),
        "logistic_regression": make_pipeline(
            StandardScaler(), LogisticRegression(max_iter=MOST_ITERATIONS)
        ),
    }
    # Boosting (OpenMP) and regression (BLAS) take all cores unless this limits them. Their threads
    # wait for each other so often that they pay for large tables only, and cost up to ten times
    # more if another process runs.
    with threadpool_limits(threads if n > MANY_PARCELS else 1):
        return {
            name: _cross_validate(classifier, table, data.labels[parcels], folds, n_classes)
            for name, classifier in classifiers.items()
        }


def _draw(folds: Sequence[Fold], seed: int) -> tuple[NDArray[np.int64], list[Fold]]:
    """Draw at most MOST_PARCELS labelled parcels; return them, and the folds among them."""
    parcels = np.unique(np.concatenate([part for fold in folds for part in _parts(fold)]))
    if len(parcels) > MOST_PARCELS:
        rng = np.random.default_rng(seed)
        parcels = np.sort(rng.choice(parcels, MOST_PARCELS, replace=False))
    return parcels, [
        Fold(*(np.flatnonzero(np.isin(parcels, part)) for part in _parts(fold))) for fold in folds
    ]


def _parts(fold: Fold) -> tuple[NDArray[np.int64], ...]:
    return fold.train, fold.validation, fold.test


def _cross_validate(
    classifier: Any,
    series: NDArray[np.float64],
    labels: NDArray[np.int64],
    folds: Sequence[Fold],
    n_classes: int,
) -> list[Matrix]:
    """Fit a scikit-learn classifier in every fold; return its confusion matrix on the test part."""
    table = series.reshape(len(series), -1)
    matrices = []
    for fold in folds:
        training = np.concatenate([fold.train, fold.validation])
        predicted = np.full(len(fold.test), labels[training[0]])
        # A regression needs at least two classes.
        if (labels[training] != labels[training[0]]).any():
            classifier.fit(table[training], labels[training])
            predicted = classifier.predict(table[fold.test])
        matrices.append(confusion_matrix(labels[fold.test], predicted, n_classes))
    return matrices


def parcel_means(data: PixelSets, parcels: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    """Average the clear pixels of all parcels, or of some, int64 (N,), per date and channel.

    Returns
    -------
    float64 (N, T, C), NaN where a parcel has no clear pixel on a date.
    """
    parcels = np.arange(len(data)) if parcels is None else parcels
    means = np.full((len(parcels), *data.pixels.shape[1:]), np.nan)
    with_pixels = np.flatnonzero(data.sizes_of(parcels))
    if not len(with_pixels):
        return means
    # A parcel belongs to the batch in which its last pixel is.
    last = np.cumsum(data.sizes_of(parcels[with_pixels])) - 1
    batch = last * data.n_dates * data.n_channels // VALUES_AT_A_TIME
    for places in np.split(with_pixels, np.flatnonzero(np.diff(batch)) + 1):
        part = data.chosen(parcels[places])
        values = part.pixels[:].astype(np.float64)
        if part.clear is None:
            counts = part.sizes[:, None]
        else:
            clear = part.clear[:]
            values *= clear[:, :, None]
            counts = np.add.reduceat(clear, part.offsets[:-1], axis=0, dtype=np.int64)
        totals = np.add.reduceat(values, part.offsets[:-1], axis=0)
        with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
            means[places] = totals / counts[:, :, None]
    return means


def shared_days(days: NDArray[np.int64], observed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return days at equal steps from the first to the last day of all parcels, int64 (D,)."""
    return np.arange(days[observed].min(), days[observed].max() + STEP_DAYS, STEP_DAYS)


def resample(
    series: NDArray[np.float64],
    days: NDArray[np.int64],
    observed: NDArray[np.bool_],
    to: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Interpolate series from per-parcel dates to days that all parcels share.

    Parameters
    ----------
    series
        float64 (N, T, C), NaN where no pixel is clear.
    days, observed
        int64 and bool (N, T): the day of each date, and whether it is not padding.
    to
        int64 (D,): the shared days.

    Returns
    -------
    float64 (N, D, C): linear between a parcel's dates, constant before the first and after the
    last; NaN for a parcel that is clear on no date.
    """
    clear = observed & np.isfinite(series).all(axis=2)
    resampled = np.full((len(series), len(to), series.shape[2]), np.nan)
    for i in np.flatnonzero(clear.any(axis=1)):
        for channel in range(series.shape[2]):
            values = series[i, clear[i], channel]
            resampled[i, :, channel] = np.interp(to, days[i, clear[i]], values)
    return resampled


def fill_gaps(series: NDArray[np.float64], days: NDArray[np.int64]) -> NDArray[np.float64]:
    """Interpolate NaN in time: series (N, D, C) on days (D,) that all parcels share.

    A parcel that is clear on no day gets the mean of the others.
    """
    complete = series.copy()
    gaps = np.flatnonzero(np.isnan(series).any(axis=(1, 2)))
    own = np.broadcast_to(days, (len(gaps), len(days)))
    complete[gaps] = resample(series[gaps], own, np.ones(own.shape, np.bool_), days)
    never_clear = np.isnan(complete).any(axis=(1, 2))
    if not never_clear.all():
        complete[never_clear] = complete[~never_clear].mean(axis=0)
    return complete
