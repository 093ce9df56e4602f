"""Doubtful declarations, compared with cleanlab's numbers and with brute force."""

import numpy as np
import pytest

from pipeline.evaluation.doubts import (
    DOUBT_FACTOR,
    SUPPOSED_WRONG,
    Verdict,
    estimate_finding,
    found_by_visits,
    judge,
    margins,
)

LABELS = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 0])
PROBABILITIES = np.array(
    [
        *([0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.4, 0.35, 0.25], [0.2, 0.6, 0.2], [0.55, 0.3, 0.15]),
        *([0.3, 0.5, 0.2], [0.05, 0.15, 0.8], [0.34, 0.33, 0.33], [0.6, 0.1, 0.3]),
        [0.25, 0.25, 0.5],
    ]
)
# Computed by cleanlab 2.9.0: get_label_quality_scores(method="normalized_margin").
CLEANLAB = [0.75, 0.15, 0.525, 0.7, 0.375, 0.6, 0.825, 0.495, 0.35, 0.375]


def draw(counts, seed, steps=None):
    """Labels with these counts, shuffled, and probabilities that agree with most of them.

    With `steps`, the probabilities are multiples of 1 / steps, so that many are equal.
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    favoured = np.where(
        rng.random(len(labels)) < 0.7, labels, rng.integers(0, len(counts), len(labels))
    )
    alpha = 0.5 + 2.0 * (favoured[:, None] == np.arange(len(counts)))
    probabilities = rng.gamma(alpha)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    if steps:
        probabilities = np.round(probabilities * steps) / steps
    return labels, probabilities


def test_margins_are_cleanlabs():
    own = margins(PROBABILITIES)[np.arange(10), LABELS]
    np.testing.assert_allclose((own + 1) / 2, CLEANLAB, atol=1e-12)
    ranks = judge(LABELS, PROBABILITIES, 0.02).rank
    assert ranks.tolist() == (np.argsort(np.argsort(CLEANLAB, kind="stable")) + 1).tolist()


@pytest.mark.parametrize(
    ("counts", "steps"), [((4, 3), None), ((9, 2, 3, 5), None), ((9, 9, 9), 5)]
)
def test_margins_are_those_to_the_best_other_class(counts, steps):
    _, probabilities = draw(counts, 1, steps)
    expected = [
        [row[c] - np.delete(row, c).max() for c in range(len(counts))] for row in probabilities
    ]
    np.testing.assert_array_equal(margins(probabilities), expected)


@pytest.mark.parametrize("steps", [None, 4])
def test_verdicts_compare_a_margin_with_those_of_its_class(steps):
    # At a rate of 0.1, the last two classes are compared together.
    labels, probabilities = draw((60, 10, 9, 6), 2, steps)
    doubts = judge(labels, probabilities, 0.1)
    margin = margins(probabilities)[np.arange(85), labels]
    group = np.minimum(labels, 2)
    found = set()
    for i in range(85):
        others = [margin[j] for j in range(85) if group[j] == group[i]]
        share = sum(other <= margin[i] for other in others) / len(others)
        expected = Verdict.CONFORM
        if probabilities[i].argmax() != labels[i] and margin[i] < 0:
            expected = (
                Verdict.CONFLICT
                if share <= 0.1
                else (Verdict.DOUBT if share <= 0.1 * DOUBT_FACTOR else expected)
            )
        assert doubts.verdict[i] == expected, i
        assert doubts.probability[i] == probabilities[i, labels[i]]
        found.add(expected)
    assert found == set(Verdict)
    assert sorted(doubts.rank) == list(range(1, 86))
    assert (np.diff(margin[np.argsort(doubts.rank)]) >= 0).all()


@pytest.mark.parametrize("rate", [0.01, 0.02, 0.1])
@pytest.mark.parametrize("wrong", [0.0, 0.1])
def test_false_alarms_are_at_most_the_stated_share_of_every_class(rate, wrong):
    rng = np.random.default_rng(3)
    truth, probabilities = draw((700, 300, 150), 4)
    is_wrong = rng.random(len(truth)) < wrong
    labels = np.where(is_wrong, (truth + rng.integers(1, 3, len(truth))) % 3, truth)
    conflict = judge(labels, probabilities, rate).verdict == Verdict.CONFLICT
    assert conflict.any()
    for c in range(3):
        own = labels == c
        assert conflict[own].sum() <= rate * own.sum()
        false = conflict & own & ~is_wrong
        assert false.sum() <= rate * (own & ~is_wrong).sum()


@pytest.mark.parametrize(
    ("labels", "probabilities"),
    [
        (np.zeros(5, int), np.ones((5, 1))),
        (np.zeros(60, int), np.full((60, 2), 0.5)),  # nothing is predicted more than another
        (np.arange(60) % 2, np.tile([0.9, 0.1], (60, 1))),  # all margins of a class are equal
        # the lowest of a class, but predicted as declared
        (np.zeros(99, int), np.stack([np.linspace(0.6, 0.9, 99), np.linspace(0.4, 0.1, 99)], 1)),
        (np.array([0, 1, 1]), np.array([[0.1, 0.9], [0.2, 0.8], [0.9, 0.1]])),  # too few
        (np.zeros(0, int), np.zeros((0, 3))),
    ],
)
def test_without_evidence_declarations_conform(labels, probabilities):
    doubts = judge(labels, probabilities, 0.02)
    assert set(doubts.verdict) <= {Verdict.CONFORM}
    assert sorted(doubts.rank) == list(range(1, len(labels) + 1))


@pytest.mark.parametrize(("n", "expected"), [(50, Verdict.CONFLICT), (49, Verdict.DOUBT)])
def test_a_class_is_compared_alone_if_one_parcel_is_the_stated_share(n, expected):
    labels = np.repeat([0, 1], [n, 40])
    # All of class 1 are contradicted more than the one of class 0.
    probabilities = np.repeat([[0.9, 0.1], [0.95, 0.05]], [n, 40], axis=0)
    probabilities[0] = 0.4, 0.6
    if expected == Verdict.DOUBT:
        labels, probabilities = labels[: n + 3], probabilities[: n + 3]
    assert judge(labels, probabilities, 0.02).verdict[0] == expected


@pytest.mark.parametrize("steps", [None, 10])
def test_finding_supposes_every_parcel_declared_as_another_class(steps):
    labels, probabilities = draw((59, 39, 29), 5, steps)
    found = estimate_finding(labels, probabilities, 0.1)
    for c in range(3):
        verdicts = []
        for i in np.flatnonzero(labels != c):
            changed = labels.copy()
            changed[i] = c
            verdicts.append(judge(changed, probabilities, 0.1).verdict[i])
        shares = [v == Verdict.CONFLICT for v in verdicts], [v != "CONFORM" for v in verdicts]
        np.testing.assert_allclose(found[c], np.mean(shares, axis=1), atol=1e-12)
    assert 0 < found[:, 0].min() < found[:, 1].max() < 1


def test_a_perfect_model_finds_every_wrong_declaration():
    labels = np.arange(100) % 2
    probabilities = np.where(labels[:, None] == [0, 1], 0.9, 0.1)
    np.testing.assert_allclose(estimate_finding(labels, probabilities, 0.02), 1)


def test_the_finding_of_a_single_class_is_not_known():
    assert np.isnan(estimate_finding(np.zeros(5, int), np.ones((5, 1)), 0.02)).all()


def test_visits_find_what_planted_declarations_show():
    labels, probabilities = draw((1000, 600, 400), 6)
    # The last class is predicted wrongly more often, so that classes have different limits.
    is_hard = (labels == 2) & (np.arange(2000) % 2 == 0)
    probabilities[is_hard] = probabilities[is_hard][:, [2, 0, 1]]
    visits = np.array([10, 50, 100, 200])
    n = len(labels)
    expected = found_by_visits(labels, probabilities, 0.02, visits / n)
    rng, found = np.random.default_rng(8), []
    for _ in range(200):
        wrong = rng.random(n) < SUPPOSED_WRONG
        planted = np.where(wrong, (labels + rng.integers(1, 3, n)) % 3, labels)
        doubts = judge(planted, probabilities, 0.02)
        order = np.argsort(doubts.rank)
        listed = order[doubts.verdict[order] != Verdict.CONFORM]
        found.append([wrong[listed[:v]].sum() / wrong.sum() for v in visits])
    np.testing.assert_allclose(expected, np.mean(found, axis=0), atol=0.01)
    assert 0.01 < expected[0] < expected[-1] < 0.95


@pytest.mark.parametrize("n_classes", [1, 3])
def test_without_other_classes_or_parcels_it_is_not_known_what_visits_find(n_classes):
    n = 4 if n_classes == 1 else 0
    found = found_by_visits(np.zeros(n, int), np.ones((n, n_classes)), 0.02, np.array([0.1, 1]))
    assert np.isnan(found).all()
