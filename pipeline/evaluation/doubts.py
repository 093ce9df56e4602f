"""Which declarations to doubt: a rank, and verdicts with a bounded share of false alarms.

Everything here follows from the out-of-fold probabilities: no model has seen the parcel whose
declaration it contradicts. Nothing here needs to know which declarations are wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.classes.crop_class import CropClass
from pipeline.evaluation.out_of_fold import OutOfFold
from pipeline.workflow.writing import finite_or_null, write_json

Probabilities = NDArray[np.float64]

# DOUBT has this many times the share of false alarms of CONFLICT.
DOUBT_FACTOR = 5
# The share of declarations that are supposed to be wrong, to estimate what visits find.
SUPPOSED_WRONG = 0.05
MOST_PARCELS = 50_000
# Parcels whose margins of all classes are in memory together.
ROWS_AT_A_TIME = 20_000


class Verdict(StrEnum):
    """What the models say about a declaration."""

    CONFORM = "CONFORM"
    DOUBT = "DOUBT"
    CONFLICT = "CONFLICT"


@dataclass(frozen=True, eq=False)
class Doubts:
    """The judgement of N declarations.

    Attributes
    ----------
    probability
        float64 (N,), the calibrated probability of the declared class.
    rank
        int64 (N,), 1 for the most doubtful declaration, N for the least; no two are equal.
    verdict
        object (N,) of `Verdict`.
    """

    probability: NDArray[np.float64]
    rank: NDArray[np.int64]
    verdict: NDArray[np.object_]


def margins(probabilities: Probabilities) -> Probabilities:
    """Return by how much each class is more probable than the most probable other class.

    A negative margin of the declared class says that the models predict another one. Ranking by it
    is the "normalized margin" of confident learning, up to a change of scale (Northcutt, Jiang and
    Chuang 2021, J. Artif. Intell. Res. 70, 1373-1411, section 3.2).

    Parameters
    ----------
    probabilities
        float64 (N, K).

    Returns
    -------
    float64 (N, K), from -1 to 1; the probability itself if there is only one class.
    """
    n, n_classes = probabilities.shape
    if n_classes == 1:
        return probabilities.copy()
    second, first = np.partition(probabilities, n_classes - 2, axis=1)[:, -2:].T
    others = np.repeat(first[:, None], n_classes, axis=1)
    others[np.arange(n), probabilities.argmax(axis=1)] = second
    found: Probabilities = np.subtract(probabilities, others, out=others)
    return found


def judge(labels: NDArray[np.int64], probabilities: Probabilities, false_alarms: float) -> Doubts:
    """Judge declarations by out-of-fold probabilities.

    The rank follows the margin of the declared class. The verdict compares this margin with those
    of all parcels that are declared as the same class, because in a class that is often mistaken
    for another, true declarations have low margins, too:

    - CONFLICT: the models predict another class, and the margin is among the lowest of its class,
      as many as the share `false_alarms`.
    - DOUBT: the same, among `DOUBT_FACTOR` times as many.
    - CONFORM: all others.

    Classes of less than 1 / `false_alarms` parcels, of which a single parcel is a larger share,
    are compared together, as if they were one class.

    At most the share `false_alarms` of the declarations of a class get CONFLICT. So at most this
    share of them are false alarms, whatever the models, the folds and the truth are. This is the
    p-value of conformal prediction with a category for each class (Vovk, Gammerman and Shafer 2005,
    Algorithmic Learning in a Random World, section 4.5). Wrong declarations among the lowest
    margins take the place of true ones, so that fewer of these are false alarms than stated. The
    price: CONFLICT cannot find more wrong declarations of a class than that share.

    Parameters
    ----------
    labels
        int64 (N,), the class index that is declared.
    probabilities
        float64 (N, K), calibrated; each row by a model that was not trained on its parcel.
    false_alarms
        Greatest share of false alarms of CONFLICT, more than 0.
    """
    rows = np.arange(len(labels))
    margin = np.empty(len(labels))
    for start in range(0, len(labels), ROWS_AT_A_TIME):
        own = slice(start, start + ROWS_AT_A_TIME)
        found = margins(probabilities[own])
        margin[own] = np.take_along_axis(found, labels[own, None], axis=1)[:, 0]
    groups = class_groups(labels, probabilities.shape[1], false_alarms)
    share = shares_of(margin, groups[labels], np.ones(len(labels)))
    rank = np.empty(len(labels), np.int64)
    rank[np.argsort(margin, kind="stable")] = rows + 1
    return Doubts(probabilities[rows, labels], rank, verdicts_of(margin, share, false_alarms))


def shares_of(
    margin: NDArray[np.float64], group: NDArray[np.int64], weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the share of the weight of each group whose margin is at most as high, float64 (n,).

    Parameters
    ----------
    margin, group, weight
        float64 (n,), int64 (n,), float64 (n,): the margin of the declared class, the group in which
        it is compared, and how many declarations a row stands for.
    """
    share = np.empty(len(margin))
    for own in (group == one for one in np.unique(group)):
        _, place = np.unique(margin[own], return_inverse=True)
        below = np.cumsum(np.bincount(place, weight[own]))
        share[own] = below[place] / below[-1]
    return share


