"""Stage label: choose the classes, label the parcels, and write the ledger of the register."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from geo.errors import InputError, first_five
from geo.register.columns import with_codes
from pipeline.classes.class_choice import Models, classify
from pipeline.classes.class_mapping import nomenclatures
from pipeline.classes.crop_class import Classes, Code, with_names, write_classes
from pipeline.classes.ledger import (
    FROM_REGISTER,
    compare_outlines,
    count_observed,
    count_pixels,
    refuse_none_left,
    say_counts,
    status_of,
    write_ledger,
)
from pipeline.classes.reasons import Reason, Status
from pipeline.dataset.metadata import write_labels
from pipeline.dataset.places import find_places
from pipeline.workflow.artefacts import artefact
from pipeline.workflow.paths import DatasetPaths
from pipeline.workflow.sections.parcels import Label, named_columns
from pipeline.workflow.settings import LabelSettings

logger = logging.getLogger(__name__)

# Settings that can leave every parcel without a clear pixel.
MORE_SETTINGS = (
    ", and for parcels that were not observed clouds.mask, clouds.classes, "
    "clouds.min_clear_fraction and imagery.max_cloud_fraction"
)


# Parcels whose codes are Python objects at a time.
ROWS_AT_A_TIME = 20_000

# Columns of clean's table that are used here.
REGISTER_COLUMNS = (
    *("parcel_id", "reason", "mended", "tile", "same_outline", "checksum", "geometry_type"),
)


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
    """Choose the classes, label the parcels of the dataset, and give every row its status.

    Parameters
    ----------
    rows, overlaps
        Clean's tables of the rows of the register, and of overlapping parcels.
    counts
        Rasterise's tables of the pixels of the outlines, one file per tile.
    observed
        Assemble's tables of the clear pixels and observed dates, one file per tile.
    ledger
        Written: Parquet, one row per row of the register, with status and reason; a CSV beside it,
        for people.
    classes
        Written: the declared classes, those to train on in order of the class index.
    dataset
        Pixel-Set dataset. Written into it: the labels of its parcels, and the classes.
    settings
        parcels: labels, nomenclature, classes, other_class, unknown_codes; split.folds and
        predict.weights: with weights nothing is trained, and the classes are those of the weights.
    names
        JSON: path of a table of names, or null. Models store these names; the report and the
        predictions show the names of the stage names.

    Raises
    ------
    InputError
        If every parcel is rejected, or the classes cannot be trained on.
    """
    table = _read(rows, "row", *REGISTER_COLUMNS)
    assembled = _read_all(observed, "parcel_id", "n_pixels", "n_dates", "held")
    count_pixels(table, _read_all(counts, "row", "n_pixels", "indexed"))
    overlapping = compare_outlines(table, _read(overlaps, None, "parcel_id", "other_id", "area_m2"))
    count_observed(table, assembled)
    refuse_none_left(table, more=MORE_SETTINGS)

    models = Models.of(settings.split.folds, settings.predict.weights)
    nomenclature, columns = _read_declared(rows, settings)
    try:
        codes, chosen = classify(table, columns, nomenclature, settings.parcels, models)
    except InputError as error:
        raise InputError(f"{error}{_say_unseen(table)}") from None
    table["status"] = status_of(table["reason"])
    declared = dict.fromkeys(named_columns(nomenclature).values())
    checksums = table["checksum"].to_numpy(np.uint64)
    table["checksum"] = with_codes(checksums, [columns[name] for name in declared])

    held = assembled.loc[assembled["held"], "parcel_id"]
    path = json.loads(names)
    table_of_names = None if path is None else Path(path)
    named = with_names(chosen, table_of_names, settings.parcels.encoding)
    write_labels(DatasetPaths(dataset), _of_parcels(held, table, codes), named)
    write_classes(classes, chosen)
    write_ledger(ledger, table)
    _log(table, chosen, overlapping)


def _say_unseen(rows: pd.DataFrame) -> str:
    """Return a sentence on parcels whose class does not count because they were never seen."""
    n = int((rows["reason"] == Reason.NEVER_CLEAR).sum())
    return f" {n} of the {len(rows)} parcels are {Reason.NEVER_CLEAR.words}." if n else ""


def _read_all(paths: list[Path], key: str, *columns: str) -> pd.DataFrame:
    """Read the tables of all tiles as one."""
    return pd.concat([_read(path, key, *columns) for path in paths], ignore_index=True)


def _read(path: Path, key: str | None, *columns: str) -> pd.DataFrame:
    """Read a table that a stage wrote, with these columns and the key, which no two rows share."""
    with artefact(path, "a table of parcels"):
        wanted = dict.fromkeys([*([key] if key else []), *columns])
        if lacking := wanted.keys() - {*pq.read_schema(path).names}:
            raise ValueError(f"it lacks the columns {', '.join(sorted(lacking))}")
        table = pd.read_parquet(path, columns=list(wanted))
        if key is not None and table[key].duplicated().any():
            raise ValueError(f"two rows have the same {key}")
        return table


def _read_declared(path: Path, settings: LabelSettings) -> tuple[Mapping[str, Label], pd.DataFrame]:
    """Read the nomenclatures, and the columns of the register that have their codes."""
    with artefact(path, "a table of parcels"):
        names = [n for n in pq.read_schema(path).names if n.startswith(FROM_REGISTER)]
        stored = pd.read_parquet(path, columns=["row"]).attrs
        follows_fiboa = bool(stored["follows_fiboa"])
    known = [name.removeprefix(FROM_REGISTER) for name in names]
    labels = nomenclatures(settings.parcels, known, follows_fiboa=follows_fiboa)
    with artefact(path, "a table of parcels"):
        wanted = dict.fromkeys(named_columns(labels).values())
        columns = pd.read_parquet(path, columns=[FROM_REGISTER + name for name in wanted])
    return labels, columns.rename(columns=lambda column: column.removeprefix(FROM_REGISTER))


def _of_parcels(
    ids: pd.Series[Any], rows: pd.DataFrame, codes: pd.DataFrame
) -> dict[str, Iterator[tuple[str, Code | None]]]:
    """Yield the labels of parcels, in the order of ids: {nomenclature: (id, code or None) each}."""
    usable = rows["status"] != Status.REJECTED
    places = find_places(ids, rows.loc[usable, "parcel_id"])
    return {str(name): _pairs(ids, codes[name][usable], places) for name in codes}


def _pairs(
    ids: pd.Series[Any], codes: pd.Series[Any], places: NDArray[np.int64]
) -> Iterator[tuple[str, Code | None]]:
    """Yield id and code of parcels in parts; `places` are their rows of `codes`."""
    for start in range(0, len(ids), ROWS_AT_A_TIME):
        part = slice(start, start + ROWS_AT_A_TIME)
        own = codes.iloc[places[part]].astype(object)
        yield from zip(ids.iloc[part], own.where(own.notna(), None), strict=True)


def _log(rows: pd.DataFrame, chosen: Classes, overlapping: pd.DataFrame) -> None:
    """Log how many parcels and classes are used, and the reasons for the others."""
    logger.info("%d rows: %s", len(rows), say_counts(rows["status"]))
    for status in (Status.REJECTED, Status.PREDICT_ONLY):
        reasons = rows.loc[rows["status"] == status, "reason"]
        if len(reasons):
            logger.info("%s: %s", status, say_counts(reasons))
    if chosen.classes:
        n, n_used = len(chosen.classes), len(chosen.trained)
        logger.info("%d classes: %d used, %d not", n, n_used, n - n_used)
    n_overlapping, n_repeated = (rows["overlap_m2"] > 0).sum(), (rows["same_as"] != "").sum()
    if n_overlapping:
        logger.warning(
            "%d parcels overlap others, by %.2f ha in %d pairs; each keeps the pixels they share",
            n_overlapping,
            overlapping["area_m2"].sum() / 10_000,
            len(overlapping),
        )
    if n_repeated:
        logger.warning("%d parcels have the same outline as an earlier one", n_repeated)
    missing = rows["n_pixels_never_clear"].fillna(0)
    if missing.any():
        logger.warning(
            "%d pixels of %d parcels are clear on no date and left out",
            missing.sum(),
            (missing > 0).sum(),
        )
    for reason in (Reason.NEVER_CLEAR, Reason.TOO_FEW_PIXELS_OBSERVED):
        ids = rows.loc[rows["reason"] == reason, "parcel_id"].tolist()
        if ids:
            logger.warning("rejected: %d %s, such as %s", len(ids), reason, first_five(ids))
