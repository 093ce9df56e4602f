"""The account of every input parcel: what became of it, and why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.nomenclature import CropClass
from pipeline.writing import replacing

COLUMNS = [
    *("row", "parcel_id", "status", "reason", "mended", "tile", "n_pixels", "code"),
    *("declared", "overlap_m2", "same_as"),
]

# A parcel is predicted but not trained on for one of these; for any other, it is rejected.
PREDICT_ONLY = ("no_label", "class_too_rare", "class_not_listed")


def class_reasons(codes: pd.Series[Any], classes: Sequence[CropClass]) -> pd.Series[Any]:
    """Say why parcels of these declared codes are not trained on; "" for those that are."""
    unused = {c.code: f"class_{c.reason}" for c in classes if c.reason}
    missing = codes.isna()
    reasons = [
        "no_label" if lacks else unused.get(code, "")
        for code, lacks in zip(codes, missing, strict=True)
    ]
    return pd.Series(reasons, index=codes.index, dtype=object)


def set_aside(rows: pd.DataFrame, where: Any, reason: str) -> None:
    """Give a reason to the rows that have none yet."""
    rows.loc[(rows["reason"] == "") & np.asarray(where, bool), "reason"] = reason


def status_of(reasons: pd.Series[Any]) -> pd.Series[Any]:
    """Derive the status from the reason: used, predict_only or rejected."""
    status = pd.Series("rejected", index=reasons.index)
    status[reasons.isin(PREDICT_ONLY)] = "predict_only"
    status[reasons == ""] = "used"
    return status


def write_ledger(path: Path, rows: pd.DataFrame) -> None:
    """Write the ledger, one row an input parcel; columns that a run does not know stay empty."""
    with replacing(path) as temporary:
        rows.reindex(columns=COLUMNS).to_csv(temporary, index=False, lineterminator="\n")
