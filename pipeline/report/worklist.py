"""The report's section on the work list: what visits find, its head, and the quality sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.report.doubts import share_or_none
from pipeline.workflow.artefacts import artefact, read_json
from pipeline.workflow.paths import RunPaths

# Parcels of the list that are shown.
SHOWN = 20
COLUMNS = [
    *("doubt_rank", "parcel_id", "verdict", "reason", "area_ha", "longitude", "latitude"),
    *("declared_code", "declared_name", "pred_code", "pred_name", "confidence", "neighbours"),
]


@dataclass(frozen=True)
class Visits:
    """How many wrong declarations the first n visits of the list are expected to find.

    Attributes
    ----------
    n
        Number of visits.
    found, by_chance
        Expected number of wrong declarations that these find, and that as many visits of parcels
        at random find.
    """

    n: int
    found: float
    by_chance: float


@dataclass(frozen=True)
class WorkList:
    """The work list and the sample of a run.

    Attributes
    ----------
    n_judged, n_doubted, n_listed
        Declarations with a verdict, with CONFLICT or DOUBT, and in the list.
    area_ha
        Area of the list; None if it is not known, as without outlines.
    supposed_wrong, n_wrong
        Share and number of wrong declarations for which `visits` is estimated.
    visits
        What visits find; empty if this is not known.
    margin
        Half width of the interval that the sample allows.
    strata
        (verdict, declarations, declarations in the sample).
    first
        The first parcels of the list, rows of `COLUMNS`; missing values are None.
    """

    n_judged: int
    n_doubted: int
    n_listed: int
    area_ha: float | None
    supposed_wrong: float
    n_wrong: float
    visits: list[Visits]
    margin: float
    strata: list[tuple[str, int, int]]
    first: list[dict[str, Any]]

    @property
    def has_places(self) -> bool:
        """Whether it is known where the parcels are, and a layer shows it."""
        return any(parcel["latitude"] is not None for parcel in self.first)

    @property
    def n_sampled(self) -> int:
        """Number of declarations in the sample."""
        return sum(sampled for _, _, sampled in self.strata)


def read_worklist(paths: RunPaths) -> WorkList | None:
    """Read the work list of a run; None if it has none."""
    if not paths.worklist_account.is_file():
        return None
    with artefact(paths.to_check, "a work list"):
        first = pd.read_parquet(paths.to_check, columns=COLUMNS).head(SHOWN)
    for column in ("declared_code", "pred_code"):
        first[column] = first[column].astype(str)
    first = first.astype(object).where(first.notna(), None)
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in first.itertuples(index=False)]
    return read_json(
        paths.worklist_account, lambda values: _worklist(values, rows), "an account of a work list"
    )


def _worklist(values: Mapping[str, Any], first: list[dict[str, Any]]) -> WorkList:
    """Check what worklist wrote."""
    n_judged, supposed = int(values["n_judged"]), float(values["supposed_wrong"])
    shares = [(int(row["n"]), share_or_none(row["found"])) for row in values["visits"]]
    sample = values["sample"]
    return WorkList(
        n_judged=n_judged,
        n_doubted=int(values["n_doubted"]),
        n_listed=int(values["n_listed"]),
        area_ha=share_or_none(values["area_ha"]),
        supposed_wrong=supposed,
        n_wrong=supposed * n_judged,
        visits=[
            Visits(n, share * supposed * n_judged, n * supposed)
            for n, share in shares
            if share is not None
        ],
        margin=float(sample["margin"]),
        strata=[(str(v["verdict"]), int(v["n"]), int(v["sampled"])) for v in sample["verdicts"]],
        first=first,
    )