def class_groups(
    labels: NDArray[np.int64], n_classes: int, false_alarms: float
) -> NDArray[np.int64]:
    """Return the group of each class, int64 (n_classes,): itself, or -1 for all small classes."""
    counts = np.bincount(labels, minlength=n_classes)
    return np.where(counts * false_alarms >= 1, np.arange(n_classes), -1)


def verdicts_of(
    margin: NDArray[np.float64], share: NDArray[np.float64], false_alarms: float
) -> NDArray[np.object_]:
    """Return the verdict on declarations, object (n,).

    Parameters
    ----------
    margin, share
        float64 (n,): the margin of the declared class, and the share of the margins of its group
        that are at most as high.
    false_alarms
        As for `judge`.
    """
    verdict = np.empty(len(margin), object)
    verdict[:] = Verdict.CONFORM  # one object; np.full would make a text for each declaration
    verdict[_is_doubted(margin, share, false_alarms)] = Verdict.DOUBT
    verdict[(margin < 0) & (share <= false_alarms)] = Verdict.CONFLICT
    return verdict


def _is_doubted(
    margin: NDArray[np.float64], share: NDArray[np.float64], false_alarms: float
) -> NDArray[np.bool_]:
    """Return which verdicts are DOUBT or CONFLICT, bool (n,); see `verdicts_of`."""
    doubted: NDArray[np.bool_] = (margin < 0) & (share <= DOUBT_FACTOR * false_alarms)
    return doubted


