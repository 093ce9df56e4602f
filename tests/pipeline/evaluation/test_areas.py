"""Areas against a published example, every sample of small populations, and simulated surveys."""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import binom

from benchmarks.accuracy_areas import OTHER, SHARES, World, simulate
from pipeline.evaluation.areas import Sample, accuracy, difference, error_adjusted, interval
from pipeline.evaluation.population import (
    FEWEST_OF_CLASS,
    Population,
    effective_numbers,
    join_small_groups,
)
from pipeline.evaluation.scores import wilson_interval

# The example of Olofsson et al. (2014), section 5: pixels of 30 m, rows mapped, columns reference.
MATRIX = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
MAPPED = np.array([200_000.0, 150_000, 3_200_000, 6_450_000])
PIXEL_HA = 0.09


@pytest.fixture
def published():
    mapped = np.repeat(np.arange(4), MATRIX.sum(axis=1))
    labels = np.concatenate([np.repeat(np.arange(4), row) for row in MATRIX])
    return Sample(np.ones(len(labels)), mapped, MAPPED - MATRIX.sum(axis=1)), labels, mapped


def test_areas_are_those_of_olofsson_2014(published):
    sample, labels, _ = published
    found = error_adjusted(sample, labels, 4)
    np.testing.assert_allclose(found.area * PIXEL_HA, [21158, 11686, 285770, 581386], atol=0.5)
    half = 1.96 * found.standard_error * PIXEL_HA
    # The correction for finite populations, which the example lacks, makes 0.02 %.
    np.testing.assert_allclose(half, [6158, 3756, 15510, 16282], rtol=3e-4)
    assert (found.low < found.area).all()
    assert (found.area < found.high).all()
    # Rare classes have skewed intervals, of about the same length.
    np.testing.assert_allclose((found.high - found.low) / 2 * PIXEL_HA, half, rtol=0.02)
    assert found.high[0] - found.area[0] > 1.2 * (found.area[0] - found.low[0])


def test_accuracies_are_those_of_olofsson_2014(published):
    sample, labels, mapped = published
    found = accuracy(sample, labels, mapped, MAPPED)
    weights, n = MAPPED / MAPPED.sum(), MATRIX.sum(axis=1)
    users = np.diag(MATRIX) / n
    shares = weights[:, None] * MATRIX / n[:, None]
    producers = np.diag(shares) / shares.sum(axis=0)
    of_rows = weights[:, None] ** 2 * (MATRIX / n[:, None]) * (1 - MATRIX / n[:, None])
    of_rows /= n[:, None] - 1
    errors = {"overall": np.sqrt((weights**2 * users * (1 - users) / (n - 1)).sum())}
    errors["users"] = np.sqrt(users * (1 - users) / (n - 1))
    # Equation 7.
    own = np.diag(of_rows)
    variance = (1 - producers) ** 2 * own + producers**2 * (of_rows.sum(axis=0) - own)
    errors["producers"] = np.sqrt(variance) / shares.sum(axis=0)
    np.testing.assert_allclose(found.overall, [np.trace(shares), errors["overall"]], rtol=2e-4)
    np.testing.assert_allclose(found.users.T, [users, errors["users"]], rtol=5e-4)
    np.testing.assert_allclose(found.producers.T, [producers, errors["producers"]], rtol=5e-4)
    assert interval(*found.overall) == pytest.approx((0.947 - 0.018, 0.947 + 0.018), abs=1e-3)


def every_sample(areas, labels, n):
    """Yield every sample of n parcels: chosen, bool (N,), and the Sample in one group."""
    for drawn in combinations(range(len(areas)), n):
        chosen = np.isin(np.arange(len(areas)), drawn)
        rest = np.array([areas[~chosen].sum()])
        yield chosen, Sample(areas[chosen], np.zeros(n, np.int64), rest)


LABELS = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
PREDICTED = np.array([0.9, 0.5, 0.7, 0.8, 0.9, 0.6, 0.3, 0.4, 0.2, 0.1, 0.5, 0.1])


@pytest.mark.parametrize("with_predictions", [False, True])
def test_over_all_samples_estimate_and_variance_are_unbiased(with_predictions):
    areas = np.full(12, 100.0)
    predicted = np.column_stack([PREDICTED, 1 - PREDICTED]) * with_predictions
    found = [
        difference(
            sample,
            LABELS[chosen],
            predicted[chosen],
            areas[~chosen] @ predicted[~chosen],
        )
        for chosen, sample in every_sample(areas, LABELS, 7)
    ]
    estimates = np.array([f.area for f in found])
    np.testing.assert_allclose(estimates.mean(axis=0), [600, 600])
    # ddof 0: the samples are all that there are.
    variance = np.mean([f.standard_error**2 for f in found], axis=0)
    np.testing.assert_allclose(variance, estimates.var(axis=0))
    np.testing.assert_allclose(estimates.sum(axis=1), 1200)


