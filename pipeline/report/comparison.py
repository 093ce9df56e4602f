"""The scores of the run beside those of others, such as one with folds of another kind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from geo.errors import InputError, reading
from pipeline.workflow.paths import RunPaths

METRICS = ("Accuracy", "MACRO_IoU", "MACRO_F1-score")


@dataclass(frozen=True)
class RunScores:
    """Scores of a run: {metric: (mean, standard deviation) over its folds}."""

    run: str
    divided_by: str
    n_folds: int
    spread: dict[str, tuple[float, float]]


def read_comparison(paths: RunPaths, others: Sequence[str]) -> list[RunScores]:
    """Read the scores of a run and of others beside it; empty where there are no others.

    Raises
    ------
    InputError
        If one has no scores.
    """
    if not others:
        return []
    return [_read_run(paths), *(_read_run(RunPaths(paths.root.parent / name)) for name in others)]


def _read_run(paths: RunPaths) -> RunScores:
    if not (paths.spread.is_file() and paths.folds.is_file()):
        raise InputError(
            f"report.compare: the run {paths.root.name} has no {paths.spread}. Evaluate it first, "
            "or leave it out."
        )
    remedy = "Run its workflow again, or leave the run out of report.compare."
    with reading(paths.folds, "the folds of a run", remedy):
        folds = json.loads(paths.folds.read_text(encoding="utf-8"))
        divided_by, n_folds = folds["by"], len(folds["folds"])
    with reading(paths.spread, "the scores of a run", remedy):
        model = json.loads(paths.spread.read_text(encoding="utf-8"))["model"]
        spread = {key: (model[key]["mean"], model[key]["std"]) for key in METRICS}
    return RunScores(run=paths.root.name, divided_by=divided_by, n_folds=n_folds, spread=spread)
