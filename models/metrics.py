"""Metrics of the agreement between predicted and reference classes, from a confusion matrix."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def confusion_matrix(
    reference: NDArray[np.integer], predicted: NDArray[np.integer], n_classes: int
) -> NDArray[np.int64]:
    """Count parcels by reference class (rows) and predicted class (columns).

    Parameters
    ----------
    reference, predicted
        Class indices (N,), in 0 .. n_classes - 1.
    n_classes
        Number of classes.

    Returns
    -------
    NDArray
        int64 (n_classes, n_classes).
    """
    for name, classes in (("reference", reference), ("predicted", predicted)):
        if classes.size and (classes.min() < 0 or classes.max() >= n_classes):
            raise ValueError(
                f"{name} classes must be in 0 .. {n_classes - 1}, "
                f"found {classes.min()} .. {classes.max()}"
            )
    flat = reference.astype(np.int64) * n_classes + predicted
    return np.bincount(flat, minlength=n_classes**2).reshape(n_classes, n_classes)


def mean_iou(matrix: NDArray[np.integer]) -> float:
    """Return the mean intersection over union (IoU) of the classes that occur.

    A class occurs if it is the reference or the prediction of a parcel. If none occurs, return 0.
    """
    true_positive = np.diag(matrix).astype(np.float64)
    union = matrix.sum(0) + matrix.sum(1) - true_positive
    occurs = union > 0
    return float(np.mean(true_positive[occurs] / union[occurs])) if occurs.any() else 0.0


def class_metrics(matrix: NDArray[np.integer]) -> dict[str, dict[str, float]]:
    """Compute the metrics of every class.

    Returns
    -------
    dict
        {class index as str, for JSON: {IoU, Precision, Recall and F1-score}}. A ratio of 0 to 0 is
        0.
    """
    return {
        str(index): {name: float(values[index]) for name, values in _by_class(matrix).items()}
        for index in range(len(matrix))
    }


def overall_metrics(matrix: NDArray[np.integer]) -> dict[str, float]:
    """Compute the metrics over all classes.

    Returns
    -------
    dict
        IoU, Precision, Recall and F1-score, as `micro_` (every parcel has the same weight) and as
        `MACRO_` (every class that occurs has the same weight), and Accuracy.
    """
    by_class = _by_class(matrix)
    total = float(matrix.sum())
    correct = float(np.trace(matrix))
    accuracy = correct / total if total else 0.0
    # Each wrong parcel is one false positive and one false negative. Therefore, micro precision,
    # recall and F1 are all equal to the accuracy.
    micro_iou = correct / (2 * total - correct) if total else 0.0
    occurs = (matrix.sum(0) + matrix.sum(1)) > 0
    overall = {"micro_IoU": micro_iou}
    overall |= {f"micro_{name}": accuracy for name in ("Precision", "Recall", "F1-score")}
    for name, values in by_class.items():
        overall[f"MACRO_{name}"] = float(values[occurs].mean()) if occurs.any() else 0.0
    return overall | {"Accuracy": accuracy}


def balanced_weights(labels: NDArray[np.integer], n_classes: int) -> NDArray[np.float64]:
    """Return class weights, the inverse of the classes' frequencies in the labels.

    The mean of the weights (n_classes,) over the labels is 1. A class without a label is weighted
    like a class with one label.
    """
    counts = np.bincount(labels, minlength=n_classes)
    weights: NDArray[np.float64] = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return weights


def _by_class(matrix: NDArray[np.integer]) -> dict[str, NDArray[np.float64]]:
    true_positive = np.diag(matrix).astype(np.float64)
    predicted = matrix.sum(0).astype(np.float64)
    reference = matrix.sum(1).astype(np.float64)
    return {
        "IoU": _ratio(true_positive, predicted + reference - true_positive),
        "Precision": _ratio(true_positive, predicted),
        "Recall": _ratio(true_positive, reference),
        "F1-score": _ratio(2 * true_positive, predicted + reference),
    }


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
