"""The report's areas: hectares of every class, mapped and estimated, and a chart of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from pipeline.report.figures import Chart, Dot, Line, Scale, Tick, join_points
from pipeline.workflow.artefacts import artefact, read_json
from pipeline.workflow.paths import RunPaths

# The row of all regions together, as the stage areas writes it.
ALL = "(all)"
ESTIMATES = {"error_adjusted": "error-adjusted", "difference": "difference estimator"}
MOST_LETTERS = 28


@dataclass(frozen=True)
class AreaLine:
    """The areas of a class as text; an estimate that does not exist is "".

    Attributes
    ----------
    code, name
        The class; the code is "" for the declared classes that are not trained on.
    n_labelled
        Number of parcels that declare it.
    declared, mapped
        Area of the parcels that declare it, and of those that are predicted as it.
    estimates
        (estimate, interval) of each of `ESTIMATES`.
    """

    code: str
    name: str
    n_labelled: int
    declared: str
    mapped: str
    estimates: list[tuple[str, str]]


@dataclass(frozen=True)
class Account:
    """What the areas are based on, from areas.json.

    Attributes
    ----------
    n_parcels, area_ha
        All predicted parcels with an outline.
    n_labelled, labelled_ha
        Those that declare a class.
    n_without_area
        Number of predicted points.
    reason
        Why areas are not estimated; "" if they are.
    differences
        What speaks against a random sample.
    accuracy
        Share of the area that is predicted right, and its interval; None if it is not estimated.
    """

    n_parcels: int
    area_ha: float
    n_labelled: int
    labelled_ha: float
    n_without_area: int
    reason: str
    differences: list[str]
    accuracy: tuple[float, float, float] | None


@dataclass(frozen=True)
class Areas:
    """The areas of all classes, and what they are based on.

    Attributes
    ----------
    lines
        The classes, by falling area.
    account
        What they are based on.
    chart
        The estimates with their intervals; None if there are no estimates.
    has_regions
        Whether the table also has areas by region.
    """

    lines: list[AreaLine]
    account: Account
    chart: Chart | None
    has_regions: bool


def read_areas(paths: RunPaths) -> Areas | None:
    """Read the areas of a run; None if they were not estimated, as without a register."""
    if not (paths.areas.is_file() and paths.areas_account.is_file()):
        return None
    account = read_json(paths.areas_account, _account, "what areas are based on")
    with artefact(paths.areas, "a table of areas"):
        table = pd.read_parquet(paths.areas)
        rows = table[table["region"] == ALL].sort_values(
            ["mapped_ha", "declared_ha"], ascending=False, kind="stable"
        )
        lines = [_line(row) for row in rows.to_dict("records")]
        chart = None if account.reason or rows.empty else area_chart(rows)
    return Areas(lines, account, chart, len(rows) < len(table))


def _account(values: Mapping[str, Any]) -> Account:
    """Check the values of areas.json that are shown."""
    accuracy = None
    if values["accuracy"] is not None:
        value, low, high = map(float, values["accuracy"]["overall"])
        accuracy = (value, low, high)
    return Account(
        n_parcels=int(values["n_parcels"]),
        area_ha=float(values["area_ha"]),
        n_labelled=int(values["n_labelled"]),
        labelled_ha=float(values["labelled_ha"]),
        n_without_area=int(values["n_without_area"]),
        reason=str(values["reason"]),
        differences=[str(difference["words"]) for difference in values["differences"]],
        accuracy=accuracy,
    )


def hectares(area: float) -> str:
    """Write an area in hectares, with one decimal below 100."""
    return f"{area:,.0f}" if area >= 99.95 else f"{area:.1f}"


def _line(row: Mapping[Any, Any]) -> AreaLine:
    estimates = []
    for name in ESTIMATES:
        area, low, high = (row[f"{name}{ending}_ha"] for ending in ("", "_low", "_high"))
        shown = "" if math.isnan(area) else hectares(area)
        interval = "" if math.isnan(low) else f"{hectares(low)} to {hectares(high)}"
        estimates.append((shown, interval))
    return AreaLine(
        code=row["code"],
        name=row["name"],
        n_labelled=row["n_labelled"],
        declared=hectares(row["declared_ha"]),
        mapped=hectares(row["mapped_ha"]),
        estimates=estimates,
    )


def area_chart(rows: pd.DataFrame) -> Chart:
    """Draw mapped and estimated areas, a row a class, with the intervals as bars.

    Parameters
    ----------
    rows
        Rows of the table of areas, in the order of the chart.
    """
    step, left, right = 30, 190, 24
    width, height = 960, 54 + step * len(rows)
    columns = ["mapped_ha", *(f"{name}{end}_ha" for name in ESTIMATES for end in ("", "_high"))]
    ticks = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(0, np.nanmax(rows[columns]))
    x = Scale(0, ticks[-1], left, width - right)
    lines, dots, labels = [], [], []
    for place, row in enumerate(rows.to_dict("records")):
        middle = 16 + step * place + step / 2
        name = row["name"]
        short = name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 1]}…"
        labels.append(Tick(middle, short))
        for shift, (estimate, words) in zip((-6, 6), ESTIMATES.items(), strict=True):
            area, low, high = (row[f"{estimate}{end}_ha"] for end in ("", "_low", "_high"))
            y, title = middle + shift, f"{name}: {hectares(area)} ha, {words}"
            if not math.isnan(low):
                title += f" (95 % interval: {hectares(low)} to {hectares(high)})"
                lines.append(Line(join_points([(x(low), y), (x(high), y)]), estimate, title))
            dots.append(Dot(x(area), y, estimate, title))
        title = f"{name}: {hectares(row['mapped_ha'])} ha, mapped"
        dots.append(Dot(x(row["mapped_ha"]), middle, "kept", title))
    return Chart(
        f"Areas of {len(rows)} classes, mapped and estimated, with 95 % intervals.",
        *(width, height),
        [Tick(x(value), f"{value:,.0f}") for value in ticks],
        labels,
        *(lines, dots),
        left=left,
        right=right,
        bottom=40,
        x_title="Area (ha)",
    )
