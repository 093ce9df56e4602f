"""The report's section on doubtful declarations: verdicts by class, and the head of the list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.workflow.artefacts import artefact, read_json
from pipeline.workflow.paths import RunPaths

# Parcels of the list that are shown.
SHOWN = 20
COLUMNS = [
    *("doubt_rank", "parcel_id", "declared_code", "declared_name", "declared_probability"),
    *("pred_code", "pred_name", "confidence", "verdict"),
]
# Numbers of declarations of every class.
COUNTS = ("n", "n_conflict", "n_doubt")


@dataclass(frozen=True)
class DoubtfulDeclarations:
    """What is known about doubtful declarations; None where a share is not defined.

    Attributes
    ----------
    false_alarms
        Greatest share of the declarations of a class that get CONFLICT.
    n
        Number of declarations that were judged.
    supposed_wrong
        Share of wrong declarations for which `lists` is estimated.
    lists
        (number of the first parcels of the list, share of these wrong declarations among them).
    classes
        code, name, `COUNTS`, found_conflict and found (see `Finding`) of every class, by falling
        number of declarations; codes are text.
    first
        The first parcels of the list, rows of `COLUMNS`.
    """

    false_alarms: float
    n: int
    supposed_wrong: float
    lists: list[tuple[int, float | None]]
    classes: list[dict[str, Any]]
    first: list[dict[str, Any]]

    @property
    def n_conflict(self) -> int:
        """Number of parcels with the verdict CONFLICT."""
        return sum(crop["n_conflict"] for crop in self.classes)

    @property
    def n_doubt(self) -> int:
        """Number of parcels with the verdict DOUBT."""
        return sum(crop["n_doubt"] for crop in self.classes)

    @property
    def n_wrong(self) -> int:
        """Number of wrong declarations that are supposed for `lists`."""
        return round(self.supposed_wrong * self.n)


def read_doubts(paths: RunPaths) -> DoubtfulDeclarations | None:
    """Read the verdicts of a run; None if it has none."""
    if not paths.doubts.is_file():
        return None
    table = paths.predictions.with_suffix(".parquet")
    with artefact(table, "a table of predictions"):
        first = pd.read_parquet(table, columns=COLUMNS, filters=[("doubt_rank", "<=", SHOWN)])
    first = first.sort_values("doubt_rank")
    for column in ("declared_code", "pred_code"):
        first[column] = first[column].astype(str)
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in first.itertuples(index=False)]
    return read_json(paths.doubts, lambda values: _doubts(values, rows), "verdicts")


def _doubts(values: Mapping[str, Any], first: list[dict[str, Any]]) -> DoubtfulDeclarations:
    """Check what predict wrote."""
    classes = [
        {"code": str(row["code"]), "name": str(row["name"])}
        | {count: int(row[count]) for count in COUNTS}
        | {share: _share(row[share]) for share in ("found_conflict", "found")}
        for row in values["classes"]
    ]
    return DoubtfulDeclarations(
        false_alarms=float(values["false_alarms"]),
        n=int(values["n"]),
        supposed_wrong=float(values["supposed_wrong"]),
        lists=[(int(row["n"]), _share(row["found"])) for row in values["lists"]],
        classes=sorted(classes, key=lambda row: -row["n"]),
        first=first,
    )


def _share(value: Any) -> float | None:
    """Return a share, or None for null."""
    return None if value is None else float(value)
