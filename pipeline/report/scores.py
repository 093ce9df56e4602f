"""The report's scores: overall, per class, per fold and by confidence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geo.errors import InputError, first_five
from models.metrics import confusion_matrix
from pipeline.classes.reasons import Reason
from pipeline.evaluation.scores import wilson_interval
from pipeline.report.divisions import METRICS, divided_by
from pipeline.workflow.artefacts import artefact, read_json, remedy_for
from pipeline.workflow.paths import RunPaths

METHODS = {
    "model": "This model",
    "gradient_boosting": "Gradient boosting model",
    "random_forest": "Random forest",
    "logistic_regression": "Logistic regression",
    "majority": "Majority guess",
}
TEXTS = [
    *("parcel_id", "status", "declared_code", "declared_name", "pred_code", "pred_name"),
    *("pred_source", "reason"),
]
# What a training log contains of every epoch.
LOGGED = {part: {f"{part}_{of}" for of in ("loss", "accuracy", "IoU")} for part in ("train", "val")}
# Confidences for which the report shows how many parcels reach them.
THRESHOLDS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
# The accuracy of fewer parcels is too uncertain to show.
FEWEST_PARCELS = 20

# {epoch: {metric: value}}; NaN for a loss that was not finite.
TrainLog = dict[int, dict[str, float]]


def read_predictions(path: Path) -> pd.DataFrame:
    """Read the predictions of every input parcel: codes as text, "" where there is none."""
    with artefact(path, "a table of predictions"):
        table = pd.read_parquet(path, columns=[*TEXTS, "confidence"])
    for column in TEXTS:
        texts = table[column].astype("string").fillna("")
        # Equal codes and names are one object; a copy for every parcel takes 60 bytes.
        table[column] = texts if column == "parcel_id" else _shared(texts)
    return table


def _shared(texts: pd.Series[Any]) -> NDArray[np.object_]:
    """Return texts of which few differ as objects, one for equal ones, object (N,)."""
    number, different = pd.factorize(texts)
    shared: NDArray[np.object_] = np.asarray(different, object)[number]
    return shared


def predicted_classes(predictions: pd.DataFrame) -> dict[str, str]:
    """Return {code: name} of the predicted classes."""
    classes = dict(zip(predictions["pred_code"], predictions["pred_name"], strict=True))
    return {code: name for code, name in classes.items() if code}


def is_scored(predictions: pd.DataFrame) -> NDArray[np.bool_]:
    """Return for which parcels prediction and declared class are compared, bool (N,).

    They were predicted by a model that was not trained on them; or by existing weights, which know
    their declared class.
    """
    by_weights = predictions["reason"] == Reason.EXISTING_WEIGHTS
    is_predicted = predictions["pred_source"] != ""
    scored = (predictions["pred_source"] == "out_of_fold") | (by_weights & is_predicted)
    return scored.to_numpy(bool)


@dataclass(frozen=True)
class ClassScore:
    """Scores of a class on the out-of-fold parcels; support is the number declared as it."""

    code: str
    name: str
    support: int
    precision: float
    recall: float
    f1: float
    iou: float


@dataclass(frozen=True)
class Confusion:
    """Parcels declared as one class and predicted as another; `share` of the declared ones."""

    declared: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True)
class FoldScore:
    """A fold: sizes of its parts, scores on its test part, and the epoch of the saved model."""

    number: int
    n_train: int
    n_validation: int
    n_test: int
    accuracy: float
    iou: float
    loss: float
    epoch: int
    n_epochs: int


@dataclass(frozen=True)
class Scores:
    """Scores on parcels that the models were not trained on; or those of existing weights.

    `classes` and `matrix` (rows declared, columns predicted) are ordered by falling support.
    Existing weights have no folds. Of them, it is not known which parcels they were trained on.
    """

    overall: dict[str, dict[str, float]]
    classes: list[ClassScore]
    matrix: NDArray[np.int64]
    folds: list[FoldScore]
    divided_by: str | None
    # A matrix of a thousand classes has a million cells, with which no browser opens the page.
    most_in_matrix: ClassVar[int] = 50

    @property
    def best_baseline(self) -> str | None:
        """The baseline with the highest accuracy; None if there is no baseline."""
        baselines = [method for method in self.overall if method != "model"]
        return max(baselines, key=lambda m: self.overall[m]["Accuracy"], default=None)

    @property
    def drawn_for_baselines(self) -> int | None:
        """The number of parcels drawn for the best baseline; None if it had all of them."""
        n_parcels = self.overall.get(self.best_baseline or "", {}).get("n_parcels")
        return int(n_parcels) if n_parcels is not None and n_parcels < self.matrix.sum() else None

    def better_than_model(self, metric: str) -> list[str]:
        """Return the baselines with a higher score than the model, the best first."""
        scores = {method: values[metric] for method, values in self.overall.items()}
        better = [method for method in scores if scores[method] > scores["model"]]
        return sorted(better, key=lambda method: -scores[method])

    @property
    def confusions(self) -> list[Confusion]:
        """The most frequent confusions."""
        return frequent_confusions(self.matrix, [score.name for score in self.classes])

    def spread(self, name: str) -> tuple[float, float]:
        """Return mean and standard deviation (ddof 1; 0 for one fold) of a score over the folds."""
        values = [getattr(fold, name) for fold in self.folds]
        return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def read_scores(paths: RunPaths, predictions: pd.DataFrame, keep: str) -> Scores | None:
    """Read all scores of a run that trained models; None if there are none, as without labels."""
    if not paths.overall.is_file():
        return None
    overall = {"model": read_json(paths.overall, _overall_scores)}
    if paths.baselines.is_file():
        overall |= read_json(
            paths.baselines, lambda found: {m: _overall_scores(own) for m, own in found.items()}
        )
    classes = read_json(paths.per_class, _class_scores)
    scored = predictions[is_scored(predictions)]
    found = {*scored["declared_code"], *scored["pred_code"]}
    if unknown := found - {score.code for score in classes}:
        raise InputError(
            f"{paths.per_class} lacks classes of the predictions: {first_five(sorted(unknown))}. "
            f"{remedy_for(paths.per_class)}"
        )
    by, parts = read_json(
        paths.folds,
        lambda folds: (divided_by(folds), [_count_roles(fold) for fold in folds["folds"]]),
    )
    return Scores(
        {method: overall[method] for method in METHODS if method in overall},
        classes,
        count_confusions(scored, [score.code for score in classes]),
        _read_fold_scores(paths, parts, keep),
        by,
    )


@dataclass(frozen=True)
class ExistingWeights:
    """What is known about existing weights.

    Attributes
    ----------
    scores
        Their scores on the parcels that declare one of their classes; None without such parcels.
    unknown
        (name, code, number of parcels) of the declared classes that they do not know.
    season
        What is to be said about the dates of their training, "" if nothing; None if these are not
        known.
    refit
        Their scores as they are and with a temperature fitted to these parcels, as
        `evaluation.refit.describe_refit` returns them; None without such parcels.
    """

    scores: Scores | None
    unknown: list[tuple[str, str, int]]
    season: str | None
    refit: Mapping[str, Any] | None


def read_existing_weights(paths: RunPaths, predictions: pd.DataFrame) -> ExistingWeights | None:
    """Read what the stage predict found about existing weights; None if it was not asked for it."""
    if not paths.existing_scores.is_file():
        return None
    found: dict[str, Any] = read_json(paths.existing_scores)
    scores = None
    if found["overall"] is not None:
        classes = _class_scores(found["per_class"])
        codes = [score.code for score in classes]
        matrix = count_confusions(predictions[is_scored(predictions)], codes)
        scores = Scores({"model": found["overall"]}, classes, matrix, [], None)
    unknown = [(c["name"], str(c["code"]), c["n_parcels"]) for c in found["unknown"]]
    return ExistingWeights(scores, unknown, found["season"], found.get("refit"))


def _class_scores(rows: Sequence[Mapping[str, Any]]) -> list[ClassScore]:
    """Return the scores of the classes, by falling support."""
    classes = [ClassScore(**_null_as_nan(row) | {"code": str(row["code"])}) for row in rows]
    return sorted(classes, key=lambda score: -score.support)


def count_confusions(parcels: pd.DataFrame, codes: Sequence[str]) -> NDArray[np.int64]:
    """Count parcels by declared (rows) and predicted class (columns).

    Returns
    -------
    int64 (K, K), in the order of `codes`.
    """
    index = {code: i for i, code in enumerate(codes)}
    declared, predicted = (
        parcels[column].map(index).to_numpy(np.int64) for column in ("declared_code", "pred_code")
    )
    return confusion_matrix(declared, predicted, len(codes))


def frequent_confusions(
    matrix: NDArray[np.int64], names: Sequence[str], n: int = 6
) -> list[Confusion]:
    """Return the n most frequent confusions of a matrix (K, K), the most frequent first."""
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-wrong, axis=None, kind="stable")[:n]
    pairs = [divmod(int(place), len(matrix)) for place in order]
    totals = matrix.sum(axis=1)
    return [
        Confusion(names[i], names[j], int(wrong[i, j]), float(wrong[i, j] / totals[i]))
        for i, j in pairs
        if wrong[i, j] > 0
    ]


def read_trainlogs(paths: RunPaths) -> dict[int, TrainLog]:
    """Read the training log of every fold, by number of the fold."""
    logs = {}
    for path in paths.models.glob("Fold_*/trainlog.json"):
        logs[int(path.parent.name.removeprefix("Fold_"))] = read_json(path, _training_log)
    return dict(sorted(logs.items()))


def _training_log(values: Mapping[str, Mapping[str, Any]]) -> TrainLog:
    """Return the scores by epoch, in order."""
    epochs = {int(epoch): _null_as_nan(own) for epoch, own in values.items()}
    for epoch, own in epochs.items():
        expected = LOGGED["train"] | (LOGGED["val"] if was_validated(own) else set())
        if lacking := expected - own.keys():
            raise ValueError(f"epoch {epoch} lacks {', '.join(sorted(lacking))}")
    return dict(sorted(epochs.items()))


def was_validated(epoch: Mapping[str, float]) -> bool:
    """Return whether the log of an epoch has measures of a validation part."""
    return not LOGGED["val"].isdisjoint(epoch)


def saved_epoch(log: TrainLog, keep: str) -> int:
    """Return the epoch of the saved model: "last", or "best" (validation mIoU, the later if equal).

    Training never saves the model of an epoch whose validation loss is not finite.
    """
    finite = [epoch for epoch in log if math.isfinite(log[epoch].get("val_loss", 0.0))]
    return max(finite, key=lambda epoch: (log[epoch]["val_IoU"] if keep == "best" else 0, epoch))


def _read_fold_scores(
    paths: RunPaths, parts: Sequence[Mapping[str, int]], keep: str
) -> list[FoldScore]:
    """Read the scores of every fold on its test part."""
    scores = []
    for number, log in read_trainlogs(paths).items():
        accuracy, iou, loss = read_json(paths.fold(number) / "test_metrics.json", _test_scores)
        sizes = parts[number - 1]
        if not was_validated(log[max(log)]):
            n_train = sizes["n_train"] + sizes["n_validation"]
            sizes = {**sizes, "n_train": n_train, "n_validation": 0}
        scores.append(
            FoldScore(
                number=number,
                accuracy=accuracy / 100,
                iou=iou,
                loss=loss,
                epoch=saved_epoch(log, keep),
                n_epochs=len(log),
                **sizes,
            )
        )
    return scores


def _count_roles(fold: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return the number of parcels of every part of a fold."""
    return {f"n_{role}": len(fold[role]) for role in ("train", "validation", "test")}


