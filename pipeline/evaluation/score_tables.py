"""Scores as tables: of all folds together and of each, of every class and of all."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.metrics import class_metrics, overall_metrics
from pipeline.classes.crop_class import CropClass
from pipeline.evaluation.baselines import Matrix
from pipeline.workflow.writing import finite_or_null, replacing, write_json

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


def write_per_class(path: Path, classes: Sequence[CropClass], matrix: Matrix) -> None:
    """Write the scores of every class as JSON, and as CSV beside it, for people."""
    support = matrix.sum(axis=1)
    rows: list[tuple[dict[str, Any], dict[str, float]]] = []
    for i, values in class_metrics(matrix).items():
        land = classes[int(i)]
        own = {"code": land.code, "name": land.name, "support": int(support[int(i)])}
        rows.append((own, {name: values[key] for key, name in CLASS_METRICS.items()}))
    write_json(path, [own | finite_or_null(scores) for own, scores in rows])
    with replacing(path.with_suffix(".csv")) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["code", "name", "support", *CLASS_METRICS.values()])
        for own, scores in rows:
            writer.writerow([*own.values(), *(f"{score:.4f}" for score in scores.values())])


def write_scores(
    path: Path, classes: Sequence[CropClass], matrices: Mapping[str, Sequence[Matrix]]
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


def _rows(classes: Sequence[CropClass], matrix: Matrix) -> Iterator[tuple[str, str, float | int]]:
    """Yield (class, metric, value) of all classes together and of each."""
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
