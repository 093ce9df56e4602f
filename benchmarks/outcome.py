"""What came out of a contest: medians, spread, and whether the goals are met."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.contest import Contest, Goal


@dataclass(frozen=True)
class Spread:
    """A figure over several runs.

    Attributes
    ----------
    median, least, most
        Of ratios, the median is that of the medians; least and most are over pairs of runs that
        followed each other.
    values
        In order of the runs; empty for ratios.
    """

    median: float
    least: float
    most: float
    values: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise the values of one or more runs."""
        return cls(statistics.median(values), min(values), max(values), list(values))

    def over(self, other: Spread) -> Spread:
        """Give the ratio to another contestant's figure."""
        pairs = [a / b for a, b in zip(self.values, other.values, strict=False)]
        return Spread(self.median / other.median, min(pairs), max(pairs))


@dataclass(frozen=True)
class Judged:
    """A goal, the figure or ratio that was measured for it, and whether it is met.

    Attributes
    ----------
    goal
        The goal.
    measured
        None where a contestant is left out, failed or does not give the figure.
    met
        None where nothing was measured.
    """

    goal: Goal
    measured: Spread | None
    met: bool | None


@dataclass(frozen=True)
class Outcome:
    """What came out of a contest.

    Attributes
    ----------
    module
        The benchmark that it is of.
    name, curve, curve_figure
        As in `Contest`.
    figures
        {contestant: {figure: values}}, of those that ran.
    goals
        Judged.
    left_out
        {contestant: what it lacks}.
    failed
        {contestant, or "check": what it printed}.
    """

    module: str
    name: str
    figures: dict[str, dict[str, Spread]]
    goals: list[Judged]
    left_out: dict[str, str]
    failed: dict[str, str]
    curve: tuple[str, float] | None = None
    curve_figure: str = "seconds"

    def to_json(self) -> dict[str, Any]:
        """Give plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Outcome:
        """Read back what `to_json` gave."""
        return cls(
            **{
                **values,
                "figures": {
                    contestant: {name: Spread(**spread) for name, spread in figures.items()}
                    for contestant, figures in values["figures"].items()
                },
                "goals": [
                    Judged(
                        Goal(**judged["goal"]),
                        None if judged["measured"] is None else Spread(**judged["measured"]),
                        judged["met"],
                    )
                    for judged in values["goals"]
                ],
                "curve": None if values["curve"] is None else tuple(values["curve"]),
            }
        )


def judge(
    module: str,
    contest: Contest,
    measured: Mapping[str, Sequence[Mapping[str, float]]],
    failed: Mapping[str, str],
) -> Outcome:
    """Summarise the runs of a contest and judge its goals.

    Parameters
    ----------
    module
        Name of the benchmark.
    contest
        The contest.
    measured
        {contestant: figures of each run}, of those that ran without fail.
    failed
        {contestant, or "check": what it printed}.
    """
    figures = {
        name: {figure: Spread.of([run[figure] for run in runs]) for figure in runs[0]}
        for name, runs in measured.items()
    }
    return Outcome(
        module=module,
        name=contest.name,
        figures=figures,
        goals=[_judge(goal, figures) for goal in contest.goals],
        left_out={c.name: c.missing for c in contest.contestants if c.missing is not None},
        failed=dict(failed),
        curve=contest.curve,
        curve_figure=contest.curve_figure,
    )


def _judge(goal: Goal, figures: Mapping[str, Mapping[str, Spread]]) -> Judged:
    measured = figures.get(goal.of, {}).get(goal.figure)
    if measured is not None and goal.over is not None:
        other = figures.get(goal.over, {}).get(goal.figure)
        measured = None if other is None else measured.over(other)
    return Judged(goal, measured, None if measured is None else goal.met(measured.median))
