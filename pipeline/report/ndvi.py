"""NDVI over the season: of the classes, and of the most confident mistakes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import MultipleLocator
from numpy.typing import NDArray

from pipeline.classes.crop_class import CropClass
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.report.chart import SMALL, Chart, band, say_day, show_dates
from pipeline.report.svg import BLUE, INK, WARM

HEIGHT = 130
RED, NEAR_INFRARED = "B04", "B08"
# These many parcels are enough to show a class. All parcels of a large dataset would take minutes.
MOST_PARCELS = 200


def season_charts(
    series: Mapping[str, NDArray[np.float64]],
    dates: Sequence[date],
    classes: Sequence[CropClass],
    colours: Mapping[str, str],
) -> dict[str, Chart]:
    """Draw NDVI over time, a small chart a class: {code: chart}.

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
    lowest = _lowest([series[code] for code in drawn])
    charts = {}
    for code, name in drawn.items():
        chart = Chart(f"NDVI of {name} over time: median and quartiles.", SMALL, HEIGHT, title=name)
        band(chart.axes[0], dates, series[code][:, [0, 2]], colours[code])
        _draw_ndvi(chart, dates, series[code][:, 1], colours[code], lowest)
        charts[code] = chart
    return charts


def _lowest(series: Iterable[NDArray[np.float64]]) -> float:
    """Return where the axis of NDVI begins, the same for all charts of some series."""
    lowest = min((np.nanmin(own, initial=0) for own in series), default=0)
    return float(np.floor(lowest * 5) / 5)


def _draw_ndvi(
    chart: Chart, dates: Sequence[date], ndvi: NDArray[np.float64], colour: str, lowest: float
) -> None:
    """Draw an NDVI (T,), NaN where it is not known, over what the chart shows."""
    (axes,) = chart.axes
    values = dict(zip(dates, ndvi.tolist(), strict=True))
    chart.plot(
        *(axes, values, ".-", lambda day, value: f"{say_day(day)}: NDVI {value:.2f}"),
        color=colour,
    )
    axes.set_ylim(lowest, 1)
    axes.yaxis.set_major_locator(MultipleLocator(0.5))
    show_dates(axes, dates, 6)


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
    lowest = _lowest([*series.values(), *own.values()])
    mistakes = []
    for row in rows:
        chart = None
        if (ndvi := own.get(row["parcel_id"])) is not None:
            declared, predicted = row["declared_name"], row["pred_name"]
            chart = Chart(
                f"NDVI of parcel {row['parcel_id']} over time (black), and quartiles of the "
                f"parcels of its declared class {declared} (blue) and its predicted class "
                f"{predicted} (orange).",
                *(SMALL, HEIGHT),
            )
            for code, colour in ((row["declared_code"], BLUE), (row["pred_code"], WARM)):
                if (quartiles := series.get(code)) is not None:
                    band(chart.axes[0], dataset.dates, quartiles[:, [0, 2]], colour)
            _draw_ndvi(chart, dataset.dates, ndvi, INK, lowest)
        mistakes.append(Mistake(**{str(name): value for name, value in row.items()}, chart=chart))
    return mistakes


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
