"""Calibration errors against scikit-learn and a loop over the bins."""

import json

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from pipeline.classes.crop_class import CropClass
from pipeline.evaluation.calibration_error import (
    N_BINS,
    classwise_errors,
    describe_calibration,
    error_by_chance,
    expected_calibration_error,
    reliability,
)
from pipeline.evaluation.out_of_fold import OutOfFold


def error_of(confidence, right):
    """Equation 3 of Guo et al. 2017, bin by bin."""
    total = 0.0
    for m in range(N_BINS):
        inside = (confidence > m / N_BINS) & (confidence <= (m + 1) / N_BINS)
        if m == 0:
            inside |= confidence == 0
        if inside.any():
            total += inside.sum() * abs(right[inside].mean() - confidence[inside].mean())
    return total / len(confidence)


@pytest.fixture
def drawn():
    """Probabilities of 500 parcels of three classes, and labels that a sharper model would have."""
    rng = np.random.default_rng(6)
    probabilities = rng.dirichlet([0.6, 0.5, 0.4], 500)
    sharper = probabilities**2 / (probabilities**2).sum(axis=1, keepdims=True)
    labels = (rng.random((500, 1)) > sharper.cumsum(axis=1)).sum(axis=1).clip(max=2)
    return probabilities, labels


def test_a_worked_example():
    confidence = np.array([0.0, 1 / 15, 0.07, 0.95, 1.0])
    right = np.array([False, True, False, True, False])
    # The bins are [0, 1/15], (1/15, 2/15] and (14/15, 1].
    expected = (abs(1 - 1 / 15) + 0.07 + abs(1 - 1.95)) / 5
    assert expected_calibration_error(confidence, right) == pytest.approx(expected)
    assert [row["n_parcels"] for row in reliability(confidence, right)] == [2, 1, 2]


def test_the_errors_are_those_of_the_bins(drawn):
    probabilities, labels = drawn
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    found = expected_calibration_error(confidence, right)
    assert found == pytest.approx(error_of(confidence, right))
    assert found > 0.05
    accuracies, means = calibration_curve(right, confidence, n_bins=N_BINS)
    rows = reliability(confidence, right)
    np.testing.assert_allclose([row["accuracy"] for row in rows], accuracies)
    np.testing.assert_allclose([row["confidence"] for row in rows], means)
    by_class = [error_of(probabilities[:, k], labels == k) for k in range(3)]
    np.testing.assert_allclose(classwise_errors(probabilities, labels), by_class)


def test_the_error_by_chance_is_that_of_drawn_labels():
    rng = np.random.default_rng(7)
    confidence = rng.uniform(0.3, 1, 900)
    drawn = [
        expected_calibration_error(confidence, rng.random(900) < confidence) for _ in range(400)
    ]
    # Their mean is known to half a per cent of itself, and is not quite normal.
    assert error_by_chance(confidence) == pytest.approx(np.mean(drawn), rel=0.04)


def test_the_description_compares_both(drawn):
    probabilities, labels = drawn
    # A class without a parcel, and probabilities that underflow to 0
    scores = np.column_stack([np.log(probabilities), np.full(500, -900.0)]).astype(np.float32)
    fold = np.arange(500) % 2 + 1
    found = OutOfFold([], fold, labels, scores, np.array([0.5, 0.5]))
    classes = [CropClass(code, code) for code in "abcd"]
    described = describe_calibration(found, classes)
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    before, after = described["before"], described["after"]
    assert after["ece"] < 0.6 * before["ece"]
    assert before["log_loss"] == pytest.approx(log_loss(labels, probabilities), rel=1e-4)
    assert before["classwise_ece"] == pytest.approx(
        np.mean([row["ece"] for row in before["per_class"]])
    )
    assert [row["support"] for row in after["per_class"]] == [*np.bincount(labels).tolist(), 0]
    assert after["per_class"][3]["ece"] == pytest.approx(0, abs=1e-9)
