"""Prediction sets against crepes and a loop; their coverage on exchangeable data."""

import json
from math import ceil

import numpy as np
import pytest
from crepes import ConformalClassifier
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from pipeline.classes.crop_class import CropClass
from pipeline.evaluation.out_of_fold import OutOfFold
from pipeline.evaluation.prediction_sets import PredictionSets, describe_sets


def out_of_fold(probabilities, labels, fold):
    """Out-of-fold predictions with these probabilities."""
    scores = np.log(np.maximum(probabilities, 1e-30)).astype(np.float32)
    return OutOfFold([], np.asarray(fold), np.asarray(labels), scores, np.ones(np.max(fold)))


def drawn(n, n_folds, seed=3, n_classes=4):
    """Parcels of classes of unequal frequency and difficulty; each fold's model has a noise."""
    rng = np.random.default_rng(seed)
    shares = np.array([0.5, 0.3, 0.15, 0.05])[:n_classes]
    labels = rng.choice(n_classes, n, p=shares / shares.sum())
    fold = rng.permutation(np.arange(n) % n_folds) + 1
    return labels, fold, model_of(labels, rng, n_classes)


def model_of(labels, rng, n_classes=4):
    """Probabilities of a model that knows the first classes better than the last."""
    scores = rng.normal(0, 1.5, (len(labels), n_classes))
    scores[np.arange(len(labels)), labels] += 3.0 - 0.7 * labels
    odds = np.exp(scores)
    return odds / odds.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("error", [0.05, 0.1, 0.29])
def test_new_parcels_have_the_sets_of_crepes(error):
    """With a single fold, cross-conformal sets are those of split conformal prediction."""
    labels, _, probabilities = drawn(400, 1)
    found = out_of_fold(probabilities, labels, np.ones(400, int))
    new = model_of(np.arange(200) % 4, np.random.default_rng(8))
    members = PredictionSets(found, error).of_new([new])
    own = found.probabilities[np.arange(400), labels]
    for k in range(4):
        oracle = ConformalClassifier().fit(1 - own[labels == k])
        p_values = oracle.predict_p(1 - new[:, [k]], smoothing=False)[:, 0]
        np.testing.assert_array_equal(members[:, k], p_values > error)
    assert 0.1 < members.mean() < 0.9


@pytest.mark.parametrize("n_folds", [2, 5])
def test_parcels_are_compared_with_other_folds(n_folds):
    labels, fold, probabilities = drawn(150, n_folds)
    found, error = out_of_fold(probabilities, labels, fold), 0.2
    sets, values = PredictionSets(found, error), found.probabilities
    members = sets.of_tested()
    # An unlabelled parcel is compared with each fold by the model of that fold.
    new = [model_of(np.arange(40) % 4, np.random.default_rng(k)) for k in range(n_folds)]
    members_of_new = sets.of_new(new)
    for k in range(4):
        for i in range(150):
            others = values[(labels == k) & (fold != fold[i]), k]
            p_value = (np.sum(others <= values[i, k]) + 1) / (len(others) + 1)
            assert members[i, k] == (p_value > error + 1e-12)
        for i in range(40):
            as_strange = sum(
                np.sum(values[(labels == k) & (fold == f + 1), k] <= new[f][i, k])
                for f in range(n_folds)
            )
            p_value = (as_strange + 1) / (np.sum(labels == k) + 1)
            assert members_of_new[i, k] == (p_value > error + 1e-12)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    error=st.sampled_from([0.05, 0.1, 0.3]),
    n_folds=st.integers(2, 6),
)
def test_sets_of_exchangeable_parcels_cover_every_class(seed, error, n_folds):
    """Both kinds, within the error of a binomial count and of the finite calibration."""
    rng = np.random.default_rng(seed)
    n, n_new = 2000, 3000
    labels, fold, probabilities = drawn(n, n_folds, seed)
    found = out_of_fold(probabilities, labels, fold)
    sets = PredictionSets(found, error)
    truth = np.arange(n_new) % 4
    noise = model_of(truth, rng)
    new = [noise] * n_folds  # as of models that agree
    for members, own in ((sets.of_tested(), labels), (sets.of_new(new), truth)):
        covered = members[np.arange(len(own)), own]
        for k in range(4):
            inside, count = covered[own == k], int(np.sum(labels == k))
            # Coverage given the calibration parcels is beta distributed: as if both were counted.
            effective = int(1 / (1 / len(inside) + 1 / count))
            assert inside.mean() * effective >= binom.ppf(1e-6, effective, 1 - error) - 1


def test_the_quantile_is_that_of_a_finite_sample():
    """ceil((n + 1) (1 - error)) of n; with fewer than 1 / error - 1 parcels there is none."""
    for n, error in ((9, 0.1), (8, 0.1), (100, 0.29), (99, 0.07), (1, 0.5), (3, 0.25)):
        own = np.linspace(0.5, 0.9, n)
        probabilities = np.column_stack([own, 1 - own])
        found = out_of_fold(probabilities, np.zeros(n, int), np.ones(n, int))
        sets = PredictionSets(found, error)
        rank = ceil(round((n + 1) * (1 - error), 9))
        assert sets.never_excluded.tolist() == [rank > n, True]
        if rank <= n:
            # The strangeness of rank k from the least strange one
            threshold = np.sort(found.probabilities[:, 0])[::-1][rank - 1]
            shown = np.array([[threshold, 0], [threshold - 1e-6, 0]])
            assert sets.of_new([shown])[:, 0].tolist() == [True, False]
        else:
            assert sets.of_new([np.zeros((1, 2))]).all()


def test_a_parcel_unlike_every_class_has_an_empty_set():
    labels, fold, _ = drawn(300, 3)
    sharp = np.full((300, 4), 0.01)
    sharp[np.arange(300), labels] = 0.97
    sets = PredictionSets(out_of_fold(sharp, labels, fold), 0.1)
    assert sets.of_new([np.full((1, 4), 0.25)] * 3).sum() == 0


def test_the_description_has_no_number_where_there_is_none():
    labels, fold, probabilities = drawn(300, 3, n_classes=3)
    with_none = np.column_stack([probabilities, np.full(300, 1e-9)])
    classes = [CropClass(i, f"class {i}") for i in range(4)]
    found = out_of_fold(with_none, labels, fold)
    described = describe_sets(found, classes, 0.1)
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    members = PredictionSets(found, 0.1).of_tested()
    assert described["coverage"] == members[np.arange(300), labels].mean()
    assert described["mean_size"] == members.sum(axis=1).mean()
    first, *_, last = described["per_class"]
    assert first["support"] == np.sum(labels == 0)
    assert first["coverage"] == members[labels == 0, 0].mean()
    assert last == {
        "code": 3, "name": "class 3", "never_excluded": True,
        "support": 0, "coverage": None, "mean_size": None, "empty": None,
    }  # fmt: skip
    assert members[:, 3].all()
