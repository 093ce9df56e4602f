"""Stage clean: the polygons of the register are mended and placed, and every row is checked.

Nothing is rasterised here, and nothing is known of classes: rasterise and label come after it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd

from geo.grid import Grid, main_crs, read_grids
from geo.register.columns import as_text, row_checksums
from geo.register.geopackage import outline_types
from geo.register.placement import in_one_system
from geo.register.polygons import find_overlaps, first_alike
from pipeline.classes.class_mapping import classify, nomenclatures
from pipeline.classes.crop_class import with_names
from pipeline.classes.ledger import FROM_REGISTER, say_counts
from pipeline.classes.register import CheckedRegister, check_register
from pipeline.workflow.sections import named_columns
from pipeline.workflow.settings import CleanSettings, LabelSettings, from_json
from pipeline.workflow.writing import replacing, replacing_folder

logger = logging.getLogger(__name__)

# Outlines are drawn and reprojected less exactly than that.
LEAST_OVERLAP_M2 = 1.0


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
    with the largest overlap; `parcels.partly_outside` says what becomes of the latter.

    Parameters
    ----------
    register
        Parcel register.
    grids
        Grids of the tiles, in the order in which overlapping ones are preferred.
    rows
        Written: Parquet, one row per row of the register: what is wrong with its outline or its
        id, by what it is known again, and its own columns, with their types.
    overlaps
        Written: Parquet, the pairs of usable parcels that share area.
    parcels
        Written: a folder with two files for every tile, polygons in the coordinate system of its
        imagery: <tile>.parquet, the parcels that can be used, and <tile>.rejected.parquet, others
        that lie on it.
    settings
        parcels: layer, id, duplicate_ids, partly_outside, min_area_m2, all_touched,
        min_covered_fraction, buffer_m.
    labels, names
        JSON, the settings of the stage label and its table of names. Only what label would refuse
        depends on them: columns, codes and classes are checked before any pixel is read.

    Raises
    ------
    InputError
        If the register cannot be read, lacks a column, or has no usable parcel on the imagery; if
        its codes and classes cannot be used.
    """
    tiles = read_grids(grids)
    later = None if labels is None else from_json(labels, LabelSettings)
    codes = {} if later is None else named_columns(later.parcels.labels)
    checked = check_register(register, tiles, settings.parcels, codes)
    checked.refuse_unusable(tiles)
    if later is not None:
        _check_classes(checked, later, json.loads(names))
    usable = (checked.rows["reason"] == "").to_numpy()
    polygons = _in_one_system(checked, usable, tiles)
    with replacing(overlaps) as temporary:
        _pairs(checked.rows["parcel_id"].to_numpy(), polygons).to_parquet(temporary, index=False)
    _write_parcels(parcels, checked, usable, tiles)
    with replacing(rows) as temporary:
        _register_rows(checked, polygons).to_parquet(temporary, index=False)
    _log(checked.rows)


def _check_classes(checked: CheckedRegister, later: LabelSettings, names: str | None) -> None:
    """Check what label will be asked to do, with all parcels that may turn out to have pixels."""
    known = list(map(str, checked.table)) if checked.follows_fiboa else []
    labels = nomenclatures(later.parcels, known)
    folds = later.split.folds if later.predict.weights is None else None
    _, classes = classify(checked.rows.copy(), checked.table, labels, later.parcels, folds)
    with_names(classes, None if names is None else Path(names))


def _in_one_system(checked: CheckedRegister, usable: Any, tiles: Mapping[str, Grid]) -> Any:
    """Express the usable polygons in the coordinate system of most of them, others as None."""
    own = checked.placed.tiles[usable]
    crs = main_crs((grid.crs, int((own == tile).sum())) for tile, grid in tiles.items())
    polygons = in_one_system(checked.placed, tiles, crs)
    polygons[~usable] = None
    return polygons


def _pairs(ids: Any, polygons: Any) -> pd.DataFrame:
    """List the pairs of parcels that share area."""
    found = find_overlaps(polygons, LEAST_OVERLAP_M2)
    return pd.DataFrame(
        {
            "parcel_id": ids[found.first].astype(str),
            "other_id": ids[found.second].astype(str),
            "area_m2": found.area_m2,
        }
    )


def _register_rows(checked: CheckedRegister, polygons: Any) -> pd.DataFrame:
    """Make the table of every row of the register."""
    table = checked.table
    own = table.drop(columns=table.geometry.name)
    first = first_alike(polygons)
    rows = checked.rows.assign(
        same_outline=np.where(first >= 0, checked.rows["parcel_id"].to_numpy()[first], ""),
        geometry_type=outline_types(table.geometry),
        checksum=row_checksums(table.geometry, checked.ids),
        **{f"{FROM_REGISTER}{name}": _storable(own[name]) for name in own},
    )
    # Parquet keeps it beside the table.
    rows.attrs["follows_fiboa"] = checked.follows_fiboa
    return rows


def _storable(column: pd.Series[Any]) -> pd.Series[Any]:
    """Keep the type of a column; one of several types, which Parquet has not, becomes text."""
    kinds = set(map(type, column.dropna())) if column.dtype == object else set()
    if len(kinds) < 2:
        return column
    return pd.Series(as_text(column), index=column.index).where(column.notna())


def _write_parcels(
    folder: Path, checked: CheckedRegister, usable: Any, tiles: Mapping[str, Grid]
) -> None:
    """Write the polygons of every tile: those of usable parcels, and the others."""
    with replacing_folder(folder) as temporary:
        for tile, grid in tiles.items():
            here = checked.placed.tiles == tile
            for chosen, ending in ((here & usable, ""), (here & ~usable, ".rejected")):
                gpd.GeoDataFrame(
                    checked.rows.loc[chosen, ["row", "parcel_id"]],
                    geometry=checked.placed.polygons[chosen],
                    crs=grid.crs,
                ).reset_index(drop=True).to_parquet(temporary / f"{tile}{ending}.parquet")


def _log(rows: pd.DataFrame) -> None:
    """Log how many parcels can be used, and why the others cannot."""
    rejected = rows.loc[rows["reason"] != "", "reason"]
    logger.info("%d rows: %d rejected", len(rows), len(rejected))
    if len(rejected):
        logger.info("rejected: %s", say_counts(rejected))
    logger.info("%d mended", rows["mended"].sum())
