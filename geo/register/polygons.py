"""Check and mend the geometries of parcels, and place them on a grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from pyproj import Transformer
from shapely import GeometryType

from geo.grid import Grid

POLYGONAL = (GeometryType.POLYGON, GeometryType.MULTIPOLYGON)

# What can be wrong with a geometry: a row has the first of these that applies.
GEOMETRY_REASONS = ("null_geometry", "empty_geometry", "not_a_polygon", "invalid_geometry")


@dataclass(frozen=True)
class Mended:
    """Polygons of parcels after mending.

    Parameters
    ----------
    polygons
        Valid polygons and multipolygons (P,), of shapely; None where there is no usable one.
    reasons
        Why there is none, one of GEOMETRY_REASONS, str (P,); "" where there is one.
    mended
        Where the polygon differs from the geometry that was given, bool (P,).
    """

    polygons: NDArray[Any]
    reasons: NDArray[np.object_]
    mended: NDArray[np.bool_]


def mend(geometries: NDArray[Any]) -> Mended:
    """Make polygons valid, and say which geometries are beyond that.

    Geometry collections keep their polygons. What overlaps itself becomes the union of its parts,
    a bow tie both of its wings.

    Parameters
    ----------
    geometries
        Geometries of shapely in two dimensions (P,), None where there is none.
    """
    given = np.asarray(geometries, object)
    reasons = np.full(len(given), "", object)
    null = shapely.is_missing(given)
    reasons[null] = "null_geometry"
    reasons[~null & shapely.is_empty(given)] = "empty_geometry"

    polygons = with_polygons(given)
    collections = shapely.get_type_id(given) == GeometryType.GEOMETRYCOLLECTION
    polygonal = np.isin(shapely.get_type_id(polygons), POLYGONAL) & ~shapely.is_empty(polygons)
    reasons[(reasons == "") & ~polygonal] = "not_a_polygon"

    usable = reasons == ""
    polygons[~usable | ~_is_finite(polygons)] = None
    broken = np.flatnonzero(~shapely.is_missing(polygons) & ~shapely.is_valid(polygons))
    # The method "structure" keeps what overlapping parts share, which "linework" cuts out.
    repaired = shapely.make_valid(polygons[broken], method="structure", keep_collapsed=False)
    polygons[broken] = _polygons_of(repaired)
    # The area of None is NaN.
    reasons[usable & ~(shapely.area(polygons) > 0)] = "invalid_geometry"

    polygons[reasons != ""] = None
    mended = np.zeros(len(given), bool)
    mended[collections] = mended[broken] = True
    return Mended(polygons, reasons, mended & (reasons == ""))


def with_polygons(geometries: NDArray[Any]) -> NDArray[Any]:
    """Replace geometry collections that have polygons by these."""
    polygons = np.array(geometries, object)
    collections = np.flatnonzero(shapely.get_type_id(polygons) == GeometryType.GEOMETRYCOLLECTION)
    found = _polygons_of(polygons[collections])
    some = ~shapely.is_empty(found)
    polygons[collections[some]] = found[some]
    return polygons


def reproject(mended: Mended, crs: Any, grid: Grid) -> Mended:
    """Bring mended polygons into the coordinate system of a grid, and mend what that breaks.

    A polygon that cannot be expressed there, being too far off, has infinite coordinates; it lies
    outside of the grid.
    """
    moved = gpd.GeoSeries(mended.polygons, crs=crs).to_crs(grid.crs).to_numpy()
    broken = np.flatnonzero(_is_finite(moved) & ~shapely.is_valid(moved) & (mended.reasons == ""))
    again = mend(moved[broken])
    moved[broken] = again.polygons
    reasons, flags = mended.reasons.copy(), mended.mended.copy()
    reasons[broken] = again.reasons
    flags[broken] = again.mended
    return Mended(moved, reasons, flags)


def buffered(polygons: NDArray[Any], buffer_m: float) -> NDArray[Any]:
    """Widen polygons by a distance in metres, or narrow them if it is negative.

    A polygon that is narrowed away is empty.
    """
    if buffer_m == 0:
        return polygons.copy()
    wider: NDArray[Any] = shapely.buffer(polygons, buffer_m)
    return wider


def is_outside(polygons: NDArray[Any], grid: Grid) -> NDArray[np.bool_]:
    """Tell which polygons share no area with a grid; bool (P,), False for None."""
    extent = shapely.box(*grid.bounds)
    finite = _is_finite(polygons)
    outside: NDArray[np.bool_] = ~shapely.is_missing(polygons) & ~finite
    boxes = shapely.bounds(polygons)
    x_min, y_min, x_max, y_max = grid.bounds
    apart = (boxes[:, 2] <= x_min) | (boxes[:, 0] >= x_max)
    apart |= (boxes[:, 3] <= y_min) | (boxes[:, 1] >= y_max)
    outside |= finite & apart
    # The box of a parcel may reach into the grid where the parcel does not.
    crossing = np.flatnonzero(finite & ~apart & reaches_beyond(polygons, grid, 0.0))
    shapely.prepare(extent)
    shared = shapely.intersects(extent, polygons[crossing])
    shared &= ~shapely.touches(extent, polygons[crossing])
    outside[crossing] = ~shared
    return outside


def reaches_beyond(polygons: NDArray[Any], grid: Grid, pixels: float) -> NDArray[np.bool_]:
    """Tell which polygons reach beyond a grid by more than a share of a pixel.

    bool (P,), False for None and for empty polygons.
    """
    x_min, y_min, x_max, y_max = grid.bounds
    slack_x, slack_y = pixels * grid.pixel_width, pixels * grid.pixel_height
    boxes = shapely.bounds(polygons)
    beyond: NDArray[np.bool_] = (boxes[:, 0] < x_min - slack_x) | (boxes[:, 2] > x_max + slack_x)
    beyond |= (boxes[:, 1] < y_min - slack_y) | (boxes[:, 3] > y_max + slack_y)
    return beyond


def lon_lat_bounds(
    bounds: tuple[float, float, float, float], crs: Any
) -> tuple[float, float, float, float]:
    """Express a bounding box (x_min, y_min, x_max, y_max) in degrees: west, south, east, north.

    It is rounded to four decimals, about 10 m.
    """
    to_degrees = Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    west, south, east, north = (round(v, 4) for v in to_degrees.transform_bounds(*bounds))
    return west, south, east, north


def _polygons_of(geometries: NDArray[Any]) -> NDArray[Any]:
    """Keep the polygons of geometries: a multipolygon each, empty where there is no polygon."""
    parts, owners = shapely.get_parts(geometries, return_index=True)
    # A collection may hold multipolygons and collections.
    while (shapely.get_type_id(parts) > GeometryType.POLYGON).any():
        parts, inner = shapely.get_parts(parts, return_index=True)
        owners = owners[inner]
    kept = (shapely.get_type_id(parts) == GeometryType.POLYGON) & ~shapely.is_empty(parts)
    polygons = np.full(len(geometries), shapely.MultiPolygon(), object)
    if kept.any():
        shapely.multipolygons(parts[kept], indices=owners[kept], out=polygons)
    return polygons


def _is_finite(geometries: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell which geometries have only finite coordinates; bool (P,), False for None."""
    coordinates, owners = shapely.get_coordinates(geometries, return_index=True)
    finite: NDArray[np.bool_] = ~shapely.is_missing(geometries)
    finite[owners[~np.isfinite(coordinates).all(axis=1)]] = False
    return finite


