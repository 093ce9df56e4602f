"""NDVI over the season: of the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np
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
    lowest = min((np.nanmin(series[code], initial=0) for code in drawn), default=0)
    days = Scale(dates[0].toordinal(), dates[-1].toordinal(), 38, 286)
    ndvi = Scale(np.floor(lowest * 5) / 5, 1, 128, 8)
    return [
        _season_chart(name, colours[code], series[code], dates, days, ndvi)
        for code, name in drawn.items()
    ]


def _season_chart(
    name: str,
    colour: str,
    quartiles: NDArray[np.float64],
    dates: Sequence[date],
    x: Scale,
    y: Scale,
) -> Chart:
    """Draw the NDVI of one class."""
    clear = np.flatnonzero(np.isfinite(quartiles).all(axis=1)).tolist()
    lower, middle, upper = (
        [(x(dates[t].toordinal()), y(quartiles[t, rank])) for t in clear] for rank in range(3)
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
            Dot(*place, "median", f"{say_day(dates[t])}: NDVI {quartiles[t, 1]:.2f}")
            for place, t in zip(middle, clear, strict=True)
        ],
        title=name,
        colour=colour,
        left=34,
        right=10,
        bottom=22,
    )


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
    bands = dataset.bands
    if not {RED, NEAR_INFRARED} <= set(bands):
        return {}
    channels = [bands.index(RED), bands.index(NEAR_INFRARED)]
    place = {day: t for t, day in enumerate(dataset.dates)}
    series = {}
    for index, crop in enumerate(dataset.classes):
        members = np.flatnonzero(dataset.labels == index)
        if not len(members):
            continue
        shown = members[:: -(-len(members) // MOST_PARCELS)]
        ndvi = np.full((len(shown), len(place)), np.nan)
        for row, i in zip(ndvi, shown, strict=True):
            own = dataset.parcel_dates
            dates = list(place) if own is None else own[dataset.ids[i]]
            row[[place[day] for day in dates]] = _parcel_ndvi(dataset[i], channels)
        # nanquantile warns of dates on which no parcel is clear.
        clear = np.isfinite(ndvi).any(axis=0)
        series[str(crop.code)] = np.full((len(place), 3), np.nan)
        quartiles = np.nanquantile(ndvi[:, clear], [0.25, 0.5, 0.75], axis=0)
        series[str(crop.code)][clear] = quartiles.T
    return series


def _parcel_ndvi(parcel: dict[str, Any], channels: list[int]) -> NDArray[np.float64]:
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
