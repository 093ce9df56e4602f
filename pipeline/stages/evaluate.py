"""Stage evaluate: scores of the trained folds on their test parcels, beside baselines."""

from __future__ import annotations

import csv
import logging
import pickle
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.crop_model import CropModel
from models.metrics import class_metrics, confusion_matrix, mean_iou, overall_metrics
from models.training.distributed import choose_device
from pipeline.classes.crop_class import CropClass
from pipeline.dataset.model_inputs import read_inputs
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.evaluation.baselines import Matrix, classify_series, majority
from pipeline.workflow.settings import EvaluateSettings
from pipeline.workflow.writing import finite_or_null, replacing, write_json

logger = logging.getLogger(__name__)


def evaluate(
    dataset: Path, folds: Path, models: Path, settings: EvaluateSettings, threads: int = 1
) -> None:
    """Score every fold on its test parcels, which its model has never seen.

    Beside them stand three baselines on the same folds: the most frequent class of the training
    part, and a random forest and a logistic regression on the parcels' mean reflectances.

    Parameters
    ----------
    dataset
        Pixel-Set dataset.
    folds
        What split wrote.
    models
        Folder of Fold_<k>/. Written into it, as the reference does: test_metrics.json and
        conf_mat.pkl of each fold, overall.json. Beside them: per_class.json and .csv;
        baselines.json; spread.json, mean and standard deviation of the overall scores over the
        folds; scores.csv, every score of every fold, one a row.
    settings
        train.device, predict.batch_size, split.seed.
    threads
        Threads of torch on a CPU, and of the random forest.
    """
    device = choose_device(settings.train.device, threads)
    opened = PixelSetDataset.open(dataset)
    classes, parts = opened.shown_classes, opened.folds(folds)
    fitted = [CropModel.load(models / f"Fold_{k}", device) for k in range(1, len(parts) + 1)]
    data = read_inputs(opened, fitted, classes)
    matrices: dict[str, list[Matrix]] = {"model": []}
    for number, (fold, model) in enumerate(zip(parts, fitted, strict=True), 1):
        scores = model.log_probabilities(data, fold.test, settings.predict.batch_size)
        matrices["model"].append(
            _write_fold(models / f"Fold_{number}", scores, data.labels[fold.test])
        )
    matrices |= classify_series(
        data, parts, len(classes), seed=settings.split.seed, threads=threads
    )
    matrices["majority"] = majority(data.labels, parts, len(classes))
    overall = {method: overall_metrics(add_up(folds)) for method, folds in matrices.items()}
    write_json(models / "overall.json", overall["model"])
    write_json(models / "baselines.json", {m: v for m, v in overall.items() if m != "model"})
    write_json(models / "spread.json", {m: spread_over_folds(f) for m, f in matrices.items()})
    write_per_class(models / "per_class.json", classes, add_up(matrices["model"]))
    write_scores(models / "scores.csv", classes, matrices)
    for method, values in overall.items():
        logger.info(
            "%-19s overall accuracy %5.1f %%, mean IoU %.3f, macro F1 %.3f",
            *(method, 100 * values["Accuracy"], values["MACRO_IoU"], values["MACRO_F1-score"]),
        )


def _write_fold(folder: Path, scores: NDArray[np.float32], labels: NDArray[np.int64]) -> Matrix:
    """Write a fold's scores in the reference's files; return its confusion matrix."""
    predicted = scores.argmax(axis=1)
    matrix = confusion_matrix(labels, predicted, scores.shape[1])
    metrics = {
        "test_accuracy": 100 * float((predicted == labels).mean()),
        "test_loss": float(-scores[np.arange(len(labels)), labels].mean()),
        "test_IoU": mean_iou(matrix),
    }
    write_json(folder / "test_metrics.json", finite_or_null(metrics))
    with replacing(folder / "conf_mat.pkl") as temporary:
        temporary.write_bytes(pickle.dumps(matrix, protocol=4))
    return matrix


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
