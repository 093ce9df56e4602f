"""How far confidences are from accuracies: reliability and expected calibration error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.classes.crop_class import CropClass
from pipeline.evaluation.out_of_fold import OutOfFold, probabilities_at

N_BINS = 15


def describe_calibration(
    predictions: OutOfFold, classes: Sequence[CropClass]
) -> dict[str, dict[str, Any]]:
    """Measure the calibration of out-of-fold predictions, without and with their temperatures.

    Returns
    -------
    dict
        Values of JSON: {"before" or "after": {"ece", "ece_by_chance", "classwise_ece", "log_loss",
        "reliability", "per_class"}}. `ece` is the expected calibration error of the predicted
        class, and `classwise_ece` the mean of those of the classes. `reliability` lists the bins
        that have parcels, `per_class` code, name, support and ece of every class.
    """
    labels, support = predictions.labels, np.bincount(predictions.labels, minlength=len(classes))
    described = {}
    for name, probabilities in (
        ("before", probabilities_at(predictions.log_probabilities, 1.0)),
        ("after", predictions.probabilities),
    ):
        by_class = classwise_errors(probabilities, labels)
        own = np.take_along_axis(probabilities, labels[:, None], axis=1)
        confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
        described[name] = {
            "ece": expected_calibration_error(confidence, right),
            "ece_by_chance": error_by_chance(confidence),
            "classwise_ece": float(by_class.mean()),
            # A probability that underflows to 0 counts as the smallest number.
            "log_loss": float(-np.log(np.maximum(own, np.finfo(np.float64).tiny)).mean()),
            "reliability": reliability(confidence, right),
            "per_class": [
                {"code": crop.code, "name": crop.name, "support": int(n), "ece": float(error)}
                for crop, n, error in zip(classes, support, by_class, strict=True)
            ],
        }
    return described


def expected_calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Compute the mean distance of confidence and accuracy over bins, weighted by their parcels.

    Guo et al. 2017, On Calibration of Modern Neural Networks, equation 3: `N_BINS` bins of equal
    width.

    Parameters
    ----------
    confidence
        float64 (N,), from 0 to 1.
    right
        bool (N,).
    """
    _, sums, hits = _bins(confidence, right)
    return float(np.abs(sums - hits).sum() / len(confidence))


def error_by_chance(confidence: NDArray[np.float64]) -> float:
    """Compute the calibration error that a calibrated model would have on so few parcels.

    The number of right predictions in a bin differs from the sum of their confidences c by a
    deviation whose variance v is the sum of c (1 - c). The mean of its absolute value is
    sqrt(2 v / pi), if it is normally distributed.

    Parameters
    ----------
    confidence
        float64 (N,), from 0 to 1.
    """
    variances = np.bincount(_bin_of(confidence), confidence * (1 - confidence), N_BINS)
    return float(np.sqrt(2 * variances / np.pi).sum() / len(confidence))


def classwise_errors(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Compute the calibration error of the probabilities of every class, float64 (K,).

    That of a class compares its probability with the share of parcels declared as it, over all
    parcels (Kull et al. 2019, Beyond Temperature Scaling, equation 3, which averages these).

    Parameters
    ----------
    probabilities, labels
        float64 (N, K) and int64 (N,).
    """
    columns = enumerate(probabilities.T)
    return np.array([expected_calibration_error(own, labels == index) for index, own in columns])


def reliability(
    confidence: NDArray[np.float64], right: NDArray[np.bool_]
) -> list[dict[str, float | int]]:
    """Return number, mean confidence and accuracy of the parcels of every bin that has any."""
    counts, sums, hits = _bins(confidence, right)
    return [
        {
            "n_parcels": int(counts[i]),
            "confidence": float(sums[i] / counts[i]),
            "accuracy": float(hits[i] / counts[i]),
        }
        for i in np.flatnonzero(counts)
    ]


def _bins(
    confidence: NDArray[np.float64], right: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Count the parcels of every bin, and add up their confidence and the right ones."""
    index = _bin_of(confidence)
    counts = np.bincount(index, minlength=N_BINS)
    sums, hits = (
        np.bincount(index, weights, N_BINS).astype(np.float64) for weights in (confidence, right)
    )
    return counts, sums, hits


def _bin_of(confidence: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the bin of every parcel. A bin includes its upper bound, and the first one 0."""
    return np.clip(np.ceil(confidence * N_BINS).astype(np.int64) - 1, 0, N_BINS - 1)
