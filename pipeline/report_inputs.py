"""What the report says of the inputs: acquisitions, parcels and classes, used or not and why."""

from __future__ import annotations

import csv
import statistics
from collections import Counter
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path

from pipeline.acquisition_table import AcquisitionRow, read_acquisitions
from pipeline.class_colours import class_colours
from pipeline.paths import RunPaths
from pipeline.pixel_set_store import read_classes, read_dates, read_labels, read_n_dates

# Reasons as the stages write them, in the words of somebody who has not read their code.
ACQUISITION_REASONS = {
    "too_cloudy": "too cloudy",
    "before_start": "before the first date asked for",
    "after_end": "after the last date asked for",
    "other_tile": "of another tile",
    "other_grid": "on another pixel grid",
    "same_day": "a more complete acquisition of the same day is used",
    "superseded": "the same acquisition is used as processed more recently",
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
    "too_few_pixels": "too small: fewer pixels than asked for",
    "never_seen_clearly": "under cloud on every date",
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
    """The acquisitions; `rows` is empty where the run started from a finished dataset."""

    rows: list[AcquisitionRow]
    dates: list[date]
    set_aside: list[tuple[str, int]]
    products: list[tuple[tuple[str, str, str], int]]
    longest_gap: tuple[date, date] | None
    clear_dates: tuple[int, float, int] | None

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
    """The account of every row of the register."""

    lines: list[LedgerLine]
    n_mended: int

    @property
    def n_rows(self) -> int:
        """Number of rows of the register."""
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
        clear_dates=(min(n_clear), statistics.median(n_clear), max(n_clear)) if n_clear else None,
    )


def read_ledger(paths: RunPaths) -> Ledger:
    """Read what became of every row of the register, the frequent fates first."""
    # The ledger was written before any pixel was read: clouds may have hidden a parcel since.
    hidden = {parcel_id for parcel_id, n in read_n_dates(paths.dataset).items() if n == 0}
    fates: dict[tuple[str, str], list[str]] = {}
    n_mended = 0
    for row in _read_csv(paths.ledger):
        status, reason = row["status"], row["reason"]
        if status != "rejected" and row["parcel_id"] in hidden:
            status, reason = "rejected", "never_seen_clearly"
        fates.setdefault((status, reason), []).append(row["parcel_id"] or f"row {row['row']}")
        n_mended += row["mended"].lower() in ("true", "yes", "1")
    order = list(STATUSES)
    lines = [
        LedgerLine(status, explain(reason, PARCEL_REASONS), len(ids), ids[:5])
        for (status, reason), ids in fates.items()
    ]
    return Ledger(sorted(lines, key=lambda a: (order.index(a.status), -a.count)), n_mended)


def read_class_lines(paths: RunPaths) -> list[ClassLine]:
    """Read the declared classes: those that are learnt, in order of the class index, then the rest.

    The codes are texts here, as only their equality matters.
    """
    if not paths.classes.is_file():
        labels = Counter(read_labels(paths.dataset).tolist())
        learnt = read_classes(paths.dataset)
        counts = {str(c.code): labels[i] for i, c in enumerate(learnt)}
        colours = class_colours(counts)
        return [
            ClassLine(code, c.name, counts[code], i, "", colours[code])
            for i, (code, c) in enumerate(zip(counts, learnt, strict=True))
        ]
    rows = _read_csv(paths.classes)
    used = sorted((r for r in rows if r["class_index"]), key=lambda r: int(r["class_index"]))
    colours = class_colours({r["code"]: int(r["n_parcels"]) for r in used})
    unused = [r for r in rows if not r["class_index"]]
    unused.sort(key=lambda r: -int(r["n_parcels"]))
    return [
        ClassLine(
            code=r["code"],
            name=r["name"],
            n_parcels=int(r["n_parcels"]),
            index=int(r["class_index"]) if r["class_index"] else None,
            reason=explain(r["reason"], CLASS_REASONS),
            colour=colours.get(r["code"], ""),
        )
        for r in (*used, *unused)
    ]


def explain(reason: str, words: dict[str, str]) -> str:
    """Say a reason in words; one that has none here is shown as it is written."""
    return words.get(reason, reason.replace("_", " "))


def _read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
