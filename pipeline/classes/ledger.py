"""The account of every input parcel: what became of it, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from geo.errors import InputError, reading
from pipeline.classes.nomenclature import CropClass
from pipeline.workflow.writing import replacing

COLUMNS = [
    *("row", "parcel_id", "status", "reason", "mended", "tile", "n_pixels"),
    *("n_pixels_never_clear", "n_dates", "code", "declared", "overlap_m2", "same_as", "checksum"),
]

# A parcel is predicted but not trained on for one of these; for any other, it is rejected.
PREDICT_ONLY = ("no_label", "class_too_rare", "class_not_listed")

# A parcel is rejected for one of these where its outline is fine, but too little of it was seen.
UNOBSERVED = ("never_seen_clearly", "too_few_pixels_observed")


class Observed(NamedTuple):
    """How much of a parcel was seen.

    Attributes
    ----------
    n_pixels
        Pixels that are clear on at least one date.
    n_dates
        Dates on which at least one pixel is clear.
    """

    n_pixels: int
    n_dates: int


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


def complete(rows: pd.DataFrame, observed: Mapping[str, Observed], min_pixels: int) -> pd.DataFrame:
    """Complete the ledger once pixels were read; reject parcels that keep too few.

    Parameters
    ----------
    rows
        The ledger as clean leaves it; n_pixels counts all pixels of the outline.
    observed
        How much was seen of every parcel that is not rejected.
    min_pixels
        Fewest pixels of a parcel.

    Returns
    -------
    The ledger; n_pixels counts the pixels that are clear on at least one date,
    n_pixels_never_clear the others.

    Raises
    ------
    InputError
        If a parcel that is not rejected was not looked at.
    """
    rows = rows.copy()
    # An id can stand in the register twice: what was observed is the accepted row's.
    accepted = rows["status"] != "rejected"
    ids = rows.loc[accepted, "parcel_id"]
    if lacking := [i for i in ids if i not in observed]:
        raise InputError(
            f"{len(lacking)} accepted parcels have no pixels indexed, such as "
            f"{', '.join(lacking[:5])}. Run clean again: snakemake -R clean."
        )
    n_pixels = ids.map({i: o.n_pixels for i, o in observed.items()})
    rows["n_pixels"] = pd.to_numeric(rows["n_pixels"]).astype("Int64")
    rows["n_pixels_never_clear"] = (rows["n_pixels"] - n_pixels).astype("Int64")
    rows["n_dates"] = ids.map({i: o.n_dates for i, o in observed.items()}).astype("Int64")
    rows.loc[accepted, "n_pixels"] = n_pixels.astype("Int64")
    for reason, fewer_than in zip(UNOBSERVED[::-1], (min_pixels, 1), strict=True):
        few = n_pixels.index[n_pixels < fewer_than]
        rows.loc[few, ["status", "reason"]] = ["rejected", reason]
    return rows


def read_ledger(path: Path, columns: Sequence[str] = COLUMNS) -> pd.DataFrame:
    """Read columns of the ledger as text, those of COLUMNS that it lacks empty."""
    wanted = set(columns)
    with reading(path, "a ledger", "Delete it and run the workflow again."):
        found = pd.read_csv(path, usecols=wanted.__contains__, dtype=str, keep_default_na=False)
    return found.reindex(columns=list(columns), fill_value="")


def write_ledger(path: Path, rows: pd.DataFrame) -> None:
    """Write the ledger, one row an input parcel; columns that a run does not know stay empty.

    Parameters
    ----------
    rows
        With columns of COLUMNS. By `checksum` a row of the register is known again: 16 hexadecimal
        digits, see `row_checksums`.
    """
    with replacing(path) as temporary:
        rows.reindex(columns=COLUMNS).to_csv(temporary, index=False, lineterminator="\n")