# Pairs whose intersections are held at once.
CHUNK = 100_000


@dataclass(frozen=True)
class Overlaps:
    """Area that parcels share.

    Attributes
    ----------
    first, second
        Positions of the two parcels of every pair that shares area, int64 (pairs,), first < second.
    area_m2
        Area that a pair shares, float64 (pairs,).
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    area_m2: NDArray[np.float64]


def find_overlaps(polygons: NDArray[Any], least_m2: float) -> Overlaps:
    """Find the pairs of parcels that share an area.

    Parameters
    ----------
    polygons
        Valid polygons (P,) in metres; None where there is none.
    least_m2
        Smaller overlaps are left out: outlines are drawn no more exactly.
    """
    tree = shapely.STRtree(polygons)
    first, second = tree.query(polygons, predicate="intersects")
    once = first < second
    first, second = first[once], second[once]
    areas = np.empty(len(first))
    for start in range(0, len(first), CHUNK):
        part = slice(start, start + CHUNK)
        areas[part] = shapely.area(
            shapely.intersection(polygons[first[part]], polygons[second[part]])
        )
    shared = areas >= least_m2
    return Overlaps(first[shared], second[shared], areas[shared])


def first_alike(polygons: NDArray[Any]) -> NDArray[np.int64]:
    """Find the first parcel with the very same outline, wherever either starts.

    Returns
    -------
    Position of that parcel, int64 (P,): its own for the first, -1 for None.
    """
    outlines = shapely.to_wkb(shapely.normalize(polygons))
    codes, _ = pd.factorize(pd.Series(outlines, dtype=object))
    present = np.flatnonzero(codes >= 0)
    _, firsts, inverse = np.unique(codes[present], return_index=True, return_inverse=True)
    alike = np.full(len(polygons), -1, np.int64)
    alike[present] = present[firsts][inverse]
    return alike
