"""Polygons of parcels: made valid, and compared with each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Proj
from shapely import GeometryType

POLYGONAL = (GeometryType.POLYGON, GeometryType.MULTIPOLYGON)
PUNCTUAL = (GeometryType.POINT, GeometryType.MULTIPOINT)

# Why a geometry cannot be used: a row gets the first reason that applies.
GEOMETRY_REASONS = ("null_geometry", "empty_geometry", "not_a_polygon", "invalid_geometry")

# Parcels whose coordinates, and pairs whose intersections, are in memory at the same time.
BATCH = 20_000


@dataclass(frozen=True)
class Mended:
    """Polygons of parcels after mending.

    Parameters
    ----------
    polygons
        Valid polygons and multipolygons (P,), of shapely, and points if they are accepted; None
        where the geometry cannot be used.
    reasons
        Why it cannot be used, one of GEOMETRY_REASONS, str (P,); "" for usable ones.
    mended
        Whether the polygon differs from the original geometry, bool (P,).
    """

    polygons: NDArray[Any]
    reasons: NDArray[np.object_]
    mended: NDArray[np.bool_]


def mend(geometries: NDArray[Any], *, with_points: bool = False) -> Mended:
    """Make polygons valid, and give a reason for each geometry where that is impossible.

    Geometry collections are reduced to their polygons. A polygon that overlaps itself becomes the
    union of its parts: a bow tie keeps both wings.

    Parameters
    ----------
    geometries
        Geometries of shapely in two dimensions (P,); None where a row has none.
    with_points
        Accept points and multipoints, which are then left unchanged.
    """
    originals = np.asarray(geometries, object)
    reasons = np.full(len(originals), "", object)
    null = shapely.is_missing(originals)
    reasons[null] = "null_geometry"
    reasons[~null & shapely.is_empty(originals)] = "empty_geometry"

    polygons = with_polygons(originals)
    collections = shapely.get_type_id(originals) == GeometryType.GEOMETRYCOLLECTION
    is_point = np.isin(shapely.get_type_id(polygons), PUNCTUAL) & with_points
    polygonal = np.isin(shapely.get_type_id(polygons), POLYGONAL) & ~shapely.is_empty(polygons)
    reasons[(reasons == "") & ~polygonal & ~is_point] = "not_a_polygon"

    usable = reasons == ""
    polygons[~usable | ~is_finite(polygons)] = None
    broken = np.flatnonzero(~shapely.is_missing(polygons) & ~shapely.is_valid(polygons))
    # The method "structure" keeps the area that overlapping parts share; "linework" removes it.
    repaired = shapely.make_valid(polygons[broken], method="structure", keep_collapsed=False)
    polygons[broken] = _polygons_of(repaired)
    has_place = (shapely.area(polygons) > 0) | (is_point & ~shapely.is_missing(polygons))
    reasons[usable & ~has_place] = "invalid_geometry"

    polygons[reasons != ""] = None
    mended = np.zeros(len(originals), bool)
    mended[collections] = mended[broken] = True
    return Mended(polygons, reasons, mended & (reasons == ""))


def with_polygons(geometries: NDArray[Any]) -> NDArray[Any]:
    """Replace geometry collections by the polygons in them, if there are any."""
    polygons = np.array(geometries, object)
    collections = np.flatnonzero(shapely.get_type_id(polygons) == GeometryType.GEOMETRYCOLLECTION)
    found = _polygons_of(polygons[collections])
    some = ~shapely.is_empty(found)
    polygons[collections[some]] = found[some]
    return polygons


def _polygons_of(geometries: NDArray[Any]) -> NDArray[Any]:
    """Extract the polygons of each geometry: a multipolygon, empty if there are none."""
    parts, owners = shapely.get_parts(geometries, return_index=True)
    # Collections can contain multipolygons and further collections.
    while (shapely.get_type_id(parts) > GeometryType.POLYGON).any():
        parts, inner = shapely.get_parts(parts, return_index=True)
        owners = owners[inner]
    chosen = (shapely.get_type_id(parts) == GeometryType.POLYGON) & ~shapely.is_empty(parts)
    polygons = np.full(len(geometries), shapely.MultiPolygon(), object)
    if chosen.any():
        shapely.multipolygons(parts[chosen], indices=owners[chosen], out=polygons)
    return polygons


def is_finite(geometries: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which geometries have finite coordinates only, bool (P,); False for None."""
    finite: NDArray[np.bool_] = ~shapely.is_missing(geometries)
    for start in range(0, len(geometries), BATCH):
        batch = slice(start, start + BATCH)
        coordinates, owners = shapely.get_coordinates(geometries[batch], return_index=True)
        finite[batch][owners[~np.isfinite(coordinates).all(axis=1)]] = False
    return finite


