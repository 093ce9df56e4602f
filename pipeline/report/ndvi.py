"""NDVI over the season: of the classes, and of the most confident mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.classes.crop_class import CropClass
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.report.figures import Chart, Dot, Line, Scale, Tick, join_points, month_ticks, say_day

RED, NEAR_INFRARED = "B04", "B08"
# These many parcels are enough to show a class. All parcels of a large dataset would take minutes.
MOST_PARCELS = 200


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
        {code: float64 (T, 3)}: quartiles of the class on every date, NaN where none is clear.
    dates
        The T dates.
    classes
        Classes to draw, in order; those without a series are left out.
    colours
        {code: colour} of the classes.
    """
    drawn = {str(c.code): c.name for c in classes if str(c.code) in series}
    x, y = _scales(dates, [series[code] for code in drawn])
    return [
        _season_chart(name, colours[code], series[code], dates, x, y)
        for code, name in drawn.items()
    ]


def _scales(dates: Sequence[date], series: Sequence[NDArray[np.float64]]) -> tuple[Scale, Scale]:
    """Return the scales of dates and of NDVI, the same for all charts of some series."""
    lowest = min((np.nanmin(own, initial=0) for own in series), default=0)
    days = Scale(dates[0].toordinal(), dates[-1].toordinal(), 38, 286)
    return days, Scale(np.floor(lowest * 5) / 5, 1, 128, 8)


def _season_chart(
    name: str,
    colour: str,
    quartiles: NDArray[np.float64],
    dates: Sequence[date],
    x: Scale,
    y: Scale,
) -> Chart:
    """Draw the NDVI of one class."""
    medians = quartiles[:, 1]
    return _small_chart(
        *(f"NDVI of {name} over time: median and quartiles.", dates, x, y),
        lines=[
            _band(quartiles, dates, x, y, "band"),
            Line(join_points(_places(medians, dates, x, y)), "median"),
        ],
        dots=_dots(medians, dates, x, y, "median"),
        title=name,
        colour=colour,
    )


@dataclass(frozen=True)
class Mistake:
    """A parcel whose prediction differs from its declared class; no chart without NDVI."""

    parcel_id: str
    declared_code: str
    declared_name: str
    pred_code: str
    pred_name: str
    confidence: float
    chart: Chart | None


def draw_mistakes(
    parcels: pd.DataFrame, dataset: PixelSetDataset, series: Mapping[str, NDArray[np.float64]]
) -> list[Mistake]:
    """Draw the NDVI of parcels over that of their declared and predicted class.

    Parameters
    ----------
    parcels
        Predictions of the parcels to draw.
    dataset
        The dataset that has their pixels.
    series
        {code: float64 (T, 3)}, as `ndvi_by_class` returns them.
    """
    place = {parcel: i for i, parcel in enumerate(dataset.ids)}
    columns = [name for name in Mistake.__annotations__ if name != "chart"]
    rows = parcels[columns].to_dict("records")
    in_dataset = [row["parcel_id"] for row in rows if series and row["parcel_id"] in place]
    own = {parcel: _parcel_series(dataset, place[parcel]) for parcel in in_dataset}
    x, y = _scales(dataset.dates, [*series.values(), *own.values()])
    mistakes = []
    for row in rows:
        chart = None
        if (ndvi := own.get(row["parcel_id"])) is not None:
            classes = (("declared", row["declared_code"]), ("predicted", row["pred_code"]))
            bands = [
                _band(series[code], dataset.dates, x, y, kind)
                for kind, code in classes
                if code in series
            ]
            line = Line(join_points(_places(ndvi, dataset.dates, x, y)), "parcel")
            chart = _small_chart(
                *(f"NDVI of parcel {row['parcel_id']} over time.", dataset.dates, x, y),
                lines=[*bands, line],
                dots=_dots(ndvi, dataset.dates, x, y, "parcel"),
            )
        mistakes.append(Mistake(**{str(name): value for name, value in row.items()}, chart=chart))
    return mistakes


