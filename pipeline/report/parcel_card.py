"""The card of a parcel: its charts, and what is said of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from matplotlib.dates import date2num
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline.report.chart import Chart, band, say_day, show_dates, show_percent
from pipeline.report.parcel_series import NDVI, ParcelSeries
from pipeline.report.svg import ASIDE, INK, PAPER, SOFT, WARM
from pipeline.workflow.rounding import percent

WIDTH = 420
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


def series_charts(
    series: ParcelSeries,
    envelopes: Mapping[str, NDArray[np.float64]],
    colours: Mapping[str, str],
) -> tuple[Chart | None, list[Chart]]:
    """Draw NDVI, None without red or near infrared, and each band.

    Parameters
    ----------
    series
        The parcel.
    envelopes
        {"declared" or "predicted": float64 (T, B, 2)}, of the parcels of this class.
    colours
        {"declared" or "predicted": colour of this class}.
    """
    charts = [_series_chart(series, b, envelopes, colours) for b in range(len(series.names))]
    first = charts[0] if charts and series.names[0] == NDVI else None
    return first, charts[first is not None :]


def _series_chart(
    series: ParcelSeries,
    b: int,
    envelopes: Mapping[str, NDArray[np.float64]],
    colours: Mapping[str, str],
) -> Chart:
    """Draw the b-th quantity of a parcel, over the classes and the cloudy dates."""
    name, values, dates = series.names[b], series.values[:, b], np.array(series.dates)
    is_large = name == NDVI
    chart = Chart(
        f"{name} of the parcel over time.", *((WIDTH, 210) if is_large else (190, 110)), title=name
    )
    (axes,) = chart.axes
    bands = {kind: found[:, b] for kind, found in envelopes.items()}
    marks = _marks(values, bands.values(), 4 if is_large else 2)
    axes.set_ylim(marks[0], marks[-1])
    axes.set_yticks(marks)
    cloudy = np.flatnonzero(series.clear_fraction == 0)
    clouds = axes.vlines(dates[cloudy], marks[0], marks[-1], color=(ASIDE, 0.28), linewidth=5)
    chart.say(clouds, [_say(series, t) for t in cloudy.tolist()])
    for kind, limits in bands.items():
        limits = np.clip(limits, marks[0], marks[-1])
        area = band(axes, series.dates, limits, colours[kind])
        if kind == "declared":
            area.set(edgecolor=colours[kind], linestyle="--", linewidth=1)
    known = np.isfinite(values)
    axes.plot(dates[known], values[known], color=INK, linewidth=1.6)
    for is_clear in (True, False):
        shown = np.flatnonzero(known & ((series.clear_fraction == 1) == is_clear))
        (dots,) = axes.plot(dates[shown], values[shown], "o", color=INK, markersize=4)
        dots.set(markerfacecolor=INK if is_clear else PAPER, markeredgewidth=1)
        chart.say(dots, [f"{_say(series, t)}, {name} {values[t]:.2f}" for t in shown.tolist()])
    show_dates(axes, series.dates, 9 if is_large else 4)
    return chart


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
    chart = Chart(
        f"Probability of {found.predicted} without the dates within {found.window_days} days of "
        "each date.",
        *(WIDTH, 130),
    )
    (axes,) = chart.axes
    level = axes.axhline(found.probability, color=SOFT, linestyle="--", linewidth=1)
    chart.say(level, "all dates")
    known = np.isfinite(found.without)
    days, changes = np.array(dates), np.array(found.becomes) != found.predicted
    axes.plot(days[known], found.without[known], color=INK, linewidth=1.6)
    for is_other, colour, size in ((False, INK, 4), (True, WARM, 6)):
        shown = np.flatnonzero(known & (changes == is_other))
        (dots,) = axes.plot(days[shown], found.without[shown], "o", color=colour, markersize=size)
        titles = [
            f"Without the dates around {say_day(dates[t])}: {found.predicted} "
            f"{percent(float(found.without[t]))}" + f", predicted {found.becomes[t]}" * is_other
            for t in shown.tolist()
        ]
        chart.say(dots, titles)
    show_percent(axes, steps=2)
    show_dates(axes, dates, 9)
    return chart


def attention_chart(dates: Sequence[date], found: Explanation) -> Chart:
    """Draw the attention on every date as bars."""
    chart = Chart("Attention of the models on every date.", WIDTH, 100)
    (axes,) = chart.axes
    gaps = np.diff(date2num(dates))
    width = max(1.0, float(np.median(gaps)) / 2) if len(gaps) else 3.0
    attended = np.flatnonzero(found.attention)
    bars = axes.bar(np.array(dates)[attended], found.attention[attended], width, color=SOFT)
    for bar, t in zip(bars, attended.tolist(), strict=True):
        share = percent(float(found.attention[t]))
        chart.say(bar, f"{say_day(dates[t])}: {share} of the attention")
    show_percent(axes, high=max(float(found.attention.max(initial=0)), 0.01), steps=2)
    show_dates(axes, dates, 9)
    return chart


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
