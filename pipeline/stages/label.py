"""Stage label: the classes of the parcels, and the account of every row of the register."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd

from geo.errors import InputError, reading
from geo.register.columns import with_codes
from pipeline.classes.class_mapping import classify, nomenclatures
from pipeline.classes.crop_class import Classes, Code, with_names, write_classes
from pipeline.classes.ledger import (
    FROM_REGISTER,
    compare_outlines,
    count_observed,
    count_pixels,
    say_counts,
    status_of,
    write_ledger,
)
from pipeline.classes.reasons import Reason, Status
from pipeline.dataset.metadata import write_labels
from pipeline.workflow.paths import DatasetPaths
from pipeline.workflow.sections import named_columns
from pipeline.workflow.settings import LabelSettings

logger = logging.getLogger(__name__)


def label(
    rows: Path,
    overlaps: Path,
    counts: list[Path],
    observed: list[Path],
    ledger: Path,
    classes: Path,
    dataset: Path,
    settings: LabelSettings,
    names: str = "null",
) -> None:
    """Choose the classes, label the parcels of the dataset, and account for every row.

    Parameters
    ----------
    rows, overlaps
        What clean found of every row of the register, and of pairs of parcels.
    counts
        Pixels of the parcels' outlines, a file a tile, as rasterise counted them.
    observed
        How much of the parcels was observed, a file a tile, as assemble found it.
    ledger
        Written: Parquet, one row per row of the register, with its status and the reason for it;
        as CSV beside it, for people.
    classes
        Written: the declared classes, those that are trained on in order of the class index.
    dataset
        Pixel-Set dataset. Written into it: the labels of its parcels, and the classes.
    settings
        parcels: labels, nomenclature, classes, other_class, unknown_codes; split.folds and
        predict.weights: with weights nothing is trained, so classes need no parcels.
    names
        JSON: path of a table of names, or null. Models keep these names; what shows classes has
        those of the stage names.

    Raises
    ------
    InputError
        If no parcel is left, or the classes cannot be trained on.
    """
    account = _read(rows, "clean")
    assembled = pd.concat([_read(path, "assemble") for path in observed], ignore_index=True)
    count_pixels(account, pd.concat([_read(path, "rasterise") for path in counts]))
    pairs = compare_outlines(account, _read(overlaps, "clean"))
    count_observed(account, assembled)
    _refuse_none_left(account)
    folds = settings.split.folds if settings.predict.weights is None else None
    columns = _of_register(account)
    # What follows fiboa says by itself which column holds the crops.
    known = list(map(str, columns)) if account.attrs["follows_fiboa"] else []
    nomenclature = nomenclatures(settings.parcels, known)
    labels, table = classify(account, columns, nomenclature, settings.parcels, folds)
    account["status"] = status_of(account["reason"])
    declared = dict.fromkeys(named_columns(nomenclature).values())
    checksums = account["checksum"].to_numpy(np.uint64)
    account["checksum"] = with_codes(checksums, [columns[name] for name in declared])
    held = assembled.loc[assembled["held"], "parcel_id"].tolist()
    shown = json.loads(names)
    named = with_names(table, None if shown is None else Path(shown))
    write_labels(DatasetPaths(dataset), _of_parcels(held, account, labels), named)
    write_classes(classes, table)
    write_ledger(ledger, account)
    _log(account, table, pairs)


def _read(path: Path, stage: str) -> pd.DataFrame:
    """Read a table that a stage wrote."""
    with reading(path, f"a table of the stage {stage}", f"Make it anew: snakemake -R {stage}."):
        return pd.read_parquet(path)


def _of_register(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the register's own columns, under their names there."""
    own = [column for column in map(str, rows) if column.startswith(FROM_REGISTER)]
    return rows[own].rename(columns=lambda column: column.removeprefix(FROM_REGISTER))


def _of_parcels(
    ids: list[str], rows: pd.DataFrame, labels: pd.DataFrame
) -> dict[str, dict[str, Code | None]]:
    """Select the labels of parcels: {nomenclature: {id: code, or None}}, in the order of ids."""
    usable = rows["status"] != Status.REJECTED
    own = labels[usable].set_axis(rows.loc[usable, "parcel_id"]).loc[ids].astype(object)
    plain = own.where(own.notna(), None)
    return {str(name): dict(zip(ids, plain[name], strict=True)) for name in plain}


def _refuse_none_left(rows: pd.DataFrame) -> None:
    """Refuse imagery and settings that leave no parcel."""
    if (rows["reason"] == "").any():
        return
    raise InputError(
        f"None of the {len(rows)} parcels can be used: {say_counts(rows['reason'])}. Check "
        "parcels.id, parcels.buffer_m, parcels.min_area_m2, parcels.min_pixels and "
        "parcels.partly_outside, and for parcels that were not observed clouds.mask, "
        "clouds.classes, clouds.min_clear_fraction and imagery.max_cloud_fraction."
    )


def _log(rows: pd.DataFrame, table: Classes, pairs: pd.DataFrame) -> None:
    """Log how many parcels and classes are used, and why the others are not."""
    logger.info("%d rows: %s", len(rows), say_counts(rows["status"]))
    for status in (Status.REJECTED, Status.PREDICT_ONLY):
        reasons = rows.loc[rows["status"] == status, "reason"]
        if len(reasons):
            logger.info("%s: %s", status, say_counts(reasons))
    if table.classes:
        n, n_used = len(table.classes), len(table.trained)
        logger.info("%d classes: %d used, %d not", n, n_used, n - n_used)
    overlapping, again = (rows["overlap_m2"] > 0).sum(), (rows["same_as"] != "").sum()
    if overlapping:
        logger.warning(
            "%d parcels overlap others, by %.2f ha in %d pairs; each keeps the pixels they share",
            overlapping,
            pairs["area_m2"].sum() / 10_000,
            len(pairs),
        )
    if again:
        logger.warning("%d parcels have the same outline as an earlier one", again)
    missing = rows["n_pixels_never_clear"].fillna(0)
    if missing.any():
        logger.warning(
            "%d pixels of %d parcels are clear on no date and left out",
            missing.sum(),
            (missing > 0).sum(),
        )
    for reason in (Reason.NEVER_SEEN_CLEARLY, Reason.TOO_FEW_PIXELS_OBSERVED):
        ids = rows.loc[rows["reason"] == reason, "parcel_id"].tolist()
        if ids:
            logger.warning("rejected: %d %s, such as %s", len(ids), reason, ", ".join(ids[:5]))
