"""Ranges of simulated fields are found again, and no range where there is none."""

import numpy as np
import pytest

from pipeline.dataset.groups import blocks_of
from pipeline.evaluation import variogram
from pipeline.evaluation.variogram import (
    SHAPES,
    choose_side,
    empirical,
    fit,
    measure,
    neighbours_test,
    sample_pairs,
)

EXTENT_M = 10_000.0


def places(n, seed=0):
    return np.random.default_rng(seed).uniform(0, EXTENT_M, (n, 2))


def field(positions, range_m, n_features=1, nugget=0.2, seed=1):
    """Simulate Gaussian fields with an exponential variogram, float64 (N, F)."""
    distances = np.linalg.norm(positions[:, None] - positions, axis=2)
    covariance = (1 - nugget) * (1 - SHAPES["exponential"](distances / range_m))
    covariance += nugget * np.eye(len(positions))
    noise = np.random.default_rng(seed).standard_normal((len(positions), n_features))
    return np.linalg.cholesky(covariance) @ noise


def measured(positions, features, labels=None, seed=3):
    labels = np.zeros(len(positions), np.int64) if labels is None else labels
    generator = np.random.default_rng(seed)
    pairs = sample_pairs(positions, generator)
    names = [f"f{i}" for i in range(features.shape[1])]
    return measure(positions, labels, features[pairs.parcels], names, pairs, generator)


@pytest.mark.parametrize("range_m", [500.0, 1500.0])
def test_the_range_of_simulated_fields_is_found(range_m):
    positions = places(1000)
    found = measured(positions, field(positions, range_m, n_features=9))
    assert found.feature_range_m == pytest.approx(range_m, rel=0.3)
    assert found.class_range_m is None
    assert found.range_m == found.feature_range_m
    assert all(own.p <= 0.01 for own in found.features)


def test_what_the_class_explains_is_not_likeness():
    """Classes at random, of very different features, hide a field from a plain variogram."""
    positions = places(1000)
    labels = np.random.default_rng(2).integers(0, 3, 1000)
    alike = field(positions, 1000.0, n_features=9)
    found = measured(positions, alike + 50 * labels[:, None], labels)
    assert found.feature_range_m == pytest.approx(1000, rel=0.3)
    assert found.class_range_m is None


def test_regions_of_classes_are_a_range():
    positions = places(1000)
    labels = (field(positions, 1500.0, nugget=0.0)[:, 0] > 0).astype(np.int64)
    found = measured(positions, np.random.default_rng(0).standard_normal((1000, 4)), labels)
    assert found.feature_range_m is None
    # The share of different classes is arccos(correlation) / pi: 95 % of its sill at 1,270 m.
    assert found.range_m == found.class_range_m == pytest.approx(1270, rel=0.4)


@pytest.mark.parametrize("n", [2, 5, 40, 400])
def test_without_autocorrelation_no_range_is_found(n):
    """Also of a few parcels, of one class, and of a constant feature."""
    positions = places(n)
    features = np.random.default_rng(5).standard_normal((n, 5))
    features[:, 0] = 7
    found = measured(positions, features)
    assert found.range_m is None
    side, text = choose_side(found, positions, 2)
    assert "No range found" in text
    assert 0 < side <= EXTENT_M / 2
    assert np.isfinite(side)


def test_parcels_at_one_place_have_no_range():
    found = measured(np.zeros((50, 2)), np.random.default_rng(5).standard_normal((50, 2)))
    assert found.range_m is None
    assert choose_side(found, np.zeros((50, 2)), 5)[0] == 2000


def test_a_trend_has_at_least_half_of_the_extent_and_leaves_enough_blocks():
    positions = places(600)
    found = measured(positions, positions @ np.array([[1.0, 1, 0], [0, 1, 1]]))
    assert found.feature_range_m == found.longest_m
    assert found.longest_m == pytest.approx(EXTENT_M / 2, rel=0.01)
    side, text = choose_side(found, positions, 5)
    assert "up to at least 5" in text
    assert "fewer than 15" in text
    n_blocks = [len(np.unique(blocks_of(positions, s))) for s in (side, side / 0.9 * 1.02)]
    assert n_blocks[0] >= 15 > n_blocks[1] or n_blocks[0] < 25


def test_semivariances_are_those_of_every_pair():
    rng = np.random.default_rng(7)
    positions, values = places(40), rng.standard_normal((40, 3))
    pairs = sample_pairs(positions, rng)
    assert len(pairs.first) == 40 * 39 / 2
    distances = np.hypot(*(positions[pairs.first] - positions[pairs.second]).T)
    edges = np.linspace(0, 15_000, 10)
    bins = np.searchsorted(edges, distances) - 1
    found = empirical(values, pairs.first, pairs.second, bins, len(edges))
    sums, counts = np.zeros(len(edges)), np.zeros(len(edges))
    for i in range(40):
        for j in range(i):
            own = int(np.searchsorted(edges, np.linalg.norm(positions[i] - positions[j]))) - 1
            sums[own] += ((values[i] - values[j]) ** 2).sum() / 2
            counts[own] += 1
    np.testing.assert_allclose(found, sums / np.where(counts, counts, np.nan))


@pytest.mark.parametrize("model", SHAPES)
@pytest.mark.parametrize(("nugget", "sill"), [(0.3, 0.7), (0.0, 2.0)])
def test_a_model_without_noise_is_fitted_exactly(model, nugget, sill):
    distances = np.geomspace(20, 5000, 15)
    values = nugget + sill * SHAPES[model](distances / 800)
    found = fit(distances, values, 5000)
    assert found.model == model
    assert found.range_m == pytest.approx(800, rel=0.02)
    assert (found.nugget, found.sill) == pytest.approx((nugget, sill), abs=0.02)


def test_a_falling_variogram_has_no_sill():
    distances = np.geomspace(20, 5000, 15)
    assert fit(distances, np.linspace(2, 1, 15), 5000).sill == 0


def test_pairs_of_many_parcels_are_few_and_of_all_scales(monkeypatch):
    positions = places(100_000)
    pairs = sample_pairs(positions, np.random.default_rng(1))
    assert len(pairs.parcels) < 8 * variogram.MOST_PARCELS
    assert len(pairs.first) < 1_500_000
    own = positions[pairs.parcels]
    distances = np.hypot(*(own[pairs.first] - own[pairs.second]).T)
    counts = np.histogram(distances, np.geomspace(20, 10_000, 12))[0]
    assert counts.min() > 1000
    # 1,500 parcels at random: one pair in 80,000 is nearer than 20 m, and few nearer than 100 m.
    assert (pairs.first != pairs.second).all()


def test_neighbours_at_random_are_rarely_called_alike():
    """A test at 1 % is wrong in about 1 % of cases."""
    rng = np.random.default_rng(11)
    positions = places(60)
    p = [neighbours_test(rng.standard_normal((60, 1)), positions, rng) for _ in range(150)]
    assert np.mean(np.array(p) <= 0.01) <= 0.04
    assert np.mean(np.array(p) <= 0.5) == pytest.approx(0.5, abs=0.13)


def test_the_side_is_rounded_up_and_never_more_than_half_of_the_extent():
    positions = places(1000)
    found = measured(positions, field(positions, 500.0, n_features=5))
    side, text = choose_side(found, positions, 3)
    assert side in np.arange(found.range_m // 10 * 10, found.range_m + 20)
    assert f"Blocks of {side:g} m are suggested." in text
