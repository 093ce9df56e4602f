"""Stage clean: check and mend the parcels, and account for every one of them.

Parcels that turn out to be observed too little are rejected by assemble.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from geo.errors import InputError
from geo.grid import Grid
from geo.pixels.rasterising import index_pixels
from geo.register.mending import buffered, lon_lat_bounds, mend
from geo.register.overlaps import find_overlaps, first_alike
from geo.register.placement import Placement, in_one_system, place
from pipeline.acquisitions.tiles import main_crs, read_grids
from pipeline.classes.ids_as_text import as_text
from pipeline.classes.ledger import set_aside, status_of, write_ledger
from pipeline.classes.nomenclature import CropClass, write_classes
from pipeline.classes.parcel_classes import classify
from pipeline.classes.register_columns import (
    PARCEL_COLUMNS,
    numbered,
    read_named,
    row_checksums,
    with_defaults,
)
from pipeline.workflow.sections import Parcels
from pipeline.workflow.settings import CleanSettings
from pipeline.workflow.writing import replacing_folder

logger = logging.getLogger(__name__)

# A row is rejected for the first that applies of: null_geometry, empty_geometry, not_a_polygon,
# invalid_geometry, missing_id, duplicate_id (of usable polygons that share an id the first keeps
# it), outside_imagery, partly_outside, too_small, too_few_pixels.

# Outlines are drawn and reprojected less exactly than that.
LEAST_OVERLAP_M2 = 1.0


def clean(
    register: Path, grids: Path, ledger: Path, parcels: Path, classes: Path, settings: CleanSettings
) -> None:
    """Check and mend the parcels, and account for every one of them.

    A parcel belongs to one tile: the first that holds it whole, or else that which holds most of
    it; `parcels.partly_outside` says what becomes of the latter.

    Parameters
    ----------
    register
        Parcel register.
    grids
        Grids of the tiles, in the order in which overlapping ones are preferred.
    ledger
        Written: one row per row of the register, with its status and the reason for it, as far as
        they are known before any pixel is read: assemble completes it.
    parcels
        Written: a folder with <tile>.parquet for every tile, the parcels to use or predict that it
        holds, mended, in the coordinate system of its imagery.
    classes
        Written: classes of the nomenclature in order of the class index.
    settings
        parcels; split.folds; predict.weights: with weights nothing is trained, so classes need
        no parcels.

    Raises
    ------
    InputError
        If the register cannot be read, lacks a column, or has no parcel on the imagery.
    InputError
        If the classes cannot be trained on.
    """
    tiles = read_grids(grids)
    located = locate(register, tiles, settings.parcels)
    rows, placed = located.rows, located.placed
    labels, chosen = account(located, register, tiles, settings)
    _compare(rows, placed, tiles)
    rows["checksum"] = _checksums(located.table, with_defaults(register, settings.parcels))
    write_ledger(ledger, rows)
    _write_accepted(parcels, rows, labels, placed, tiles)
    write_classes(classes, chosen)
    _log(rows, chosen)


@dataclass(frozen=True)
class Located:
    """The register on the imagery.

    Attributes
    ----------
    table
        The register.
    rows
        Rows of the ledger, as far as geometry, ids and place tell.
    placed
        Where the parcels lie.
    """

    table: gpd.GeoDataFrame
    rows: pd.DataFrame
    placed: Placement


def locate(register: Path, tiles: Mapping[str, Grid], options: Parcels) -> Located:
    """Read the register, mend its polygons, and place them on the imagery; see `clean`."""
    options = with_defaults(register, options)
    table = read_named(register, options)
    placed = place(
        mend(table.geometry.to_numpy()),
        table.crs,
        tiles,
        buffer_m=options.buffer_m,
        slack_pixels=_slack_pixels(options),
    )
    rows = _check(table, options, placed)
    _count_pixels(rows, placed, tiles, options)
    return Located(table, rows, placed)


def account(
    located: Located, register: Path, tiles: Mapping[str, Grid], settings: CleanSettings
) -> tuple[pd.DataFrame, list[CropClass]]:
    """Choose the classes, and complete the rows; refuse a register without usable parcels.

    Returns
    -------
    labels
        Class codes of the parcels, a column a nomenclature.
    chosen
        Classes of the nomenclature to train on.
    """
    table, rows = located.table, located.rows
    _refuse_no_overlap(rows, table, register, tiles)
    _refuse_none_left(rows, register)
    folds = settings.split.folds if settings.predict.weights is None else None
    options = with_defaults(register, settings.parcels)
    labels, chosen = classify(rows, table, options, folds)
    rows["status"] = status_of(rows["reason"])
    return labels, chosen


def _slack_pixels(options: Parcels) -> float:
    """Give the share of a pixel by which a parcel may reach over the edge and miss no pixel.

    Where pixels are chosen by their centre it is half of one, and likewise for the fraction that a
    parcel must cover; drawing and reprojecting are no more exact than a thousandth.
    """
    slack = 0.0 if options.all_touched else options.min_covered_fraction or 0.5
    return max(slack, 0.001)


def _check(table: gpd.GeoDataFrame, options: Parcels, placed: Placement) -> pd.DataFrame:
    """Say what is wrong with geometries and ids: row, parcel_id, reason, mended, tile."""
    rows = pd.DataFrame({"row": np.arange(len(table)), "parcel_id": as_text(table[options.id])})
    rows["reason"], rows["mended"], rows["tile"] = placed.reasons, placed.mended, placed.tiles
    if options.duplicate_ids == "number":
        rows["parcel_id"] = numbered(rows["parcel_id"], (rows["reason"] == "").to_numpy())
    set_aside(rows, rows["parcel_id"] == "", "missing_id")
    set_aside(rows, rows["parcel_id"].where(rows["reason"] == "").duplicated(), "duplicate_id")
    return rows


def _count_pixels(
    rows: pd.DataFrame, placed: Placement, tiles: Mapping[str, Grid], options: Parcels
) -> None:
    """Count the pixels of every parcel on its tile, and reject those outside or too small."""
    sizes = np.zeros(len(rows), np.int64)
    for tile, grid in tiles.items():
        here = np.flatnonzero(placed.tiles == tile)
        index = index_pixels(
            buffered(placed.polygons[here], options.buffer_m),
            rows["parcel_id"].iloc[here].tolist(),
            grid,
            tile,
            all_touched=options.all_touched,
            min_covered_fraction=options.min_covered_fraction,
        )
        sizes[here] = index.sizes
    rows["n_pixels"] = pd.Series(sizes).astype("Int64").where(placed.reasons == "")
    set_aside(rows, placed.tiles == "", "outside_imagery")
    if options.partly_outside == "reject":
        set_aside(rows, placed.partial, "partly_outside")
    set_aside(rows, shapely.area(placed.polygons) < options.min_area_m2, "too_small")
    set_aside(rows, sizes < options.min_pixels, "too_few_pixels")


def _compare(rows: pd.DataFrame, placed: Placement, tiles: Mapping[str, Grid]) -> None:
    """Say which accepted parcels overlap, and which are drawn twice; all of them stay accepted."""
    accepted = (rows["status"] != "rejected").to_numpy()
    own = placed.tiles[accepted]
    crs = main_crs((grid.crs, int((own == tile).sum())) for tile, grid in tiles.items())
    ours = in_one_system(placed, tiles, crs)
    ours[~accepted] = None
    overlaps = find_overlaps(ours, LEAST_OVERLAP_M2)
    rows["overlap_m2"] = np.where(accepted, overlaps.per_parcel(len(rows)).round(), np.nan)
    rows["overlap_m2"] = rows["overlap_m2"].astype("Int64")
    first = first_alike(ours)
    again = (first >= 0) & (first != np.arange(len(rows)))
    rows["same_as"] = np.where(again, rows["parcel_id"].to_numpy()[first], "")
    if len(overlaps.area_m2):
        logger.warning(
            "%d parcels overlap others, by %.2f ha in %d pairs; each keeps the pixels they share",
            (rows["overlap_m2"] > 0).sum(),
            overlaps.area_m2.sum() / 10_000,
            len(overlaps.area_m2),
        )
    if again.any():
        logger.warning("%d parcels have the very outline of an earlier one", again.sum())


def _checksums(table: gpd.GeoDataFrame, options: Parcels) -> list[str]:
    """Compute by what every row of the register is known again."""
    return [f"{checksum:016x}" for checksum in row_checksums(table.geometry, table, options)]


def _write_accepted(
    folder: Path,
    rows: pd.DataFrame,
    labels: pd.DataFrame,
    placed: Placement,
    tiles: Mapping[str, Grid],
) -> None:
    """Write the parcels that are used or predicted, with their declared codes: a file a tile."""
    with replacing_folder(folder) as temporary:
        for tile, grid in tiles.items():
            here = (rows["status"] != "rejected") & (rows["tile"] == tile)
            gpd.GeoDataFrame(
                rows.loc[here, list(PARCEL_COLUMNS[:-1])].join(labels),
                geometry=placed.polygons[here],
                crs=grid.crs,
            ).reset_index(drop=True).to_parquet(temporary / f"{tile}.parquet")


def _refuse_no_overlap(
    rows: pd.DataFrame, table: gpd.GeoDataFrame, register: Path, tiles: Mapping[str, Grid]
) -> None:
    """Raise if there are polygons and none of them shares area with a tile."""
    usable = rows["n_pixels"].notna()
    if (rows["tile"] != "").any() or not usable.any():
        return
    parcels = lon_lat_bounds(tuple(table.geometry[usable].total_bounds), table.crs)
    outlines = np.array([lon_lat_bounds(grid.bounds, grid.crs) for grid in tiles.values()])
    imagery = (*outlines[:, :2].min(axis=0).tolist(), *outlines[:, 2:].max(axis=0).tolist())
    raise InputError(
        f"No parcel of {register} lies on the imagery. In degrees (west, south, east, north) the "
        f"parcels reach over {parcels} and the imagery over {imagery}. Check "
        "parcels.path, imagery.path and the coordinate system that the register names."
    )


def _refuse_none_left(rows: pd.DataFrame, register: Path) -> None:
    """Raise if every parcel was rejected."""
    if (rows["reason"] == "").any():
        return
    raise InputError(
        f"None of the {len(rows)} parcels of {register} can be used: {_counts(rows['reason'])}. "
        "Check parcels.id, parcels.buffer_m, parcels.min_area_m2, parcels.min_pixels and "
        "parcels.partly_outside."
    )


def _counts(values: pd.Series[Any]) -> str:
    """Count values, the most frequent first."""
    return ", ".join(f"{n} {value}" for value, n in values.value_counts().items())


def _log(rows: pd.DataFrame, chosen: list[CropClass]) -> None:
    """Log how many parcels and classes are used, and why the others are not."""
    logger.info("%d rows: %s", len(rows), _counts(rows["status"]))
    for status in ("rejected", "predict_only"):
        reasons = rows.loc[rows["status"] == status, "reason"]
        if len(reasons):
            logger.info("%s: %s", status, _counts(reasons))
    logger.info("%d mended", rows["mended"].sum())
    if chosen:
        n_used = sum(c.class_index is not None for c in chosen)
        logger.info("%d classes: %d used, %d not", len(chosen), n_used, len(chosen) - n_used)
