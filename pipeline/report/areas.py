"""The report's areas: hectares of every class, mapped and estimated, and a chart of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.report.chart import WIDE, Chart
from pipeline.report.svg import ACCENT, BLUE, PAPER, WARM
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
    label = f"Areas of {len(rows)} classes, mapped and estimated, with 95 % intervals."
    chart = Chart(label, WIDE, 80 + 26 * len(rows))
    (axes,) = chart.axes
    shown = rows.assign(place=np.arange(len(rows)))
    for shift, colour, (estimate, words) in zip(
        (-0.2, 0.2), (BLUE, ACCENT), ESTIMATES.items(), strict=True
    ):
        known = shown[shown[f"{estimate}_ha"].notna()]
        area, low, high = (known[f"{estimate}{end}_ha"] for end in ("", "_low", "_high"))
        axes.hlines(known["place"] + shift, low, high, color=(colour, 0.35), linewidth=5)
        (dots,) = axes.plot(area, known["place"] + shift, "o", color=colour, label=words)
        titles = [
            f"{name}: {hectares(own)} ha, {words}"
            + ("" if math.isnan(a) else f" (95 % interval: {hectares(a)} to {hectares(b)})")
            for name, own, a, b in zip(known["name"], area, low, high, strict=True)
        ]
        chart.say(dots, titles)
    (dots,) = axes.plot(shown["mapped_ha"], shown["place"], "o", color=WARM, label="mapped")
    dots.set(markerfacecolor=PAPER, markeredgewidth=1.8)
    areas = zip(shown["name"], shown["mapped_ha"], strict=True)
    chart.say(dots, [f"{name}: {hectares(area)} ha, mapped" for name, area in areas])
    names = [n if len(n) <= MOST_LETTERS else f"{n[: MOST_LETTERS - 1]}…" for n in shown["name"]]
    axes.set_yticks(shown["place"], names, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    chart.name_axes("Area (ha)")
    chart.key()
    return chart