def _overall_scores(values: Mapping[str, float]) -> dict[str, float]:
    """Check that the scores are there that the report shows."""
    return {**values, **{metric: float(values[metric]) for metric in METRICS}}


def _test_scores(values: Mapping[str, Any]) -> list[float]:
    """Return accuracy in percent, mIoU and loss on the test part of a fold."""
    found = _null_as_nan(values)
    return [float(found[f"test_{name}"]) for name in ("accuracy", "IoU", "loss")]


def _null_as_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: math.nan if value is None else value for name, value in values.items()}


# Confidence and accuracy


@dataclass(frozen=True)
class Group:
    """Parcels of similar confidence; `low` and `high` bound their accuracy (95 % interval)."""

    count: int
    confidence: float
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class Threshold:
    """The parcels with at least this confidence."""

    confidence: float
    count: int
    share: float
    accuracy: float


def confidence_groups(parcels: pd.DataFrame) -> list[Group]:
    """Compare confidence with accuracy in ten groups of equal size, the least confident first.

    There are fewer groups if one of ten would have fewer than `FEWEST_PARCELS` parcels.

    Parameters
    ----------
    parcels
        Predictions of the parcels that are scored.
    """
    ranked = parcels.sort_values("confidence", kind="stable")
    right, confidence = _right(ranked), ranked["confidence"].to_numpy(np.float64)
    n_groups = min(10, max(1, len(ranked) // FEWEST_PARCELS))
    return [
        Group(
            len(part),
            float(confidence[part].mean()),
            float(right[part].mean()),
            *wilson_interval(float(right[part].mean()), len(part)),
        )
        for part in np.array_split(np.arange(len(ranked)), n_groups)
    ]


def confidence_thresholds(parcels: pd.DataFrame) -> list[Threshold]:
    """Return number, share and accuracy of the parcels that reach each of `THRESHOLDS`."""
    right, confidence = _right(parcels), parcels["confidence"].to_numpy(np.float64)
    reached = [(threshold, confidence >= threshold) for threshold in THRESHOLDS]
    return [
        Threshold(threshold, int(chosen.sum()), float(chosen.mean()), float(right[chosen].mean()))
        for threshold, chosen in reached
        if chosen.any()
    ]


def doubtful_parcels(parcels: pd.DataFrame, n: int = 12) -> pd.DataFrame:
    """Return the n most confident predictions that differ from the declared class."""
    differ = parcels[~_right(parcels)]
    return differ.sort_values("confidence", ascending=False, kind="stable").head(n)


def _right(parcels: pd.DataFrame) -> NDArray[np.bool_]:
    return (parcels["declared_code"] == parcels["pred_code"]).to_numpy(bool)
