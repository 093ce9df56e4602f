"""The report's inputs: acquisitions, parcels and classes, used or not, and why."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from itertools import pairwise

from geo.errors import InputError
from pipeline.classes.crop_class import CropClass, read_classes
from pipeline.classes.ledger import read_ledger
from pipeline.classes.reasons import AcquisitionReason, Reason, Status
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.workflow.acquisition_table import AcquisitionRow, read_acquisitions
from pipeline.workflow.artefacts import remedy_for
from pipeline.workflow.paths import RunPaths


@dataclass(frozen=True)
class Imagery:
    """The acquisitions of a run.

    Attributes
    ----------
    rows
        All acquisitions; empty if the run started from an existing dataset.
    dates
        Dates of the dataset.
    own_dates
        Whether dates differ between parcels.
    clear_dates
        Minimum, median and maximum number of dates on which a parcel is clear.
    damaged
        {id: problem} of the acquisitions whose damage showed when their pixels were read.
    """

    rows: list[AcquisitionRow]
    dates: list[date]
    own_dates: bool
    clear_dates: tuple[int, float, int] | None
    damaged: Mapping[str, str]

    @property
    def used(self) -> list[AcquisitionRow]:
        """The acquisitions that are used."""
        return [row for row in self.rows if row.used]

    @property
    def tiles(self) -> list[str]:
        """Tiles of the used acquisitions."""
        return sorted({row.tile for row in self.used})

    @property
    def clouds(self) -> list[float]:
        """Cloud fractions of the used acquisitions for which they are stated."""
        return [row.cloud_fraction for row in self.used if row.cloud_fraction is not None]

    @property
    def set_aside(self) -> list[tuple[str, int]]:
        """Reasons for which acquisitions are not used, and their number, most frequent first."""
        unused = (AcquisitionReason(row.reason).words for row in self.rows if not row.used)
        return Counter(unused).most_common()

    @property
    def products(self) -> list[tuple[tuple[str, str, str], int]]:
        """Platform, baseline and offset of the used acquisitions, and their number."""
        kinds = ((row.platform, row.baseline, row.offset) for row in self.used)
        return sorted(Counter(kinds).items())

    @property
    def longest_gap(self) -> tuple[date, date] | None:
        """The two successive dates with the most days between them."""
        gaps = pairwise(self.dates)
        return max(gaps, key=lambda gap: gap[1] - gap[0], default=None)


@dataclass(frozen=True)
class LedgerLine:
    """Input parcels with the same status and reason; `examples` are up to five of their ids."""

    status: str
    reason: str
    count: int
    examples: list[str]


@dataclass(frozen=True)
class Ledger:
    """The status of every input parcel."""

    lines: list[LedgerLine]
    n_mended: int

    @property
    def n_rows(self) -> int:
        """Number of input parcels."""
        return sum(line.count for line in self.lines)


def read_imagery(paths: RunPaths, dataset: PixelSetDataset) -> Imagery:
    """Read the acquisitions, and on how many dates the parcels are clear."""
    rows = read_acquisitions(paths.acquisitions) if paths.acquisitions.is_file() else []
    with_parcels = dataset.description.get("tiles") or {row.tile for row in rows}
    damaged = dataset.description.get("damaged", {})
    unused = dict.fromkeys(damaged, AcquisitionReason.DAMAGED) | {
        row.acquisition: AcquisitionReason.NO_PARCELS
        for row in rows
        if row.tile not in with_parcels
    }
    rows = [
        row._replace(used=False, reason=str(unused[row.acquisition]))
        if row.used and row.acquisition in unused
        else row
        for row in rows
    ]
    n_clear = dataset.n_dates.tolist()
    return Imagery(
        rows=rows,
        dates=dataset.dates,
        own_dates=dataset.parcel_dates is not None,
        clear_dates=(min(n_clear), statistics.median(n_clear), max(n_clear)) if n_clear else None,
        damaged=damaged,
    )


def read_account(paths: RunPaths) -> Ledger:
    """Read the status and reason of every input parcel, the frequent ones first."""
    rows = read_ledger(paths.ledger, ["row", "parcel_id", "status", "reason", "mended"])
    numbers = "row " + rows["row"].astype(str)
    names = rows["parcel_id"].where(rows["parcel_id"] != "", numbers)
    lines = []
    for key, ids in names.groupby([rows["status"], rows["reason"]], sort=False):
        status, reason = map(str, key)
        words = Reason(reason).words if reason else ""
        lines.append(LedgerLine(status, words, len(ids), ids[:5].tolist()))
    order = list(Status)
    lines.sort(key=lambda line: (order.index(Status(line.status)), -line.count))
    return Ledger(lines, int(rows["mended"].sum()))


def read_shown_classes(
    paths: RunPaths, dataset: PixelSetDataset, predicted: Mapping[str, str]
) -> list[CropClass]:
    """Read the classes: trained ones in order of the class index, then the others by frequency.

    Parameters
    ----------
    paths
        The run. If it has no table of classes, those of its dataset are returned.
    dataset
        Its dataset.
    predicted
        {code: name} of the predicted classes: existing weights may be trained on other classes
        than those that are declared here.

    Returns
    -------
    list of CropClass
        The codes are texts, because they are only compared. The names are those to show.
    """
    if paths.classes.is_file():
        names, table = dataset.names, read_classes(paths.classes)
        if [c.code for c in table.trained] != [c.code for c in dataset.classes]:
            raise InputError(
                f"{paths.classes} and {dataset.paths.classes} list different classes. "
                f"{remedy_for(paths.classes)}"
            )
        classes = [
            replace(c, code=str(c.code), name=names.get(str(c.code), c.name)) for c in table.classes
        ]
    else:
        counts = Counter(dataset.labels.tolist())
        classes = [
            CropClass(str(c.code), c.name, counts[i], i)
            for i, c in enumerate(dataset.shown_classes)
        ]
    n_parcels = {c.code: c.n_parcels for c in classes}
    trained = {str(c.code): c.name for c in classes if c.class_index is not None}
    trained |= dict(sorted(predicted.items()))
    return [
        CropClass(code, name, n_parcels.get(code, 0), index)
        for index, (code, name) in enumerate(trained.items())
    ] + sorted((c for c in classes if c.code not in trained), key=lambda c: -c.n_parcels)
