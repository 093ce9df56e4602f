"""The register on the imagery: read once, mended, placed on tiles, every row checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from geo.errors import InputError
from geo.grid import Grid
from geo.register.columns import RegisterColumns, as_text, numbered
from geo.register.fiboa import fiboa_columns
from geo.register.mending import lon_lat_bounds, mend
from geo.register.placement import Placement, place
from geo.register.reading import read_named
from pipeline.classes.class_mapping import nomenclatures
from pipeline.classes.ledger import say_counts, set_aside
from pipeline.classes.reasons import WITHOUT_POLYGON, Reason
from pipeline.workflow.sections import RegisterColumns as ColumnSettings
from pipeline.workflow.sections import RegisterFile, RegisterParcels, named_columns


@dataclass(frozen=True)
class CheckedRegister:
    """A register with what is wrong with each of its rows.

    Attributes
    ----------
    path
        Its file.
    follows_fiboa
        Whether it says so.
    table, ids
        The register, and its column of ids as it is.
    rows
        row, parcel_id, reason, mended, tile: one a row of the register.
    placed
        Where the parcels lie.
    """

    path: Path
    follows_fiboa: bool
    table: gpd.GeoDataFrame
    ids: pd.Series[Any]
    rows: pd.DataFrame
    placed: Placement

    def refuse_unusable(self, tiles: Mapping[str, Grid]) -> None:
        """Refuse a register of which no parcel lies on the imagery, or none can be used."""
        rows = self.rows
        with_polygon = ~rows["reason"].isin(WITHOUT_POLYGON).to_numpy()
        if with_polygon.any() and not (rows["tile"] != "").any():
            raise _lies_elsewhere(self.path, self.table[with_polygon], tiles)
        refuse_none_left(rows, str(self.path))


def check_register(
    path: Path, tiles: Mapping[str, Grid], options: RegisterParcels, codes: Mapping[str, str]
) -> CheckedRegister:
    """Read a register, mend its polygons, place them on the imagery, and check every row.

    A row has the first reason that applies. Of usable polygons that share an id the first keeps
    it, or with `duplicate_ids` number, the later ones get numbers.

    Parameters
    ----------
    path
        The register.
    tiles
        Grid of every tile; earlier ones are preferred.
    options
        layer, id, duplicate_ids, partly_outside, min_area_m2; all_touched,
        min_covered_fraction and buffer_m say how far a parcel may reach over the edge of a tile.
    codes
        {setting: column}: columns of declared codes, which the register must have.

    Raises
    ------
    InputError
        If the register cannot be read, has no rows, or lacks a column.
    """
    fiboa = fiboa_columns(path)
    columns = RegisterColumns(_id_column(options, fiboa), codes)
    table, ids = read_named(path, options.layer, columns)
    placed = place(
        mend(table.geometry.to_numpy()),
        table.crs,
        tiles,
        buffer_m=options.buffer_m,
        slack_pixels=_slack_pixels(options),
    )
    rows = pd.DataFrame({"row": np.arange(len(table)), "parcel_id": as_text(ids)})
    rows["reason"], rows["mended"], rows["tile"] = placed.reasons, placed.mended, placed.tiles
    if options.duplicate_ids == "number":
        rows["parcel_id"] = numbered(rows["parcel_id"], (rows["reason"] == "").to_numpy())
    set_aside(rows, rows["parcel_id"] == "", Reason.MISSING_ID)
    twice = rows["parcel_id"].where(rows["reason"] == "").duplicated()
    set_aside(rows, twice, Reason.DUPLICATE_ID)
    set_aside(rows, placed.tiles == "", Reason.OUTSIDE_IMAGERY)
    if options.partly_outside == "reject":
        set_aside(rows, placed.partial, Reason.PARTLY_OUTSIDE)
    set_aside(rows, shapely.area(placed.polygons) < options.min_area_m2, Reason.TOO_SMALL)
    return CheckedRegister(path, fiboa is not None, table, ids, rows, placed)


def columns_of(register: Path, options: ColumnSettings) -> RegisterColumns:
    """Say which columns of a register hold ids and declared codes.

    Parameters
    ----------
    register
        One that follows fiboa says by itself which columns hold ids and crops.
    options
        id and labels: they come first.
    """
    found = fiboa_columns(register)
    codes = named_columns(nomenclatures(options, found or ()))
    return RegisterColumns(_id_column(options, found), codes)


def _id_column(options: RegisterFile, fiboa: list[str] | None) -> str:
    """Return the column of the ids."""
    return options.id or ("ID_PARCEL" if fiboa is None else "id")


def refuse_none_left(rows: pd.DataFrame, register: str) -> None:
    """Refuse a register of which every parcel was rejected."""
    if (rows["reason"] == "").any():
        return
    raise InputError(
        f"None of the {len(rows)} parcels of {register} can be used: "
        f"{say_counts(rows['reason'])}. Check parcels.id, parcels.buffer_m, parcels.min_area_m2, "
        "parcels.min_pixels and parcels.partly_outside."
    )


def _slack_pixels(options: RegisterParcels) -> float:
    """Return the share of a pixel by which a parcel may reach over the edge and miss no pixel.

    Where pixels are chosen by their centre it is half of one, and likewise for the fraction that a
    parcel must cover; drawing and reprojecting are no more exact than a thousandth.
    """
    slack = 0.0 if options.all_touched else options.min_covered_fraction or 0.5
    return max(slack, 0.001)


def _lies_elsewhere(
    register: Path, parcels: gpd.GeoDataFrame, tiles: Mapping[str, Grid]
) -> InputError:
    """Say where the parcels lie, and where the imagery does."""
    bounds = lon_lat_bounds(tuple(parcels.total_bounds), parcels.crs)
    outlines: NDArray[np.float64] = np.array(
        [lon_lat_bounds(grid.bounds, grid.crs) for grid in tiles.values()]
    )
    imagery = (*outlines[:, :2].min(axis=0).tolist(), *outlines[:, 2:].max(axis=0).tolist())
    return InputError(
        f"No parcel of {register} lies on the imagery. In degrees (west, south, east, north) the "
        f"parcels reach over {bounds} and the imagery over {imagery}. Check "
        "parcels.path, imagery.path and the coordinate system that the register names."
    )
