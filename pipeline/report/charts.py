"""What the report's charts are made of; macros.jinja draws them as SVG.

Lengths are in units of the chart's view box, y downward.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date


@dataclass(frozen=True)
class Scale:
    """Maps values low .. high to places start .. end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Give the place of a value, to a tenth."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(self.start + share * (self.end - self.start), 1)


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis."""

    place: float
    label: str


@dataclass(frozen=True)
class Line:
    """A polyline, or with `closed` an area; `kind` is its CSS class."""

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
    """A bar from `top` down to the axis, and the mark below it."""

    x: float
    top: float
    used: bool
    known: bool
    title: str


@dataclass(frozen=True)
class Chart:
    """One chart: axes and what is drawn between them; `label` is its text alternative."""

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


def month_ticks(first: date, last: date, x: Scale, at_most: int = 14) -> list[Tick]:
    """Mark firsts of months, so many months apart that not too many are marked."""
    months = (last.year - first.year) * 12 + last.month - first.month + 1
    step = next((s for s in (1, 2, 3, 6, 12) if months / s <= at_most), 12 * (months // 120 + 1))
    starts = [
        date(first.year + m // 12, m % 12 + 1, 1)
        for m in range(first.month - 1, first.month + months)
        if m % step == 0
    ]
    shown = [d for d in starts if first <= d <= last]
    # The first of each year carries its number.
    years = {
        d
        for d, before in zip(shown, [None, *shown], strict=False)
        if before is None or d.year > before.year
    }
    return [Tick(x(d.toordinal()), f"{d:%b %Y}" if d in years else f"{d:%b}") for d in shown]


def say_day(day: date) -> str:
    """Write a date, such as 3 May 2018."""
    return f"{day.day} {day:%B %Y}"


def join_points(points: Iterable[tuple[float, float]]) -> str:
    """Write places (x, y) as SVG does."""
    return " ".join(f"{x:g},{y:g}" for x, y in points)
