"""Stage clean: check and mend the parcels, and account for every one of them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from geo.grid import Grid
from geo.overlaps import find_overlaps, first_alike
from geo.parcels import (
    buffered,
    is_outside,
    lon_lat_bounds,
    mend,
    reaches_beyond,
    reproject,
)
from geo.pixel_index import index_pixels
from geo.register import RegisterError
from pipeline.column_text import as_text
from pipeline.grids import read_grid
from pipeline.ledger import set_aside, status_of, write_ledger
from pipeline.nomenclature import CropClass, write_classes
from pipeline.parcel_classes import classify
from pipeline.register_columns import PARCEL_COLUMNS, numbered, read_named
from pipeline.settings import Parcels, Settings
from pipeline.writing import replacing

logger = logging.getLogger(__name__)

# A row is rejected for the first that applies of: null_geometry, empty_geometry, not_a_polygon,
# invalid_geometry, missing_id, duplicate_id (of usable polygons that share an id the first keeps
# it), outside_imagery, partly_outside, too_small, too_few_pixels.

# Outlines are drawn and reprojected less exactly than that.
LEAST_OVERLAP_M2 = 1.0


def clean(
    register: Path, grids: Path, ledger: Path, parcels: Path, classes: Path, settings: Settings
) -> None:
    """Check and mend the parcels, and account for every one of them.

    Parameters
    ----------
    register
        Parcel register.
    grids
        Grid of the tile.
    ledger
        Written: one row per row of the register, with its status and the reason for it.
    parcels
        Written: parcels to use or predict, mended, in the coordinate system of the imagery.
    classes
        Written: classes of the nomenclature in order of the class index.
    settings
        parcels; split.folds; predict.weights: with weights nothing is trained, so classes need
        no parcels.

    Raises
    ------
    RegisterError
        If the register cannot be read, lacks a column, or has no parcel on the imagery.
    NomenclatureError
        If the classes cannot be trained on.
    """
    options = settings.parcels
    tile, grid = read_grid(grids)
    table = read_named(register, options)
    rows, polygons = _check_geometries(table, options, grid)
    _place(rows, polygons, grid, tile, options)
    _refuse_no_overlap(rows, table, register, grid)
    _refuse_none_left(rows, register)
    folds = settings.split.folds if settings.predict.weights is None else None
    labels, chosen = classify(rows, table, options, folds)
    rows["status"] = status_of(rows["reason"])
    _compare(rows, polygons)
    write_ledger(ledger, rows)
    with replacing(parcels) as temporary:
        _accepted(rows, labels, polygons, grid).to_parquet(temporary)
    write_classes(classes, chosen)
    _log(rows, chosen)


def _check_geometries(
    table: gpd.GeoDataFrame, options: Parcels, grid: Grid
) -> tuple[pd.DataFrame, NDArray[Any]]:
    """Mend the polygons, bring them to the grid's coordinate system, and check the ids.

    Returns
    -------
    rows
        One row per row of the register: row, parcel_id, reason, mended.
    polygons
        Usable polygons, None where there is none.
    """
    mended = reproject(mend(table.geometry.to_numpy()), table.crs, grid)
    rows = pd.DataFrame({"row": np.arange(len(table)), "parcel_id": as_text(table[options.id])})
    rows["reason"], rows["mended"] = mended.reasons, mended.mended
    if options.duplicate_ids == "number":
        rows["parcel_id"] = numbered(rows["parcel_id"], (rows["reason"] == "").to_numpy())
    set_aside(rows, rows["parcel_id"] == "", "missing_id")
    set_aside(rows, rows["parcel_id"].where(rows["reason"] == "").duplicated(), "duplicate_id")
    return rows, mended.polygons


def _place(
    rows: pd.DataFrame, polygons: NDArray[Any], grid: Grid, tile: str, options: Parcels
) -> None:
    """Count the pixels of every parcel on the grid, and reject those outside or too small."""
    usable = ~shapely.is_missing(polygons)
    outside = is_outside(polygons, grid)
    wanted = buffered(polygons, options.buffer_m)
    wanted[outside] = None
    # Where pixels are chosen by their centre, a parcel that reaches less than half a pixel over
    # the edge misses none, and likewise for the fraction that it must cover; drawing and
    # reprojecting are no more exact than a thousandth of one.
    slack = 0.001 if options.all_touched else options.min_covered_fraction or 0.5
    beyond = reaches_beyond(wanted, grid, pixels=max(slack, 0.001))
    index = index_pixels(
        wanted,
        rows["parcel_id"].tolist(),
        grid,
        tile,
        all_touched=options.all_touched,
        min_covered_fraction=options.min_covered_fraction,
    )
    rows["tile"] = np.where(usable & ~outside, tile, "")
    rows["n_pixels"] = pd.Series(index.sizes).astype("Int64").where(usable)
    set_aside(rows, outside, "outside_imagery")
    if options.partly_outside == "reject":
        set_aside(rows, beyond, "partly_outside")
    set_aside(rows, shapely.area(polygons) < options.min_area_m2, "too_small")
    set_aside(rows, index.sizes < options.min_pixels, "too_few_pixels")


def _compare(rows: pd.DataFrame, polygons: NDArray[Any]) -> None:
    """Say which accepted parcels overlap, and which are drawn twice; all of them stay accepted."""
    accepted = (rows["status"] != "rejected").to_numpy()
    ours = polygons.copy()
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


def _accepted(
    rows: pd.DataFrame, labels: pd.DataFrame, polygons: NDArray[Any], grid: Grid
) -> gpd.GeoDataFrame:
    """Join the parcels that are used or predicted with their declared codes and polygons."""
    accepted = rows["status"] != "rejected"
    return gpd.GeoDataFrame(
        rows.loc[accepted, list(PARCEL_COLUMNS[:-1])].join(labels),
        geometry=polygons[accepted],
        crs=grid.crs,
    ).reset_index(drop=True)


def _refuse_no_overlap(
    rows: pd.DataFrame, table: gpd.GeoDataFrame, register: Path, grid: Grid
) -> None:
    """Raise if there are polygons and none of them shares area with the grid."""
    usable = rows["n_pixels"].notna()
    if (rows["tile"] != "").any() or not usable.any():
        return
    parcels = lon_lat_bounds(tuple(table.geometry[usable].total_bounds), table.crs)
    imagery = lon_lat_bounds(grid.bounds, grid.crs)
    raise RegisterError(
        f"No parcel of {register} lies on the imagery. In degrees (west, south, east, north) the "
        f"parcels reach over {parcels} and the imagery over {imagery}. Check "
        "parcels.path, imagery.path and the coordinate system that the register names."
    )


def _refuse_none_left(rows: pd.DataFrame, register: Path) -> None:
    """Raise if every parcel was rejected."""
    if (rows["reason"] == "").any():
        return
    raise RegisterError(
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
