"""Which tile a parcel belongs to: the first that holds it whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import Transformer

from geo.grid import Grid
from geo.register.polygons import Mended, buffered, is_outside, reaches_beyond, reproject

# Share of a tile's width by which its outline is widened before parcels are compared with it.
MARGIN = 0.01


@dataclass(frozen=True)
class Placement:
    """Where P parcels lie.

    Parameters
    ----------
    tiles
        Tile of every parcel, str (P,); "" where it shares no area with any.
    partial
        Where no tile holds the parcel whole, bool (P,).
    polygons
        Polygons and multipolygons (P,), of shapely, in the coordinate system of the parcel's tile;
        None without one.
    reasons, mended
        Those of `Mended`, after what reprojection broke.
    """

    tiles: NDArray[np.object_]
    partial: NDArray[np.bool_]
    polygons: NDArray[Any]
    reasons: NDArray[np.object_]
    mended: NDArray[np.bool_]


def place(
    given: Mended, crs: Any, grids: Mapping[str, Grid], *, buffer_m: float, slack_pixels: float
) -> Placement:
    """Assign every parcel to the first tile that holds it whole, else to that which holds most.

    Shares that are equal, to what reprojection leaves exact, go to the earlier tile. A parcel is
    reprojected only to the tiles that it lies near.

    Parameters
    ----------
    given
        Mended polygons.
    crs
        Their coordinate system.
    grids
        Grid of every tile; earlier ones are preferred.
    buffer_m
        Metres by which a parcel is widened before its pixels are chosen: these must fit.
    slack_pixels
        Share of a pixel by which a parcel may reach over a tile's edge and still count as whole.
    """
    n = len(given.polygons)
    placed = Placement(
        tiles=np.full(n, "", object),
        partial=np.zeros(n, bool),
        polygons=np.full(n, None, object),
        reasons=given.reasons.copy(),
        mended=given.mended.copy(),
    )
    is_whole = np.zeros(n, bool)
    share = np.full(n, -1.0)
    for tile, grid in grids.items():
        near = np.flatnonzero(~is_whole & _is_near(given.polygons, crs, grid))
        moved = reproject(_take(given, near), crs, grid)
        broken = (moved.reasons != "") & (placed.tiles[near] == "")
        placed.reasons[near[broken]] = moved.reasons[broken]

        beyond = reaches_beyond(buffered(moved.polygons, buffer_m), grid, slack_pixels)
        inside = ~shapely.is_missing(moved.polygons) & ~is_outside(moved.polygons, grid)
        held = np.where(beyond, _share_inside(moved.polygons, grid), np.inf)
        better = np.flatnonzero(inside & (held > share[near]))
        rows = near[better]
        placed.tiles[rows] = tile
        placed.partial[rows] = beyond[better]
        placed.polygons[rows] = moved.polygons[better]
        placed.reasons[rows] = moved.reasons[better]
        placed.mended[rows] = moved.mended[better]
        share[rows] = held[better]
        is_whole[rows] = ~beyond[better]
    return placed


def in_one_system(placed: Placement, grids: Mapping[str, Grid], crs: str) -> NDArray[Any]:
    """Give the polygons of all tiles in one coordinate system, to compare them (P,)."""
    polygons = placed.polygons.copy()
    for tile, grid in grids.items():
        if not grid.has_crs(crs):
            here = placed.tiles == tile
            polygons[here] = gpd.GeoSeries(polygons[here], crs=grid.crs).to_crs(crs).to_numpy()
    return polygons


def _take(given: Mended, rows: NDArray[np.int64]) -> Mended:
    """Select some of the parcels."""
    return Mended(given.polygons[rows], given.reasons[rows], given.mended[rows])


def _is_near(polygons: NDArray[Any], crs: Any, grid: Grid) -> NDArray[np.bool_]:
    """Tell which polygons may touch a grid, by the outline of the grid in their own system.

    bool (P,), False for None; all the others where the outline cannot be expressed there.
    """
    there: NDArray[np.bool_] = ~shapely.is_missing(polygons)
    to_register = Transformer.from_crs(grid.crs, crs, always_xy=True)
    left, bottom, right, top = to_register.transform_bounds(*grid.bounds)
    # Beyond the antimeridian, the left of an outline in degrees is greater than its right.
    if not np.isfinite([left, bottom, right, top]).all() or left > right:
        return there
    x_margin, y_margin = MARGIN * (right - left), MARGIN * (top - bottom)
    boxes = shapely.bounds(polygons)
    near: NDArray[np.bool_] = (boxes[:, 2] >= left - x_margin) & (boxes[:, 0] <= right + x_margin)
    near &= (boxes[:, 3] >= bottom - y_margin) & (boxes[:, 1] <= top + y_margin)
    return there & near


def _share_inside(polygons: NDArray[Any], grid: Grid) -> NDArray[np.float64]:
    """Give the share of every polygon's area that lies on a grid, float64 (P,).

    Rounded to what reprojection leaves exact.
    """
    inside = shapely.area(shapely.clip_by_rect(polygons, *grid.bounds))
    share: NDArray[np.float64] = np.round(inside / shapely.area(polygons), 6)
    return share
