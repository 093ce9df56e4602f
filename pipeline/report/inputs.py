"""What the report says of the inputs: acquisitions, parcels and classes, used or not and why."""

from __future__ import annotations

import csv
import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path

from geo.errors import reading
from pipeline.dataset.pixel_set_store import (
    read_classes,
    read_dates,
    read_description,
    read_labels,
    read_n_dates,
    read_parcel_dates,
)
from pipeline.report.class_colours import read_class_colours
from pipeline.workflow.acquisition_table import AcquisitionRow, read_acquisitions
from pipeline.workflow.paths import RunPaths

# Reasons as the stages write them, in the words of somebody who has not read their code.
ACQUISITION_REASONS = {
    "too_cloudy": "too cloudy",
    "before_start": "before the first date asked for",
    "after_end": "after the last date asked for",
    "other_tile": "of another tile",
    "other_grid": "on another pixel grid",
    "same_day": "less complete than another of the same day",
    "damaged": "damaged, or without a band",
    "superseded": "processed anew, and used as such",
    "no_parcels": "of a tile without parcels",
    "merged": "completes another of the same day",
}
PARCEL_REASONS = {
    "null_geometry": "no geometry",
    "empty_geometry": "an empty geometry",
    "not_a_polygon": "a point or a line, not a polygon",
    "invalid_geometry": "an outline that encloses no area, even when mended",
    "missing_id": "no parcel id",
    "duplicate_id": "an id that an earlier row has already",
    "outside_imagery": "outside the imagery",
    "partly_outside": "across the edge of the imagery",
    "too_small": "too small: less area than asked for",
    "too_few_pixels": "too small: fewer pixels than asked for",
    "never_seen_clearly": "under cloud or without data on every date",
    "too_few_pixels_observed": "fewer pixels seen clearly on any date than asked for",
    "no_pixels": "without pixels or dates in the dataset",
    "given_weights": "by models that were trained elsewhere",
    "no_label": "no declared class",
    "class_too_rare": "its class has too few parcels to learn from",
    "class_not_listed": "its class is not among those asked for",
}
CLASS_REASONS = {"too_rare": "too few parcels", "not_listed": "not among those asked for"}
STATUSES = {
    "used": "Learnt from, and predicted by a model that had not seen it",
    "predict_only": "Not learnt from, but predicted",
    "rejected": "Set aside: no prediction",
}


@dataclass(frozen=True)
class Imagery:
    """The acquisitions; `rows` is empty where the run started from a finished dataset.

    `own_dates` tells whether parcels have dates of their own.
    """

    rows: list[AcquisitionRow]
    dates: list[date]
    set_aside: list[tuple[str, int]]
    products: list[tuple[tuple[str, str, str], int]]
    longest_gap: tuple[date, date] | None
    clear_dates: tuple[int, float, int] | None
    own_dates: bool

    @property
    def n_used(self) -> int:
        """Number of used acquisitions."""
        return sum(row.used for row in self.rows)

    @property
    def tiles(self) -> list[str]:
        """Tiles of the used acquisitions."""
        return sorted({row.tile for row in self.rows if row.used})

    @property
    def clouds(self) -> list[float]:
        """Cloud fractions of the used acquisitions, where they are known."""
        return [r.cloud_fraction for r in self.rows if r.used and r.cloud_fraction is not None]


@dataclass(frozen=True)
class LedgerLine:
    """Rows of the register that share a fate: `examples` are up to five of their ids."""

    status: str
    reason: str
    count: int
    examples: list[str]


@dataclass(frozen=True)
class Ledger:
    """The account of every input parcel."""

    lines: list[LedgerLine]
    n_mended: int

    @property
    def n_rows(self) -> int:
        """Number of input parcels."""
        return sum(line.count for line in self.lines)


@dataclass(frozen=True)
class ClassLine:
    """A declared class: `index` is its class index, None where it is not learnt."""

    code: str
    name: str
    n_parcels: int
    index: int | None
    reason: str
    colour: str


