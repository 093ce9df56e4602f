"""The further tables of the GeoPackage: tiles and acquisitions of the run, and what made it.

GDAL is imported only in functions, because predictions without outlines need no GDAL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from geo.register.geopackage_contents import ACQUISITIONS, TILES, Field, Style, Table
from pipeline.predictions.styles import style_of_extents, style_of_table
from pipeline.workflow.acquisition_table import AcquisitionRow, read_acquisitions

if TYPE_CHECKING:
    from geo.grid import Grid

# As objects, dates would be written as text.
DATE = pd.ArrowDtype(pa.date32())

TILE_FIELDS = {
    "tile": Field("Tile", "Name of the tile."),
    "crs": Field("Coordinate system", "Coordinate system of its pixels."),
    "pixel_m": Field("Pixel (m)", "Width of a pixel, in units of this system."),
    "n_parcels": Field("Parcels", "Number of rows of the register that are read from it."),
    "n_acquisitions": Field("Acquisitions", "Number of acquisitions that are used."),
    "n_dates": Field("Dates", "Number of their dates."),
    "first_date": Field("First date", "Date of the first acquisition that is used."),
    "last_date": Field("Last date", "Date of the last acquisition that is used."),
}
ACQUISITION_FIELDS = {
    "acquisition": Field("Acquisition", "Id of the acquisition."),
    "tile": Field("Tile", "Tile on which it is."),
    "date": Field("Date", "Day on which the satellite passed."),
    "product": Field("Product", "Name of its folder or file."),
    "format": Field("Format", "Format of the product."),
    "baseline": Field("Baseline", "Processing baseline that the product states."),
    "platform": Field("Platform", "Satellite."),
    "offset": Field("Offset", "Offset that is added to digital numbers, as the product states it."),
    "cloud_fraction": Field("Cloud fraction", "Share of clouds, 0 to 1; empty if unknown."),
    "used": Field("Used", "Whether the acquisition is used."),
    "reason": Field("Reason", "Why it is not used; merged: it completes another one of its day."),
    "masks": Field("Cloud masks", "Cloud masks of the product that are used."),
}


def further_tables(
    grids: Path, acquisitions: Path, tiles: pd.Series[str], *, simulated: bool
) -> list[Table]:
    """Make the layer of the tiles and the table of the acquisitions of a run.

    Parameters
    ----------
    grids
        Grid of every tile, JSON.
    acquisitions
        All acquisitions of the run, JSON.
    tiles
        Tile of every usable row of the register.
    simulated
        Whether the imagery is simulated.

    Raises
    ------
    InputError
        If a file is not as the stage index writes it.
    """
    from geo.grid import read_grids

    rows = read_acquisitions(acquisitions)
    note = "SIMULATED imagery. " if simulated else ""
    return [
        Table(
            TILES,
            f"{note}Extent of every tile, and how often it was observed.",
            _tiles(read_grids(grids), rows, tiles.value_counts()),
            TILE_FIELDS,
            [Style("Extent", "Extent of every tile.", style_of_extents(TILE_FIELDS))],
        ),
        Table(
            ACQUISITIONS,
            f"{note}All acquisitions that were found, and why some are not used.",
            _acquisitions(rows),
            ACQUISITION_FIELDS,
            [Style("Titles", "Titles of the columns.", style_of_table(ACQUISITION_FIELDS))],
        ),
    ]


def _tiles(
    grids: Mapping[str, Grid], rows: Sequence[AcquisitionRow], n_parcels: pd.Series[int]
) -> Any:
    """Make a row for every tile, with its extent in degrees."""
    import geopandas
    import shapely

    columns, outlines = [], []
    for tile, grid in grids.items():
        dates = [row.date for row in rows if row.used and row.tile == tile]
        columns.append(
            {
                "tile": tile,
                "crs": grid.crs,
                "pixel_m": grid.pixel_width,
                "n_parcels": int(n_parcels.get(tile, 0)),
                "n_acquisitions": len(dates),
                "n_dates": len(set(dates)),
                "first_date": min(dates, default=None),
                "last_date": max(dates, default=None),
            }
        )
        # Straight edges of a tile are curved in another system: further points follow them.
        side = shapely.segmentize(shapely.box(*grid.bounds), grid.width * grid.pixel_width / 20)
        outlines.append(geopandas.GeoSeries([side], crs=grid.crs).to_crs("OGC:CRS84").iloc[0])
    table = pd.DataFrame(columns).astype(dict.fromkeys(("first_date", "last_date"), DATE))
    return geopandas.GeoDataFrame(table, geometry=outlines, crs="OGC:CRS84")


def _acquisitions(rows: Sequence[AcquisitionRow]) -> pd.DataFrame:
    """Make a row for every acquisition; paths of this machine are reduced to names."""
    table = [row._asdict() | {"product": row.product.name} for row in rows]
    return pd.DataFrame(table, columns=list(ACQUISITION_FIELDS)).astype({"date": DATE})


def describe_run(
    run: str, model: str, n_models: int, dates: Sequence[date], version: str, *, simulated: bool
) -> dict[str, str]:
    """Describe what made the predictions, for the metadata of the GeoPackage.

    Parameters
    ----------
    run, model, n_models
        Name of the run and of the model, and number of models, one for each fold.
    dates
        Dates of the imagery, in order.
    version
        Version of this software, with its commit.
    simulated
        Whether the imagery is simulated.
    """
    return {
        "run": run,
        "model": f"{model}, {n_models} folds",
        "imagery": "SIMULATED" if simulated else "Sentinel-2",
        "dates": f"{len(dates)}, {dates[0]} to {dates[-1]}",
        "software": version,
    }
