"""The results as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.outcome import Judged, Outcome, Spread

TITLES = {
    "seconds": "s, whole process",
    "peak_mb": "peak MB",
    "peak_anonymous_mb": "peak MB, mapped files apart",
}


def tables(outcomes: Sequence[Outcome], introduction: str) -> str:
    """Write the goals, then the figures of every contest, then what was left out or failed."""
    parts = ["# Benchmarks", introduction]
    judged = [(outcome, goal) for outcome in outcomes for goal in outcome.goals]
    if judged:
        rows = [_goal_row(outcome, goal) for outcome, goal in judged]
        parts += ["## Goals", _table(("contest", "measured", "is", "goal", "met"), rows)]
    for outcome in outcomes:
        if outcome.curve is None:
            parts += [f"## {_first_upper(outcome.name)}", _figures(outcome)]
    for axis in dict.fromkeys(o.curve[0] for o in outcomes if o.curve is not None):
        parts += [f"## Growth with {axis}", _growth(axis, outcomes)]
    for title, lines in (("Left out", _left_out(outcomes)), ("Failed", _failed(outcomes))):
        if lines:
            parts += [f"## {title}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def title(figure: str) -> str:
    """Write the name of a figure for people: parcels_per_second as parcels/s."""
    written = figure.replace("_per_second", "/s").replace("_per_", " a ").replace("_", " ")
    return TITLES.get(figure, written.replace("mb", "MB"))


def goal_text(judged: Judged) -> str:
    """Say what a goal bounds, such as "parcels/s, parcelwise over reference"."""
    goal = judged.goal
    text = f"{title(goal.figure)}, {goal.of}"
    return text if goal.over is None else f"{text} over {goal.over}"


def shown(value: float) -> str:
    """Write a number with three significant digits, whole from 100 on."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _goal_row(outcome: Outcome, judged: Judged) -> tuple[str, ...]:
    goal = judged.goal
    if goal.at_most is not None:
        bound = f"at most {shown(goal.at_most)}"
    else:
        bound = f"at least {shown(goal.at_least or 0)}"
    if judged.measured is None:
        return outcome.name, goal_text(judged), "not measured", bound, ""
    met = "yes" if judged.met else "**no**"
    return outcome.name, goal_text(judged), _spread(judged.measured), bound, met


def _figures(outcome: Outcome) -> str:
    """Write a row for each contestant, a column for each figure."""
    names = list(dict.fromkeys(n for figures in outcome.figures.values() for n in figures))
    rows = [
        (contestant, *(_spread(figures.get(name)) for name in names))
        for contestant, figures in outcome.figures.items()
    ]
    return _table(("", *(title(name) for name in names)), rows)


def _growth(axis: str, outcomes: Sequence[Outcome]) -> str:
    """Write a row for each contestant, a column for each x."""
    drawn = [o for o in outcomes if o.curve is not None and o.curve[0] == axis]
    drawn.sort(key=lambda o: o.curve[1] if o.curve else 0)
    figures = list(dict.fromkeys(name for o in drawn for name in (o.curve_figure, "peak_mb")))
    rows = [
        (
            contestant,
            title(figure),
            *(_spread(o.figures.get(contestant, {}).get(figure)) for o in drawn),
        )
        for contestant in dict.fromkeys(name for o in drawn for name in o.figures)
        for figure in figures
    ]
    heads = (shown(o.curve[1]) for o in drawn if o.curve is not None)
    return _table(("", axis.partition(",")[0], *heads), rows)


def _left_out(outcomes: Iterable[Outcome]) -> list[str]:
    return list(
        dict.fromkeys(f"- {name}: {why}" for o in outcomes for name, why in o.left_out.items())
    )


def _failed(outcomes: Iterable[Outcome]) -> list[str]:
    return [
        f"- {o.name}, {name}:\n\n```\n{printed}\n```"
        for o in outcomes
        for name, printed in o.failed.items()
    ]


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    if spread.least == spread.most:
        return shown(spread.median)
    return f"{shown(spread.median)} ({shown(spread.least)} to {shown(spread.most)})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table whose columns are as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        return f"| {' | '.join(padded)} |"

    rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
    return "\n".join([line(head), rule, *map(line, rows)])


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]
