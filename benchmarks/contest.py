"""What is measured: contestants that do the same work, and the ratio that is aimed at."""

from __future__ import annotations

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
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None


@dataclass(frozen=True)
class Goal:
    """A bound of a figure, or of the ratio of ours to a peer's.

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
        "{out:NAME}" stands for the folder of the contestant of this name.
    runs
        How often, where it is not as often as the others.
    curve
        (name of the x axis, x): contests with the same x axis are drawn as one plot, a line for
        each contestant; None to draw none.
    """

    name: str
    contestants: Sequence[Contestant]
    goals: Sequence[Goal] = ()
    check: Sequence[str] | None = None
    runs: int | None = None
    curve: tuple[str, float] | None = None
