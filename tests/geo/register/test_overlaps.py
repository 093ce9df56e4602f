"""Overlaps and doubled outlines against every pair, one at a time."""

import itertools

import numpy as np
import pytest
import shapely
from shapely import MultiPolygon, Polygon, box

from geo.register.polygons import find_overlaps, first_alike


def per_parcel(found, n):
    shared = np.zeros(n)
    for first, second, area in zip(found.first, found.second, found.area_m2, strict=True):
        shared[[first, second]] += area
    return shared


def test_by_eye():
    polygons = np.array([box(0, 0, 10, 10), box(10, 0, 20, 10), None, box(8, 8, 12, 12)], object)
    found = find_overlaps(polygons, 1.0)
    assert list(zip(found.first.tolist(), found.second.tolist(), strict=True)) == [(0, 3), (1, 3)]
    assert found.area_m2.tolist() == [4, 4]
    assert per_parcel(found, 4).tolist() == [4, 4, 0, 8]
    assert per_parcel(find_overlaps(polygons, 4.5), 4).tolist() == [0, 0, 0, 0]
    assert per_parcel(find_overlaps(np.array([], object), 1.0), 0).tolist() == []


@pytest.mark.parametrize("seed", range(3))
def test_as_every_pair(seed):
    rng = np.random.default_rng(seed)
    polygons = shapely.buffer(shapely.points(rng.uniform(0, 100, (30, 2))), rng.uniform(1, 25, 30))
    expected = np.zeros(30)
    for a, b in itertools.combinations(range(30), 2):
        area = polygons[a].intersection(polygons[b]).area
        expected[[a, b]] += area if area >= 1 else 0
    assert expected.any()
    np.testing.assert_allclose(per_parcel(find_overlaps(polygons, 1.0), 30), expected)


def test_first_alike():
    square = box(0, 0, 2, 2)
    turned = Polygon([(2, 2), (0, 2), (0, 0), (2, 0)][::-1])
    parts = MultiPolygon([square, box(5, 5, 6, 6)])
    swapped = MultiPolygon([box(5, 5, 6, 6), turned])
    polygons = np.array([square, None, parts, turned, box(0, 0, 2, 3), swapped, square], object)
    assert first_alike(polygons).tolist() == [0, -1, 2, 0, 4, 2, 0]
    assert first_alike(np.array([], object)).tolist() == []
