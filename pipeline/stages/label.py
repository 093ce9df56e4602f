"""Stage label: the classes of the parcels, and the account of every one of them."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from pipeline.classes.ledger import UNOBSERVED, Observed, complete, read_ledger, write_ledger
from pipeline.classes.register_columns import PARCEL_COLUMNS
from pipeline.dataset.metadata import Code, LandClass, write_labels, write_names
from pipeline.dataset.packed_tiles import read_tile
from pipeline.workflow.paths import DatasetPaths, TilePaths
from pipeline.workflow.settings import Settings

logger = logging.getLogger(__name__)


def label(
    tiles: list[Path],
    parcels: Path,
    classes: Path,
    cleaned: Path,
    dataset: Path,
    ledger: Path,
    settings: Settings,
) -> None:
    """Complete the ledger by what assemble counted, and write the labels of the dataset.

    Parameters
    ----------
    tiles
        Folders of the tiles' packed pixels, in the order in which their parcels stand in the
        dataset.
    parcels
        Folder of the accepted parcels of every tile, for their labels.
    classes
        Classes of the nomenclature.
    cleaned
        What clean found of every row of the register.
    dataset
        Written: labels, classes and nomenclature in META of the Pixel-Set dataset.
    ledger
        Written: one row per row of the register, with its status and the reason for it.
    settings
        parcels.labels, parcels.nomenclature, parcels.min_pixels.
    """
    found = [read_tile(TilePaths(folder)) for folder in tiles]
    observed = {
        parcel_id: Observed(n_pixels, n_dates)
        for tile in found
        for parcel_id, n_pixels, n_dates in zip(
            tile.parcel_ids, tile.n_pixels.tolist(), tile.n_dates.tolist(), strict=True
        )
    }
    declared = _labels([parcels / f"{tile.tile}.parquet" for tile in found if tile.parcel_ids])
    held = [i for tile in found for i in tile.held_ids]
    nomenclature = settings.parcels.nomenclature or next(iter(declared), None)
    write_labels(
        DatasetPaths(dataset),
        labels={name: {i: codes[i] for i in held} for name, codes in declared.items()},
        classes=_classes(classes, declared.get(nomenclature or "", {})),
        nomenclature=nomenclature,
    )
    write_names(DatasetPaths(dataset), _names(classes))
    account = complete(read_ledger(cleaned), observed, settings.parcels.min_pixels)
    write_ledger(ledger, account)
    _log_unobserved(account)


def _log_unobserved(rows: pd.DataFrame) -> None:
    """Log how many pixels and parcels were never clear."""
    missing = rows["n_pixels_never_clear"].fillna(0)
    if missing.any():
        logger.warning(
            "%d pixels of %d parcels are clear on no date and left out",
            missing.sum(),
            (missing > 0).sum(),
        )
    for reason in UNOBSERVED:
        ids = rows.loc[rows["reason"] == reason, "parcel_id"].tolist()
        if ids:
            logger.warning("rejected: %d %s, such as %s", len(ids), reason, ", ".join(ids[:5]))


def _labels(parcels: Sequence[Path]) -> dict[str, dict[str, Code | None]]:
    """Read the declared codes of every nomenclature: {nomenclature: {id: code or None}}."""
    table = pd.concat([pd.read_parquet(p) for p in parcels])
    names = [c for c in table.columns if c not in PARCEL_COLUMNS]
    return {name: dict(zip(table["parcel_id"], _plain(table[name]), strict=True)) for name in names}


def _plain(codes: pd.Series) -> list[Code | None]:
    """Return codes as Python's own values, None where there is none."""
    return list(codes.astype(object).where(codes.notna(), None))


def _names(table: Path) -> dict[str, str]:
    """Read the name of every code that is declared, trained on or not: {code: name}."""
    with table.open(newline="") as file:
        return {row["code"]: row["name"] for row in csv.DictReader(file)}


def _classes(table: Path, labels: Mapping[str, Code | None]) -> list[LandClass]:
    """Read the classes that are trained on, in order of the class index."""
    # A CSV does not tell 12 from "12": the labels do.
    codes = {str(code): code for code in labels.values() if code is not None}
    with table.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["class_index"] != ""]
    return [LandClass(codes[row["code"]], row["name"]) for row in rows]
