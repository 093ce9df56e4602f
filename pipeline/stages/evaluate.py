"""Stage evaluate: scores of the trained folds on their test parcels, beside baselines."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.crop_model import CropModel
from models.metrics import confusion_matrix, mean_iou, overall_metrics
from models.training.distributed import choose_device
from pipeline.dataset.model_inputs import read_inputs
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.evaluation.baselines import Matrix, classify_series, majority
from pipeline.evaluation.score_tables import (
    add_up,
    spread_over_folds,
    write_per_class,
    write_scores,
)
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
