"""What the report says of the inputs: acquisitions, parcels and classes, used or not and why."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from itertools import pairwise

from pipeline.classes.crop_class import CropClass, read_classes
from pipeline.classes.ledger import read_ledger
from pipeline.classes.reasons import AcquisitionReason, Reason, Status
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.workflow.acquisition_table import AcquisitionRow, read_acquisitions
from pipeline.workflow.paths import RunPaths


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


def read_imagery(paths: RunPaths, dataset: PixelSetDataset) -> Imagery:
    """Read the acquisitions, and on how many dates the parcels were seen clearly."""
    rows = read_acquisitions(paths.acquisitions) if paths.acquisitions.is_file() else []
    with_parcels = dataset.description.get("tiles") or {row.tile for row in rows}
    rows = [
        row._replace(used=False, reason=str(AcquisitionReason.NO_PARCELS))
        if row.used and row.tile not in with_parcels
        else row
        for row in rows
    ]
    dates = dataset.dates
    reasons = Counter(AcquisitionReason(r.reason).words for r in rows if not r.used)
    products = Counter((r.platform, r.baseline, r.offset) for r in rows if r.used)
    gaps = list(pairwise(dates))
    n_clear = list(dataset.n_dates.values())
    return Imagery(
        rows=rows,
        dates=dates,
        set_aside=reasons.most_common(),
        products=sorted(products.items()),
        longest_gap=max(gaps, key=lambda gap: gap[1] - gap[0], default=None),
        own_dates=dataset.parcel_dates is not None,
        clear_dates=(min(n_clear), statistics.median(n_clear), max(n_clear)) if n_clear else None,
    )


def read_account(paths: RunPaths, *, trained: bool = True) -> Ledger:
    """Read what became of every input parcel, the frequent fates first.

    Parameters
    ----------
    paths
        The run.
    trained
        Whether the run trained models: with those from elsewhere it learns from no parcel.
    """
    rows = read_ledger(paths.ledger, ["row", "parcel_id", "status", "reason", "mended"])
    if not trained:
        used = rows["status"] == Status.USED
        rows.loc[used, ["status", "reason"]] = [
            str(Status.PREDICT_ONLY),
            str(Reason.EXISTING_WEIGHTS),
        ]
    numbers = "row " + rows["row"].astype(str)
    names = rows["parcel_id"].where(rows["parcel_id"] != "", numbers)
    fates = names.groupby([rows["status"], rows["reason"]], sort=False)
    lines = []
    for (status, reason), ids in fates:
        words = Reason(str(reason)).words if reason else ""
        lines.append(LedgerLine(str(status), words, len(ids), ids[:5].tolist()))
    order = list(Status)
    lines.sort(key=lambda line: (order.index(Status(line.status)), -line.count))
    return Ledger(lines, int(rows["mended"].sum()))


def read_class_lines(
    paths: RunPaths, dataset: PixelSetDataset, predicted: Mapping[str, str]
) -> list[CropClass]:
    """Read the classes: those that are learnt, in order of the class index, then the others.

    Parameters
    ----------
    paths
        The run; without a table of classes, those of its dataset are taken.
    dataset
        Its dataset.
    predicted
        {code: name} of the predicted classes: models from elsewhere may have learnt others than
        those that are declared here.

    Returns
    -------
    list of CropClass
        Their codes are texts, as only their equality matters; their names are those to show.
    """
    if paths.classes.is_file():
        names = dataset.names
        rows = [
            replace(c, code=str(c.code), name=names.get(str(c.code), c.name))
            for c in read_classes(paths.classes).classes
        ]
    else:
        labels = Counter(dataset.labels.tolist())
        rows = [
            CropClass(str(c.code), c.name, labels[i], i)
            for i, c in enumerate(dataset.shown_classes)
        ]
    used = [c for c in rows if c.class_index is not None]
    learnt = {str(c.code): c.name for c in used} | dict(sorted(predicted.items()))
    counts = {c.code: c.n_parcels for c in rows}
    others = [c for c in rows if c.code not in learnt]
    return [
        *(
            CropClass(code, name, counts.get(code, 0), index)
            for index, (code, name) in enumerate(learnt.items())
        ),
        *sorted(others, key=lambda c: -c.n_parcels),
    ]