def test_over_all_samples_of_unequal_areas_the_ratio_is_nearly_unbiased():
    areas = np.array([1.0, 4, 2, 3, 5, 2, 1, 3, 2, 4, 1, 2]) * 1000
    truth = np.array([17_000, 13_000])
    found = [
        error_adjusted(sample, LABELS[chosen], 2)
        for chosen, sample in every_sample(areas, LABELS, 7)
    ]
    estimates = np.array([f.area for f in found])
    np.testing.assert_allclose(estimates.mean(axis=0), truth, rtol=0.015)
    variance = np.mean([f.standard_error**2 for f in found], axis=0)
    np.testing.assert_allclose(variance, estimates.var(axis=0), rtol=0.1)
    # For the larger class, expansion by numbers of parcels would have a larger variance.
    expanded = [
        12 / 7 * areas[chosen] @ (LABELS[chosen] == 0)
        for chosen, _ in every_sample(areas, LABELS, 7)
    ]
    assert estimates[:, 0].var() < 0.8 * np.var(expanded)


def test_groups_are_estimated_apart():
    """Two groups are as two populations: totals and variances add up."""
    rng = np.random.default_rng(1)
    areas, labels, groups = rng.uniform(1, 3, 40), rng.integers(0, 3, 40), np.arange(40) % 2
    rest = np.array([50.0, 200.0])
    both = error_adjusted(Sample(areas, groups, rest), labels, 3)
    alone = [
        error_adjusted(
            Sample(areas[groups == g], np.zeros(20, np.int64), rest[[g]]), labels[groups == g], 3
        )
        for g in (0, 1)
    ]
    np.testing.assert_allclose(both.area, alone[0].area + alone[1].area)
    variances = [a.standard_error**2 for a in alone]
    np.testing.assert_allclose(both.standard_error**2, np.sum(variances, axis=0))


@pytest.mark.parametrize("n_of_class", [5, 20, 100])
def test_without_predictions_the_interval_is_about_that_of_wilson(n_of_class):
    labels = (np.arange(1000) >= n_of_class).astype(np.int64)
    sample = Sample(np.ones(1000), np.zeros(1000, np.int64), np.array([1e9]))
    found = error_adjusted(sample, labels, 2)
    expected = wilson_interval(n_of_class / 1000, 1000)
    np.testing.assert_allclose(np.array([found.low, found.high])[:, 0] / 1e9, expected, rtol=0.01)


def population(labels, mapped, areas=None, predicted=None, strata=None):
    n = len(labels)
    return Population(
        np.ones(n) if areas is None else np.asarray(areas, float),
        np.array(labels),
        np.array(mapped),
        np.full((n, 3), 1 / 3) if predicted is None else predicted,
        np.zeros(n, np.int64) if strata is None else np.array(strata),
    )


def test_areas_of_labelled_parcels_are_exact():
    """Nothing is to be estimated, whatever is predicted."""
    areas = [1.0, 2, 4, 8]
    found = population([0, 1, 1, 0], [2, 2, 0, 1], areas)
    for estimate in (found.error_adjusted(), found.difference()):
        for values in (estimate.area, estimate.low, estimate.high):
            assert values.tolist() == [9, 6, 0]
        assert estimate.standard_error.tolist() == [0, 0, 0]
    assert found.areas_by(found.mapped).tolist() == [4, 8, 3]
    assert found.has_interval().all()
    assert not found.is_too_small


def test_an_estimate_is_between_what_is_known_and_what_is_possible():
    """Predictions that are far too sure of a class cannot make its area negative."""
    labels = np.array([0] * 20 + [1] * 20 + [-1] * 2)
    predicted = np.tile([0.0, 0.0, 1.0], (42, 1))
    predicted[40:] = [0, 0, 0]
    found = population(labels, np.full(42, 2), predicted=predicted).difference()
    assert found.area[2] == found.low[2] == 0
    assert (found.area[:2] >= 20).all()
    assert (found.high <= 22).all()


