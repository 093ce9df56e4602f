"""What a model has to beat, on the same folds: a majority guess and a random forest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier

from models.metrics import confusion_matrix
from models.pixel_sets import PixelSets
from pipeline.folds import Fold

Matrix = NDArray[np.int64]


def majority(labels: NDArray[np.int64], folds: list[Fold], n_classes: int) -> Matrix:
    """Predict the most frequent class of each fold's training part; sum the confusion matrices."""
    matrix = np.zeros((n_classes, n_classes), np.int64)
    for fold in folds:
        guess = np.bincount(labels[fold.train]).argmax()
        matrix += confusion_matrix(labels[fold.test], np.full(len(fold.test), guess), n_classes)
    return matrix


def random_forest(
    data: PixelSets, folds: list[Fold], n_classes: int, *, seed: int, threads: int
) -> Matrix:
    """Classify parcel means by a random forest; sum the confusion matrices of the folds.

    It needs no validation, so it is trained on the training and the validation part.
    """
    means = parcel_means(data)
    matrix = np.zeros((n_classes, n_classes), np.int64)
    for fold in folds:
        known = np.concatenate([fold.train, fold.validation])
        forest = RandomForestClassifier(500, random_state=seed, n_jobs=threads)
        forest.fit(means[known], data.labels[known])
        matrix += confusion_matrix(
            data.labels[fold.test], forest.predict(means[fold.test]), n_classes
        )
    return matrix


def parcel_means(data: PixelSets) -> NDArray[np.float64]:
    """Average the valid pixels of every parcel, per date and channel.

    Returns
    -------
    float64 (N, T x C), NaN where a parcel has no valid pixel on a date.
    """
    means = np.full((len(data.ids), *data.pixels.shape[1:]), np.nan)
    for i, (start, stop) in enumerate(zip(data.offsets[:-1], data.offsets[1:], strict=True)):
        pixels = data.pixels[start:stop].astype(np.float64)
        if data.valid is None:
            means[i] = pixels.mean(axis=0)
            continue
        valid = data.valid[start:stop]
        seen = valid.any(axis=0)
        total = np.einsum("stc,st->tc", pixels, valid)
        means[i, seen] = total[seen] / valid.sum(axis=0)[seen, None]
    return means.reshape(len(data.ids), -1)
