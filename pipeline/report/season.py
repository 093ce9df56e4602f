"""The report's section on the season: accuracy by the last date, and when classes stay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import pandas as pd
from matplotlib.ticker import MaxNLocator

from pipeline.classes.crop_class import CropClass
from pipeline.report.chart import MEDIUM, SMALL, Chart, say_day, show_dates, show_percent
from pipeline.report.svg import ASIDE, BLUE
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
    charts
        {name: chart} of all classes together.
    by_class
        {code: chart of F1}.
    """

    lines: list[SeasonLine]
    stays_from: list[tuple[float, date | None]]
    right_from: list[tuple[float, date | None]]
    near_from: date | None
    n_unseen: int
    clear_is_known: bool
    charts: dict[str, Chart]
    by_class: dict[str, Chart]


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
        by_class={
            str(crop.code): _class_chart(crop.name, colours[str(crop.code)], own)
            for crop in classes
            for own in [table[table["code"] == str(crop.code)]]
            if own["f1"].notna().any()
        },
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


def _charts(lines: Sequence[SeasonLine]) -> dict[str, Chart]:
    """Draw scores, and the share of the parcels whose class stays, by date."""
    scores = {
        "overall accuracy": {line.day: line.accuracy for line in lines},
        "macro F1": {line.day: line.f1 for line in lines},
    }
    stays = {"share that keeps its class": {line.day: line.settled for line in lines}}
    return {
        "scores": _scores_chart("Overall accuracy and macro F1", scores),
        "stays": _scores_chart("Parcels whose class stays", stays),
    }


def _scores_chart(title: str, series: Mapping[str, Mapping[date, float | None]]) -> Chart:
    """Draw shares of the parcels by date, {words: {date: share}}."""
    chart = Chart(f"{title}, by the last date available.", MEDIUM, 240, title=title)
    for (words, values), colour in zip(series.items(), (BLUE, ASIDE), strict=False):
        _draw_line(chart, words, values, colour, percent)
    show_percent(chart.axes[0])
    chart.name_axes("Last date available")
    chart.key()
    return chart


def _class_chart(name: str, colour: str, rows: pd.DataFrame) -> Chart:
    """Draw the F1 of a class by date."""
    chart = Chart(f"F1 of {name}, by the last date available.", SMALL, 130, title=name)
    _draw_line(chart, "F1", dict(zip(rows["date"], rows["f1"], strict=True)), colour, score)
    return chart


def _draw_line(
    chart: Chart,
    words: str,
    values: Mapping[date, float | None],
    colour: str,
    write: Callable[[float], str],
) -> None:
    """Draw scores by the last date available."""
    (axes,) = chart.axes
    chart.plot(
        *(axes, values, ".-", lambda day, value: f"Up to {say_day(day)}: {words} {write(value)}"),
        color=colour,
        label=words,
    )
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    show_dates(axes, list(values), 8)
