"""Stage clean: check and mend the parcels, and account for every one of them."""

from __future__ import annotations

import difflib
import logging
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from geo.grid import Grid
from geo.parcels import (
    buffered,
    is_outside,
    lon_lat_bounds,
    mend,
    reaches_beyond,
    reproject,
)
from geo.pixel_index import index_pixels
from geo.register import RegisterError, read_feature_ids, read_register
from pipeline.column_text import as_text
from pipeline.grids import read_grid
from pipeline.ledger import class_reasons, status_of, write_ledger
from pipeline.nomenclature import CropClass, choose_classes, read_codes, read_names, write_classes
from pipeline.settings import Parcels, Settings
from pipeline.writing import replacing

logger = logging.getLogger(__name__)

# Columns of the accepted parcels, beside one per nomenclature.
PARCEL_COLUMNS = ("row", "parcel_id", "status", "geometry")

# A row is rejected for the first that applies of: null_geometry, empty_geometry, not_a_polygon,
# invalid_geometry, missing_id, duplicate_id (of usable polygons that share an id the first keeps
# it), outside_imagery, partly_outside, too_few_pixels.


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
        parcels and split.folds.

    Raises
    ------
    RegisterError
        If the register cannot be read, lacks a column, or has no parcel on the imagery.
    NomenclatureError
        If the classes cannot be trained on.
    """
    options = settings.parcels
    tile, grid = read_grid(grids)
    table = _read(register, options)
    rows, polygons = _check_geometries(table, options.id, grid)
    _place(rows, polygons, grid, tile, options)
    _refuse_no_overlap(rows, table, register, grid)
    _refuse_none_left(rows, register)
    labels = pd.DataFrame({name: read_codes(table[c]) for name, c in options.labels.items()})
    chosen = _choose(rows, labels, options, settings.split.folds)
    rows["status"] = status_of(rows["reason"])
    write_ledger(ledger, rows)
    with replacing(parcels) as temporary:
        _accepted(rows, labels, polygons, grid).to_parquet(temporary)
    write_classes(classes, chosen)
    _log(rows, chosen)


def _read(register: Path, options: Parcels) -> gpd.GeoDataFrame:
    """Read the register; refuse one without rows or without a column that the settings name."""
    table = read_register(register, options.layer)
    if table.empty:
        raise RegisterError(f"{register} has no rows. Check parcels.path and parcels.layer.")
    known = [str(c) for c in table.columns if c != table.geometry.name]
    if options.id not in known:
        feature_ids = read_feature_ids(register, options.layer)
        if feature_ids is not None:
            known.append(str(feature_ids.name))
            table[feature_ids.name] = feature_ids
    wanted = {"parcels.id": options.id}
    wanted |= {f"parcels.labels.{name}": column for name, column in options.labels.items()}
    for key, column in wanted.items():
        if column not in known:
            lower = {name.lower(): name for name in known}
            near = difflib.get_close_matches(column.lower(), lower, n=1)
            hint = f" Did you mean {lower[near[0]]!r}?" if near else ""
            raise RegisterError(
                f"{key} is {column!r}, which is not a column of {register}.{hint} "
                f"Its columns are: {', '.join(known)}."
            )
    taken = sorted(set(options.labels) & set(PARCEL_COLUMNS))
    if taken:
        raise RegisterError(
            f"parcels.labels has a nomenclature called {', '.join(taken)}, which is the name of "
            "another column of the accepted parcels. Give it another name."
        )
    return table


def _check_geometries(
    table: gpd.GeoDataFrame, id_column: str, grid: Grid
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
    rows = pd.DataFrame({"row": np.arange(len(table)), "parcel_id": as_text(table[id_column])})
    rows["reason"], rows["mended"] = mended.reasons, mended.mended
    _set_aside(rows, rows["parcel_id"] == "", "missing_id")
    _set_aside(rows, rows["parcel_id"].where(rows["reason"] == "").duplicated(), "duplicate_id")
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
    # the edge misses none; drawing and reprojecting are no more exact than a thousandth of one.
    beyond = reaches_beyond(wanted, grid, pixels=0.001 if options.all_touched else 0.5)
    index = index_pixels(
        wanted,
        rows["parcel_id"].tolist(),
        grid,
        tile,
        all_touched=options.all_touched,
    )
    rows["tile"] = np.where(usable & ~outside, tile, "")
    rows["n_pixels"] = pd.Series(index.sizes).astype("Int64").where(usable)
    _set_aside(rows, outside, "outside_imagery")
    if options.partly_outside == "reject":
        _set_aside(rows, beyond, "partly_outside")
    _set_aside(rows, index.sizes < options.min_pixels, "too_few_pixels")


def _choose(
    rows: pd.DataFrame, labels: pd.DataFrame, options: Parcels, folds: int
) -> list[CropClass]:
    """Choose the classes, and set parcels of other classes and of none aside for prediction."""
    trained = options.trained_nomenclature
    if trained is None:
        rows["code"] = ""
        _set_aside(rows, np.ones(len(rows)), "no_label")
        return []
    rows["code"] = labels[trained]
    accepted = rows["code"].where(rows["reason"] == "")
    names = read_names(options.names) if options.names else {}
    chosen = choose_classes(accepted, options.classes, names, folds)
    rows["reason"] = rows["reason"].where(rows["reason"] != "", class_reasons(rows["code"], chosen))
    return chosen


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


def _set_aside(rows: pd.DataFrame, where: Any, reason: str) -> None:
    """Give a reason to the rows that have none yet."""
    rows.loc[(rows["reason"] == "") & np.asarray(where, bool), "reason"] = reason


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
        "Check parcels.id, parcels.buffer_m, parcels.min_pixels and parcels.partly_outside."
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
