"""A random sample of declarations to assess the verdicts: how it is drawn, and what it shows.

The declarations are divided into strata, by verdict and declared class. Within a stratum every
parcel is as likely to be drawn as any other, so that the visits allow an estimate for all of them.

The sample is for an agency's own assessment. For the yearly quality assessment of an area
monitoring system in the European Union, the parcels of every unit amount group are taken from a
ranked list of the Commission (Union Level Methodology; 300 parcels, or 5 % of less than 6,000, are
recommended there: https://github.com/ec-jrc/cbm, iacs_qa/sample_extraction).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.evaluation.scores import wilson_interval

# Half the width of a 95 % interval, in standard deviations.
Z = NormalDist().inv_cdf(0.975)
# Fewest parcels of a stratum that are drawn, if it has as many.
FEWEST = 2


def sample_size(n: int, margin: float) -> int:
    """Return how many of n parcels to draw, so that a share is known to plus or minus `margin`.

    At a confidence of 95 %, whatever the share is: it is taken as one half, with the correction for
    a finite population (Cochran 1977, Sampling Techniques, 3rd ed., equations 4.1 and 4.2).
    """
    if n == 0:
        return 0
    of_many = (Z / (2 * margin)) ** 2
    return min(n, int(np.ceil(of_many / (1 + (of_many - 1) / n))))


def draw_sample(
    ids: Sequence[str], verdicts: Sequence[str], codes: Sequence[str], margin: float, seed: int
) -> pd.DataFrame:
    """Draw a stratified random sample of declarations.

    `sample_size` parcels of each verdict are drawn. They are divided among the declared classes in
    proportion to their declarations, rounded up, at least `FEWEST` of each.

    Parameters
    ----------
    ids
        N different ids. Their order does not matter.
    verdicts, codes
        Verdict on the declaration of each, and the code of its class.
    margin
        As for `sample_size`.
    seed
        Seed of the draw.

    Returns
    -------
    Table of the drawn parcels, by verdict, class and `stratum_rank`, with the columns parcel_id,
    verdict, declared_code; population: N; stratum_size and stratum_sample: number of parcels in
    the stratum, and of those drawn; stratum_rank: the order in which these were drawn, from 1, so
    that the first ones are a random sample, too; inclusion_probability: stratum_sample /
    stratum_size; weight: its inverse, the number of parcels that the drawn one stands for.
    """
    names = ["parcel_id", "verdict", "declared_code"]
    table = pd.DataFrame(dict(zip(names, (ids, verdicts, codes), strict=True)), dtype=object)
    table = table.sort_values("parcel_id", ignore_index=True)
    table["number"] = np.random.default_rng(seed).random(len(table))
    table = table.sort_values(["verdict", "declared_code", "number"], ignore_index=True)
    strata = table.groupby(["verdict", "declared_code"], sort=False)["number"]
    size = strata.transform("size").to_numpy(np.int64)
    of_verdict = table.groupby("verdict")["number"].transform("size").to_numpy(np.int64)
    wanted = np.array([sample_size(n, margin) for n in of_verdict.tolist()], np.int64)
    # Whole numbers: a quotient of floats could round up to one more.
    own = np.maximum(-(-wanted * size // of_verdict), FEWEST)
    sampled = np.minimum(own, size)
    rank = strata.cumcount().to_numpy(np.int64) + 1
    drawn = table[names].assign(
        population=len(table),
        stratum_size=size,
        stratum_sample=sampled,
        stratum_rank=rank,
        inclusion_probability=np.round(sampled / size, 6),
        weight=np.round(size / sampled, 6),
    )
    return pd.DataFrame(drawn[rank <= sampled]).reset_index(drop=True)


@dataclass(frozen=True)
class Estimate:
    """The share of a kind of parcels, estimated from a stratified sample.

    Attributes
    ----------
    n_parcels
        Number of parcels for which it is estimated.
    n_visited, n_hits
        Number of visited ones, and of those of the kind.
    share, low, high
        Estimated share, and its 95 % interval. NaN if parcels were visited in no stratum of a
        verdict.
    """

    n_parcels: int
    n_visited: int
    n_hits: int
    share: float
    low: float
    high: float


def estimate_share(strata: pd.DataFrame) -> Estimate:
    """Estimate the share of a kind of parcels, with a 95 % interval.

    The share of a verdict is the mean over its strata, weighted by their sizes; strata without a
    visit are taken for like the others. Its interval is that of Wilson (1927), for the effective
    number of visits: that of Kish (1965) for the unequal weights, enlarged for a finite population
    by (N - 1) / (N - n), so that the interval closes when all are visited. Until then it is widened
    by half a parcel on either side, as a share of N parcels is a multiple of 1 / N: without this,
    few parcels that are nearly all visited would have too short ones. The intervals of the
    verdicts are combined as in Zou, Huang and Zhang (2009, Comput. Stat. Data Anal. 53, 1080-1085),
    which stays valid where no parcel of a verdict is of the kind.

    Parameters
    ----------
    strata
        Table with a row per stratum: verdict; n_parcels; n_visited; n_hits, visited parcels of the
        kind.
    """
    total, n_visited, n_hits = (int(strata[c].sum()) for c in ("n_parcels", "n_visited", "n_hits"))
    share = below = above = 0.0
    for _, own in strata.groupby("verdict"):
        n = own["n_parcels"].sum()
        visited = own[own["n_visited"] > 0]
        if n and visited.empty:
            return Estimate(total, n_visited, n_hits, np.nan, np.nan, np.nan)
        sizes, visits = (visited[c].to_numpy(np.float64) for c in ("n_parcels", "n_visited"))
        # A visited parcel of a stratum stands for this many.
        weights = sizes / sizes.sum()
        found = float((weights * visited["n_hits"] / visits).sum())
        effective = 1 / (weights**2 / visits).sum()
        low, high = found, found
        if left := n - visits.sum():
            low, high = wilson_interval(found, effective * (n - 1) / left)
            low, high = max(0.0, low - 0.5 / n), min(1.0, high + 0.5 / n)
        part = n / total
        share += part * found
        below += (part * (found - low)) ** 2
        above += (part * (high - found)) ** 2
    # Without the last digits, a sum of all parts is 1.
    share, low, high = (
        min(1.0, max(0.0, round(value, 12)))
        for value in (share, share - below**0.5, share + above**0.5)
    )
    return Estimate(total, n_visited, n_hits, share, low, high)


def strata_of(
    sample: pd.DataFrame, visited: NDArray[np.bool_], hits: NDArray[np.bool_]
) -> pd.DataFrame:
    """Count the visits of each stratum, as `estimate_share` takes them.

    Parameters
    ----------
    sample
        Table of `draw_sample`, n rows.
    visited, hits
        bool (n,): whether a parcel was visited, and whether it is of the kind.
    """
    rows = sample[["verdict", "declared_code"]].assign(
        n_parcels=sample["stratum_size"], n_visited=visited, n_hits=visited & hits
    )
    return rows.groupby(["verdict", "declared_code"], as_index=False, sort=False).agg(
        {"n_parcels": "first", "n_visited": "sum", "n_hits": "sum"}
    )
