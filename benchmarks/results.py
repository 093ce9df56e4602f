"""A run of the benchmarks as it is kept: JSON, and from it the tables and plots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.outcome import Outcome
from benchmarks.plots import draw_growth, draw_ratios
from benchmarks.table import tables


@dataclass(frozen=True)
class Results:
    """Hold what came out of one run of the benchmarks.

    Attributes
    ----------
    started
        Date and time.
    machine
        See `describe_machine`.
    runs
        How often each contestant ran, unless its contest says it.
    quick
        Whether the sizes were small, to test the benchmarks themselves.
    outcomes
        One for each contest.
    """

    started: str
    machine: dict[str, str]
    runs: int
    quick: bool
    outcomes: list[Outcome]

    @property
    def failed(self) -> bool:
        """Whether a contestant or a check failed."""
        return any(outcome.failed for outcome in self.outcomes)


def write_json(results: Results, path: Path) -> None:
    """Write the results with every value."""
    values = {**vars(results), "outcomes": [outcome.to_json() for outcome in results.outcomes]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=1) + "\n")


def read_json(path: Path) -> Results:
    """Read what `write_json` wrote."""
    values = json.loads(path.read_text())
    outcomes = [Outcome.from_json(outcome) for outcome in values.pop("outcomes")]
    return Results(**values, outcomes=outcomes)


def write_report(results: Sequence[Results], folder: Path, name: str) -> Path:
    """Write <name>.md, the tables of one run or of several, and the plots that it shows.

    Returns
    -------
    Path
        The tables.
    """
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = [outcome for run in results for outcome in run.outcomes]
    plots = {
        "Ratios to the peers, and the goals": draw_ratios(outcomes, folder / f"{name}-ratios.png"),
        "How the cost grows": draw_growth(outcomes, folder / f"{name}-growth.png"),
    }
    text = "".join(f"![{title}]({path.name})\n\n" for title, path in plots.items() if path)
    text += "\n".join(tables(r.outcomes, introduction(r)) for r in results)
    path = folder / f"{name}.md"
    path.write_text(text)
    return path


def introduction(results: Results) -> str:
    """Say when, on what and how often it was measured."""
    machine = dict(results.machine)
    hardware = f"{machine.pop('processor')}, {machine.pop('cores')} cores, {machine.pop('memory')}"
    hardware += f"; GPU: {machine.pop('gpu')}; {machine.pop('system')}"
    software = ", ".join(f"{name} {version}" for name, version in machine.items())
    runs = (
        "1 run" if results.runs == 1 else f"medians of {results.runs} runs or more (least to most)"
    )
    text = f"{results.started}, {runs}. {hardware}. {software}."
    if results.quick:
        text += " **Small sizes, to test the benchmarks themselves: the figures say nothing.**"
    return text
