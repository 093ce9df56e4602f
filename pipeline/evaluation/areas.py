"""Crop areas with confidence intervals, from labelled parcels that are a random sample of all.

The area of the labelled parcels is known. The area of a class among the others is estimated in two
ways, which are one formula: the models predict a share of every parcel, and the labelled parcels
tell by how much the predictions are wrong.

- `error_adjusted` predicts nothing. Parcels are grouped by their predicted class, and the shares of
  the classes are those of the labelled parcels of the group: the post-stratified estimator of
  Olofsson et al. (2014, Remote Sensing of Environment 148, 42-57), for units of unequal area.
- `difference` predicts the probabilities of the classes: the model-assisted difference estimator
  (Särndal, Swensson and Wretman 1992, Model Assisted Survey Sampling, chapter 6; McRoberts 2010,
  Remote Sensing of Environment 114, 1017-1025).

Every labelled parcel must be predicted by a model that was not trained on it, as otherwise the
predictions look better than they are (Breidt and Opsomer 2017, Statistical Science 32, 190-205;
Zrnic and Candès 2024, PNAS 121, e2322083121).

The units are parcels, and the target is area. Within a group, errors are therefore expanded by the
ratio of areas, not by that of counts: the ratio estimator (Cochran 1977, Sampling Techniques,
chapter 6). Its variance is that of Royall and Cumberland (1981, Journal of the American Statistical
Association 76, 66-77). For units of equal area, both are the formulas of Olofsson et al., with the
correction for finite populations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

LEVEL = 0.95

Float = NDArray[np.float64]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """The n labelled parcels of a population, and the area that is not labelled.

    Attributes
    ----------
    areas
        float64 (n,), m2, positive.
    groups
        int64 (n,), group of each, in 0 .. H - 1. The labelled parcels of a group are a random
        sample of it.
    rest
        float64 (H,), area in m2 of the parcels of each group that are not labelled. A group with
        such parcels needs at least two labelled ones.
    """

    areas: Float
    groups: Index
    rest: Float


@dataclass(frozen=True)
class Estimate:
    """Areas of K classes, and their 95 % intervals; float64 (K,) each, m2."""

    area: Float
    low: Float
    high: Float
    standard_error: Float


@dataclass(frozen=True)
class Accuracy:
    """Accuracies by area, each with its standard error: float64, NaN where undefined.

    `overall` is a pair of numbers. `users` and `producers` have shape (K, 2): the share of the area
    mapped as a class that is of it, and the share of the area of a class that is mapped as it.
    """

    overall: Float
    users: Float
    producers: Float


def sum_by(groups: Index, values: Float, n_groups: int) -> Float:
    """Add up values (n,) by group: float64 (n_groups,)."""
    return np.bincount(groups, values, n_groups).astype(np.float64)


def error_adjusted(sample: Sample, labels: Index, n_classes: int) -> Estimate:
    """Estimate the areas of the classes from the labelled parcels of groups.

    Parameters
    ----------
    sample
        The labelled parcels, grouped by predicted class.
    labels
        int64 (n,), class of each.
    n_classes
        Number K of classes.
    """
    observed = np.eye(n_classes)[labels]
    return _estimate(sample, observed, np.zeros_like(observed), np.zeros(n_classes))


def difference(sample: Sample, labels: Index, predicted: Float, predicted_rest: Float) -> Estimate:
    """Estimate the areas of the classes from predictions, corrected by their errors.

    Parameters
    ----------
    sample
        The labelled parcels; the groups are the strata in which they were drawn.
    labels
        int64 (n,), class of each.
    predicted
        float64 (n, K), predicted shares of the classes by a model that was not trained on the
        parcel: probabilities, calibrated or not, or 1 for one class.
    predicted_rest
        float64 (K,), m2: sum of area times predicted share over the parcels that are not labelled.
        If several models were trained on different parts of the labelled parcels, their mean.
    """
    return _estimate(sample, np.eye(predicted.shape[1])[labels], predicted, predicted_rest)


def accuracy(sample: Sample, labels: Index, mapped: Index, mapped_areas: Float) -> Accuracy:
    """Estimate the accuracies of the predicted classes, by area.

    Equations 1 to 3 and 5 to 7 of Olofsson et al. (2014), for units of unequal area. The variance
    of a producer's accuracy, a ratio of two estimates, is that of the linearised ratio.

    Parameters
    ----------
    sample
        The labelled parcels, grouped by predicted class.
    labels, mapped
        int64 (n,), declared and predicted class.
    mapped_areas
        float64 (K,), m2: area of all parcels by predicted class, labelled or not.
    """
    n_classes = len(mapped_areas)
    # Each of these takes 8 bytes a parcel and class, so that few are in memory at a time.
    observed = np.eye(n_classes)[labels]
    right = np.where((labels == mapped)[:, None], observed, 0.0)
    any_right = right.sum(axis=1, keepdims=True)
    of_class, right_area = _totals(sample, observed), _totals(sample, right)
    [all_right] = _totals(sample, any_right)
    with np.errstate(invalid="ignore", divide="ignore"):
        users, producers = right_area / mapped_areas, right_area / of_class
        # The areas by predicted class are known, so only the right ones vary.
        users_error, overall_error = (
            np.sqrt(_variances(sample, values).sum(axis=0)) for values in (right, any_right)
        )
        right -= np.multiply(np.nan_to_num(producers), observed, out=observed)
        producers_error = np.sqrt(_variances(sample, right).sum(axis=0))
        return Accuracy(
            np.array([all_right, overall_error[0]]) / mapped_areas.sum(),
            np.column_stack([users, users_error / mapped_areas]),
            np.column_stack([producers, producers_error / of_class]),
        )


def _estimate(sample: Sample, observed: Float, predicted: Float, predicted_rest: Float) -> Estimate:
    """Estimate totals of the classes as known + predicted + errors of the predictions.

    Parameters
    ----------
    sample
        The labelled parcels.
    observed, predicted
        float64 (n, K), shares of the classes.
    predicted_rest
        float64 (K,), m2.
    """
    known = sample.areas @ observed
    rest = sample.rest.sum()
    if not rest:
        return Estimate(known, known, known, np.zeros_like(known))
    errors = observed - predicted
    # Without the area of the labelled parcels, which is known.
    share = (predicted_rest + sample.rest @ _ratios(sample, errors)) / rest
    variances = _variances(sample, errors) / rest**2
    variance = variances.sum(axis=0)
    low, high = _score_interval(
        share,
        variance,
        _variances(sample, errors, observed).sum(axis=0) / rest**2,
        sample.rest @ _ratios(sample, observed) / rest,
        _degrees_of_freedom(variances, np.bincount(sample.groups, minlength=len(sample.rest))),
    )
    bounded = np.clip([share, low, high], 0, 1)
    area, lowest, highest = known + rest * bounded
    return Estimate(area, lowest, highest, rest * np.sqrt(variance))


def _totals(sample: Sample, values: Float) -> Float:
    """Estimate totals of area times value (n, M) over all parcels: float64 (M,)."""
    total: Float = sample.areas @ values + sample.rest @ _ratios(sample, values)
    return total


def _ratios(sample: Sample, values: Float) -> Float:
    """Return the mean value (n, M) by area of the labelled parcels of every group, (H, M)."""
    n_groups = len(sample.rest)
    # Column by column: arrays of the size of `values` are the largest of the stage areas.
    sums = [sum_by(sample.groups, sample.areas * column, n_groups) for column in values.T]
    labelled = np.maximum(sum_by(sample.groups, sample.areas, n_groups), 1e-300)
    return np.column_stack(sums) / labelled[:, None]


def _variances(sample: Sample, values: Float, weights: Float | float = 1.0) -> Float:
    """Return the variance of `_totals` that each group contributes: float64 (H, M), m4.

    v_D of Royall and Cumberland (1981): the sum of squared residuals e, each divided by 1 minus the
    parcel's share of the labelled area, times A_r A / a^2, where A, A_r and a are the area of the
    group, and its part that is not labelled and that is labelled.

    Parameters
    ----------
    sample
        The labelled parcels.
    values
        float64 (n, M).
    weights
        (n, M), factors of the squared residuals.
    """
    n_groups, factors = len(sample.rest), np.broadcast_to(weights, values.shape)
    labelled = sum_by(sample.groups, sample.areas, n_groups)
    leverage = sample.areas / labelled[sample.groups]
    # A single labelled parcel has leverage 1 and residual 0: its group must have no rest.
    others = np.maximum(1 - leverage, 1e-12)
    squares = np.empty((n_groups, values.shape[1]))
    for k, ratios in enumerate(_ratios(sample, values).T):
        residuals = sample.areas * (values[:, k] - ratios[sample.groups])
        squares[:, k] = sum_by(sample.groups, factors[:, k] * residuals**2 / others, n_groups)
    labelled = labelled[:, None]
    rest = sample.rest[:, None]
    variances: Float = squares * rest * (rest + labelled) / np.maximum(labelled, 1e-300) ** 2
    return variances


def _degrees_of_freedom(variances: Float, counts: Index) -> Float:
    """Return the degrees of freedom of a sum of variances (H, K) (Satterthwaite 1946), (K,)."""
    squares = (variances**2 / np.maximum(counts - 1, 1)[:, None]).sum(axis=0)
    freedom = np.full(variances.shape[1], np.inf)
    np.divide(variances.sum(axis=0) ** 2, squares, out=freedom, where=squares > 0)
    return freedom


def _score_interval(
    share: Float, variance: Float, own: Float, observed: Float, freedom: Float
) -> tuple[Float, Float]:
    """Return the 95 % score intervals of shares.

    The variance grows with the share: the part `own` that comes from parcels of the class is
    proportional to their number. The interval contains the values that are plausible with the
    variance that belongs to them, as that of Wilson (1927) does for proportions. Intervals of equal
    length on both sides are too low for rare classes.

    Parameters
    ----------
    share
        float64 (K,), estimates.
    variance
        float64 (K,), their variances.
    own
        float64 (K,), the part of the variances from labelled parcels of the class itself.
    observed
        float64 (K,), estimates without predictions: positive if `own` is.
    freedom
        float64 (K,), degrees of freedom.
    """
    quantile = t.ppf((1 + LEVEL) / 2, np.maximum(freedom, 1))
    # (share - x)^2 <= q^2 (variance - own + own x / observed)
    slope = np.divide(quantile**2 * own, observed, out=np.zeros_like(own), where=observed > 0)
    middle = share + slope / 2
    inner = middle**2 - share**2 + quantile**2 * (variance - own)
    half = np.sqrt(np.maximum(inner, 0))
    return middle - half, middle + half


def interval(value: float, standard_error: float) -> tuple[float, float]:
    """Return the 95 % interval of an accuracy, within 0 .. 1 (equation 12 of Olofsson et al.)."""
    half = float(norm.ppf((1 + LEVEL) / 2)) * standard_error
    return max(0.0, value - half), min(1.0, value + half)
