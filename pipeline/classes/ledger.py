"""The ledger: the status of every row of the register, and the reason for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geo.errors import InputError, first_five
from pipeline.classes.crop_class import CropClass
from pipeline.classes.reasons import WITHOUT_POLYGON, ClassReason, Reason, Status
from pipeline.workflow.artefacts import artefact
from pipeline.workflow.writing import replacing

# The columns of ledger.csv.
COLUMNS = [
    *("row", "parcel_id", "status", "reason", "mended", "tile", "n_pixels"),
    *("n_pixels_never_clear", "n_dates", "code", "declared", "overlap_m2", "same_as", "checksum"),
]
# In clean's table, this prefix marks the register's own columns.
FROM_REGISTER = "register:"


def set_aside(rows: pd.DataFrame, where: Any, reason: Reason) -> None:
    """Set the reason of the rows for which none is set yet."""
    rows.loc[(rows["reason"] == "") & np.asarray(where, bool), "reason"] = str(reason)


def count_pixels(rows: pd.DataFrame, counts: pd.DataFrame) -> None:
    """Add the number of pixels of every outline, and reject parcels with too few pixels.

    Parameters
    ----------
    rows
        Clean's table: row, parcel_id, reason. Added: n_pixels, missing if the outline cannot be
        used, 0 outside the imagery.
    counts
        Rasterise's tables of all tiles: row, n_pixels, indexed.

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
    """Add the numbers of clear pixels and observed dates, and reject parcels with too few pixels.

    Parameters
    ----------
    rows
        The table after `count_pixels`. Changed: n_pixels, to the number of pixels that are clear on
        at least one date. Added: n_pixels_never_clear, the number of the others, and n_dates.
    observed
        Assemble's tables of all tiles, one row per indexed parcel: parcel_id, n_pixels, n_dates,
        held (whether the dataset contains the parcel).

    Raises
    ------
    InputError
        If an indexed parcel was not assembled.
    """
    # The register may repeat an id: only the usable row has pixels.
    usable = (rows["reason"] == "").to_numpy()
    found = observed.set_index("parcel_id").reindex(rows["parcel_id"]).set_axis(rows.index)
    found = found.where(pd.Series(usable, index=rows.index))
    _refuse_lacking(rows, usable & found["n_pixels"].isna().to_numpy(), "assembled", "assemble")
    n_pixels = found["n_pixels"].astype("Int64")
    rows["n_pixels_never_clear"] = rows["n_pixels"] - n_pixels
    rows["n_dates"] = found["n_dates"].astype("Int64")
    rows["n_pixels"] = rows["n_pixels"].mask(usable, n_pixels)
    set_aside(rows, usable & n_pixels.eq(0).fillna(False), Reason.NEVER_CLEAR)
    set_aside(rows, usable & found["held"].eq(False), Reason.TOO_FEW_PIXELS_OBSERVED)


def _refuse_lacking(rows: pd.DataFrame, lacks: Any, what: str, stage: str) -> None:
    """Refuse tables that lack usable parcels of the register."""
    ids = rows.loc[lacks, "parcel_id"].tolist()
    if ids:
        raise InputError(
            f"{len(ids)} usable parcels were not {what}, such as {first_five(ids)}. "
            f"Run {stage} again: snakemake -R {stage}."
        )


def compare_outlines(rows: pd.DataFrame, overlaps: pd.DataFrame) -> pd.DataFrame:
    """Add overlaps and repeated outlines of accepted parcels; they do not change the status.

    Parameters
    ----------
    rows
        The table after `count_pixels`, with `same_outline`: the id of the first usable parcel with
        the same outline. Added: overlap_m2, the sum of the overlaps with other accepted parcels in
        whole m2, missing for rejected parcels; same_as, the id of an earlier accepted parcel with
        the same outline, or "".
    overlaps
        The pairs of usable parcels that overlap: parcel_id, other_id, area_m2.

    Returns
    -------
    The pairs in which both parcels are accepted.
    """
    accepted = rows["reason"] == ""
    ids = rows.loc[accepted, "parcel_id"]
    both = overlaps[overlaps["parcel_id"].isin(ids) & overlaps["other_id"].isin(ids)]
    # Summed in the order of the pairs: sums of floats depend on the order.
    shared = both.groupby("parcel_id")["area_m2"].sum()
    shared = shared.add(both.groupby("other_id")["area_m2"].sum(), fill_value=0)
    area = ids.map(shared).fillna(0).astype(float).round().astype("Int64")
    rows["overlap_m2"] = area.reindex(rows.index)
    first = ids.groupby(rows.loc[accepted, "same_outline"]).transform("first")
    rows["same_as"] = first.where(first != ids, "").reindex(rows.index, fill_value="")
    return both


def class_reasons(
    codes: pd.Series[Any], classes: Sequence[CropClass], *, is_trained: bool = True
) -> pd.Series[Any]:
    """Return why parcels with these codes are not trained on; "" if they are trained on.

    `is_trained` is False for existing weights, which are not trained on any parcel.
    """
    unused = {c.code: str(ClassReason(c.reason).of_parcels) for c in classes if c.reason}
    others = "" if is_trained else str(Reason.EXISTING_WEIGHTS)
    reasons = codes.astype(object).map(unused).astype(object).fillna(others)
    return reasons.mask(codes.isna(), str(Reason.NO_LABEL))


def status_of(reasons: pd.Series[Any]) -> pd.Series[Any]:
    """Return the status that follows from each reason: used, predict_only or rejected."""
    statuses = {"": str(Status.USED)} | {str(reason): str(reason.status) for reason in Reason}
    return reasons.map(statuses)


def say_counts(values: pd.Series[Any]) -> str:
    """Return the number of each value as text, the most frequent first."""
    return ", ".join(f"{n} {value}" for value, n in values.value_counts().items())


def refuse_none_left(rows: pd.DataFrame, of_what: str = "", more: str = "") -> None:
    """Refuse a register if all of its parcels are rejected.

    Parameters
    ----------
    rows
        Rows with a reason.
    of_what
        Says where the parcels are from, after "parcels".
    more
        Further settings to check, after those of the parcels.
    """
    if not (rows["reason"] == "").any():
        raise InputError(
            f"None of the {len(rows)} parcels{of_what} can be used: {say_counts(rows['reason'])}. "
            "Check parcels.id, parcels.buffer_m, parcels.min_area_m2, parcels.min_pixels and "
            f"parcels.partly_outside{more}."
        )


def read_ledger(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read the ledger, or some of its columns; codes have their type in the register."""
    with artefact(path, "a ledger"):
        return pd.read_parquet(path, columns=None if columns is None else list(columns))


def write_ledger(path: Path, rows: pd.DataFrame) -> None:
    """Write the ledger, one row per parcel of the register: Parquet, and CSV for people.

    Parameters
    ----------
    path
        File with the suffix .parquet; the CSV is written beside it.
    rows
        Columns of COLUMNS; a column that the run does not have is written empty. `checksum`,
        uint64, identifies the row of the register (see `row_checksums`). `geometry_type` is the
        type of the outline (see `outline_types`).
    """
    rows = rows.reindex(columns=[*COLUMNS, "geometry_type"])
    with replacing(path) as temporary:
        rows.to_parquet(temporary, index=False)
    if rows["checksum"].notna().all():
        rows = rows.assign(checksum=[f"{checksum:016x}" for checksum in rows["checksum"]])
    with replacing(path.with_suffix(".csv")) as temporary:
        rows[COLUMNS].to_csv(temporary, index=False, lineterminator="\n")
