"""Temperature scaling: one number by which the log-probabilities of a model are divided."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from pipeline.evaluation.out_of_fold import probabilities_at

# Temperatures beyond these bounds come from a few odd parcels, not from a model of any use.
LOWEST, HIGHEST = 0.05, 20.0
# The deviation of a temperature that is fitted to fewer parcels is about as large as its effect.
FEWEST_PARCELS = 20


def fit_temperature(
    log_probabilities: NDArray[np.floating[Any]], labels: NDArray[np.int64]
) -> tuple[float, str | None]:
    """Find the temperature with the least negative log-likelihood of the labels.

    The probabilities of a model are softmax(log-probabilities / temperature) (Guo et al. 2017, On
    Calibration of Modern Neural Networks, section 4.2). A temperature above 1 lowers confidences
    that are too high. The order of the classes does not change. The negative log-likelihood is
    convex in 1 / temperature, so the root of its derivative is the minimum.

    Parameters
    ----------
    log_probabilities
        (N, K), up to a constant of each row.
    labels
        int64 (N,): class indices. The model must not have been trained on these parcels.

    Returns
    -------
    temperature, note
        The temperature, from `LOWEST` to `HIGHEST`, and what is to be said about it. It is 1 where
        it cannot be fitted: with fewer than `FEWEST_PARCELS` parcels, or if the model is right on
        every parcel, so that the likelihood grows with ever higher confidence.
    """
    if (n := len(labels)) < FEWEST_PARCELS:
        return 1.0, f"not fitted: {n} parcels are fewer than {FEWEST_PARCELS}"
    scores = np.asarray(log_probabilities, np.float64)
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    others = np.delete(scores - own, labels + np.arange(n) * scores.shape[1]).reshape(n, -1)
    if (others < 0).all():
        return 1.0, f"not fitted: the model is right on all {n} parcels"

    def slope(inverse: float) -> float:
        """Return the derivative of the negative log-likelihood by 1 / temperature."""
        expected = (probabilities_at(scores, 1 / inverse) * scores).sum(axis=1)
        return float((expected - own[:, 0]).mean())

    if slope(1 / LOWEST) <= 0:
        return LOWEST, f"at the lower bound {LOWEST:g}"
    if slope(1 / HIGHEST) >= 0:
        return HIGHEST, f"at the upper bound {HIGHEST:g}: the model hardly knows the classes"
    return 1 / float(brentq(slope, 1 / HIGHEST, 1 / LOWEST)), None