def _small_chart(label: str, dates: Sequence[date], x: Scale, y: Scale, **others: Any) -> Chart:
    """Return a chart of NDVI over time, with its axes."""
    return Chart(
        *(label, 300, 150),
        month_ticks(dates[0], dates[-1], x, at_most=5),
        [Tick(y(v), f"{v:g}") for v in (0, 0.5, 1)],
        **others,
        left=34,
        right=10,
        bottom=22,
    )


def _places(
    values: NDArray[np.float64], dates: Sequence[date], x: Scale, y: Scale
) -> list[tuple[float, float]]:
    """Return the places of the values (T,) that are not NaN."""
    return [
        (x(day.toordinal()), y(value))
        for day, value in zip(dates, values.tolist(), strict=True)
        if np.isfinite(value)
    ]


def _band(
    quartiles: NDArray[np.float64], dates: Sequence[date], x: Scale, y: Scale, kind: str
) -> Line:
    """Return the area between the first and the third of quartiles (T, 3)."""
    lower, upper = (_places(quartiles[:, rank], dates, x, y) for rank in (0, 2))
    return Line(join_points([*lower, *reversed(upper)]), kind, closed=True)


def _dots(
    values: NDArray[np.float64], dates: Sequence[date], x: Scale, y: Scale, kind: str
) -> list[Dot]:
    days = [day for day, value in zip(dates, values, strict=True) if np.isfinite(value)]
    clear = values[np.isfinite(values)]
    return [
        Dot(*place, kind, f"{say_day(day)}: NDVI {value:.2f}")
        for place, day, value in zip(_places(values, dates, x, y), days, clear, strict=True)
    ]


def ndvi_by_class(dataset: PixelSetDataset) -> dict[str, NDArray[np.float64]]:
    """Compute the quartiles of NDVI (Rouse et al. 1974) of every class on every date.

    A parcel has the median NDVI of its clear pixels. At most `MOST_PARCELS` parcels of a class are
    used, evenly spaced in the dataset's order.

    Returns
    -------
    dict
        {code: float64 (T, 3)}: quartiles over the parcels, NaN where no parcel is clear. Empty if
        the dataset lacks a band. Classes without parcels are left out.
    """
    if not {RED, NEAR_INFRARED} <= set(dataset.bands):
        return {}
    series = {}
    for index, crop in enumerate(dataset.classes):
        members = np.flatnonzero(dataset.labels == index)
        if not len(members):
            continue
        shown = members[:: -(-len(members) // MOST_PARCELS)]
        ndvi = np.stack([_parcel_series(dataset, i) for i in shown])
        # nanquantile warns of dates on which no parcel is clear.
        clear = np.isfinite(ndvi).any(axis=0)
        series[str(crop.code)] = np.full((len(dataset.dates), 3), np.nan)
        quartiles = np.nanquantile(ndvi[:, clear], [0.25, 0.5, 0.75], axis=0)
        series[str(crop.code)][clear] = quartiles.T
    return series


def _parcel_series(dataset: PixelSetDataset, i: int) -> NDArray[np.float64]:
    """Compute the NDVI of a parcel on the dates of the dataset, float64 (T,)."""
    channels = [dataset.bands.index(band) for band in (RED, NEAR_INFRARED)]
    found = parcel_ndvi(dataset[i], channels)
    if dataset.parcel_dates is None:
        return found
    place = {day: t for t, day in enumerate(dataset.dates)}
    series = np.full(len(place), np.nan)
    series[[place[day] for day in dataset.parcel_dates[dataset.ids[i]]]] = found
    return series


def parcel_ndvi(parcel: dict[str, Any], channels: list[int]) -> NDArray[np.float64]:
    """Compute the median NDVI of a parcel's clear pixels, float64 (T,)."""
    # (T, 2, S) of red and near infrared to (T, S) each
    red, near_infrared = np.moveaxis(parcel["pixels"][:, channels].astype(np.float64), 1, 0)
    total = near_infrared + red
    clear = parcel["clear"] & (total > 0)
    ndvi = np.full_like(total, np.nan)
    np.divide(near_infrared - red, total, out=ndvi, where=clear)
    median = np.full(len(ndvi), np.nan)
    any_clear = clear.any(axis=1)
    median[any_clear] = np.nanmedian(ndvi[any_clear], axis=1)
    return median
