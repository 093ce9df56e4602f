"""Stage evaluate: score the trained models on the test parcels of their folds, and baselines."""

from __future__ import annotations

import csv
import logging
import pickle
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.metrics import class_metrics, confusion_matrix, mean_iou, overall_metrics
from models.model_files import OUT_OF_FOLD_FILE
from pipeline.classes.crop_class import CropClass
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.evaluation.baselines import classify_series, majority
from pipeline.evaluation.calibration_error import describe_calibration
from pipeline.evaluation.out_of_fold import read_tested
from pipeline.evaluation.prediction_sets import describe_sets
from pipeline.evaluation.scores import CLASS_METRICS, Matrix, write_per_class
from pipeline.workflow.settings import EvaluateSettings
from pipeline.workflow.writing import finite_or_null, replacing, write_json

logger = logging.getLogger(__name__)


def evaluate(
    dataset: Path, folds: Path, models: Path, settings: EvaluateSettings, threads: int = 1
) -> None:
    """Score the model of every fold on its test parcels, which were not used to train it.

    Four baselines are scored on the same folds: the most frequent class of the training part; and
    gradient boosting, a random forest and a logistic regression on the parcels' mean reflectances.

    Parameters
    ----------
    dataset
        Pixel-Set dataset.
    folds
        Folds that split wrote.
    models
        Folder of Fold_<k>/, with the predictions of calibrate. Written into it, as by the
        reference: test_metrics.json and conf_mat.pkl of each fold, and overall.json. In addition:
        per_class.json and .csv; baselines.json, with the number of parcels drawn for them;
        spread.json, mean and standard deviation of the overall scores over the folds;
        calibration.json, see `describe_calibration`; prediction_sets.json, see `describe_sets`;
        scores.csv, every score of every fold, one a row.
    settings
        split.seed, predict.set_error.
    threads
        Threads of the baselines.

    Raises
    ------
    InputError
        If the predictions are of other folds, labels or classes.
    """
    opened = PixelSetDataset.open(dataset)
    classes, parts = opened.shown_classes, opened.folds(folds)
    predictions = read_tested(models / OUT_OF_FOLD_FILE, opened, parts)
    data = opened.pixel_sets(with_features=False)
    matrices: dict[str, list[Matrix]] = {"model": []}
    for number in range(1, len(parts) + 1):
        rows = predictions.rows_of(number)
        scores, labels = predictions.log_probabilities[rows], predictions.labels[rows]
        matrices["model"].append(write_fold(models / f"Fold_{number}", scores, labels))
    matrices |= classify_series(
        data, parts, len(classes), seed=settings.split.seed, threads=threads
    )
    matrices["majority"] = majority(data.labels, parts, len(classes))
    overall = {method: overall_metrics(add_up(own)) for method, own in matrices.items()}
    write_json(models / "overall.json", overall["model"])
    baselines = {
        method: overall[method] | {"n_parcels": int(add_up(own).sum())}
        for method, own in matrices.items()
        if method != "model"
    }
    write_json(models / "baselines.json", baselines)
    write_json(models / "spread.json", {m: spread_over_folds(own) for m, own in matrices.items()})
    write_per_class(models / "per_class.json", classes, add_up(matrices["model"]))
    write_scores(models / "scores.csv", classes, matrices)
    calibration = describe_calibration(predictions, classes)
    write_json(models / "calibration.json", calibration)
    sets = describe_sets(predictions, classes, settings.predict.set_error)
    write_json(models / "prediction_sets.json", sets)
    for method, values in overall.items():
        logger.info(
            "%-19s overall accuracy %5.1f %%, mean IoU %.3f, macro F1 %.3f",
            *(method, 100 * values["Accuracy"], values["MACRO_IoU"], values["MACRO_F1-score"]),
        )
    errors = [100 * calibration[when]["ece"] for when in ("before", "after")]
    logger.info("expected calibration error %.1f %%, %.1f %% after temperature scaling", *errors)
    logger.info(
        "prediction sets: coverage %.1f %% at an error rate of %g %%, %.2f classes on average",
        *(100 * sets["coverage"], 100 * sets["error"], sets["mean_size"]),
    )


def write_fold(folder: Path, scores: NDArray[np.float32], labels: NDArray[np.int64]) -> Matrix:
    """Write the scores of a fold in the reference's files; return its confusion matrix.

    Parameters
    ----------
    folder
        Fold_<k>.
    scores
        float32 (n, K): log-probabilities of the test parcels.
    labels
        int64 (n,): their class indices.
    """
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


def add_up(matrices: Sequence[Matrix]) -> Matrix:
    """Return the sum of the confusion matrices of the folds."""
    total: Matrix = np.sum(matrices, axis=0, dtype=np.int64)
    return total


def spread_over_folds(matrices: Sequence[Matrix]) -> dict[str, dict[str, float]]:
    """Compute mean and standard deviation of every overall metric over the folds.

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
    values = {metric: [fold[metric] for fold in folds] for metric in folds[0]}
    return {
        metric: {"mean": statistics.fmean(own), "std": statistics.stdev(own)}
        for metric, own in values.items()
    }


def write_scores(
    path: Path, classes: Sequence[CropClass], matrices: Mapping[str, Sequence[Matrix]]
) -> None:
    """Write every score, one a row.

    Parameters
    ----------
    path
        CSV with the columns method, fold (1 to K, or all: from the sum of the folds' confusion
        matrices), class (its code, or overall), metric and value.
    classes
        Classes in order of the class index.
    matrices
        {method: the confusion matrix of each fold}.
    """
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["method", "fold", "class", "metric", "value"])
        for method, folds in matrices.items():
            for fold, matrix in [*enumerate(folds, 1), ("all", add_up(folds))]:
                for name, metric, value in _scores(classes, matrix):
                    shown = value if isinstance(value, int) else round(value, 6)
                    writer.writerow((method, fold, name, metric, shown))


def _scores(classes: Sequence[CropClass], matrix: Matrix) -> Iterator[tuple[str, str, float | int]]:
    """Yield (class, metric, value) for all classes together and for each."""
    yield "overall", "support", int(matrix.sum())
    for metric, value in overall_metrics(matrix).items():
        yield "overall", metric, value
    support = matrix.sum(axis=1).tolist()
    for crop, n, values in zip(classes, support, class_metrics(matrix).values(), strict=True):
        yield str(crop.code), "support", n
        for key, metric in CLASS_METRICS.items():
            yield str(crop.code), metric, values[key]
