"""The results as plots: ratios beside their goals, and how the cost grows."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from benchmarks.outcome import Judged, Outcome, Spread
from benchmarks.table import goal_text, shown, title

MET, MISSED, BOUND = "#2b7a4b", "#c0561f", "#222222"
LINES = ("#1f5fa8", "#c0561f", "#2b7a4b", "#7b4ba0", "#8a6d00")
_LABEL_CHARACTERS = 76
_PLOTS_IN_A_ROW = 3


def draw_ratios(outcomes: Sequence[Outcome], path: Path) -> Path | None:
    """Draw a bar for every ratio that has a goal, on a logarithmic axis.

    Returns
    -------
    Path or None
        The picture; None where no ratio was measured.
    """
    rows = [
        (f"{outcome.name}\n{goal_text(judged)}", judged, judged.measured)
        for outcome in outcomes
        for judged in outcome.goals
        if judged.goal.over is not None and judged.measured is not None
    ]
    if not rows:
        return None
    figure = Figure(figsize=(11, 1.2 + 0.62 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    for y, (_, judged, measured) in enumerate(rows):
        _draw_ratio(axes, y, judged, measured)
    axes.set_yticks(range(len(rows)), [_wrapped(label) for label, *_ in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.axvline(1, color="#888888", linewidth=0.8)
    low, high = axes.get_xlim()
    axes.set_xlim(low / 1.1, high * 1.6)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: shown(value))
    axes.set_xlabel(
        "ratio of medians (thin line: its spread; black mark: the goal; green: met, orange: missed)"
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    return path


def _draw_ratio(axes: Axes, y: int, judged: Judged, measured: Spread) -> None:
    colour = MET if judged.met else MISSED
    # From 1, where both are equally fast.
    axes.barh(y, measured.median - 1, left=1, height=0.5, color=colour, alpha=0.85)
    axes.plot([measured.least, measured.most], [y, y], color="black", linewidth=1.2)
    goal = judged.goal
    bound = goal.at_least if goal.at_most is None else goal.at_most
    if bound is not None and bound > 0:
        axes.plot([bound, bound], [y - 0.38, y + 0.38], color=BOUND, linewidth=2.2)
    sign = "≤" if goal.at_least is None else "≥"
    text = f"  {shown(measured.median)}  ({sign} {shown(bound or 0)})"
    axes.text(max(1, measured.most, bound or 0), y, text, va="center", fontsize=8)


def draw_growth(outcomes: Sequence[Outcome], path: Path) -> Path | None:
    """Draw what contests with the same x axis measured, a line for each contestant.

    Returns
    -------
    Path or None
        The picture; None where no contest is part of a curve.
    """
    curves: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.curve is not None and outcome.figures:
            curves.setdefault((outcome.curve[0], outcome.curve_figure), []).append(outcome)
    if not curves:
        return None
    columns = min(_PLOTS_IN_A_ROW, len(curves))
    rows = math.ceil(len(curves) / columns)
    figure = Figure(figsize=(4.2 * columns, 3.4 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(curves) :]:
        axes.set_visible(False)
    for axes, ((axis, what), drawn) in zip(grid.flat, curves.items(), strict=False):
        _draw_curve(axes, axis, what, drawn)
    figure.savefig(path, dpi=130)
    return path


def _draw_curve(axes: Axes, axis: str, what: str, outcomes: Sequence[Outcome]) -> None:
    names = dict.fromkeys(name for outcome in outcomes for name in outcome.figures)
    for name, colour in zip(names, LINES * len(names), strict=False):
        points = sorted(
            (outcome.curve[1], outcome.figures[name][what])
            for outcome in outcomes
            if outcome.curve is not None and what in outcome.figures.get(name, {})
        )
        x = [at for at, _ in points]
        medians = [spread.median for _, spread in points]
        axes.plot(x, medians, marker="o", color=colour, label=name)
        least, most = ([getattr(s, part) for _, s in points] for part in ("least", "most"))
        axes.fill_between(x, least, most, color=colour, alpha=0.2)
    axes.margins(y=0.1)
    axes.set_ylim(bottom=0)
    label, _, whole = axis.partition(", ")
    axes.set_title(whole.removeprefix("in "), fontsize=10)
    axes.set_xlabel(label)
    axes.set_xticks(sorted({outcome.curve[1] for outcome in outcomes if outcome.curve}))
    axes.set_ylabel(title(what))
    axes.yaxis.set_major_formatter(lambda value, _: shown(value) if value else "0")
    axes.xaxis.set_major_formatter(lambda value, _: shown(value) if value else "0")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)


def _wrapped(label: str) -> str:
    return "\n".join(
        line for part in label.split("\n") for line in textwrap.wrap(part, _LABEL_CHARACTERS)
    )