def read_imagery(paths: RunPaths) -> Imagery:
    """Read the acquisitions, and on how many dates the parcels were seen clearly."""
    rows = read_acquisitions(paths.acquisitions) if paths.acquisitions.is_file() else []
    with_parcels = read_description(paths.dataset).get("tiles") or {row.tile for row in rows}
    rows = [
        row._replace(used=False, reason="no_parcels")
        if row.used and row.tile not in with_parcels
        else row
        for row in rows
    ]
    dates = read_dates(paths.dataset)
    reasons = Counter(explain(r.reason, ACQUISITION_REASONS) for r in rows if not r.used)
    products = Counter((r.platform, r.baseline, r.offset) for r in rows if r.used)
    gaps = list(pairwise(dates))
    n_clear = list(read_n_dates(paths.dataset).values())
    return Imagery(
        rows=rows,
        dates=dates,
        set_aside=reasons.most_common(),
        products=sorted(products.items()),
        longest_gap=max(gaps, key=lambda gap: gap[1] - gap[0], default=None),
        own_dates=read_parcel_dates(paths.dataset) is not None,
        clear_dates=(min(n_clear), statistics.median(n_clear), max(n_clear)) if n_clear else None,
    )


def read_ledger(paths: RunPaths, *, trained: bool = True) -> Ledger:
    """Read what became of every input parcel, the frequent fates first.

    Parameters
    ----------
    paths
        The run.
    trained
        Whether the run trained models: with those from elsewhere it learns from no parcel.
    """
    fates: dict[tuple[str, str], list[str]] = {}
    n_mended = 0
    for row in _read_csv(paths.ledger):
        status, reason = row["status"], row["reason"]
        if status == "used" and not trained:
            status, reason = "predict_only", "given_weights"
        fates.setdefault((status, reason), []).append(row["parcel_id"] or f"row {row['row']}")
        n_mended += row["mended"].lower() in ("true", "yes", "1")
    order = list(STATUSES)
    lines = [
        LedgerLine(status, explain(reason, PARCEL_REASONS), len(ids), ids[:5])
        for (status, reason), ids in fates.items()
    ]
    return Ledger(sorted(lines, key=lambda a: (order.index(a.status), -a.count)), n_mended)


def read_class_lines(paths: RunPaths, predicted: Mapping[str, str]) -> list[ClassLine]:
    """Read the classes: those that are learnt, in order of the class index, then the others.

    Parameters
    ----------
    paths
        The run; without a table of classes, those of its dataset are taken.
    predicted
        {code: name} of the predicted classes: models from elsewhere may have learnt others than
        those that are declared here.

    Returns
    -------
    list of ClassLine
        Their codes are texts, as only their equality matters.
    """
    if paths.classes.is_file():
        rows = _read_csv(paths.classes)
    else:
        labels = Counter(read_labels(paths.dataset).tolist())
        rows = [
            {
                "class_index": str(i),
                "code": str(c.code),
                "name": c.name,
                "n_parcels": str(labels[i]),
            }
            for i, c in enumerate(read_classes(paths.dataset))
        ]
    declared = {row["code"]: row for row in rows}
    used = sorted((r for r in rows if r["class_index"]), key=lambda r: int(r["class_index"]))
    learnt = {r["code"]: r["name"] for r in used} | dict(sorted(predicted.items()))
    counts = {c: int(declared[c]["n_parcels"]) if c in declared else 0 for c in learnt}
    colours = read_class_colours(paths.dataset, predicted)
    others = [row for row in rows if row["code"] not in learnt]
    return [
        *(
            ClassLine(code, name, counts[code], index, "", colours[code])
            for index, (code, name) in enumerate(learnt.items())
        ),
        *(
            ClassLine(r["code"], r["name"], int(r["n_parcels"]), None, reason, "")
            for r in sorted(others, key=lambda r: -int(r["n_parcels"]))
            for reason in [explain(r["reason"], CLASS_REASONS)]
        ),
    ]


def explain(reason: str, words: dict[str, str]) -> str:
    """Say a reason in words; one that has none here is shown as it is written."""
    return words.get(reason, reason.replace("_", " "))


def _read_csv(path: Path) -> list[dict[str, str]]:
    expected, remedy = "a table of the run", "Delete it and run the workflow again."
    with reading(path, expected, remedy), path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
