"""Existing weights on labelled parcels elsewhere: as they are, and with a refitted temperature."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.calibration_error import expected_calibration_error
from pipeline.evaluation.out_of_fold import probabilities_at
from pipeline.evaluation.temperature import fit_temperature

# Seed of the division into halves.
_SEED = 1


def describe_refit(
    probabilities: NDArray[np.floating[Any]], labels: NDArray[np.int64]
) -> dict[str, Any] | None:
    """Score probabilities without and with a temperature that is fitted to labelled parcels.

    A temperature that is scored on the parcels to which it was fitted looks too good. Therefore the
    parcels are divided into two halves at random: each is scored with the temperature of the other.

    Parameters
    ----------
    probabilities
        (N, K), of N labelled parcels.
    labels
        int64 (N,): their class indices.

    Returns
    -------
    dict
        Values of JSON: n_parcels; as_given and refitted, each with accuracy, log_loss and ece (see
        `expected_calibration_error`); temperatures, those of the two halves; temperature, that of
        all parcels; note, what is to be said about them, or null. None without parcels.
    """
    if not len(labels):
        return None
    log_p = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    refitted, temperatures, notes = cross_fitted(log_p, labels)
    of_all, note = fit_temperature(log_p, labels)
    return {
        "n_parcels": len(labels),
        "as_given": _scores(np.asarray(probabilities, np.float64), labels),
        "refitted": _scores(refitted, labels),
        "temperatures": temperatures,
        "temperature": of_all,
        "note": "; ".join(dict.fromkeys(filter(None, [*notes, note]))) or None,
    }


def cross_fitted(
    log_probabilities: NDArray[np.floating[Any]], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], list[float], list[str | None]]:
    """Apply to each half of the parcels the temperature that is fitted to the other half.

    Parameters
    ----------
    log_probabilities, labels
        (N, K), up to a constant of each row, and int64 (N,).

    Returns
    -------
    probabilities, temperatures, notes
        float64 (N, K); the temperatures that were fitted to the first and to the second half; and
        what is to be said about each.
    """
    order = np.random.default_rng(_SEED).permutation(len(labels))
    halves = np.array_split(order, 2)
    fitted = [fit_temperature(log_probabilities[half], labels[half]) for half in halves]
    probabilities = np.empty(log_probabilities.shape)
    for half, (temperature, _) in zip(halves, reversed(fitted), strict=True):
        probabilities[half] = probabilities_at(log_probabilities[half], temperature)
    temperatures, notes = zip(*fitted, strict=True)
    return probabilities, list(temperatures), list(notes)


def _scores(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, float]:
    """Return accuracy, log loss and expected calibration error."""
    right = probabilities.argmax(axis=1) == labels
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)
    return {
        "accuracy": float(right.mean()),
        # A probability that underflows to 0 counts as the smallest number of a file.
        "log_loss": float(-np.log(np.maximum(own, np.finfo(np.float32).tiny)).mean()),
        "ece": expected_calibration_error(probabilities.max(axis=1), right),
    }