def ground_areas(polygons: NDArray[Any], crs: Any) -> NDArray[np.float64]:
    """Compute the areas of polygons on the ellipsoid, float64 (P,), m2; NaN without a polygon.

    The area in a projection is divided by the areal scale at the centre of the polygon: in UTM, it
    differs from the area on the ground by up to 0.2 %. For parcels, whose scale hardly varies, this
    is exact to a millionth.

    Parameters
    ----------
    polygons
        Polygons of shapely (P,).
    crs
        Their coordinate system, projected, in metres.
    """
    areas = np.full(len(polygons), np.nan)
    some = np.flatnonzero(is_finite(polygons) & ~shapely.is_empty(polygons))
    if not len(some):
        return areas
    projection = Proj(CRS(crs))
    x, y = shapely.get_coordinates(shapely.centroid(polygons[some])).T
    scale = projection.get_factors(*projection(x, y, inverse=True)).areal_scale
    areas[some] = shapely.area(polygons[some]) / scale
    return areas


def find_overlaps(
    polygons: NDArray[Any], ids: NDArray[np.object_], min_area_m2: float
) -> pd.DataFrame:
    """Find the pairs of parcels that overlap.

    Parameters
    ----------
    polygons
        Valid polygons (P,) in metres; None where a row has none.
    ids
        Ids of the parcels (P,).
    min_area_m2
        Smaller overlaps are ignored.

    Returns
    -------
    DataFrame
        One row per pair: parcel_id, other_id (of a later row), and area_m2 of the overlap.
    """
    tree = shapely.STRtree(polygons)
    first, second = tree.query(polygons, predicate="intersects")
    # The tree returns every pair twice, and every parcel with itself.
    once = first < second
    first, second = first[once], second[once]
    area_m2 = np.empty(len(first))
    for start in range(0, len(first), BATCH):
        batch = slice(start, start + BATCH)
        area_m2[batch] = shapely.area(
            shapely.intersection(polygons[first[batch]], polygons[second[batch]])
        )
    pairs = {"parcel_id": ids[first].astype(str), "other_id": ids[second].astype(str)}
    return pd.DataFrame({**pairs, "area_m2": area_m2})[area_m2 >= min_area_m2]


def first_alike(polygons: NDArray[Any]) -> NDArray[np.int64]:
    """Find, for every parcel, the first one with the same outline.

    Outlines are the same if their vertices are, wherever each of them starts.

    Returns
    -------
    Row of that parcel, int64 (P,): the parcel itself if it is the first, -1 for None.
    """
    # Only outlines with equal hashes are compared: all as bytes would take as much as the polygons.
    bytes_of = (outline for part in _normalised(polygons) for outline in part)
    hashes = np.fromiter(map(hash, bytes_of), np.int64, len(polygons))
    first = np.where(shapely.is_missing(polygons), -1, np.arange(len(polygons)))
    alike = np.flatnonzero(pd.Series(hashes).duplicated(keep=False) & (first >= 0))
    outlines = [outline for part in _normalised(polygons[alike]) for outline in part]
    own = pd.Series(alike).groupby(pd.Series(outlines, dtype=object), sort=False)
    first[alike] = own.transform("first")
    return first


def _normalised(polygons: NDArray[Any]) -> Iterator[NDArray[np.object_]]:
    """Yield outlines as bytes that are equal if the vertices are, in batches; None for None."""
    for start in range(0, len(polygons), BATCH):
        yield shapely.to_wkb(shapely.normalize(polygons[start : start + BATCH]))
