"""Polygons on grids: reprojected, inside, outside, and beyond the edges."""

import geopandas as gpd
import numpy as np
import pytest
import shapely
from shapely import Polygon, box

from geo.grid import Grid
from geo.register.placement import lon_lat_bounds, reaches_beyond, reproject, share_inside
from geo.register.polygons import mend

GRID = Grid("EPSG:32631", 500000.0, 4000040.0, 10.0, 10.0, 4, 4)


def test_polygons_are_reprojected_or_infinite():
    # Two points of the grid in degrees and back; the antipode cannot be expressed in UTM 31.
    inside = gpd.GeoSeries([box(500000, 4000000, 500020, 4000020)], crs=GRID.crs)
    degrees = inside.to_crs("OGC:CRS84").iloc[0]
    far = box(-176, -40, -175, -39)
    found = reproject(mend(np.array([degrees, None, far], object)), "OGC:CRS84", GRID)
    assert found.reasons.tolist() == ["", "null_geometry", ""]
    assert shapely.equals_exact(found.polygons[0], inside.iloc[0], tolerance=1e-5)
    assert found.polygons[1] is None
    np.testing.assert_allclose(share_inside(found.polygons, GRID), [1, 0, 0])


def test_inside_and_beyond_a_grid():
    x, y = GRID.x_min, GRID.y_max - 40  # the lower left corner of 40 m x 40 m
    around = box(x - 9, y - 9, x + 49, y + 49) - box(x - 2, y - 2, x + 42, y + 42)
    bordering = box(x - 9, y - 9, x + 49, y + 49) - box(x, y, x + 40, y + 40)
    cases = [
        # polygon, share inside, reaches beyond by more than 0, half a pixel
        (box(x, y, x + 40, y + 40), 1, False, False),
        (box(x - 4, y, x + 5, y + 5), 5 / 9, True, False),
        (box(x - 6, y, x + 5, y + 5), 5 / 11, True, True),
        (box(x + 35, y + 35, x + 36, y + 46), 5 / 11, True, True),
        (box(x - 10, y, x, y + 10), 0, True, True),
        (box(x + 100, y, x + 110, y + 10), 0, True, True),
        (around, 0, True, True),
        (bordering, 0, True, True),
        (box(x, y, x + 5, float("inf")), 0, True, True),
        (None, 0, False, False),
        (Polygon(), 0, False, False),
    ]
    polygons = np.array([c[0] for c in cases], object)
    np.testing.assert_allclose(share_inside(polygons, GRID), [c[1] for c in cases])
    assert reaches_beyond(polygons, GRID, 0.0).tolist() == [c[2] for c in cases]
    assert reaches_beyond(polygons, GRID, 0.5).tolist() == [c[3] for c in cases]


def test_bounds_in_degrees():
    # The central meridian of UTM zone 31 is 3 degrees east.
    west, south, east, north = lon_lat_bounds((500000, 0, 500000, 1000), "EPSG:32631")
    assert (west, east) == pytest.approx((3, 3))
    assert (south, north) == pytest.approx((0, 1000 / 110_580), rel=1e-2)
