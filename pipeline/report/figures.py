"""The report's charts: clouds, training and confidence; macros.jinja draws them as SVG.

Lengths are in units of a chart's view box, y downward.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

import numpy as np
from matplotlib.ticker import MaxNLocator

from pipeline.report.scores import Group, TrainLog, saved_epoch, was_validated
from pipeline.workflow.acquisition_table import AcquisitionRow
from pipeline.workflow.rounding import percent, rounded


@dataclass(frozen=True)
class Scale:
    """Linear scale from the values low .. high to the places start .. end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the place of a value, rounded to a tenth."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(self.start + share * (self.end - self.start), 1)


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis."""

    place: float
    label: str


@dataclass(frozen=True)
class Line:
    """A polyline, or an area if `closed`; `kind` is its CSS class."""

    points: str
    kind: str
    title: str = ""
    closed: bool = False


@dataclass(frozen=True)
class Dot:
    """A point; its CSS class and hover title."""

    x: float
    y: float
    kind: str
    title: str


@dataclass(frozen=True)
class Bar:
    """A bar from `top` down to the axis, if it has a value, and the mark below it."""

    x: float
    top: float
    used: bool
    has_value: bool
    title: str


@dataclass(frozen=True)
class Chart:
    """A chart with its axes; `label` is the text alternative."""

    label: str
    width: int
    height: int
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line] = field(default_factory=list)
    dots: list[Dot] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    title: str = ""
    colour: str = ""
    left: int = 40
    bottom: int = 24
    right: int = 12
    axis_gap: int = 0
    x_title: str = ""
    bar_width: float = 0.0


def cloud_chart(rows: Sequence[AcquisitionRow], limit: float) -> Chart | None:
    """Draw the cloud fraction of every acquisition over time; None if there are none."""
    if not rows:
        return None
    width, height, left, bottom, right = 960, 240, 46, 48, 12
    first, last = min(row.date for row in rows), max(row.date for row in rows)
    x = Scale(first.replace(day=1).toordinal(), last.toordinal(), left + 8, width - right - 8)
    y = Scale(0, 1, height - bottom, 12)
    # The satellites pass every two to five days: bars of two days leave gaps between most.
    two_days = 2 * (x.end - x.start) / max(1, last.toordinal() - first.toordinal())
    bars = []
    for row in rows:
        cloudy = "clouds unknown"
        if row.cloud_fraction is not None:
            cloudy = f"{percent(row.cloud_fraction, 0)} cloud"
        title = f"{say_day(row.date)}: {cloudy}, {'used' if row.used else 'set aside'}"
        place, has_value = x(row.date.toordinal()), row.cloud_fraction is not None
        bars.append(Bar(place, y(row.cloud_fraction or 0), row.used, has_value, title))
    ends = [(left, y(limit)), (width - right, y(limit))]
    return Chart(
        f"Cloud fraction of {len(rows)} acquisitions from {first} to {last}.",
        *(width, height, month_ticks(first.replace(day=1), last, x), _percent_ticks(y, 0.25, 4)),
        lines=[Line(join_points(ends), "limit", f"Limit {percent(limit, 0)}")],
        bars=bars,
        left=left,
        bottom=bottom,
        right=right,
        axis_gap=22,
        bar_width=round(min(7.0, max(2.0, two_days)), 1),
    )


def calibration_chart(groups: Sequence[Group]) -> Chart:
    """Draw accuracy over confidence, and the diagonal on which they are equal."""
    lowest = min(0.9, *(min(group.low, group.confidence) for group in groups))
    low = math.floor(lowest * 5) / 5
    x, y = Scale(low, 1, 46, 428), Scale(low, 1, 316, 12)
    points = [(x(group.confidence), y(group.accuracy)) for group in groups]
    intervals = [[(x(g.confidence), y(g.low)), (x(g.confidence), y(g.high))] for g in groups]
    step, n = (0.2, round((1 - low) * 5)) if low < 0.5 else (0.1, round((1 - low) * 10))
    return Chart(
        "Accuracy of the out-of-fold predictions by their confidence.",
        *(440, 360, _percent_ticks(x, step, n), _percent_ticks(y, step, n)),
        lines=[
            Line(join_points([(x(low), y(low)), (x(1), y(1))]), "diagonal"),
            *(Line(join_points(interval), "whisker") for interval in intervals),
            Line(join_points(points), "validation"),
        ],
        dots=[
            Dot(
                *point,
                "validation",
                f"{group.count:,} parcels: confidence {percent(group.confidence)}, "
                f"right {percent(group.accuracy)}",
            )
            for point, group in zip(points, groups, strict=True)
        ],
        left=46,
        bottom=44,
        x_title="Confidence",
    )


def training_charts(logs: Mapping[int, TrainLog], keep: str) -> list[Chart]:
    """Draw loss, accuracy and mean IoU per epoch: a line a fold, a dot at the saved epoch."""
    if not logs:
        return []
    return [
        _training_chart(logs, keep, "Loss", "loss", 3),
        _training_chart(logs, keep, "Overall accuracy (%)", "accuracy", 1, 100),
        _training_chart(logs, keep, "Mean IoU", "IoU", 3, 1),
    ]


def _training_chart(
    logs: Mapping[int, TrainLog],
    keep: str,
    title: str,
    metric: str,
    digits: int,
    whole: float = math.inf,
) -> Chart:
    """Draw one metric of all folds; its values are written as `rounded` does."""
    width, height, left = 340, 240, 44
    keys = {"training": f"train_{metric}"}
    if all(was_validated(epoch) for log in logs.values() for epoch in log.values()):
        keys["validation"] = f"val_{metric}"
    # A loss that was not finite is not drawn: the line leaves out its epoch.
    values = [v[key] for log in logs.values() for v in log.values() for key in keys.values()]
    values = [value for value in values if math.isfinite(value)]
    last = max(max(log) for log in logs.values())
    y_values = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(min(values), max(values))
    x_values = MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]).tick_values(1, last)
    x = Scale(min(1, last - 1), last, left + 4, width - 14)
    y = Scale(y_values[0], y_values[-1], height - 40, 10)
    lines, dots = [], []
    for kind, key in keys.items():
        for fold, log in logs.items():
            points = [(x(epoch), y(v[key])) for epoch, v in log.items() if math.isfinite(v[key])]
            lines.append(Line(join_points(points), kind, f"Fold {fold}, {kind}"))
    for fold, log in logs.items():
        saved = saved_epoch(log, keep)
        value = log[saved][keys.get("validation", keys["training"])]
        words = f"Fold {fold}, epoch {saved}: {rounded(value, digits, whole)}"
        dots.append(Dot(x(saved), y(value), "kept", words))
    return Chart(
        f"{title} per epoch, {' and '.join(keys)}, of {len(logs)} folds.",
        *(width, height),
        [Tick(x(v), f"{v:.0f}") for v in x_values if 1 <= v <= last],
        [Tick(y(v), f"{v:g}") for v in np.round(y_values, 9)],
        *(lines, dots),
        title=title,
        left=left,
        bottom=40,
        x_title="Epoch",
    )


def month_ticks(first: date, last: date, x: Scale, at_most: int = 14) -> list[Tick]:
    """Mark the first day of every n-th month, with the least n for at most `at_most` marks."""
    months = (last.year - first.year) * 12 + last.month - first.month + 1
    step = next((s for s in (1, 2, 3, 6, 12) if months / s <= at_most), 12 * (months // 120 + 1))
    # Months are counted from the January before the first day.
    starts = (
        date(first.year + m // 12, m % 12 + 1, 1) for m in range(0, first.month - 1 + months, step)
    )
    ticks, year = [], None
    for day in starts:
        if first <= day <= last:
            # The year is written with the first month of it.
            label = f"{day:%b}" if day.year == year else f"{day:%b %Y}"
            ticks.append(Tick(x(day.toordinal()), label))
            year = day.year
    return ticks


def _percent_ticks(scale: Scale, step: float, n: int) -> list[Tick]:
    """Mark 100 % and n steps below it, from the lowest on."""
    values = [round(1 - i * step, 9) for i in range(n, -1, -1)]
    return [Tick(scale(value), percent(value, 0)) for value in values]


def say_day(day: date) -> str:
    """Return a date as text, such as 3 May 2018."""
    return f"{day.day} {day:%B %Y}"


def join_points(points: Iterable[tuple[float, float]]) -> str:
    """Return places (x, y) as SVG writes them."""
    return " ".join(f"{x:g},{y:g}" for x, y in points)
