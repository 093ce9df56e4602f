"""The card of a parcel: its charts, and what is said of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline.report.figures import Chart, Dot, Line, Scale, Tick, join_points, month_ticks, say_day
from pipeline.report.parcel_series import NDVI, ParcelSeries
from pipeline.workflow.rounding import percent

LEFT, RIGHT, BOTTOM = 46, 12, 24
# The width of the charts, and of the small ones of the bands.
WIDTH, SMALL_WIDTH = 480, 230
# A prediction depends on a window of dates if its probability falls by more without them.
STEADY = 0.1


@dataclass(frozen=True, eq=False)
class Explanation:
    """What the models look at, and depend on, for one parcel with T dates.

    Attributes
    ----------
    attention
        float (T,), adds up to 1; 0 where the date is masked.
    window_days
        Dates at most so far from a date are left out together with it.
    predicted, probability
        Name of the predicted class, and its probability with all dates.
    without
        float64 (T,), its probability without the dates around each date; NaN where the date is
        masked, or no date is left.
    becomes
        The class that is predicted then; "" where `without` is NaN.
    correlation
        Rank correlation of the attention on these dates and the fall; NaN if not defined.
    """

    attention: NDArray[np.floating[Any]]
    window_days: int
    predicted: str
    probability: float
    without: NDArray[np.float64]
    becomes: list[str]
    correlation: float

    @property
    def lowest(self) -> int | None:
        """The date whose window is needed most; None if nothing is known."""
        return int(np.nanargmin(self.without)) if np.isfinite(self.without).any() else None

    @property
    def changes(self) -> bool:
        """Whether the class changes without some window of dates."""
        return any(name not in ("", self.predicted) for name in self.becomes)

    @property
    def depends(self) -> bool:
        """Whether the prediction depends on some window of dates."""
        lowest = self.lowest
        falls = lowest is not None and self.probability - self.without[lowest] > STEADY
        return self.changes or bool(falls)


@dataclass(frozen=True)
class Axis:
    """The dates of a chart of some width, from left to right."""

    dates: Sequence[date]
    width: int = WIDTH

    @property
    def scale(self) -> Scale:
        """Days to units."""
        first, last = self.dates[0].toordinal(), self.dates[-1].toordinal()
        return Scale(first, last, LEFT + 6, self.width - RIGHT - 6)

    @property
    def places(self) -> list[float]:
        """The place of every date."""
        return [self.scale(day.toordinal()) for day in self.dates]

    @property
    def ticks(self) -> list[Tick]:
        """The months."""
        at_most = 9 if self.width == WIDTH else 4
        return month_ticks(self.dates[0], self.dates[-1], self.scale, at_most=at_most)


def series_charts(
    series: ParcelSeries, envelopes: Mapping[str, NDArray[np.float64]]
) -> tuple[Chart | None, list[Chart]]:
    """Draw NDVI, None without red or near infrared, and each band.

    Parameters
    ----------
    series
        The parcel.
    envelopes
        {CSS class: float64 (T, B, 2)}, of the declared and the predicted class.
    """
    charts = []
    for b, name in enumerate(series.names):
        bands = {kind: found[:, b] for kind, found in envelopes.items()}
        size = (WIDTH, 230) if name == NDVI else (SMALL_WIDTH, 120)
        charts.append(_series_chart(series, name, series.values[:, b], bands, *size))
    first = charts[0] if charts and series.names[0] == NDVI else None
    return first, charts[first is not None :]


def _series_chart(
    series: ParcelSeries,
    name: str,
    values: NDArray[np.float64],
    envelopes: Mapping[str, NDArray[np.float64]],
    width: int,
    height: int,
) -> Chart:
    marks = _marks(values, envelopes.values(), 4 if width == WIDTH else 2)
    axis, y = Axis(series.dates, width), Scale(marks[0], marks[-1], height - BOTTOM, 8)
    places = axis.places
    clear = np.flatnonzero(np.isfinite(values)).tolist()
    lines = [
        # A cloudy date
        Line(join_points([(places[t], y.start), (places[t], y.end)]), "cloudy", _say(series, t))
        for t in np.flatnonzero(series.clear_fraction == 0).tolist()
    ]
    for kind, found in envelopes.items():
        known = np.flatnonzero(np.isfinite(found).all(axis=1)).tolist()
        found = np.clip(found, marks[0], marks[-1])
        lower, upper = ([(places[t], y(found[t, k])) for t in known] for k in range(2))
        lines.append(Line(join_points([*lower, *reversed(upper)]), kind, closed=True))
    lines.append(Line(join_points([(places[t], y(values[t])) for t in clear]), "parcel"))
    return Chart(
        f"{name} of the parcel over time.",
        *(width, height, axis.ticks, [Tick(y(v), f"{v:g}") for v in np.round(marks, 9)]),
        lines=lines,
        dots=[
            Dot(
                *(places[t], y(values[t])),
                "parcel" if series.clear_fraction[t] == 1 else "partly",
                f"{_say(series, t)}, {name} {values[t]:.2f}",
            )
            for t in clear
        ],
        title=name,
        left=LEFT,
        right=RIGHT,
        bottom=BOTTOM,
    )


def _marks(
    values: NDArray[np.float64], envelopes: Iterable[NDArray[np.float64]], n: int
) -> NDArray[np.float64]:
    """Return about n round values that contain those of a parcel, and of its classes mostly."""
    own = values[np.isfinite(values)]
    # A single date with thin clouds would make the chart flat.
    others = [
        np.nanquantile(found, (0.05, 0.95)) for found in envelopes if np.isfinite(found).any()
    ]
    every = np.concatenate([own, *others, [0.0, 0.02]])
    locator = MaxNLocator(n, steps=[1, 2, 5, 10], min_n_ticks=2)
    return np.asarray(locator.tick_values(every.min(), every.max()), np.float64)


def _say(series: ParcelSeries, t: int) -> str:
    """Say how clear a date is."""
    share = float(series.clear_fraction[t])
    words = {0.0: "cloudy or nodata", 1.0: "clear"}.get(share, f"{percent(share, 0)} clear")
    return f"{say_day(series.dates[t])}: {words}"


def occlusion_chart(dates: Sequence[date], found: Explanation) -> Chart:
    """Draw the probability of the predicted class without the dates around each date."""
    height = 130
    axis, y = Axis(dates), Scale(0, 1, height - BOTTOM, 8)
    places = axis.places
    known = np.flatnonzero(np.isfinite(found.without)).tolist()
    level = y(found.probability)
    return Chart(
        f"Probability of {found.predicted} without the dates within {found.window_days} days of "
        "each date.",
        *(WIDTH, height, axis.ticks, [Tick(y(v), percent(v, 0)) for v in (0, 0.5, 1)]),
        lines=[
            Line(join_points([(LEFT, level), (WIDTH - RIGHT, level)]), "diagonal", "all dates"),
            Line(join_points([(places[t], y(found.without[t])) for t in known]), "parcel"),
        ],
        dots=[
            Dot(
                *(places[t], y(found.without[t])),
                "parcel" if found.becomes[t] == found.predicted else "other",
                f"Without the dates around {say_day(dates[t])}: {found.predicted} "
                f"{percent(float(found.without[t]))}"
                + f", predicted {found.becomes[t]}"
                * (found.becomes[t] != found.predicted),
            )
            for t in known
        ],
        left=LEFT,
        right=RIGHT,
        bottom=BOTTOM,
    )


def attention_chart(dates: Sequence[date], found: Explanation) -> Chart:
    """Draw the attention on every date as bars."""
    height = 95
    highest = max(float(found.attention.max(initial=0)), 0.01)
    marks = MaxNLocator(2, steps=[1, 2, 5, 10], min_n_ticks=2).tick_values(0, highest)
    axis, y = Axis(dates), Scale(0, marks[-1], height - BOTTOM, 8)
    gaps = np.diff(axis.places)
    half = float(np.clip(np.median(gaps) / 3 if len(gaps) else 3, 0.8, 4))
    digits = 0 if marks[1] >= 0.01 else 1
    return Chart(
        "Attention of the models on every date.",
        *(WIDTH, height, axis.ticks, [Tick(y(v), percent(v, digits)) for v in marks]),
        lines=[
            Line(
                join_points(
                    [
                        (place - half, y.start),
                        (place - half, y(share)),
                        (place + half, y(share)),
                        (place + half, y.start),
                    ]
                ),
                "attended",
                f"{say_day(day)}: {percent(share)} of the attention",
                closed=True,
            )
            for place, day, share in zip(axis.places, dates, found.attention.tolist(), strict=True)
            if share > 0
        ],
        left=LEFT,
        right=RIGHT,
        bottom=BOTTOM,
    )


def say_explanation(dates: Sequence[date], found: Explanation) -> str:
    """Say on which dates the prediction depends."""
    worst = found.lowest
    if worst is None:
        return "The parcel has too few dates to leave some of them out."
    low, named = float(found.without[worst]), found.becomes[worst]
    days = f"within {found.window_days} days of {say_day(dates[worst])}"
    if named != found.predicted:
        return (
            f"The prediction depends most on the dates {days}. Without them, {found.predicted} has "
            f"a probability of {percent(low)} instead of {percent(found.probability)}, and the "
            f"class would be {named}."
        )
    if found.depends:
        return (
            f"The prediction depends most on the dates {days}: without them, {found.predicted} has "
            f"a probability of {percent(low)} instead of {percent(found.probability)}."
            + f" It stays {found.predicted}."
            * (not found.changes)
        )
    return (
        f"Whichever {2 * found.window_days} days are left out, the class stays "
        f"{found.predicted}, with a probability of at least {percent(low)}."
    )


def say_attention(found: Explanation) -> str:
    """Say whether attention and occlusion agree for the parcel; "" if not known.

    The order of the dates means nothing where the prediction depends on none of them.
    """
    if not (found.depends and np.isfinite(found.correlation)):
        return ""
    words = (
        "Attention agrees with this"
        if found.correlation >= 0.5
        else "Attention agrees with this in part"
        if found.correlation >= 0.2
        else "Attention does not agree with this"
    )
    return f"{words} (rank correlation {found.correlation:.2f})."


def say_verdict(row: Mapping[str, Any], n_judged: int, false_alarms: float, factor: int) -> str:
    """Say in words why a declaration has its verdict.

    Parameters
    ----------
    row
        The row of the predictions.
    n_judged
        Number of declarations with a rank.
    false_alarms, factor
        As in `pipeline.evaluation.doubts`.
    """
    declared, predicted = row["declared_name"], row["pred_name"]
    rank = f"Rank {row['doubt_rank']:,} of {n_judged:,} declarations, 1 being the most doubtful."
    share = {"CONFLICT": false_alarms, "DOUBT": factor * false_alarms}.get(row["verdict"])
    if share is None:
        if row["declared_code"] == row["pred_code"]:
            return f"The models predict the declared class. {rank}"
        return (
            f"The models predict {predicted}, but for a parcel that is declared as {declared} this "
            f"is not unusual. {rank}"
        )
    return (
        f"The models predict {predicted}. The probability of the declared class, "
        f"{percent(row['declared_probability'])}, is among the lowest {percent(share, 0)} of the "
        f"parcels declared as {declared}. {rank}"
    )
