"""The scores of a run for each division of its parcels into folds, and those of other runs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from geo.errors import InputError, reading
from pipeline.workflow.artefacts import read_json
from pipeline.workflow.paths import RunPaths

METRICS = ("Accuracy", "MACRO_IoU", "MACRO_F1-score")
# The ways of dividing, after "divided into folds".
DIVIDED_BY = {
    "random": "at random",
    "stratified": "at random, every class in equal shares",
    "block": "by square blocks of land",
    "group": "by whole groups of parcels",
    "dataset": "by dataset, each left out in turn",
}
# Those that keep parcels that are alike in one fold.
SPATIAL = ("block", "group", "dataset")

# {metric: (mean, standard deviation over the folds)}
Spread = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class DivisionScores:
    """The scores of a run for one division into folds.

    Attributes
    ----------
    run
        Its name.
    divided_by
        A key of DIVIDED_BY.
    n_folds
        Number of folds.
    spread
        {method: {metric: (mean, standard deviation over the folds)}}; the model is "model".
    """

    run: str
    divided_by: str
    n_folds: int
    spread: dict[str, Spread]


@dataclass(frozen=True)
class Divisions:
    """The scores of both divisions of a run, split.by and split.also.

    Attributes
    ----------
    by, also
        The scores.
    overall
        Of split.also: {method: scores over all folds, under the reference's keys}.
    """

    by: DivisionScores
    also: DivisionScores
    overall: dict[str, dict[str, float]]

    def difference(self, metric: str) -> tuple[float, float]:
        """Compare the model's score in both divisions.

        Returns
        -------
        difference, spread
            Mean over the folds of split.by less that of split.also; and the pooled standard
            deviation over the folds, sqrt((s1^2 + s2^2) / 2).
        """
        (one, s1), (other, s2) = (own.spread["model"][metric] for own in (self.by, self.also))
        return one - other, math.sqrt((s1**2 + s2**2) / 2)

    @property
    def differ(self) -> list[str]:
        """The metrics by which both divisions differ by more than their spread."""
        pairs = {metric: self.difference(metric) for metric in METRICS}
        return [metric for metric, (gap, spread) in pairs.items() if abs(gap) > spread]

    @property
    def also_leads(self) -> bool:
        """Whether split.also is the spatial one of both, and its scores differ."""
        is_spatial = self.also.divided_by in SPATIAL and self.by.divided_by not in SPATIAL
        return is_spatial and bool(self.differ)


def read_divisions(paths: RunPaths, also: str | None) -> Divisions | None:
    """Read the scores of both divisions of a run.

    Parameters
    ----------
    paths
        The run.
    also
        split.also; None: the run has one division.
    """
    if also is None:
        return None
    other = paths.divided_by(also)
    overall = {"model": read_json(other.overall, _overall)}
    overall |= read_json(other.baselines, lambda found: {m: _overall(v) for m, v in found.items()})
    by, of_also = (
        DivisionScores(
            own.root.name, *read_json(own.folds, _division), read_json(own.spread, _spread)
        )
        for own in (paths, other)
    )
    return Divisions(by, of_also, overall)


def _division(folds: Mapping[str, Any]) -> tuple[str, int]:
    """Return how the parcels were divided, and the number of folds."""
    return divided_by(folds), len(folds["folds"])


def divided_by(folds: Mapping[str, Any]) -> str:
    """Return how the parcels were divided into folds, from folds.json."""
    if (by := folds["by"]) not in DIVIDED_BY:
        raise ValueError(f"by is {by!r}")
    return str(by)


def _overall(values: Mapping[str, float]) -> dict[str, float]:
    """Check that the scores are there that the report shows."""
    return {**values, **{metric: float(values[metric]) for metric in METRICS}}


def _spread(methods: Mapping[str, Any]) -> dict[str, Spread]:
    return {
        method: {metric: (own[metric]["mean"], own[metric]["std"]) for metric in METRICS}
        for method, own in methods.items()
    }


def read_comparison(paths: RunPaths, others: Sequence[str]) -> list[DivisionScores]:
    """Read the scores of a run and of others in the same folder; [] if there are no others.

    Raises
    ------
    InputError
        If one has no scores.
    """
    if not others:
        return []
    runs = [paths, *(RunPaths(paths.root.parent / name) for name in others)]
    return [scores for run in runs for scores in _read_run(run)]


def _read_run(paths: RunPaths) -> list[DivisionScores]:
    """Read the scores of a run for each of its divisions."""
    remedy = "Run its workflow again, or leave the run out of report.compare."
    also = None
    if paths.started.is_file():
        with reading(paths.started, "the settings of a run", remedy):
            also = json.loads(paths.started.read_text(encoding="utf-8"))["split"].get("also")
    scores = []
    for own in (paths, *([paths.divided_by(also)] if also else [])):
        if not (own.spread.is_file() and own.folds.is_file()):
            raise InputError(
                f"report.compare: the run {own.root.name} has no {own.spread}. Evaluate it first, "
                "or leave it out."
            )
        with reading(own.folds, "the folds of a run", remedy):
            division = _division(json.loads(own.folds.read_text(encoding="utf-8")))
        with reading(own.spread, "the scores of a run", remedy):
            spread = _spread(json.loads(own.spread.read_text(encoding="utf-8")))
        scores.append(DivisionScores(own.root.name, *division, spread))
    return scores
