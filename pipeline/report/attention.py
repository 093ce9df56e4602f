"""The report's section on attention: on which dates the models look, and whether it explains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from matplotlib.ticker import MaxNLocator

from pipeline.classes.crop_class import CropClass
from pipeline.report.figures import Chart, Dot, Line, Scale, Tick, join_points, month_ticks, say_day
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
    """A predicted class: parcels, correlations, charts of attention and of changed classes."""

    code: str
    name: str
    n_parcels: int
    by_date: Correlation | None
    by_window: Correlation | None
    charts: list[Chart]


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
                    charts=[
                        _attention_chart(crop.name, colours[code], own["attention"], days, highest),
                        *_changed_charts(crop.name, own["changed"], days),
                    ],
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


def _days_scale(days: Sequence[date]) -> Scale:
    return Scale(days[0].toordinal(), days[-1].toordinal(), 42, 286)


def _attention_chart(
    name: str,
    colour: str,
    quartiles: Sequence[Sequence[float | None]],
    days: Sequence[date],
    highest: float,
) -> Chart:
    """Draw the attention of a class over time: median and quartiles."""
    known = [
        (day, [own for own in row if own is not None])
        for day, row in zip(days, quartiles, strict=True)
        if None not in row
    ]
    values = MaxNLocator(3, steps=[1, 2, 5, 10]).tick_values(0, max(highest, 0.01))
    digits = 0 if values[1] >= 0.01 else 1
    x, y = _days_scale(days), Scale(0, values[-1], 128, 8)
    lower, middle, upper = (
        [(x(day.toordinal()), y(row[rank])) for day, row in known] for rank in range(3)
    )
    return Chart(
        f"Attention of the models on {name} over time: median and quartiles.",
        *(300, 150),
        month_ticks(days[0], days[-1], x, at_most=5),
        [Tick(y(value), percent(value, digits)) for value in values],
        lines=[
            Line(join_points([*lower, *reversed(upper)]), "band", closed=True),
            Line(join_points(middle), "median"),
        ],
        dots=[
            Dot(*place, "median", f"{say_day(day)}: {percent(row[1])} of the attention")
            for place, (day, row) in zip(middle, known, strict=True)
        ],
        title=name,
        colour=colour,
        left=38,
        right=10,
        bottom=22,
    )


def _changed_charts(name: str, shares: Sequence[float | None], days: Sequence[date]) -> list[Chart]:
    """Draw how many parcels of a class change it without the dates around each date."""
    known = [(day, share) for day, share in zip(days, shares, strict=True) if share is not None]
    if not known:
        return []
    x, y = _days_scale(days), Scale(0, 1, 78, 8)
    places = [(x(day.toordinal()), y(share)) for day, share in known]
    return [
        Chart(
            f"Parcels that are no longer {name} without the dates around each date.",
            *(300, 100),
            month_ticks(days[0], days[-1], x, at_most=5),
            [Tick(y(value), percent(value, 0)) for value in (0, 0.5, 1)],
            lines=[Line(join_points(places), "changed")],
            dots=[
                Dot(*place, "changed", f"Without the dates around {say_day(day)}: {percent(share)}")
                for place, (day, share) in zip(places, known, strict=True)
            ],
            left=38,
            right=10,
            bottom=22,
        )
    ]