@pytest.mark.parametrize(
    ("labels", "strata", "is_too_small"),
    [
        ([0] * 20 + [-1], [0] * 21, False),
        ([0] * 19 + [-1], [0] * 20, True),
        ([0] * 19, [0] * 19, False),  # all are labelled
        ([0] * 25 + [-1], [0] * 24 + [1] * 2, True),  # one labelled parcel in the stratum
        ([0] * 25 + [-1], [0] * 23 + [1] * 3, False),
        ([0] * 25 + [-1], [0] * 25 + [1], True),
        ([0] * 25 + [-1], [0] * 24 + [1, 0], False),  # no parcel of the stratum is unlabelled
        ([-1] * 30, [0] * 30, True),
    ],
)
def test_too_few_labelled_parcels(labels, strata, is_too_small):
    found = population(labels, [0] * len(labels), strata=strata)
    assert found.is_too_small == is_too_small
    if not is_too_small:
        for estimate in (found.error_adjusted(), found.difference()):
            assert np.isfinite([estimate.area, estimate.low, estimate.high]).all()


def test_an_interval_needs_parcels_of_the_class():
    labels = [0] * 30 + [1] * FEWEST_OF_CLASS + [2] * (FEWEST_OF_CLASS - 1) + [-1]
    found = population(labels, [0] * len(labels))
    assert found.has_interval().tolist() == [True, True, False]


def test_a_few_large_parcels_count_as_few():
    areas, groups = np.array([0.1] * 5 + [1, 1, 8]), np.array([0] * 5 + [2] * 3)
    found = effective_numbers(areas, groups, 3)
    assert found.tolist() == pytest.approx([5, 0, 100 / 66])
    labels = [0] * 30 + [1] * 30 + [2] * 30 + [-1]
    large = [1.0] * 60 + [1.0] * 29 + [100.0, 1.0]
    assert population(labels, [0] * 91, large).is_too_small
    large[-2] = 10.0
    assert population(labels, [0] * 91, large).has_interval().tolist() == [True, True, True]
    large[-2] = 30.0
    assert population(labels, [0] * 91, large).has_interval().tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        # labelled parcels of the predicted classes 0, 1, 2 ...; the groups that are joined
        ([30, 20, 10], [0, 1, 2]),
        ([30, 20, 9], [0, 1, 1]),
        ([3, 20, 7], [0, 1, 0]),
        ([3, 20, 6], [0, 0, 0]),
        ([3, 20, 6, 40], [0, 0, 0, 1]),
        ([3, 2], [0, 0]),
        ([5], [0]),
        ([0, 12], [0, 0]),
    ],
)
def test_small_groups_are_joined(counts, expected):
    n = len(counts)
    mapped = np.concatenate([np.repeat(np.arange(n), counts), np.arange(n)])
    is_labelled = np.arange(len(mapped)) < sum(counts)
    groups = join_small_groups(np.zeros(len(mapped), np.int64), mapped, is_labelled, n)
    found = groups[-n:]
    assert len(set(found)) == len(set(expected))
    assert [found[i] == found[j] for i in range(n) for j in range(n)] == [
        expected[i] == expected[j] for i in range(n) for j in range(n)
    ]


def test_groups_of_two_strata_are_never_joined():
    strata = np.repeat([0, 1], 15)
    groups = join_small_groups(strata, np.arange(30) % 3, np.ones(30, bool), 3)
    assert not set(groups[strata == 0]) & set(groups[strata == 1])


@pytest.mark.slow
def test_intervals_contain_the_truth_in_simulated_surveys():
    """SIMULATED. The surveys of benchmarks/accuracy_areas.py, in small."""
    n_surveys = 100
    rng = np.random.default_rng(1)
    world = World.simulate(3000, 0.4, rng)
    outcomes, mapped, labelled = simulate(world, 600, n_surveys, rng)
    frequent = labelled.mean(axis=0) > 8
    assert frequent.sum() >= len(SHARES) - 1
    # Intervals that cover in 95 % of the surveys do so less often in one of ten thousand cases.
    fewest = binom.ppf(1e-4, n_surveys, 0.95) / n_surveys
    for name in ("error-adjusted", "difference"):
        assert (outcomes[name].coverage[frequent] >= fewest).all(), name
        # Over all classes, they are not too wide, either.
        assert outcomes[name].coverage[frequent].mean() < 0.98
        errors = np.array(outcomes[name].errors)
        standard = errors.std(axis=0) / np.sqrt(n_surveys)
        assert (np.abs(errors.mean(axis=0)) < 4 * standard).all(), name
    # The map is wrong by more than 15 % for most classes.
    bias = mapped.mean(axis=0)
    assert (np.abs(bias) > 0.15).sum() >= 6
    assert bias[OTHER] == -1
