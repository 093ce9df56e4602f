"""Tests of randomness: moments against every choice, and what is found in samples of each kind."""

from itertools import combinations

import numpy as np
import pytest

from pipeline.evaluation.representativeness import find_differences, pair_moments

N = 1500


@pytest.mark.parametrize("n_labelled", [0, 1, 2, 3, 5, 7])
def test_moments_are_those_of_every_choice(n_labelled):
    # Two points that are each other's neighbours, one that is the neighbour of three.
    neighbour = np.array([1, 0, 1, 1, 3, 6, 4])
    counts = []
    for drawn in combinations(range(7), n_labelled):
        labelled = np.isin(np.arange(7), drawn)
        counts.append((labelled & labelled[neighbour]).sum())
    mean, variance = pair_moments(neighbour, n_labelled)
    assert (mean, variance) == pytest.approx((np.mean(counts), np.var(counts)), abs=1e-12)


def scene(seed):
    rng = np.random.default_rng(seed)
    positions = rng.uniform(0, 50_000, (N, 2))
    areas = rng.lognormal(9, 0.8, N)
    mapped = rng.choice(5, N, p=[0.5, 0.3, 0.15, 0.045, 0.005])
    return rng, areas, positions, mapped


def chosen(rng, odds):
    return np.isin(np.arange(N), rng.choice(N, N // 3, replace=False, p=odds / odds.sum()))


def test_random_samples_are_hardly_ever_suspected():
    found = 0
    for seed in range(60):
        rng, areas, positions, mapped = scene(seed)
        labelled = chosen(rng, np.ones(N))
        found += bool(find_differences(areas, positions, mapped, labelled, np.zeros(N, np.int64)))
    assert found <= 1


@pytest.mark.parametrize("what", ["area", "position", "neighbours", "predicted_class"])
def test_a_sample_that_is_not_random_is_found_out(what):
    rng, areas, positions, mapped = scene(1)
    if what == "neighbours":
        # Whole squares of land: neither west nor north, but side by side.
        squares = (positions // 2000).astype(np.int64) @ [25, 1]
        labelled = np.isin(squares, rng.choice(625, 208, replace=False))
    else:
        odds = {
            "area": areas,
            "position": positions[:, 0] + 10_000,
            "predicted_class": np.where(mapped == 0, 1, 2.5),
        }[what]
        labelled = chosen(rng, odds)
    found = find_differences(areas, positions, mapped, labelled, np.zeros(N, np.int64))
    assert {d.what for d in found} == {what}
    assert all(d.p_value < 1e-3 for d in found)
    assert {
        "area": "their median area is 1",
        "position": "they lie farther east",
        "neighbours": "the nearest neighbour of ",
        "predicted_class": "their predicted classes have other shares",
    }[what] in found[0].words


def test_strata_with_other_shares_are_no_difference():
    """Large parcels are drawn more often: random within strata, not random over all."""
    rng, areas, positions, mapped = scene(2)
    strata = (areas > np.median(areas)).astype(np.int64)
    labelled = rng.random(N) < np.where(strata == 1, 0.6, 0.2)
    alike = find_differences(areas, positions, mapped, labelled, np.zeros(N, np.int64))
    assert [d.what for d in alike] == ["area"]
    assert find_differences(areas, positions, mapped, labelled, strata) == []


def test_few_parcels_and_parcels_at_one_place_are_accepted():
    areas, places, mapped = np.ones(60), np.zeros((60, 2)), np.zeros(60, np.int64)
    strata = np.zeros(60, np.int64)
    for n in (0, 5, 30, 60):
        labelled = np.arange(60) < n
        assert [d.what for d in find_differences(areas, places, mapped, labelled, strata)] in (
            [],
            ["neighbours"],
        )
