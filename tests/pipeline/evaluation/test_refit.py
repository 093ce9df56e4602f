"""Existing weights elsewhere: the temperature of one half of the parcels, scored on the other."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score, log_loss

from pipeline.evaluation.refit import cross_fitted, describe_refit


def overconfident(n=600, factor=3.0):
    """Return log-probabilities that are too steep by a factor, and labels drawn from the right."""
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(n, 4))
    right = np.exp(log_softmax(logits, axis=1))
    labels = (right.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    return log_softmax(factor * logits, axis=1), labels


def test_each_half_has_the_temperature_of_the_other():
    log_p, labels = overconfident()
    found, temperatures, notes = cross_fitted(log_p, labels)
    assert notes == [None, None]
    np.testing.assert_allclose(found.sum(axis=1), 1)
    # The temperature of a parcel follows from its probabilities: log p_1 / p_2 is divided by it.
    own = (log_p[:, 0] - log_p[:, 1]) / (np.log(found[:, 0]) - np.log(found[:, 1]))
    assert np.unique(own.round(6)).size == 2
    first = np.isclose(own, temperatures[1], atol=1e-6)
    assert first.sum() == (~first).sum() == 300
    for half, temperature in ((first, temperatures[0]), (~first, temperatures[1])):

        def loss(t, half=half):
            return log_loss(labels[half], np.exp(log_softmax(log_p[half] / t, axis=1)))

        best = minimize_scalar(loss, bounds=(0.1, 20), method="bounded", options={"xatol": 1e-8})
        assert temperature == pytest.approx(best.x, rel=1e-4)


def test_scores_are_those_of_the_oracle_and_better_where_it_was_overconfident():
    log_p, labels = overconfident()
    p = np.exp(log_p)
    found = describe_refit(p.astype(np.float32), labels)
    refitted, temperatures, _ = cross_fitted(log_p, labels)
    for name, values in (("as_given", p), ("refitted", refitted)):
        own = found[name]
        assert own["accuracy"] == pytest.approx(accuracy_score(labels, values.argmax(1)))
        assert own["log_loss"] == pytest.approx(log_loss(labels, values), rel=1e-4)
        confidence, right = values.max(1), values.argmax(1) == labels
        bins = np.minimum((confidence * 15).astype(int), 14)
        gaps = [abs((confidence - right)[bins == b].sum()) for b in range(15)]
        assert own["ece"] == pytest.approx(sum(gaps) / 600, abs=1e-6)
    assert found["temperatures"] == pytest.approx(temperatures, rel=1e-4)
    assert found["n_parcels"] == 600
    assert found["note"] is None
    assert 2.5 < found["temperature"] < 3.5
    assert found["refitted"]["ece"] < found["as_given"]["ece"] / 3
    assert found["refitted"]["accuracy"] == found["as_given"]["accuracy"]


def test_few_parcels_and_certain_predictions_have_a_note_and_finite_scores():
    log_p, labels = overconfident(30)
    found = describe_refit(np.exp(log_p), labels)
    assert "15 parcels are fewer than 20" in found["note"]
    assert found["temperatures"] == [1.0, 1.0]
    assert found["refitted"]["log_loss"] == pytest.approx(found["as_given"]["log_loss"])
    wrong = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    assert np.isfinite(describe_refit(wrong, np.array([1, 1]))["as_given"]["log_loss"])
    assert describe_refit(wrong[:1], np.array([1]))["n_parcels"] == 1
    assert describe_refit(wrong[:0], np.zeros(0, int)) is None
