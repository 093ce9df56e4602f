"""The distance over which parcels are alike, and the side of blocks that it suggests.

A block should be larger than the range of the spatial autocorrelation (Roberts et al. 2017,
Ecography 40, 913-929). As in `cv_spatial_autocor` of blockCV (Valavi et al. 2019, Methods in
Ecology and Evolution 10, 225-232), a variogram is fitted to every feature, and the median of the
ranges counts. Here the features are those of the parcels less the mean of their class: random folds
flatter because parcels of one class are alike where they are near. The classes themselves are a
second variogram, and the larger of both ranges is the suggestion.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from pipeline.dataset.groups import blocks_of

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# With at most so many parcels, all pairs count: 1.1 million.
MOST_PARCELS = 1500
# Of more parcels, each scale has the pairs within so many clusters of neighbours.
CLUSTERS, CLUSTER_SIZE = 30, 40
BINS = 15
# Bins with fewer pairs are left out; a model of three parameters needs some bins more.
FEWEST_PAIRS, FEWEST_BINS = 30, 6
# Neighbours are alike if at most this share of random permutations is as extreme.
PERMUTATIONS, SIGNIFICANT = 199, 0.01
# Without a range, this is the side of blocks, in metres: the default of split.block_m.
USUAL_SIDE_M = 2000.0
# Every fold has at least so many blocks, or the suggested ones are made smaller.
BLOCKS_PER_FOLD = 3
# The models, as the share of the sill at distance / range. For the exponential one, the range is
# the distance at which it reaches 95 % of the sill, as usual.
SHAPES: dict[str, Callable[[Floats], Floats]] = {
    "spherical": lambda x: np.where(x < 1, 1.5 * x - 0.5 * x**3, 1.0),
    "exponential": lambda x: 1 - np.exp(-3 * x),
}


@dataclass(frozen=True)
class Fit:
    """A variogram model, nugget + sill x shape(distance / range).

    Attributes
    ----------
    model
        spherical or exponential.
    range_m
        Distance in metres from which pairs are not more alike than distant ones.
    nugget, sill
        Semivariance at distance 0, and what the distance adds.
    """

    model: str
    range_m: float
    nugget: float
    sill: float


@dataclass(frozen=True)
class Variogram:
    """The empirical variogram of a variable.

    Attributes
    ----------
    name
        Of the variable.
    semivariances
        float64 (B,): half the mean squared difference of the pairs in each bin of distances. Of the
        classes: the share of pairs with different classes.
    p
        Share of random permutations in which neighbours are at least as alike as here.
    fit
        The model; None if neighbours are not alike, or there are too few pairs.
    """

    name: str
    semivariances: Floats
    p: float
    fit: Fit | None


@dataclass(frozen=True)
class Autocorrelation:
    """How far parcels are alike.

    Attributes
    ----------
    n_parcels
        Number of parcels whose pairs were compared.
    longest_m
        Half the longer side of the extent: longer ranges cannot be told.
    distances_m, n_pairs
        float64 and int64 (B,): mean distance and number of the pairs of each bin.
    features
        The variograms of the features, less the mean of the class; empty where none were given.
    classes
        The variogram of the classes.
    """

    n_parcels: int
    longest_m: float
    distances_m: Floats
    n_pairs: Integers
    features: list[Variogram]
    classes: Variogram

    @property
    def feature_range_m(self) -> float | None:
        """Median range of the features whose neighbours are alike; None if most are not."""
        ranges = [own.fit.range_m for own in self.features if own.fit is not None]
        return float(np.median(ranges)) if 2 * len(ranges) > len(self.features) else None

    @property
    def class_range_m(self) -> float | None:
        """Range of the classes; None if neighbours do not agree more often than others."""
        return None if self.classes.fit is None else self.classes.fit.range_m

    @property
    def range_m(self) -> float | None:
        """The larger range; None if there is none."""
        ranges = [r for r in (self.feature_range_m, self.class_range_m) if r is not None]
        return max(ranges, default=None)

    def as_json(self) -> dict[str, Any]:
        """Return the evidence as JSON."""
        return {
            "n_parcels": self.n_parcels,
            "longest_m": self.longest_m,
            "feature_range_m": self.feature_range_m,
            "class_range_m": self.class_range_m,
            "distances_m": self.distances_m.tolist(),
            "n_pairs": self.n_pairs.tolist(),
            "variograms": [
                {**asdict(own), "semivariances": own.semivariances.tolist()}
                for own in (*self.features, self.classes)
            ],
        }


@dataclass(frozen=True)
class Pairs:
    """Pairs of some of the parcels.

    Attributes
    ----------
    parcels
        int64 (n,): the parcels, ascending.
    first, second
        int64 (P,): of each pair, the places of its parcels among these.
    """

    parcels: Integers
    first: Integers
    second: Integers


def sample_pairs(positions: Floats, generator: np.random.Generator) -> Pairs:
    """Draw pairs of parcels at all distances, from the nearest neighbours to the whole extent.

    Few random pairs of a million parcels are neighbours. Therefore the parcels are thinned step by
    step to a quarter, and each step contributes the pairs within clusters of neighbours, which are
    twice as far apart as in the step before; the last MOST_PARCELS contribute all pairs.

    Parameters
    ----------
    positions
        float64 (N, 2), metres.
    generator
        Draws the clusters.
    """
    left = generator.permutation(len(positions))
    chosen = []
    while len(left) > MOST_PARCELS:
        _, near = KDTree(positions[left]).query(positions[left[:CLUSTERS]], CLUSTER_SIZE)
        one, other = np.triu_indices(CLUSTER_SIZE, 1)
        chosen.append(left[[near[:, one].ravel(), near[:, other].ravel()]])
        left = left[: max(len(left) // 4, MOST_PARCELS)]
    chosen.append(left[np.array(np.triu_indices(len(left), 1))])
    parcels, places = np.unique(np.concatenate(chosen, axis=1), return_inverse=True)
    first, second = places.reshape(2, -1)
    return Pairs(parcels, first, second)


def measure(
    positions: Floats,
    labels: Integers,
    features: Floats,
    names: Sequence[str],
    pairs: Pairs,
    generator: np.random.Generator,
) -> Autocorrelation:
    """Measure how far parcels are alike.

    Parameters
    ----------
    positions
        float64 (N, 2), metres, of all parcels.
    labels
        int64 (N,): their classes.
    features
        float64 (n, F) of the n parcels of the pairs; NaN where unknown.
    names
        F names.
    pairs
        As `sample_pairs` draws them.
    generator
        Draws permutations.
    """
    longest = float(np.ptp(positions, axis=0).max()) / 2
    own, labels = positions[pairs.parcels], labels[pairs.parcels]
    first, second = pairs.first, pairs.second
    distances = np.hypot(*(own[first] - own[second]).T)
    near = distances <= longest
    first, second, distances = first[near], second[near], distances[near]
    edges = bin_edges(distances, longest)
    bins = np.asarray(np.clip(np.searchsorted(edges, distances) - 1, 0, len(edges) - 2), np.int64)
    n_pairs = np.bincount(bins, minlength=len(edges) - 1)
    kept = n_pairs >= FEWEST_PAIRS
    total = np.bincount(bins, distances, len(edges) - 1)
    centres = total[kept] / n_pairs[kept]

    def variogram(name: str, values: Floats) -> Variogram:
        found = empirical(values, first, second, bins, len(n_pairs))[kept]
        p = neighbours_test(values, own, generator)
        is_fitted = p <= SIGNIFICANT and len(found) >= FEWEST_BINS
        model = fit(centres, found, longest) if is_fitted else None
        return Variogram(name, found, p, model if model and model.sill > 0 else None)

    residuals = _within_classes(features, labels)
    return Autocorrelation(
        len(pairs.parcels),
        longest,
        centres,
        n_pairs[kept],
        [variogram(name, residuals[:, [i]]) for i, name in enumerate(names)],
        variogram("class", np.eye(labels.max(initial=0) + 1)[labels]),
    )


def _within_classes(features: Floats, labels: Integers) -> Floats:
    """Standardise features, and subtract the mean of the parcel's class; 0 where unknown."""
    deviation = np.nanstd(features, axis=0)
    scaled = (features - np.nanmean(features, axis=0)) / np.where(deviation > 0, deviation, 1)
    is_known = np.isfinite(scaled)
    scaled[~is_known] = 0
    totals, counts = np.zeros((2, labels.max(initial=0) + 1, features.shape[1]))
    np.add.at(totals, labels, scaled)
    np.add.at(counts, labels, is_known)
    scaled -= (totals / np.maximum(counts, 1))[labels]
    scaled[~is_known] = 0
    return np.asarray(scaled, np.float64)