def estimate_finding(
    labels: NDArray[np.int64], probabilities: Probabilities, false_alarms: float
) -> NDArray[np.float64]:
    """Estimate how many wrong declarations would be found, without knowing any.

    Every parcel is supposed to be declared as each of the other classes, in turn; its probabilities
    stay those that it has. All declarations are taken for true, so that the estimate is too low if
    some are not. At most `MOST_PARCELS` parcels are used, evenly spaced.

    Parameters
    ----------
    labels, probabilities, false_alarms
        As for `judge`.

    Returns
    -------
    float64 (K, 2): of single parcels of all other classes, declared as this one by mistake, the
    share that would get CONFLICT, and CONFLICT or DOUBT. NaN if all parcels are of this class.
    """
    step = -(-len(labels) // MOST_PARCELS)
    margin, labels = margins(probabilities[::step]), labels[::step]
    n, n_classes = margin.shape
    declared = margin[np.arange(n), labels]
    groups = class_groups(labels, n_classes, false_alarms)
    found = np.full((n_classes, 2), np.nan)
    for c, group in enumerate(groups):
        compared = np.sort(declared[groups[labels] == group])
        wrong = margin[labels != c, c]
        if not len(wrong):
            continue
        # The parcel itself is declared as the class, too.
        share = (np.searchsorted(compared, wrong, "right") + 1) / (len(compared) + 1)
        verdict = verdicts_of(wrong, share, false_alarms)
        found[c] = (verdict == Verdict.CONFLICT).mean(), (verdict != Verdict.CONFORM).mean()
    return found


def found_by_visits(
    labels: NDArray[np.int64],
    probabilities: NDArray[np.floating[Any]],
    false_alarms: float,
    visits: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Estimate how many wrong declarations the first visits of the work list find.

    The work list has the declarations with the verdict CONFLICT or DOUBT, by rank. The share
    `SUPPOSED_WRONG` of all declarations is supposed to be of a random other class. Their margins
    are compared with those of the others of this class: wrong declarations take the places of true
    ones in the list.

    Parameters
    ----------
    labels, probabilities, false_alarms
        As for `judge`; the probabilities may also be float32.
    visits
        float64 (V,), numbers of visits, as shares of all declarations.

    Returns
    -------
    float64 (V,), the share of the wrong declarations that these visits find; NaN for a single
    class.
    """
    groups = class_groups(labels, probabilities.shape[1], false_alarms)
    step = max(1, -(-len(labels) // MOST_PARCELS))
    margin, labels = margins(probabilities[::step].astype(np.float64)), labels[::step]
    n, n_classes = margin.shape
    if n == 0 or n_classes == 1:
        return np.full(len(visits), np.nan)
    is_wrong = (np.arange(n_classes) != labels[:, None]).ravel()
    one_wrong, one_right = SUPPOSED_WRONG / (n * (n_classes - 1)), (1 - SUPPOSED_WRONG) / n
    weight, margin = np.where(is_wrong, one_wrong, one_right), margin.ravel()
    share = shares_of(margin, np.tile(groups, n), weight)
    listed = _is_doubted(margin, share, false_alarms)
    order = np.flatnonzero(listed)[np.argsort(margin[listed], kind="stable")]
    length = np.cumsum(weight[order])
    found = np.cumsum(np.where(is_wrong[order], weight[order], 0.0)) / SUPPOSED_WRONG
    return np.asarray(np.interp(visits, [0, *length], [0, *found]), np.float64)


def write_doubts(
    path: Path,
    classes: Sequence[CropClass],
    tested: OutOfFold,
    doubts: Doubts,
    false_alarms: float,
) -> None:
    """Write what is known about the verdicts, for the report.

    Parameters
    ----------
    path
        Written: JSON. false_alarms; n, the number of declarations; classes, each with the numbers
        of declarations, of CONFLICT and DOUBT, and the shares of wrong ones that would get
        CONFLICT, and either, see `estimate_finding`. null where a value is not defined.
    classes
        Classes in order of the class index.
    tested
        Out-of-fold predictions.
    doubts
        Judgement of these declarations.
    false_alarms
        As for `judge`.
    """
    finding = estimate_finding(tested.labels, tested.probabilities, false_alarms)
    n = len(tested.ids)
    counts = (
        np.bincount(tested.labels[chosen], minlength=len(classes)).tolist()
        for chosen in (
            np.full(n, True),
            doubts.verdict == Verdict.CONFLICT,
            doubts.verdict == Verdict.DOUBT,
        )
    )
    rows = zip(classes, *counts, *finding.T.tolist(), strict=True)
    keys = ("n", "n_conflict", "n_doubt", "found_conflict", "found")
    write_json(
        path,
        {
            "false_alarms": false_alarms,
            "n": n,
            "classes": [
                {"code": crop.code, "name": crop.name}
                | finite_or_null(dict(zip(keys, row, strict=True)))
                for crop, *row in rows
            ],
        },
    )
