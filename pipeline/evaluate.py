"""Stage evaluate: scores of the trained folds on their test parcels, beside baselines."""

from __future__ import annotations

import csv
import logging
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.metrics import class_metrics, confusion_matrix, mean_iou, overall_metrics
from pipeline.baselines import Matrix, majority, random_forest
from pipeline.config import Settings
from pipeline.folds import read_folds
from pipeline.paths import DatasetPaths
from pipeline.pixel_set_store import LandClass, read_classes, read_pixel_sets
from pipeline.train import choose_device
from pipeline.trained import Trained
from pipeline.writing import replacing, write_json

logger = logging.getLogger(__name__)


def evaluate(
    dataset: Path, folds: Path, models: Path, settings: Settings, threads: int = 1
) -> None:
    """Score every fold on its test parcels, which its model has never seen.

    Beside them stand two baselines on the same folds: the most frequent class of the training
    part, and a random forest on the parcels' mean reflectances.

    Parameters
    ----------
    dataset
        Pixel-Set dataset.
    folds
        What split wrote.
    models
        Folder of Fold_<k>/. Written into it: test_metrics.json and conf_mat.pkl of each fold,
        overall.json, per_class.csv and baselines.json.
    settings
        train.device, predict.batch_size, split.seed.
    threads
        Of torch, where it runs on the CPU, and of the random forest.
    """
    device = choose_device(settings.train.device, threads)
    data = read_pixel_sets(DatasetPaths(dataset), with_features=True)
    classes = read_classes(DatasetPaths(dataset))
    parts = read_folds(folds, data.ids)
    total = np.zeros((len(classes), len(classes)), np.int64)
    for number, fold in enumerate(parts, 1):
        folder = models / f"Fold_{number}"
        trained = Trained.load(folder, device)
        scores = trained.log_probabilities(data, fold.test, settings.predict.batch_size)
        total += _write_fold(folder, scores, data.labels[fold.test])
    overall = overall_metrics(total)
    write_json(models / "overall.json", overall)
    _write_per_class(models / "per_class.csv", classes, total)
    seed = settings.split.seed
    baselines = {
        "majority": overall_metrics(majority(data.labels, parts, len(classes))),
        "random_forest": overall_metrics(
            random_forest(data, parts, len(classes), seed=seed, threads=threads)
        ),
    }
    write_json(models / "baselines.json", baselines)
    for name, values in {"model": overall, **baselines}.items():
        logger.info(
            "%-13s overall accuracy %5.1f %%, mean IoU %.3f, macro F1 %.3f",
            *(name, 100 * values["Accuracy"], values["MACRO_IoU"], values["MACRO_F1-score"]),
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
    write_json(folder / "test_metrics.json", metrics)
    with replacing(folder / "conf_mat.pkl") as temporary:
        temporary.write_bytes(pickle.dumps(matrix, protocol=4))
    return matrix


def _write_per_class(path: Path, classes: Sequence[LandClass], matrix: Matrix) -> None:
    """Write one row of scores a class."""
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["code", "name", "support", "precision", "recall", "f1", "iou"])
        support = matrix.sum(axis=1)
        for i, values in class_metrics(matrix).items():
            scores = (values[key] for key in ("Precision", "Recall", "F1-score", "IoU"))
            land = classes[int(i)]
            writer.writerow([land.code, land.name, support[int(i)], *(f"{s:.4f}" for s in scores)])
