"""Temperatures against a general minimiser, and where they are not fitted."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from pipeline.evaluation.out_of_fold import probabilities_at
from pipeline.evaluation.temperature import HIGHEST, LOWEST, fit_temperature


def drawn(n=4000, temperature=1.0, seed=4, spread=2.0):
    """Log-probabilities and labels of a model whose calibrated temperature is known."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, spread, (n, 5))
    truth = softmax(scores / temperature, axis=1)
    labels = (rng.random((n, 1)) > truth.cumsum(axis=1)).sum(axis=1).clip(max=4)
    return scores.astype(np.float32), labels


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_the_temperature_of_the_labels_is_found(temperature):
    scores, labels = drawn(temperature=temperature)
    found, note = fit_temperature(scores, labels)
    assert note is None
    assert found == pytest.approx(temperature, rel=0.15)

    def loss(t):
        return -log_softmax(scores / t, axis=1)[np.arange(len(labels)), labels].mean()

    oracle = minimize_scalar(loss, bounds=(LOWEST, HIGHEST), method="bounded")
    assert found == pytest.approx(oracle.x, rel=1e-3)
    # The result does not depend on a constant of each row, as that of averaged members.
    shifted = scores - np.linspace(0, 3, len(scores))[:, None]
    assert fit_temperature(shifted, labels)[0] == pytest.approx(found, rel=1e-4)


def test_where_it_cannot_be_fitted_it_is_1():
    scores, labels = drawn(19)
    assert fit_temperature(scores, labels)[0] == 1
    assert "19 parcels are fewer than 20" in fit_temperature(scores, labels)[1]
    scores, _ = drawn(50)
    temperature, note = fit_temperature(scores, scores.argmax(axis=1))
    assert (temperature, note) == (
        1,
        "not fitted: the model is right on all 50 parcels",
    )
    # With a single class, the model is always right.
    assert fit_temperature(scores[:, :1], np.zeros(50, int))[0] == 1


def test_it_is_bounded():
    scores, _ = drawn(400)
    # A model that is wrong nearly everywhere, and one that is unsure and nearly always right.
    worst, note = fit_temperature(scores, scores.argmin(axis=1))
    assert worst == HIGHEST
    assert "upper bound" in note
    best = scores.argmax(axis=1)
    best[0] = scores[0].argmin()
    lowest, note = fit_temperature(scores / 1000, best)
    assert lowest == LOWEST
    assert "lower bound" in note


def test_probabilities_of_large_scores_are_finite():
    scores = np.array([[-2000.0, 0.0], [0.0, 0.0], [-1e-9, -800.0]])
    found = probabilities_at(scores, np.array([[0.05], [1.0], [3.0]]))
    np.testing.assert_allclose(found, softmax(scores / [[0.05], [1.0], [3.0]], axis=1))
    np.testing.assert_allclose(found.sum(axis=1), 1)
