"""The report's section on attention: on which dates the models look, and whether it explains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np

from pipeline.classes.crop_class import CropClass
from pipeline.report.chart import SMALL, Chart, band, say_day, show_dates, show_percent
from pipeline.report.svg import WARM
from pipeline.workflow.artefacts import read_json
from pipeline.workflow.paths import RunPaths
from pipeline.workflow.rounding import percent

# Attention explains largely, or in part, if the rank correlation is surely not lower.
LARGELY, IN_PART = 0.5, 0.2


@dataclass(frozen=True)
class Correlation:
    """Mean rank correlation of attention and occlusion over n parcels, and its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def agreement(self) -> str:
        """How far attention explains the predictions: largely, in part, or not."""
        if self.low >= LARGELY:
            return "largely"
        return "in part" if self.low >= IN_PART else "not"


@dataclass(frozen=True)
class ClassAttention:
    """A predicted class: parcels, correlations, chart of attention and of changed classes."""

    code: str
    name: str
    n_parcels: int
    by_date: Correlation | None
    by_window: Correlation | None
    chart: Chart


@dataclass(frozen=True)
class AttentionSection:
    """What the section shows; None where nothing is known.

    Attributes
    ----------
    n_parcels, n_sample, most_of_class
        Parcels whose attention is known, those for which dates were left out, and the largest
        number of these of a predicted class.
    window_days, share
        Days around a date that are left out together, and share of the dates with most attention.
    by_date, by_window
        Correlations of single dates, and of windows of dates.
    changed_attended, changed_random
        Share of the parcels whose class changes without this share of the dates, those with most
        attention or random ones.
    classes
        Predicted classes, in the order of the report.
    """

    n_parcels: int
    n_sample: int
    most_of_class: int
    window_days: int
    share: float
    by_date: Correlation | None
    by_window: Correlation | None
    changed_attended: float | None
    changed_random: float | None
    classes: list[ClassAttention]


def read_attention(
    paths: RunPaths, classes: Sequence[CropClass], colours: Mapping[str, str]
) -> AttentionSection | None:
    """Read what explain wrote; None if it did not run.

    Parameters
    ----------
    paths
        The run.
    classes
        Classes to draw, in order.
    colours
        {code: colour} of the classes.
    """
    if not paths.attention_account.is_file():
        return None

    def parse(values: Any) -> AttentionSection:
        sample = values["sample"]
        days = [date.fromisoformat(day) for day in values["dates"]]
        found = {str(crop["code"]): crop for crop in values["classes"] if crop["n_parcels"]}
        uppers = (upper for crop in found.values() for _, _, upper in crop["attention"])
        highest = max((upper for upper in uppers if upper is not None), default=0.0)
        return AttentionSection(
            *(int(values["n_parcels"]), int(sample["n"]), int(sample["most_of_class"])),
            *(int(values["window_days"]), float(values["share"])),
            *(_correlation(sample["by_date"]), _correlation(sample["by_window"])),
            *(sample["changed_attended"], sample["changed_random"]),
            classes=[
                ClassAttention(
                    *(code, crop.name, int(own["n_parcels"])),
                    *(_correlation(own["by_date"]), _correlation(own["by_window"])),
                    _chart(crop.name, colours[code], own, days, highest),
                )
                for crop in classes
                for code in [str(crop.code)]
                for own in [found.get(code)]
                if own is not None
            ],
        )

    return read_json(paths.attention_account, parse, "an account of attention")


def _correlation(values: Mapping[str, Any]) -> Correlation | None:
    """Parse a mean; None if no correlation is defined, or only one, which has no interval."""
    if values["low"] is None:
        return None
    mean, low, high = (float(values[name]) for name in ("mean", "low", "high"))
    return Correlation(mean, low, high, int(values["n"]))


def _chart(
    name: str, colour: str, own: Mapping[str, Any], days: Sequence[date], highest: float
) -> Chart:
    """Draw the attention of a class over time, and below how often it depends on each date.

    Parameters
    ----------
    name, colour
        Name and colour of the class.
    own
        Its part of the account: attention, quartiles on each date; changed, the share of parcels
        that change their class without the dates around each date; None where not known.
    days
        The dates.
    highest
        Highest attention of all classes.
    """
    changed = dict(zip(days, own["changed"], strict=True))
    is_known = any(share is not None for share in changed.values())
    label = f"Attention of the models on {name} over time: median and quartiles."
    if is_known:
        label += f" Below: parcels that are no longer {name} without the dates around each date."
    chart = Chart(label, SMALL, 210 if is_known else 130, rows=(3, 2) if is_known else (1,))
    attention, *below = chart.axes
    quartiles = np.array(own["attention"], np.float64).reshape(-1, 3)  # None becomes NaN
    band(attention, days, quartiles[:, [0, 2]], colour)
    chart.plot(
        attention,
        dict(zip(days, quartiles[:, 1].tolist(), strict=True)),
        ".-",
        lambda day, share: f"{say_day(day)}: {percent(share)} of the attention",
        color=colour,
    )
    show_percent(attention, high=max(highest, 0.01), steps=3)
    for axes in below:
        chart.plot(
            axes,
            changed,
            ".-",
            lambda day, share: f"Without the dates around {say_day(day)}: {percent(share)}",
            color=WARM,
        )
        show_percent(axes, steps=2)
    show_dates(chart.axes[-1], days, 6)
    return chart
