"""Scores as tables: of all folds together and of each, of every class and of all."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from models.metrics import class_metrics, overall_metrics
from pipeline.dataset.metadata import LandClass
from pipeline.evaluation.baselines import Matrix
from pipeline.workflow.writing import replacing

# Measures of a class by the reference's keys, under the names that stand in tables.
CLASS_METRICS = {"Precision": "precision", "Recall": "recall", "F1-score": "f1", "IoU": "iou"}


def add_up(matrices: Sequence[Matrix]) -> Matrix:
    """Add up the confusion matrices of the folds."""
    together: Matrix = np.sum(matrices, axis=0, dtype=np.int64)
    return together


def spread_over_folds(matrices: Sequence[Matrix]) -> dict[str, dict[str, float]]:
    """Compute the mean of every overall metric over the folds, and its standard deviation.

    Parameters
    ----------
    matrices
        Confusion matrix of each fold, two folds or more.

    Returns
    -------
    dict
        {metric: {"mean": ..., "std": ...}} under the reference's keys; ddof 1.
    """
    folds = [overall_metrics(matrix) for matrix in matrices]
    return {
        metric: {"mean": statistics.fmean(values), "std": statistics.stdev(values)}
        for metric in folds[0]
        for values in [[fold[metric] for fold in folds]]
    }


def write_per_class(path: Path, classes: Sequence[LandClass], matrix: Matrix) -> None:
    """Write one row of scores a class."""
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["code", "name", "support", *CLASS_METRICS.values()])
        support = matrix.sum(axis=1)
        for i, values in class_metrics(matrix).items():
            scores = (values[key] for key in CLASS_METRICS)
            land = classes[int(i)]
            writer.writerow([land.code, land.name, support[int(i)], *(f"{s:.4f}" for s in scores)])


def write_scores(
    path: Path, classes: Sequence[LandClass], matrices: Mapping[str, Sequence[Matrix]]
) -> None:
    """Write every score as a row of its own.

    Parameters
    ----------
    path
        CSV with the columns method, fold (1 to K, or all: of the folds' confusion matrices
        together), class (its code, or overall), metric and value.
    classes
        In order of the class index.
    matrices
        {method: the confusion matrix of each fold}.
    """
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["method", "fold", "class", "metric", "value"])
        for method, folds in matrices.items():
            for fold, matrix in [*enumerate(folds, 1), ("all", add_up(folds))]:
                writer.writerows((method, fold, *row) for row in _rows(classes, matrix))


def _rows(classes: Sequence[LandClass], matrix: Matrix) -> Iterator[tuple[str, str, float | int]]:
    """Give (class, metric, value) of all classes together and of each."""
    overall = {"support": int(matrix.sum()), **overall_metrics(matrix)}
    yield from (("overall", metric, _rounded(value)) for metric, value in overall.items())
    for land, values, support in zip(
        classes, class_metrics(matrix).values(), matrix.sum(axis=1), strict=True
    ):
        yield str(land.code), "support", int(support)
        for key, metric in CLASS_METRICS.items():
            yield str(land.code), metric, _rounded(values[key])


def _rounded(value: float | int) -> float | int:
    return value if isinstance(value, int) else round(value, 6)
