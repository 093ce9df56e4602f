"""The account of every row of the register: what became of it, and why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geo.errors import InputError, reading
from pipeline.classes.crop_class import CropClass
from pipeline.classes.reasons import WITHOUT_POLYGON, ClassReason, Reason, Status
from pipeline.workflow.writing import replacing

# What people read in ledger.csv.
COLUMNS = [
    *("row", "parcel_id", "status", "reason", "mended", "tile", "n_pixels"),
    *("n_pixels_never_clear", "n_dates", "code", "declared", "overlap_m2", "same_as", "checksum"),
]
# In clean's table the register's own columns stand under their names behind this.
FROM_REGISTER = "register:"


def set_aside(rows: pd.DataFrame, where: Any, reason: Reason) -> None:
    """Give a reason to the rows that have none yet."""
    rows.loc[(rows["reason"] == "") & np.asarray(where, bool), "reason"] = str(reason)


def count_pixels(rows: pd.DataFrame, counts: pd.DataFrame) -> None:
    """Add the number of pixels of every outline, and reject parcels that have too few.

    Parameters
    ----------
    rows
        As clean leaves them: row, parcel_id, reason. Completed: n_pixels, missing where there is
        no usable outline, 0 outside of the imagery.
    counts
        What rasterise found of the parcels of every tile: row, n_pixels, indexed.

    Raises
    ------
    InputError
        If a parcel was not rasterised.
    """
    found = counts.set_index("row").reindex(rows["row"])
    usable = (rows["reason"] == "").to_numpy()
    _refuse_lacking(rows, usable & found["n_pixels"].isna().to_numpy(), "rasterised", "rasterise")
    n_pixels = found["n_pixels"].astype("Int64").fillna(0).set_axis(rows.index)
    rows["n_pixels"] = n_pixels.mask(rows["reason"].isin(WITHOUT_POLYGON))
    is_indexed = found["indexed"].eq(True).to_numpy()
    set_aside(rows, ~is_indexed, Reason.TOO_FEW_PIXELS)


def count_observed(rows: pd.DataFrame, observed: pd.DataFrame) -> None:
    """Say what was observed of the parcels, and reject those that keep too few pixels.

    Parameters
    ----------
    rows
        As `count_pixels` leaves them. n_pixels becomes the number of pixels that are clear on at
        least one date; added are n_pixels_never_clear, that of the others, and n_dates.
    observed
        What assemble found of the indexed parcels of every tile: parcel_id, n_pixels, n_dates,
        held.

    Raises
    ------
    InputError
        If an indexed parcel was not assembled.
    """
    # An id can stand in the register twice: what was observed is the usable row's.
    usable = (rows["reason"] == "").to_numpy()
    found = observed.set_index("parcel_id").reindex(rows["parcel_id"]).set_axis(rows.index)
    found = found.where(pd.Series(usable, index=rows.index))
    _refuse_lacking(rows, usable & found["n_pixels"].isna().to_numpy(), "assembled", "assemble")
    n_pixels = found["n_pixels"].astype("Int64")
    rows["n_pixels_never_clear"] = rows["n_pixels"] - n_pixels
    rows["n_dates"] = found["n_dates"].astype("Int64")
    rows["n_pixels"] = rows["n_pixels"].mask(usable, n_pixels)
    set_aside(rows, usable & n_pixels.eq(0).fillna(False), Reason.NEVER_SEEN_CLEARLY)
    set_aside(rows, usable & found["held"].eq(False), Reason.TOO_FEW_PIXELS_OBSERVED)


def _refuse_lacking(rows: pd.DataFrame, lacks: Any, what: str, stage: str) -> None:
    """Refuse tables of other parcels than those of the register."""
    ids = rows.loc[lacks, "parcel_id"].tolist()
    if ids:
        raise InputError(
            f"{len(ids)} usable parcels were not {what}, such as {', '.join(ids[:5])}. "
            f"Run {stage} again: snakemake -R {stage}."
        )


def compare_outlines(rows: pd.DataFrame, overlaps: pd.DataFrame) -> pd.DataFrame:
    """Say which accepted parcels overlap, and which are drawn twice; all of them stay accepted.

    Parameters
    ----------
    rows
        As `count_pixels` leaves them, and with `same_outline`: the id of the first usable parcel
        of the same outline. Completed: overlap_m2, the area shared with each of the other
        accepted parcels, in whole m2, missing for rejected ones; same_as, the id of an earlier
        accepted parcel with the very same outline, or "".
    overlaps
        The pairs of usable parcels that share area: parcel_id, other_id, area_m2.

    Returns
    -------
    The pairs of accepted parcels.
    """
    accepted = rows["reason"] == ""
    ids = rows.loc[accepted, "parcel_id"]
    both = overlaps[overlaps["parcel_id"].isin(ids) & overlaps["other_id"].isin(ids)]
    # In the order of the pairs, as sums of floats depend on it.
    shared = both.groupby("parcel_id")["area_m2"].sum()
    shared = shared.add(both.groupby("other_id")["area_m2"].sum(), fill_value=0)
    area = ids.map(shared).fillna(0).astype(float).round().astype("Int64")
    rows["overlap_m2"] = area.reindex(rows.index)
    first = ids.groupby(rows.loc[accepted, "same_outline"]).transform("first")
    rows["same_as"] = first.where(first != ids, "").reindex(rows.index, fill_value="")
    return both


def class_reasons(codes: pd.Series[Any], classes: Sequence[CropClass]) -> pd.Series[Any]:
    """Say why parcels of these declared codes are not trained on; "" for those that are."""
    unused = {c.code: str(ClassReason(c.reason).of_parcels) for c in classes if c.reason}
    missing = codes.isna()
    reasons = [
        str(Reason.NO_LABEL) if lacks else unused.get(code, "")
        for code, lacks in zip(codes, missing, strict=True)
    ]
    return pd.Series(reasons, index=codes.index, dtype=object)


def status_of(reasons: pd.Series[Any]) -> pd.Series[Any]:
    """Derive the status from the reason: used, predict_only or rejected."""
    known = {"": str(Status.USED)} | {str(reason): str(reason.status) for reason in Reason}
    return reasons.map(known)


def say_counts(values: pd.Series[Any]) -> str:
    """Count values, the most frequent first."""
    return ", ".join(f"{n} {value}" for value, n in values.value_counts().items())


def read_ledger(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read the ledger, or some of its columns: codes have the type of the register's."""
    with reading(path, "a ledger", "Make it anew: snakemake -R label."):
        return pd.read_parquet(path, columns=None if columns is None else list(columns))


def write_ledger(path: Path, rows: pd.DataFrame) -> None:
    """Write the ledger, one row an input parcel, as Parquet; and as CSV beside it, for people.

    Parameters
    ----------
    path
        With the suffix .parquet.
    rows
        With columns of COLUMNS; those that a run does not know are missing. By `checksum`, uint64,
        a row of the register is known again: see `row_checksums`. `geometry_type` is that of the
        outline, as `outline_types` gives it.
    """
    rows = rows.reindex(columns=[*COLUMNS, "geometry_type"])
    with replacing(path) as temporary:
        rows.to_parquet(temporary, index=False)
    if rows["checksum"].notna().all():
        rows = rows.assign(checksum=[f"{checksum:016x}" for checksum in rows["checksum"]])
    with replacing(path.with_suffix(".csv")) as temporary:
        rows[COLUMNS].to_csv(temporary, index=False, lineterminator="\n")
