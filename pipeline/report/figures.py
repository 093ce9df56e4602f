"""The report's figures: clouds, training, seasons and confidence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline.classes.crop_class import CropClass
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.report.scores import Group, TrainLog, best_epoch
from pipeline.workflow.acquisition_table import AcquisitionRow
from pipeline.workflow.rounding import percent, rounded


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


def cloud_chart(rows: Sequence[AcquisitionRow], limit: float) -> Chart | None:
    """Draw the cloud fraction of every acquisition over time, used or not; None without any."""
    if not rows:
        return None
    width, height, left, bottom, right = 960, 240, 46, 48, 12
    first, last = min(r.date for r in rows), max(r.date for r in rows)
    x = Scale(first.replace(day=1).toordinal(), last.toordinal(), left + 8, width - right - 8)
    y = Scale(0, 1, height - bottom, 12)
    bars = [
        Bar(
            x(row.date.toordinal()),
            y(row.cloud_fraction or 0),
            row.used,
            row.cloud_fraction is not None,
            f"{say_day(row.date)}: {_cloudy(row)}, {'used' if row.used else 'set aside'}",
        )
        for row in rows
    ]
    # The satellites pass every two to five days: bars of two days leave gaps between most.
    two_days = 2 * (x.end - x.start) / max(1, last.toordinal() - first.toordinal())
    line = Line(
        f"{left},{y(limit)} {width - right},{y(limit)}", "limit", f"Limit {percent(limit, 0)}"
    )
    return Chart(
        f"Cloud fraction of {len(rows)} acquisitions from {first} to {last}.",
        *(width, height, month_ticks(first.replace(day=1), last, x)),
        y_ticks=[Tick(y(v), percent(v, 0)) for v in (0, 0.25, 0.5, 0.75, 1)],
        lines=[line],
        bars=bars,
        left=left,
        bottom=bottom,
        right=right,
        axis_gap=22,
        bar_width=round(min(7.0, max(2.0, two_days)), 1),
    )


def training_charts(logs: Mapping[int, TrainLog]) -> list[Chart]:
    """Draw loss, accuracy and mean IoU per epoch: a line a fold, a dot where its model was kept."""
    if not logs:
        return []
    return [
        _training_chart(logs, "Loss", "train_loss", "val_loss", 3),
        _training_chart(logs, "Overall accuracy (%)", "train_accuracy", "val_accuracy", 1, 100),
        _training_chart(logs, "Mean IoU", "train_IoU", "val_IoU", 3, 1),
    ]


def season_charts(
    series: Mapping[str, NDArray[np.float64]],
    dates: Sequence[date],
    classes: Sequence[CropClass],
    colours: Mapping[str, str],
) -> list[Chart]:
    """Draw NDVI over time, a small chart a class.

    Parameters
    ----------
    series
        {code: float64 (T, 3)}: quartiles of the class on every date, NaN where none was clear.
    dates
        The T dates.
    classes
        Classes to draw, in order; those without a series are left out.
    colours
        {code: colour} of the classes.
    """
    drawn = {str(c.code): c.name for c in classes if str(c.code) in series}
    lowest = min((np.nanmin(series[code], initial=0) for code in drawn), default=0)
    days = Scale(dates[0].toordinal(), dates[-1].toordinal(), 38, 286)
    ndvi = Scale(np.floor(lowest * 5) / 5, 1, 128, 8)
    return [
        _season_chart(name, colours[code], series[code], dates, days, ndvi)
        for code, name in drawn.items()
    ]


def calibration_chart(groups: Sequence[Group]) -> Chart:
    """Draw accuracy over confidence, beside the diagonal where the two agree."""
    low = min(0.9, *(min(g.low, g.confidence) for g in groups))
    low = np.floor(low * 5) / 5
    x, y = Scale(low, 1, 46, 428), Scale(low, 1, 316, 12)
    values = np.arange(round(low * 10), 11, 2 if low < 0.5 else 1) / 10
    whiskers = [
        Line(join_points([(x(g.confidence), y(g.low)), (x(g.confidence), y(g.high))]), "whisker")
        for g in groups
    ]
    middle = join_points((x(g.confidence), y(g.accuracy)) for g in groups)
    return Chart(
        "Accuracy of the out-of-fold predictions by their confidence.",
        *(440, 360),
        [Tick(x(v), percent(v, 0)) for v in values],
        [Tick(y(v), percent(v, 0)) for v in values],
        lines=[
            Line(join_points([(x(low), y(low)), (x(1), y(1))]), "diagonal"),
            *whiskers,
            Line(middle, "validation"),
        ],
        dots=[
            Dot(
                x(g.confidence),
                y(g.accuracy),
                "validation",
                f"{g.count:,} parcels: confidence {percent(g.confidence)}, "
                f"right {percent(g.accuracy)}",
            )
            for g in groups
        ],
        left=46,
        bottom=44,
        x_title="Confidence",
    )


def _season_chart(
    name: str,
    colour: str,
    quartiles: NDArray[np.float64],
    dates: Sequence[date],
    x: Scale,
    y: Scale,
) -> Chart:
    """Draw the NDVI of one class."""
    seen = [(d, q) for d, q in zip(dates, quartiles, strict=True) if np.isfinite(q).all()]
    places = [x(d.toordinal()) for d, _ in seen]
    lower, middle, upper = (
        [(px, y(q[rank])) for px, (_, q) in zip(places, seen, strict=True)] for rank in range(3)
    )
    return Chart(
        f"NDVI of {name} over time: median and quartiles.",
        *(300, 150),
        month_ticks(dates[0], dates[-1], x, at_most=5),
        [Tick(y(v), f"{v:g}") for v in (0, 0.5, 1)],
        lines=[
            Line(join_points([*lower, *reversed(upper)]), "band", closed=True),
            Line(join_points(middle), "median"),
        ],
        dots=[
            Dot(*place, "median", f"{say_day(d)}: NDVI {q[1]:.2f}")
            for place, (d, q) in zip(middle, seen, strict=True)
        ],
        title=name,
        colour=colour,
        left=34,
        right=10,
        bottom=22,
    )


def _training_chart(
    logs: Mapping[int, TrainLog],
    title: str,
    train: str,
    validation: str,
    digits: int,
    whole: float = math.inf,
) -> Chart:
    """Draw one measure of all folds; its values are written as `rounded` does."""
    width, height, left = 340, 240, 44
    values = [v[key] for log in logs.values() for v in log.values() for key in (train, validation)]
    # A loss that was not finite has no place: the line leaves its epoch out.
    values = [value for value in values if math.isfinite(value)]
    last = max(max(log) for log in logs.values())
    y_values = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(min(values), max(values))
    x_values = MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]).tick_values(1, last)
    x = Scale(min(1, last - 1), last, left + 4, width - 14)
    y = Scale(y_values[0], y_values[-1], height - 40, 10)
    lines, dots = [], []
    for kind, key in (("training", train), ("validation", validation)):
        for fold, log in logs.items():
            points = join_points(
                (x(epoch), y(v[key])) for epoch, v in log.items() if math.isfinite(v[key])
            )
            lines.append(Line(points, kind, f"Fold {fold}, {kind}"))
    for fold, log in logs.items():
        kept = best_epoch(log)
        value = log[kept][validation]
        words = f"Fold {fold}, epoch {kept}: {rounded(value, digits, whole)}"
        dots.append(Dot(x(kept), y(value), "kept", words))
    return Chart(
        f"{title} per epoch, training and validation, of {len(logs)} folds.",
        *(width, height),
        [Tick(x(v), f"{v:.0f}") for v in x_values if 1 <= v <= last],
        [Tick(y(v), f"{v:g}") for v in np.round(y_values, 9)],
        *(lines, dots),
        title=title,
        left=left,
        bottom=40,
        x_title="Epoch",
    )


def _cloudy(row: AcquisitionRow) -> str:
    if row.cloud_fraction is None:
        return "clouds unknown"
    return f"{percent(row.cloud_fraction, 0)} cloud"


RED, NEAR_INFRARED = "B04", "B08"
# So many parcels show how a class behaves; reading all of a large dataset would take minutes.
MOST_PARCELS = 200


def ndvi_by_class(dataset: PixelSetDataset) -> dict[str, NDArray[np.float64]]:
    """Compute the quartiles of NDVI (Rouse et al. 1974) of every class on every date.

    Of a parcel its clear pixels' median counts; of a class at most `MOST_PARCELS` parcels, evenly
    spaced in the dataset's order.

    Returns
    -------
    dict
        {code: float64 (T, 3)}: quartiles over the parcels, NaN where none was seen clearly. Empty
        if the dataset lacks a band. Classes without parcels are left out.
    """
    bands = dataset.bands
    if not {RED, NEAR_INFRARED} <= set(bands):
        return {}
    channels = bands.index(RED), bands.index(NEAR_INFRARED)
    labels, own = dataset.labels, dataset.parcel_dates
    place = {day: i for i, day in enumerate(dataset.dates)}
    series = {}
    for index, land in enumerate(dataset.classes):
        members = np.flatnonzero(labels == index)
        if len(members):
            step = -(-len(members) // MOST_PARCELS)
            shown = members[::step]
            parcels = np.full((len(shown), len(place)), np.nan)
            for row, i in zip(parcels, shown, strict=True):
                dates = list(place) if own is None else own[dataset.ids[i]]
                row[[place[day] for day in dates]] = _parcel_ndvi(dataset[i], *channels)
            series[str(land.code)] = _quartiles(parcels)
    return series


def _parcel_ndvi(parcel: dict[str, Any], red: int, near_infrared: int) -> NDArray[np.float64]:
    """Compute the median NDVI of a parcel's clear pixels, float64 (T,)."""
    pixels = parcel["pixels"][:, [red, near_infrared]].astype(np.float64)
    total = pixels.sum(axis=1)
    clear = parcel["clear"] & (total > 0)
    ndvi = np.divide(
        pixels[:, 1] - pixels[:, 0], total, out=np.full_like(total, np.nan), where=clear
    )
    median = np.full(len(ndvi), np.nan)
    seen = clear.any(axis=1)
    median[seen] = np.nanmedian(ndvi[seen], axis=1)
    return median


def _quartiles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute quartiles over the first axis where anything was seen: (N, T) to (T, 3)."""
    quartiles = np.full((values.shape[1], 3), np.nan)
    seen = np.isfinite(values).any(axis=0)
    quartiles[seen] = np.nanquantile(values[:, seen], [0.25, 0.5, 0.75], axis=0).T
    return quartiles
