"""What is measured: contestants that do the same work, and the ratio that is aimed at."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

OUT = "{out}"
"""Stands in a command for the contestant's fresh, empty folder."""


@dataclass(frozen=True)
class Contestant:
    """One way to do the work: a command, run as a process of its own.

    Attributes
    ----------
    name
        As the table names it.
    command
        Its words; OUT stands for a fresh folder. What it prints last may be a line of JSON,
        {figure: number}: figures that it measured itself, beside those of the whole process.
    environment
        Variables that it needs.
    folder
        Where it runs; None for the root of the repository.
    missing
        What it needs that is not here, and how to get it: it is then left out, with this line.
        See `missing_package`. None to run it.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    missing: str | None = None


@dataclass(frozen=True)
class Goal:
    """A bound of a figure, or of the ratio of one contestant's to another's.

    Attributes
    ----------
    figure
        "seconds" (of the whole process), "peak_mb", or one that the contestants print.
    of
        Name of the contestant that is judged.
    over
        Name of the contestant to divide by; None to judge the figure itself.
    at_most, at_least
        The bound; one of the two.
    """

    figure: str
    of: str
    over: str | None = None
    at_most: float | None = None
    at_least: float | None = None

    def __post_init__(self) -> None:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError(f"goal of {self.of}: set one of at_most and at_least")

    def met(self, value: float) -> bool:
        """Tell whether a figure, or a ratio, is within the bound."""
        if self.at_most is not None:
            return value <= self.at_most
        return self.at_least is not None and value >= self.at_least


@dataclass(frozen=True)
class Contest:
    """Contestants on the same input, run in turn.

    Attributes
    ----------
    name
        What is done, on what: "extraction, 6 dates x 10 bands x 2745 px".
    contestants
        Ours first.
    goals
        What is aimed at.
    check
        Command, after one run of each contestant, that fails where their outputs differ: every
        "{out:NAME}" stands for the folder of the contestant of this name. A contestant that is
        left out has an empty folder.
    runs
        How often, where it is not as often as the others.
    curve
        (name of the x axis, x): contests with the same x axis are drawn as one plot, a line for
        each contestant; None to draw none. The name says what grows of what: "dates, in training".
    curve_figure
        The figure on the y axis of that plot.
    """

    name: str
    contestants: Sequence[Contestant]
    goals: Sequence[Goal] = ()
    check: Sequence[str] | None = None
    runs: int | None = None
    curve: tuple[str, float] | None = None
    curve_figure: str = "seconds"

    def __post_init__(self) -> None:
        names = [contestant.name for contestant in self.contestants]
        if len(set(names)) < len(names):
            raise ValueError(f"{self.name}: two contestants have one name: {names}")
        named = {name for g in self.goals for name in (g.of, g.over) if name is not None}
        if unknown := sorted(named - set(names)):
            raise ValueError(f"{self.name}: a goal names no contestant: {unknown}, of {names}")


def missing_package(name: str) -> str | None:
    """Say how to get a package that a peer needs; None where it is installed."""
    if importlib.util.find_spec(name) is not None:
        return None
    return f"{name} is not installed: pip install -r benchmarks/requirements.txt"
