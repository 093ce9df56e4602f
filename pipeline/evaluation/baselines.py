"""Baselines on the same folds: majority guess, boosted trees, random forest and regression."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
# At most as many parcels are trained on and tested, drawn at random, and at most as many parcels
# times classes: what time and memory of all but the majority guess grow with.
MOST_PARCELS = 100_000
MOST_SCORES = 5_000_000
# For more classes, no trees are grown: boosting grows one for every class in each of its 100 steps.
MOST_CLASSES_OF_TREES = 100
TREES = 500
# A tree of the forest has about as many nodes as parcels were trained on, each with a number for
# every class: so much of the forest is in memory at once.
FOREST_BYTES = 500_000_000

Table = NDArray[np.float64]
Labels = NDArray[np.int64]
# Trained on a table and its labels, it returns the labels of another table.
Classify = Callable[[Table, Labels, Table], Labels]


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
    MOST_PARCELS labelled parcels, or more than MOST_SCORES for all classes, as many are drawn at
    random, to train and to test. For more than MOST_CLASSES_OF_TREES, only the regression is made.

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
    parcels, most = np.arange(len(data)), min(MOST_PARCELS, MOST_SCORES // n_classes)
    if len(data) > most:
        parcels, folds = _draw(folds, most, seed)
    series, days = parcel_means(data, parcels), data.days[0]
    if data.observed is not None:
        days = shared_days(data.days, data.observed)
        series = resample(series, data.days[parcels], data.observed[parcels], days)
    table = fill_gaps(series, days).reshape(len(parcels), -1)
    labels = data.labels[parcels]
    n = sum(len(fold.test) for fold in folds)
    methods: dict[str, Classify] = {}
    if n_classes <= MOST_CLASSES_OF_TREES:
        methods["gradient_boosting"] = _boosting(n, seed)
        methods["random_forest"] = _forest(n_classes, seed, threads)
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=MOST_ITERATIONS))
    methods["logistic_regression"] = _classify_by(regression)
    # Boosting (OpenMP) and regression (BLAS) take all cores unless this limits them. Their threads
    # wait for each other so often that they pay for large tables only, and cost up to ten times
    # more if another process runs.
    with threadpool_limits(threads if n > MANY_PARCELS else 1):
        return {
            name: _cross_validate(classify, table, labels, folds, n_classes)
            for name, classify in methods.items()
        }


def _classify_by(classifier: Any) -> Classify:
    """Return a function that fits a scikit-learn classifier and predicts."""
    return lambda table, labels, others: classifier.fit(table, labels).predict(others)


def _boosting(n_parcels: int, seed: int) -> Classify:
    """Return gradient boosting with scikit-learn's defaults, suited to few parcels.

    No parcels are set aside to stop early. Leaves may have fewer than 20 parcels where there are
    fewer than 1,000, which could not be split otherwise. A feature has as many bins as leaves of
    that size have room, because finer bins cost most of the time of few parcels.
    """
    smallest_leaf = max(1, min(20, n_parcels // 50))
    return _classify_by(
        HistGradientBoostingClassifier(
            early_stopping=False,
            min_samples_leaf=smallest_leaf,
            max_bins=max(2, min(255, n_parcels // smallest_leaf)),
            random_state=seed,
        )
    )


def _forest(n_classes: int, seed: int, threads: int) -> Classify:
    """Return a random forest that is grown in parts, whose votes are added up."""

    def classify(table: Table, labels: Labels, others: Table) -> Labels:
        at_once = int(np.clip(FOREST_BYTES // (len(table) * n_classes * 8), 1, TREES))
        classes = np.unique(labels)
        votes = np.zeros((len(others), len(classes)))
        # The parts share the source of seeds, so their trees are those of one forest.
        seeds = np.random.RandomState(seed)
        for first in range(0, TREES, at_once):
            n_trees = min(at_once, TREES - first)
            forest = RandomForestClassifier(n_trees, random_state=seeds, n_jobs=threads)
            votes += n_trees * forest.fit(table, labels).predict_proba(others)
        found: Labels = classes[votes.argmax(axis=1)]
        return found

    return classify


def _draw(folds: Sequence[Fold], most: int, seed: int) -> tuple[NDArray[np.int64], list[Fold]]:
    """Draw at most so many labelled parcels; return them, and the folds among them."""
    parcels = np.unique(np.concatenate([part for fold in folds for part in _parts(fold)]))
    if len(parcels) > most:
        rng = np.random.default_rng(seed)
        parcels = np.sort(rng.choice(parcels, most, replace=False))
    return parcels, [
        Fold(*(np.flatnonzero(np.isin(parcels, part)) for part in _parts(fold))) for fold in folds
    ]


def _parts(fold: Fold) -> tuple[NDArray[np.int64], ...]:
    return fold.train, fold.validation, fold.test


def _cross_validate(
    classify: Classify, table: Table, labels: Labels, folds: Sequence[Fold], n_classes: int
) -> list[Matrix]:
    """Train in every fold; return its confusion matrix on the test part."""
    matrices = []
    for fold in folds:
        training = np.concatenate([fold.train, fold.validation])
        predicted = np.full(len(fold.test), labels[training[0]])
        # A regression needs at least two classes.
        if (labels[training] != labels[training[0]]).any():
            predicted = classify(table[training], labels[training], table[fold.test])
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
