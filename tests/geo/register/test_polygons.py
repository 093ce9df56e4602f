"""Polygons: mended by hand-made cases, overlaps and repeated outlines against every pair."""

import itertools

import numpy as np
import pytest
import shapely
from pyproj import Geod, Transformer
from shapely import GeometryCollection, LineString, MultiPolygon, Point, Polygon, box

from geo.register.polygons import find_overlaps, first_alike, ground_areas, mend


def test_mending_keeps_the_area_or_gives_a_reason():
    bow_tie = Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])
    spike = Polygon([(0, 0), (2, 0), (2, 2), (2, 5), (2, 2), (0, 2)])
    nested = GeometryCollection(
        [
            Point(9, 9),
            box(0, 0, 1, 1),
            GeometryCollection([MultiPolygon([box(0.5, 0, 2, 1)]), LineString([(0, 0), (5, 5)])]),
        ]
    )
    cases = [
        # geometry, reason, mended, area
        (box(0, 0, 1, 2), "", False, 2),
        (box(0, 0, 3, 3).difference(box(1, 1, 2, 2)), "", False, 8),
        (MultiPolygon([box(0, 0, 1, 1), box(2, 0, 3, 1)]), "", False, 2),
        (bow_tie, "", True, 2),
        (spike, "", True, 4),
        # Parts that overlap: the union, 4 + 4 - 1.
        (MultiPolygon([box(0, 0, 2, 2), box(1, 1, 3, 3)]), "", True, 7),
        (GeometryCollection([box(0, 0, 1, 1), Point(5, 5)]), "", True, 1),
        (nested, "", True, 2),
        (None, "null_geometry", False, None),
        (Polygon(), "empty_geometry", False, None),
        (GeometryCollection(), "empty_geometry", False, None),
        (Point(0, 0), "not_a_polygon", False, None),
        (LineString([(0, 0), (1, 0), (1, 1), (0, 0)]), "not_a_polygon", False, None),
        (GeometryCollection([Point(0, 0)]), "not_a_polygon", False, None),
        (Polygon([(0, 0), (1, 1), (2, 2)]), "invalid_geometry", False, None),
        (Polygon([(0, 0), (0, 0), (0, 0)]), "invalid_geometry", False, None),
        (box(0, 0, 1, float("inf")), "invalid_geometry", False, None),
        (GeometryCollection([Polygon([(0, 0), (1, 1), (2, 2)])]), "invalid_geometry", False, None),
    ]
    geometries, reasons, flags, areas = map(list, zip(*cases, strict=True))
    found = mend(np.array(geometries, object))
    assert found.reasons.tolist() == reasons
    assert found.mended.tolist() == flags
    assert [None if p is None else p.area for p in found.polygons] == areas
    assert all(p is None or p.is_valid for p in found.polygons)
    assert len(mend(np.array([], object)).polygons) == 0


@pytest.mark.parametrize(
    ("crs", "x", "y"),
    [
        ("EPSG:32631", 500_000, 5_000_000),  # scale 0.9996
        ("EPSG:32631", 800_000, 5_000_000),  # at the edge of the zone
        ("EPSG:32731", 250_000, 9_000_000),
        ("EPSG:3035", 4_000_000, 3_000_000),  # of equal area
    ],
)
def test_areas_are_those_on_the_ellipsoid(crs, x, y):
    holed = box(x, y, x + 300, y + 200) - box(x + 50, y + 50, x + 90, y + 90)
    polygons = [holed, MultiPolygon([box(x, y, x + 80, y + 80), box(x + 90, y, x + 99, y + 9)])]
    to_degrees = Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    geod = Geod(ellps="GRS80" if crs == "EPSG:3035" else "WGS84")
    # Points on the sides, because straight lines of a projection are not geodesics.
    dense = shapely.segmentize(polygons, 5)
    lon_lat = shapely.transform(dense, to_degrees.transform, interleaved=False)
    expected = [abs(geod.geometry_area_perimeter(polygon)[0]) for polygon in lon_lat]
    found = ground_areas(np.array([Polygon(), *polygons, None], object), crs)
    np.testing.assert_allclose(found[1:3], expected, rtol=2e-6)
    assert np.isnan(found[[0, 3]]).all()
    assert ground_areas(np.array([], object), crs).shape == (0,)


def test_valid_polygons_are_left_unchanged():
    polygons = shapely.buffer(shapely.points(np.arange(5.0), 0.0), 2)
    found = mend(polygons)
    assert shapely.equals_exact(found.polygons, polygons).all()
    assert not found.mended.any()


def area_per_parcel(overlaps, n):
    shared = np.zeros(n)
    for first, second, area in overlaps.itertuples(index=False):
        shared[[int(first), int(second)]] += area
    return shared


def test_overlaps_by_eye():
    polygons = np.array([box(0, 0, 10, 10), box(10, 0, 20, 10), None, box(8, 8, 12, 12)], object)
    ids = np.array(list("abcd"), object)
    found = find_overlaps(polygons, ids, 1.0)
    assert found.to_numpy().tolist() == [["a", "d", 4], ["b", "d", 4]]
    assert found.columns.tolist() == ["parcel_id", "other_id", "area_m2"]
    assert find_overlaps(polygons, ids, 4.5).empty
    assert find_overlaps(polygons[:0], ids[:0], 1.0).empty


@pytest.mark.parametrize("seed", range(3))
def test_overlaps_equal_the_intersections_of_every_pair(seed, monkeypatch):
    monkeypatch.setattr("geo.register.polygons.BATCH", 7)
    rng = np.random.default_rng(seed)
    polygons = shapely.buffer(shapely.points(rng.uniform(0, 100, (30, 2))), rng.uniform(1, 25, 30))
    expected = np.zeros(30)
    for a, b in itertools.combinations(range(30), 2):
        area = polygons[a].intersection(polygons[b]).area
        expected[[a, b]] += area if area >= 1 else 0
    assert expected.any()
    np.testing.assert_allclose(
        area_per_parcel(find_overlaps(polygons, np.arange(30), 1.0), 30), expected
    )


def test_outlines_are_the_same_wherever_they_start():
    square = box(0, 0, 2, 2)
    turned = Polygon([(2, 2), (0, 2), (0, 0), (2, 0)][::-1])
    parts = MultiPolygon([square, box(5, 5, 6, 6)])
    swapped = MultiPolygon([box(5, 5, 6, 6), turned])
    polygons = np.array([square, None, parts, turned, box(0, 0, 2, 3), swapped, square], object)
    assert first_alike(polygons).tolist() == [0, -1, 2, 0, 4, 2, 0]
    assert first_alike(np.array([], object)).tolist() == []
