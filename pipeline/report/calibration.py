"""The report's sections on calibration and prediction sets, as the stage evaluate measured them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.report.chart import Chart
from pipeline.report.figures import accuracy_chart
from pipeline.report.svg import ASIDE, BLUE
from pipeline.workflow.artefacts import artefact, read_json
from pipeline.workflow.paths import RunPaths
from pipeline.workflow.rounding import percent


@dataclass(frozen=True)
class Calibration:
    """Calibration before and after temperature scaling.

    Attributes
    ----------
    before, after
        As `describe_calibration` returns them.
    classes
        (code, name, support, error before, error after) of every class, by falling support.
    temperatures
        (temperature, note) of every fold.
    chart
        The reliability diagram.
    """

    before: Mapping[str, Any]
    after: Mapping[str, Any]
    classes: list[tuple[str, str, int, float, float]]
    temperatures: list[tuple[float, str | None]]
    chart: Chart


def read_calibration(paths: RunPaths) -> Calibration | None:
    """Read the calibration of a run; None if there is none, as with existing weights."""
    if not paths.calibration_errors.is_file():
        return None
    before, after, classes = read_json(paths.calibration_errors, _parts)
    folds = sorted(
        int(path.parent.name.removeprefix("Fold_"))
        for path in paths.models.glob("Fold_*/calibration.json")
    )
    temperatures = [
        read_json(paths.calibration(fold), lambda v: (float(v["temperature"]), v["note"]))
        for fold in folds
    ]
    chart = reliability_chart(before["reliability"], after["reliability"])
    return Calibration(before, after, classes, temperatures, chart)


def _parts(
    values: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any], list[tuple[str, str, int, float, float]]]:
    """Check the parts of calibration.json that the report shows."""
    before, after = dict(values["before"]), dict(values["after"])
    for own in (before, after):
        for key in ("ece", "ece_by_chance", "classwise_ece", "log_loss"):
            own[key] = float(own[key])
        for row in own["reliability"]:
            row |= {key: float(row[key]) for key in ("confidence", "accuracy")}
            row["n_parcels"] = int(row["n_parcels"])
    classes = [
        (str(a["code"]), str(a["name"]), int(a["support"]), float(b["ece"]), float(a["ece"]))
        for b, a in zip(before["per_class"], after["per_class"], strict=True)
    ]
    return before, after, sorted(classes, key=lambda row: -row[2])


def read_sets(paths: RunPaths) -> dict[str, Any] | None:
    """Read coverage and size of the prediction sets, classes by falling support; None without."""
    if not paths.prediction_sets.is_file():
        return None
    return read_json(paths.prediction_sets, _sets)


def _sets(values: Mapping[str, Any]) -> dict[str, Any]:
    """Check the parts of prediction_sets.json that the report shows."""
    shown = {key: float(values[key]) for key in ("error", "coverage", "mean_size", "empty")}
    keys = ("code", "name", "support", "coverage", "mean_size", "empty", "never_excluded")
    rows = [{key: row[key] for key in keys} for row in values["per_class"]]
    rows.sort(key=lambda row: -row["support"])
    return {**shown, "support": int(values["support"]), "classes": rows}


def has_sets(predictions: Path) -> bool:
    """Return whether a table of predictions has prediction sets: its confidences are calibrated."""
    with artefact(predictions, "a table of predictions"):
        if "set_size" not in pq.read_schema(predictions).names:
            return False
        sizes = pq.read_table(predictions, columns=["set_size"])["set_size"]
        return bool(sizes.null_count < len(sizes))


def reliability_chart(
    before: Sequence[Mapping[str, float]], after: Sequence[Mapping[str, float]]
) -> Chart:
    """Draw the accuracy of bins of confidence, before and after temperature scaling.

    Parameters
    ----------
    before, after
        {n_parcels, confidence, accuracy} of every bin that has parcels.
    """
    chart = accuracy_chart("Accuracy by confidence, before and after temperature scaling.", 0)
    (axes,) = chart.axes
    for when, bins, style, colour in (("before", before, "-", ASIDE), ("after", after, "o-", BLUE)):
        confidence, accuracy = ([own[key] for own in bins] for key in ("confidence", "accuracy"))
        label = f"{when} temperature scaling"
        (line,) = axes.plot(confidence, accuracy, style, color=colour, label=label)
        titles = [
            f"{own['n_parcels']:,} parcels, {when}: confidence {percent(own['confidence'])}, "
            f"right {percent(own['accuracy'])}"
            for own in bins
        ]
        chart.say(line, titles if when == "after" else label)
    chart.key()
    return chart
