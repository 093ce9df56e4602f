"""The report's section on the season: accuracy by the last date, and when classes stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import pandas as pd

from pipeline.classes.crop_class import CropClass
from pipeline.report.figures import Chart, Dot, Line, Scale, Tick, join_points, month_ticks, say_day
from pipeline.workflow.artefacts import artefact, read_json
from pipeline.workflow.paths import RunPaths
from pipeline.workflow.rounding import percent, score

_COLUMNS = ["date", "code", "n_parcels", "n_predicted", "accuracy", "f1"]


@dataclass(frozen=True)
class SeasonLine:
    """Scores of the labelled parcels if dates after `day` are not available; None: no parcel.

    `settled` is the share of the predicted parcels whose class no longer changes.
    """

    day: date
    n_parcels: int
    n_predicted: int
    accuracy: float | None
    f1: float | None
    settled: float


@dataclass(frozen=True)
class SeasonSection:
    """What the section shows.

    Attributes
    ----------
    lines
        Scores by the last date available.
    stays_from, right_from
        [(share of the parcels, first date from which on so many keep their class, or None)]; for
        `right_from`, the class that is declared.
    near_from
        First date from which on the accuracy stays near that of the last date.
    n_unseen
        Parcels that are observed on no date, and so have no class.
    clear_is_known
        False if values of early dates may have been interpolated from later ones.
    charts, by_class
        Charts of all classes together, and of F1, one for each class.
    """

    lines: list[SeasonLine]
    stays_from: list[tuple[float, date | None]]
    right_from: list[tuple[float, date | None]]
    near_from: date | None
    n_unseen: int
    clear_is_known: bool
    charts: list[Chart]
    by_class: list[Chart]


def read_season(
    paths: RunPaths, classes: Sequence[CropClass], colours: Mapping[str, str]
) -> SeasonSection | None:
    """Read what evaluate_season wrote; None if the run was never asked for the season.

    Parameters
    ----------
    paths
        The run.
    classes
        Classes to draw, in order.
    colours
        {code: colour} of the classes.
    """
    if not paths.season_summary.is_file():
        return None
    with artefact(paths.season_accuracy, "scores by date"):
        table = pd.read_parquet(paths.season_accuracy, columns=_COLUMNS)
    table["date"] = table["date"].dt.date
    found = read_json(paths.season_summary, _parse, "the summary of a season")
    rows = table[table["code"].isna()].to_dict("records")
    lines = [
        SeasonLine(
            *(row["date"], row["n_parcels"], row["n_predicted"]),
            *(_or_none(row["accuracy"]), _or_none(row["f1"]), settled),
        )
        for row, settled in zip(rows, found["settled"], strict=True)
    ]
    return SeasonSection(
        lines=lines,
        **{name: found[name] for name in ("stays_from", "right_from", "near_from", "n_unseen")},
        clear_is_known=found["clear_is_known"],
        charts=_charts(lines),
        by_class=[
            _class_chart(crop.name, colours[str(crop.code)], own)
            for crop in classes
            if (own := _points(table[table["code"] == str(crop.code)]))
        ],
    )


def _parse(values: Any) -> dict[str, Any]:
    """Parse the summary."""

    def parse_day(text: str | None) -> date | None:
        return None if text is None else date.fromisoformat(text)

    shares = ("stays_from", "right_from")
    return {
        **{n: [(float(s), parse_day(day)) for s, day in values[n].items()] for n in shares},
        "near_from": parse_day(values["near_from"]),
        "n_unseen": int(values["n_parcels"]) - int(values["n_predicted"]),
        "clear_is_known": bool(values["clear_is_known"]),
        "settled": [float(share) for share in values["settled"]],
    }


def _or_none(value: float) -> float | None:
    return None if pd.isna(value) else value


def _points(table: pd.DataFrame) -> list[tuple[date, float]]:
    known = table[table["f1"].notna()]
    return list(zip(known["date"], known["f1"], strict=True))


def _charts(lines: Sequence[SeasonLine]) -> list[Chart]:
    """Draw accuracy and macro F1, and the share of the parcels whose class stays, by date."""
    days = [line.day for line in lines]
    x, y = _scales(days, 440, 240, 46, 40)
    accuracy = [(line.day, line.accuracy) for line in lines if line.accuracy is not None]
    f1 = [(line.day, line.f1) for line in lines if line.f1 is not None]
    settled = [(line.day, line.settled) for line in lines]

    def draw(title: str, series: Mapping[str, tuple[str, list[tuple[date, float]]]]) -> Chart:
        drawn = {
            kind: [(x(day.toordinal()), y(value)) for day, value in points]
            for kind, (_, points) in series.items()
        }
        return Chart(
            f"{title}, by the last date available.",
            *(440, 240, month_ticks(days[0], days[-1], x, at_most=8), _ticks(y)),
            lines=[
                Line(join_points(places), kind, series[kind][0]) for kind, places in drawn.items()
            ],
            dots=[
                Dot(*place, kind, f"Up to {say_day(day)}: {words} {percent(value)}")
                for kind, (words, points) in series.items()
                for place, (day, value) in zip(drawn[kind], points, strict=True)
            ],
            title=title,
            left=46,
            bottom=40,
            x_title="Last date available",
        )

    both = {"training": ("macro F1", f1), "validation": ("overall accuracy", accuracy)}
    words = "share of the parcels that keep their class"
    return [
        draw("Overall accuracy and macro F1", both),
        draw("Parcels whose class stays", {"validation": (words, settled)}),
    ]


def _class_chart(name: str, colour: str, points: Sequence[tuple[date, float]]) -> Chart:
    """Draw the F1 of a class by date."""
    days = [day for day, _ in points]
    x, y = _scales(days, 300, 150, 38, 22)
    places = [(x(day.toordinal()), y(value)) for day, value in points]
    return Chart(
        f"F1 of {name}, by the last date available.",
        *(300, 150, month_ticks(days[0], days[-1], x, at_most=5)),
        [Tick(y(v), f"{v:g}") for v in (0, 0.5, 1)],
        lines=[Line(join_points(places), "median")],
        dots=[
            Dot(*place, "median", f"Up to {say_day(day)}: F1 {score(value)}")
            for place, (day, value) in zip(places, points, strict=True)
        ],
        title=name,
        colour=colour,
        left=34,
        right=10,
        bottom=22,
    )


def _scales(
    days: Sequence[date], width: int, height: int, left: int, bottom: int
) -> tuple[Scale, Scale]:
    x = Scale(days[0].toordinal(), days[-1].toordinal(), left + 4, width - 14)
    return x, Scale(0, 1, height - bottom, 10)


def _ticks(scale: Scale) -> list[Tick]:
    return [Tick(scale(value), percent(value, 0)) for value in (0, 0.25, 0.5, 0.75, 1)]