def choose_side(found: Autocorrelation, positions: Floats, n_folds: int) -> tuple[float, str]:
    """Choose the side of blocks, and say why.

    Parameters
    ----------
    found
        How far the parcels are alike.
    positions
        float64 (N, 2) of all parcels that are divided.
    n_folds
        Number of folds, which have at least BLOCKS_PER_FOLD blocks each, or as many as there can
        be.

    Returns
    -------
    side_m, text
        The side in metres; sentences for the log and the report.
    """
    text = _say_ranges(found)
    suggested = side = _rounded(min(found.range_m or USUAL_SIDE_M, found.longest_m or math.inf))
    least = min(BLOCKS_PER_FOLD * n_folds, len(np.unique(positions, axis=0)))
    while len(np.unique(blocks_of(positions, side))) < least:
        side = _rounded(0.9 * side)
    if found.range_m is None:
        text += f" Blocks of {side:g} m are proposed."
    elif side < suggested:
        text += (
            f" Blocks of {suggested:g} m are suggested, but there would be fewer than {least} of "
            f"them, {BLOCKS_PER_FOLD} for each fold: {side:g} m is proposed, and neighbouring "
            "blocks remain alike."
        )
    else:
        text += f" Blocks of {side:g} m are suggested."
    return side, text


def _say_ranges(found: Autocorrelation) -> str:
    """Say how far parcels are alike."""
    if len(found.distances_m) < FEWEST_BINS:
        return "No range found: there are too few parcels to tell how far they are alike."
    if found.range_m is None:
        are_not = "are not more alike" if found.features else "do not agree more often"
        return f"No range found: neighbouring parcels {are_not} than distant ones."
    parts = []
    for range_m, what in (
        (
            found.feature_range_m,
            f"parcels of a class are alike (median of {len(found.features)} features)",
        ),
        (found.class_range_m, "classes agree"),
    ):
        if range_m is not None:
            at_least = "at least " if range_m >= found.longest_m else ""
            parts.append(f"{what} up to {at_least}{_rounded(range_m):g} m")
    text = " and ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _rounded(metres: float) -> float:
    """Round to two significant digits, upward."""
    unit = 10.0 ** (math.floor(math.log10(metres)) - 1)
    return round(math.ceil(round(metres / unit, 6)) * unit, 6)


