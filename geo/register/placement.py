"""Assign every parcel to a tile, and express its polygon in the tile's coordinate system."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError, ProjError
from shapely.errors import ShapelyError

from geo.errors import reading
from geo.grid import Grid, main_crs
from geo.register.points import outline_points
from geo.register.polygons import Mended, is_finite, mend

# Share of a tile's width by which its bounding box is widened before parcels are compared with it:
# the sides of a reprojected tile are curved.
MARGIN = 0.01
# Outlines of parcels that are in memory, where not all are needed at once.
ROWS_AT_A_TIME = 20_000


def read_placed(path: Path) -> gpd.GeoDataFrame:
    """Read the parcels of a tile as the stage clean writes them: row, parcel_id and geometry.

    Raises
    ------
    InputError
        If the file is not such a table.
    """
    with reading(path, "a table of parcels", "Make it again: snakemake -R clean."):
        try:
            return gpd.read_parquet(path, columns=["row", "parcel_id", "geometry"])
        except (ShapelyError, CRSError) as error:
            raise ValueError(str(error)) from error


def read_placed_parts(
    path: Path, n_rows: int = ROWS_AT_A_TIME
) -> Iterator[tuple[NDArray[np.int64], list[str], gpd.GeoSeries]]:
    """Read the parcels of a tile in parts of at most `n_rows`: outlines take a kilobyte each.

    Yields
    ------
    rows, parcel_ids, outlines
        Rows of the register, their ids, and their polygons.

    Raises
    ------
    InputError
        As `read_placed`.
    """
    columns = ["row", "parcel_id", "geometry"]
    with closing(_parts(path, n_rows, columns)) as parts:
        while True:
            # What is done with a part does not belong into the block.
            with reading(path, "a table of parcels", "Make it again: snakemake -R clean."):
                try:
                    batch = next(parts, None)
                    if batch is None:
                        return
                    row, ids, outlines = (batch[name] for name in columns)
                    polygons = shapely.from_wkb(outlines.to_numpy(zero_copy_only=False))
                    geo = json.loads(batch.schema.metadata[b"geo"])
                    found = gpd.GeoSeries(polygons, crs=geo["columns"]["geometry"]["crs"])
                except (ShapelyError, CRSError, pa.ArrowException) as error:
                    raise ValueError(str(error)) from error
            yield row.to_numpy(), ids.to_pylist(), found


def placed_bounds(path: Path, crs: str) -> tuple[float, float, float, float] | None:
    """Return left, bottom, right and top of a tile's parcels in a coordinate system.

    They are stated by the file, so no outline is read; None if it does not state them.

    Raises
    ------
    InputError
        As `read_placed`.
    """
    with reading(path, "a table of parcels", "Make it again: snakemake -R clean."):
        try:
            metadata = pq.read_schema(path).metadata or {}
            geo = json.loads(metadata[b"geo"])["columns"]["geometry"]
            if "bbox" not in geo:
                return None
            to_crs = Transformer.from_crs(CRS.from_user_input(geo["crs"]), crs, always_xy=True)
            bounds: tuple[float, float, float, float] = to_crs.transform_bounds(*geo["bbox"])
        except (ProjError, CRSError, KeyError, pa.ArrowException) as error:
            raise ValueError(str(error)) from error
    return bounds


def _parts(path: Path, n_rows: int, columns: list[str]) -> Generator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(n_rows, columns=columns)


@dataclass(frozen=True)
class Placement(Mended):
    """Polygons of parcels after mending, each in the coordinate system of its tile.

    Reprojection can break a polygon: `polygons`, `reasons` and `mended` describe the reprojected
    one; `polygons` is None for a parcel outside all tiles. Points are replaced by polygons on the
    grid of the tile.

    Parameters
    ----------
    tiles
        Tile of every parcel, str (P,); "" for parcels outside all tiles.
    partial
        Whether no tile contains the parcel completely, bool (P,).
    """

    tiles: NDArray[np.object_]
    partial: NDArray[np.bool_]


def place(
    parcels: Mended,
    crs: Any,
    grids: Mapping[str, Grid],
    *,
    buffer_m: float,
    slack_pixels: float,
    point_buffer_m: float | None = None,
) -> Placement:
    """Assign each parcel to the first tile that contains it, else to that with the largest overlap.

    If two overlaps are equal within the precision of reprojection, the earlier tile is chosen. A
    parcel is reprojected only to the tiles near it.

    Parameters
    ----------
    parcels
        Mended polygons, and points if `point_buffer_m` is set (P,).
    crs
        Their coordinate system.
    grids
        Grid of every tile; earlier tiles are preferred.
    buffer_m
        Metres by which a parcel is widened before its pixels are selected: the widened parcel must
        fit into the tile.
    slack_pixels
        Share of a pixel by which a parcel may exceed a tile that still contains it completely.
    point_buffer_m
        Radius of the disc that replaces a point; 0: the pixel under it (see `outline_points`).
    """
    n = len(parcels.polygons)
    placed = Placement(
        polygons=np.full(n, None, object),
        reasons=parcels.reasons.copy(),
        mended=parcels.mended.copy(),
        tiles=np.full(n, "", object),
        partial=np.zeros(n, bool),
    )
    # Share of the parcel inside its tile, infinite if the tile contains it; -1 without a tile.
    best_rank = np.full(n, -1.0)
    for tile, grid in grids.items():
        is_near = _is_near(parcels.polygons, crs, grid, point_buffer_m or 0)
        near = np.flatnonzero((best_rank < np.inf) & is_near)
        original = Mended(parcels.polygons[near], parcels.reasons[near], parcels.mended[near])
        moved = reproject(original, crs, grid)
        outlines = moved.polygons
        if point_buffer_m is not None:
            outlines = outline_points(outlines, grid, point_buffer_m)
        broken = (moved.reasons != "") & (placed.tiles[near] == "")
        placed.reasons[near[broken]] = moved.reasons[broken]

        beyond = reaches_beyond(buffered(outlines, buffer_m), grid, slack_pixels)
        share = share_inside(outlines, grid)
        # Reprojection is exact to about six digits.
        rank = np.where(beyond, np.round(share, 6), np.inf)
        better = np.flatnonzero((share > 0) & (rank > best_rank[near]))
        rows = near[better]
        placed.polygons[rows] = outlines[better]
        placed.reasons[rows] = moved.reasons[better]
        placed.mended[rows] = moved.mended[better]
        placed.tiles[rows] = tile
        placed.partial[rows] = beyond[better]
        best_rank[rows] = rank[better]
    return placed


def reproject(parcels: Mended, crs: Any, grid: Grid) -> Mended:
    """Reproject polygons to the coordinate system of a grid, and mend those that this breaks.

    Where the projection is undefined, far from the grid, coordinates become infinite.
    """
    moved = gpd.GeoSeries(parcels.polygons, crs=crs).to_crs(grid.crs).to_numpy()
    broken = np.flatnonzero(is_finite(moved) & ~shapely.is_valid(moved) & (parcels.reasons == ""))
    again = mend(moved[broken])
    reasons, mended = parcels.reasons.copy(), parcels.mended.copy()
    moved[broken], reasons[broken], mended[broken] = again.polygons, again.reasons, again.mended
    return Mended(moved, reasons, mended)


def in_one_system(
    placed: Placement, usable: NDArray[np.bool_], grids: Mapping[str, Grid]
) -> NDArray[Any]:
    """Reproject the usable polygons to the coordinate system of most of them (P,).

    Polygons of different tiles can then be compared. Polygons that are not usable become None.
    """
    counts = {tile: int((placed.tiles[usable] == tile).sum()) for tile in grids}
    crs = main_crs((grid.crs, counts[tile]) for tile, grid in grids.items())
    polygons = placed.polygons.copy()
    polygons[~usable] = None
    for tile, grid in grids.items():
        if not grid.has_crs(crs):
            here = placed.tiles == tile
            polygons[here] = gpd.GeoSeries(polygons[here], crs=grid.crs).to_crs(crs).to_numpy()
    return polygons


def buffered(polygons: NDArray[Any], buffer_m: float) -> NDArray[Any]:
    """Widen polygons by a distance in metres, or narrow them if it is negative.

    A polygon narrower than twice the distance becomes empty.
    """
    if buffer_m == 0:
        return polygons.copy()
    result: NDArray[Any] = shapely.buffer(polygons, buffer_m)
    return result


def share_inside(polygons: NDArray[Any], grid: Grid) -> NDArray[np.float64]:
    """Compute the share of every polygon's area inside a grid, float64 (P,).

    It is 0 for None, for empty polygons and for infinite coordinates.
    """
    share = np.zeros(len(polygons))
    some = np.flatnonzero(is_finite(polygons) & ~shapely.is_empty(polygons))
    inside = shapely.area(shapely.clip_by_rect(polygons[some], *grid.bounds))
    share[some] = inside / shapely.area(polygons[some])
    return share


def reaches_beyond(polygons: NDArray[Any], grid: Grid, pixels: float) -> NDArray[np.bool_]:
    """Return which polygons exceed a grid by more than a share of a pixel.

    bool (P,); False for None and for empty polygons.
    """
    x_min, y_min, x_max, y_max = grid.bounds
    slack_x, slack_y = pixels * grid.pixel_width, pixels * grid.pixel_height
    boxes = shapely.bounds(polygons)
    beyond: NDArray[np.bool_] = (boxes[:, 0] < x_min - slack_x) | (boxes[:, 2] > x_max + slack_x)
    beyond |= (boxes[:, 1] < y_min - slack_y) | (boxes[:, 3] > y_max + slack_y)
    return beyond


def _is_near(polygons: NDArray[Any], crs: Any, grid: Grid, distance_m: float) -> NDArray[np.bool_]:
    """Return which polygons may overlap a grid, or be within a distance of it.

    These are the polygons that overlap the widened bounding box of the grid in `crs`.

    bool (P,); False for None. If the grid's bounding box is undefined in `crs`, all others are.
    """
    exists: NDArray[np.bool_] = ~shapely.is_missing(polygons)
    to_register = Transformer.from_crs(grid.crs, crs, always_xy=True)
    corners = np.array(grid.bounds) + np.array([-1, -1, 1, 1]) * distance_m
    left, bottom, right, top = to_register.transform_bounds(*corners.tolist())
    # In degrees, the left of a box across the antimeridian is greater than its right.
    if not np.isfinite([left, bottom, right, top]).all() or left > right:
        return exists
    x_margin, y_margin = MARGIN * (right - left), MARGIN * (top - bottom)
    boxes = shapely.bounds(polygons)
    near: NDArray[np.bool_] = (boxes[:, 2] >= left - x_margin) & (boxes[:, 0] <= right + x_margin)
    near &= (boxes[:, 3] >= bottom - y_margin) & (boxes[:, 1] <= top + y_margin)
    return exists & near


def lon_lat_bounds(
    bounds: tuple[float, float, float, float], crs: Any
) -> tuple[float, float, float, float]:
    """Convert a bounding box (x_min, y_min, x_max, y_max) to degrees: west, south, east, north.

    Rounded to four decimals, about 10 m.
    """
    to_degrees = Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    west, south, east, north = (round(v, 4) for v in to_degrees.transform_bounds(*bounds))
    return west, south, east, north
