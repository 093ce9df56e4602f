"""The report's section on doubtful declarations: verdicts by class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.workflow.artefacts import read_json
from pipeline.workflow.paths import RunPaths

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
    classes
        code, name, `COUNTS`, found_conflict and found (see `estimate_finding`) of every class, by
        falling number of declarations; codes are text.
    """

    false_alarms: float
    n: int
    classes: list[dict[str, Any]]

    @property
    def n_conflict(self) -> int:
        """Number of parcels with the verdict CONFLICT."""
        return sum(crop["n_conflict"] for crop in self.classes)

    @property
    def n_doubt(self) -> int:
        """Number of parcels with the verdict DOUBT."""
        return sum(crop["n_doubt"] for crop in self.classes)


def read_doubts(paths: RunPaths) -> DoubtfulDeclarations | None:
    """Read the verdicts of a run; None if it has none."""
    if not paths.doubts.is_file():
        return None
    return read_json(paths.doubts, _doubts, "verdicts")


def _doubts(values: Mapping[str, Any]) -> DoubtfulDeclarations:
    """Check what predict wrote."""
    classes = [
        {"code": str(row["code"]), "name": str(row["name"])}
        | {count: int(row[count]) for count in COUNTS}
        | {share: share_or_none(row[share]) for share in ("found_conflict", "found")}
        for row in values["classes"]
    ]
    return DoubtfulDeclarations(
        false_alarms=float(values["false_alarms"]),
        n=int(values["n"]),
        classes=sorted(classes, key=lambda row: -row["n"]),
    )


def share_or_none(value: Any) -> float | None:
    """Return a share, or None for null."""
    return None if value is None else float(value)
