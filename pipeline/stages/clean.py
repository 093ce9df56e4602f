"""Stage clean: mend the polygons of the register, place them on tiles, and check every row.

Pixels and classes are the task of the later stages rasterise and label.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geo.errors import first_five
from geo.grid import Grid, read_grids
from geo.register.columns import row_checksums, storable
from geo.register.geopackage import MOST_COLUMNS, outline_types
from geo.register.placement import Placement, in_one_system
from geo.register.points import is_point
from geo.register.polygons import find_overlaps, first_alike, ground_areas
from pipeline.classes.class_choice import Models
from pipeline.classes.ledger import FROM_REGISTER, say_counts
from pipeline.classes.register import CheckedRegister, check_register
from pipeline.predictions.columns import COLUMNS, free_names
from pipeline.workflow.settings import CleanSettings, LabelSettings, from_json
from pipeline.workflow.writing import replacing, replacing_folder

logger = logging.getLogger(__name__)

# Smaller overlaps are within the precision of outlines and reprojection.
MIN_OVERLAP_M2 = 1.0


def clean(
    register: Path,
    grids: Path,
    rows: Path,
    overlaps: Path,
    parcels: Path,
    settings: CleanSettings,
    labels: str | None = None,
    names: str = "null",
) -> None:
    """Mend the polygons of the register, place them on the tiles, and check every row.

    Each parcel is assigned to the first tile that contains it completely, otherwise to the tile
    with the largest overlap; `parcels.partly_outside` decides whether the latter are rejected.

    Parameters
    ----------
    register
        Parcel register.
    grids
        Grids of the tiles; where tiles overlap, earlier ones are preferred.
    rows
        Written: Parquet, one row per row of the register: the reason if outline or id cannot be
        used, its area, the checksum that identifies the row, and the register's own columns, with
        their types.
    overlaps
        Written: Parquet, the pairs of usable parcels that overlap.
    parcels
        Written: a folder with two files per tile, polygons in the tile's coordinate system:
        <tile>.parquet, the usable parcels, and <tile>.rejected.parquet, the other parcels on the
        tile.
    settings
        parcels: layer, id, encoding, duplicate_ids, partly_outside, min_area_m2, all_touched,
        min_covered_fraction, buffer_m, point_buffer_m.
    labels, names
        JSON, the settings of the stage label and its table of names. They are checked here, before
        any pixel is read, but nothing that is written here depends on them.

    Raises
    ------
    InputError
        If the register cannot be read, lacks a column, or has no usable parcel on the imagery; if
        its codes or classes cannot be used.
    """
    tiles = read_grids(grids)
    for_label = None if labels is None else from_json(labels, LabelSettings)
    declared = {} if for_label is None else for_label.parcels.labels
    checked = check_register(register, tiles, settings.parcels, declared)
    checked.refuse_unusable(tiles)
    if for_label is not None:
        path, for_classes = json.loads(names), replace(checked, rows=checked.rows.copy())
        models = Models.of(for_label.split.folds, for_label.predict.weights)
        for_classes.classes(for_label.parcels, models, None if path is None else Path(path))
    _say_columns(checked.table)
    usable = (checked.rows["reason"] == "").to_numpy()
    polygons = in_one_system(checked.placed, usable, tiles)
    ids = checked.rows["parcel_id"].to_numpy(object)
    with replacing(overlaps) as temporary:
        find_overlaps(polygons, ids, MIN_OVERLAP_M2).to_parquet(temporary, index=False)
    _write_parcels(parcels, checked, usable, tiles)
    with replacing(rows) as temporary:
        _register_rows(checked, polygons, tiles).to_parquet(temporary, index=False)
    rejected = checked.rows.loc[~usable, "reason"]
    logger.info("%d rows: %d rejected", len(usable), len(rejected))
    if len(rejected):
        logger.info("rejected: %s", say_counts(rejected))
    logger.info("%d mended", checked.rows["mended"].sum())
    if checked.n_refused_points:
        logger.warning(
            "%d rejected rows are points: parcels.point_buffer_m accepts them",
            checked.n_refused_points,
        )


def _say_columns(table: gpd.GeoDataFrame) -> None:
    """Say which columns the predictions will have under another name, or not in the GeoPackage."""
    names = free_names(table.columns.drop(table.geometry.name), table.geometry.name)
    if renamed := [f"{name!r} as {new!r}" for name, new in names.items() if name != new]:
        logger.warning(
            "%d columns of the register have other names in the predictions, which have their own "
            "of these names: %s",
            len(renamed),
            first_five(renamed),
        )
    if left_out := [*names][MOST_COLUMNS - len(COLUMNS) :]:
        logger.warning(
            "%d columns of the register are not in predictions/parcels.gpkg, whose format has at "
            "most 2,000, but in parcels.parquet and parcels.csv beside it: %s",
            len(left_out),
            first_five(left_out),
        )


def _register_rows(
    checked: CheckedRegister, polygons: Any, tiles: Mapping[str, Grid]
) -> pd.DataFrame:
    """Make the table of every row of the register."""
    table = checked.table
    own = table.drop(columns=table.geometry.name)
    first = first_alike(polygons)
    rows = checked.rows.assign(
        same_outline=np.where(first >= 0, checked.rows["parcel_id"].to_numpy()[first], ""),
        geometry_type=outline_types(table.geometry),
        area_m2=np.where(
            is_point(table.geometry.to_numpy()), np.nan, _areas(checked.placed, tiles)
        ),
        checksum=row_checksums(table.geometry, checked.ids),
    )
    # All at once: adding thousands of columns one by one copies the table as often.
    named = {f"{FROM_REGISTER}{name}": storable(own[name]) for name in own}
    rows = pd.concat([rows, pd.DataFrame(named, rows.index)], axis=1)
    # Stored in the metadata of the Parquet file.
    rows.attrs["follows_fiboa"] = checked.follows_fiboa
    return rows


def _areas(placed: Placement, tiles: Mapping[str, Grid]) -> NDArray[np.float64]:
    """Compute the areas of the outlines, without buffer, m2; NaN outside the tiles."""
    areas = np.full(len(placed.polygons), np.nan)
    for tile, grid in tiles.items():
        here = placed.tiles == tile
        areas[here] = ground_areas(placed.polygons[here], grid.crs)
    return areas


def _write_parcels(
    folder: Path, checked: CheckedRegister, usable: Any, tiles: Mapping[str, Grid]
) -> None:
    """Write the polygons of every tile: the usable parcels, and the others."""
    with replacing_folder(folder) as temporary:
        for tile, grid in tiles.items():
            here = checked.placed.tiles == tile
            for chosen, ending in ((here & usable, ""), (here & ~usable, ".rejected")):
                gpd.GeoDataFrame(
                    checked.rows.loc[chosen, ["row", "parcel_id"]],
                    geometry=checked.placed.polygons[chosen],
                    crs=grid.crs,
                ).reset_index(drop=True).to_parquet(temporary / f"{tile}{ending}.parquet")