def bin_edges(distances: Floats, longest: float) -> Floats:
    """Return the edges of at most BINS bins, equally spaced on a logarithmic scale, float64 (B,).

    The first bin contains the nearest FEWEST_PAIRS pairs.
    """
    apart = distances[distances > 0]
    if len(apart) <= FEWEST_PAIRS:
        return np.array([0.0, longest])
    nearest = np.partition(apart, FEWEST_PAIRS)[FEWEST_PAIRS]
    return np.concatenate([[0.0], np.geomspace(nearest, longest, BINS)])


def empirical(
    values: Floats, first: Integers, second: Integers, bins: Integers, n_bins: int
) -> Floats:
    """Compute the semivariances of a variable with one or several components.

    Parameters
    ----------
    values
        float64 (N, D): the squared difference of a pair is the sum over the D components.
    first, second
        int64 (P,): the parcels of each pair.
    bins
        int64 (P,): the bin of each pair.
    n_bins
        Number of bins.

    Returns
    -------
    float64 (n_bins,), NaN for a bin without pairs.
    """
    total = np.zeros(n_bins)
    for component in values.T:
        squares = (component[first] - component[second]) ** 2
        total += np.bincount(bins, squares, n_bins)
    with np.errstate(invalid="ignore"):
        return np.asarray(total / 2 / np.bincount(bins, minlength=n_bins), np.float64)


def fit(distances: Floats, semivariances: Floats, longest: float) -> Fit:
    """Fit the spherical and the exponential model by least squares, and return the better one.

    All bins have the same weight. As they are equally spaced on a logarithmic scale, this is the
    weight pairs / distance^2 of gstat (Pebesma 2004, Computers & Geosciences 30, 683-691) for bins
    of equal width. For a given range, the model is linear in nugget and sill, which are at least 0;
    the range is searched among 200 values up to `longest`.

    Parameters
    ----------
    distances, semivariances
        float64 (B,), of each bin.
    longest
        The longest range, in metres.
    """
    ranges = np.geomspace(distances[0], longest, 200)
    best, least = Fit("spherical", longest, float(semivariances.mean()), 0.0), math.inf
    for model, shape in SHAPES.items():
        x = shape(distances / ranges[:, None])  # (ranges, bins)
        centred, y = x - x.mean(1, keepdims=True), semivariances - semivariances.mean()
        slope = centred @ y / np.maximum((centred**2).sum(1), 1e-12)
        nugget = semivariances.mean() - slope * x.mean(1)
        through_0 = (x @ semivariances) / (x**2).sum(1)
        slope, nugget = np.where(nugget < 0, through_0, slope), np.maximum(nugget, 0)
        slope, nugget = np.maximum(slope, 0), np.where(slope < 0, semivariances.mean(), nugget)
        errors = ((nugget[:, None] + slope[:, None] * x - semivariances) ** 2).sum(1)
        i = int(errors.argmin())
        if errors[i] < least:
            least = float(errors[i])
            best = Fit(model, float(ranges[i]), float(nugget[i]), float(slope[i]))
    return best


def neighbours_test(values: Floats, positions: Floats, generator: np.random.Generator) -> float:
    """Test whether the nearest neighbours are more alike than parcels at random.

    Parameters
    ----------
    values
        float64 (N, D).
    positions
        float64 (N, 2).
    generator
        Draws the permutations.

    Returns
    -------
    float
        Share of permutations in which they are at least as alike, the data themselves included.
    """
    chosen = generator.permutation(len(positions))[:MOST_PARCELS]
    _, near = KDTree(positions).query(positions[chosen], 2)
    # Of two parcels at the same place, either can come first.
    other = np.where(near[:, 0] == chosen, near[:, 1], near[:, 0])
    involved, places = np.unique([chosen, other], return_inverse=True)
    one, other = places.reshape(2, -1)
    own = values[involved]

    def difference(of: Floats) -> float:
        return float(((of[one] - of[other]) ** 2).sum())

    observed = difference(own)
    random = [difference(generator.permutation(own)) for _ in range(PERMUTATIONS)]
    return (1 + sum(value <= observed for value in random)) / (1 + PERMUTATIONS)
