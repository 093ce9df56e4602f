"""The sample to assess verdicts: sizes of the textbook, chances by counting, intervals of scipy."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, hypergeom

from pipeline.evaluation.quality_sample import (
    draw_sample,
    estimate_share,
    sample_size,
    strata_of,
)
from pipeline.evaluation.scores import wilson_interval

# Verdict and class of 600 parcels.
COUNTS = {
    ("CONFLICT", "a"): 9, ("CONFLICT", "b"): 1, ("DOUBT", "a"): 40, ("CONFORM", "a"): 350,
    ("CONFORM", "b"): 150, ("CONFORM", "c"): 50,
}  # fmt: skip


def declarations(counts=COUNTS):
    """Return ids, verdicts and codes."""
    pairs = [pair for pair, n in counts.items() for _ in range(n)]
    return [f"p{i:03}" for i in range(len(pairs))], *zip(*pairs, strict=True)


@pytest.mark.parametrize(
    ("n", "margin", "expected"),
    # The third is the example of many textbooks; ISO tables round alike.
    [
        (10**9, 0.05, 385),
        (10**9, 0.1, 97),
        (2000, 0.05, 323),
        (14, 0.1, 13),
        (1, 0.1, 1),
        (0, 0.1, 0),
    ],
)
def test_the_size_is_cochrans(n, margin, expected):
    assert sample_size(n, margin) == expected


def test_strata_are_sampled_in_proportion_and_at_least_twice():
    sample = draw_sample(*declarations(), margin=0.1, seed=1)
    sizes = sample.groupby(["verdict", "declared_code"])[["stratum_size", "stratum_sample"]].first()
    assert sizes["stratum_size"].to_dict() == COUNTS
    found = Counter(zip(sample["verdict"], sample["declared_code"], strict=True))
    assert found == sizes["stratum_sample"].to_dict()
    # 10 of 10, 29 of 40, 82 of 550: 82 * 350 / 550 = 52.2, 82 * 150 / 550 = 22.4, 7.5.
    assert found == {
        ("CONFLICT", "a"): 9, ("CONFLICT", "b"): 1, ("DOUBT", "a"): 29, ("CONFORM", "a"): 53,
        ("CONFORM", "b"): 23, ("CONFORM", "c"): 8,
    }  # fmt: skip
    assert sample["weight"].sum() == pytest.approx(600, abs=1e-3)
    assert (sample["weight"] * sample["inclusion_probability"]).round(4).eq(1).all()
    for _, own in sample.groupby(["verdict", "declared_code"]):
        assert own["stratum_rank"].tolist() == list(range(1, len(own) + 1))
    few = draw_sample(*declarations({("CONFORM", "a"): 5000, ("CONFORM", "b"): 3}), 0.1, 1)
    assert Counter(few["declared_code"]) == {"a": 95, "b": 2}
    assert draw_sample([], [], [], 0.1, 1).empty


def test_the_sample_depends_on_the_seed_and_not_on_the_order():
    table = pd.DataFrame(zip(*declarations(), strict=True))
    first, other = (draw_sample(*table.T.to_numpy(), 0.1, seed) for seed in (1, 2))
    mixed = draw_sample(*table.sample(frac=1, random_state=3).T.to_numpy(), 0.1, 1)
    pd.testing.assert_frame_equal(first, mixed)
    assert set(first["parcel_id"]) != set(other["parcel_id"])


def test_every_parcel_of_a_stratum_is_as_likely():
    ids, verdicts, codes = declarations({("DOUBT", "a"): 30, ("DOUBT", "b"): 10})
    drawn = Counter()
    for seed in range(400):
        drawn.update(draw_sample(ids, verdicts, codes, 0.2, seed)["parcel_id"])
    # 16 of 40: 12 of 30, 4 of 10; the standard deviation is 10.
    assert all(abs(drawn[i] - 160) < 45 for i in ids)


@pytest.mark.parametrize(("hits", "n"), [(0, 20), (3, 20), (20, 20), (7, 1000)])
def test_the_interval_is_wilsons(hits, n):
    expected = binomtest(hits, n).proportion_ci(0.95, "wilson")
    assert wilson_interval(hits / n, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


def of_strata(*rows):
    return pd.DataFrame(rows, columns=["verdict", "n_parcels", "n_visited", "n_hits"])


def test_shares_are_weighted_by_the_sizes_of_strata():
    found = estimate_share(
        of_strata(("DOUBT", 100, 10, 5), ("CONFORM", 300, 10, 1), ("CONFORM", 600, 20, 0))
    )
    assert found.share == pytest.approx(0.1 * 0.5 + 0.3 * 0.1)
    assert 0 < found.low < found.share < found.high < 1
    assert (found.n_parcels, found.n_visited, found.n_hits) == (1000, 40, 6)


def test_a_stratum_without_visits_is_like_the_others_of_its_verdict():
    found = estimate_share(of_strata(("CONFORM", 300, 10, 1), ("CONFORM", 600, 0, 0)))
    assert found.share == pytest.approx(0.1)
    assert np.isnan(estimate_share(of_strata(("DOUBT", 9, 0, 0), ("CONFORM", 9, 9, 1))).share)


def test_the_interval_of_a_single_stratum_is_wilsons_and_closes_at_the_whole():
    assert estimate_share(of_strata(("DOUBT", 10**9, 30, 3))).high == pytest.approx(
        binomtest(3, 30).proportion_ci(0.95, "wilson").high, abs=1e-6
    )
    widths = []
    for n in (40, 31, 30):
        found = estimate_share(of_strata(("DOUBT", n, 30, 3)))
        widths.append(found.high - found.low)
    assert widths[0] > widths[1] > widths[2] == 0


@pytest.mark.parametrize(("n_parcels", "n_visited"), [(14, 12), (20, 19), (30, 15), (60, 57)])
def test_few_parcels_that_are_nearly_all_visited_have_intervals_that_hold(n_parcels, n_visited):
    """The chance of each number of hits is the hypergeometric one."""
    hits = range(n_visited + 1)
    found = [estimate_share(of_strata(("DOUBT", n_parcels, n_visited, h))) for h in hits]
    for wrong in range(n_parcels + 1):
        chances = hypergeom.pmf(hits, n_parcels, wrong, n_visited)
        inside = [e.low <= wrong / n_parcels <= e.high for e in found]
        assert chances[inside].sum() > 0.92
    assert (found[-1].share, found[-1].high) == (1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("missed", [0.0, 0.005, 0.03])
def test_the_interval_contains_the_truth_as_often_as_it_says(missed):
    counts = {
        (verdict, f"{code:02}"): n
        for verdict, n in (("CONFLICT", 8), ("DOUBT", 40), ("CONFORM", 500))
        for code in range(10)
    }
    ids, verdicts, codes = declarations(counts)
    rng = np.random.default_rng(4)
    chance = pd.Series(verdicts).map({"CONFLICT": 0.8, "DOUBT": 0.3, "CONFORM": missed})
    hit = pd.Series(rng.random(len(ids)) < chance.to_numpy(), index=ids)
    covered, n = 0, 100
    for seed in range(n):
        sample = draw_sample(ids, verdicts, codes, 0.1, seed)
        hits = hit[sample["parcel_id"]].to_numpy()
        found = estimate_share(strata_of(sample, np.ones(len(sample), bool), hits))
        covered += found.low <= hit.mean() <= found.high
    assert covered / n > 0.9
