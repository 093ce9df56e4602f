"""Points as samples: pixels and discs against rasterio, and distances of pixel centres."""

from itertools import pairwise

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.io import MemoryFile
from shapely import GeometryCollection, LineString, MultiPoint, Point, Polygon, box

from geo.grid import Grid
from geo.pixels.pixel_index import index_pixels
from geo.register.placement import place
from geo.register.points import is_point, outline_points
from geo.register.polygons import mend

GRID = Grid("EPSG:32631", 500000.0, 4000200.0, 10.0, 10.0, 20, 30)
# Clips of Sentinel-2 can have pixels that are neither square nor 10 m.
ODD = Grid("EPSG:32633", 465181.05, 5080254.63, 9.995, 9.997, 20, 30)


def pixels_of(geometries, grid, **choice):
    index = index_pixels(geometries, list(map(str, range(len(geometries)))), grid, "t", **choice)
    places = list(zip(index.rows.tolist(), index.cols.tolist(), strict=True))
    return [places[a:b] for a, b in pairwise(index.offsets.tolist())]


def random_points(grid, n=300, seed=1):
    """Return points on the grid, half of them of a 10 m grid on the borders of pixels."""
    xy = np.random.default_rng(seed).uniform(
        [grid.x_min, grid.bounds[1] + 1e-6], [grid.bounds[2] - 1e-6, grid.y_max], (n, 2)
    )
    if grid is GRID:
        xy[: n // 2] = np.clip(np.round(xy[: n // 2], -1), *np.reshape(grid.bounds, (2, 2)))
        xy[: n // 2] = np.clip(xy[: n // 2], (500000, 4000005), (500295, 4000200))
    return xy


@pytest.mark.parametrize("choice", [{}, {"min_covered_fraction": 1.0}, {"strip_pixels": 40}])
@pytest.mark.parametrize("grid", [GRID, ODD])
def test_the_pixel_under_a_point_is_that_of_rasterio(grid, choice):
    xy = random_points(grid)
    found = pixels_of(outline_points(shapely.points(xy), grid, 0), grid, **choice)
    numbers = np.arange(grid.height * grid.width, dtype="int32").reshape(grid.shape)
    profile = {"count": 1, "dtype": "int32", "height": grid.height, "width": grid.width}
    with MemoryFile() as file:
        with file.open(driver="GTiff", transform=grid.transform, crs=grid.crs, **profile) as image:
            image.write(numbers, 1)
        with file.open() as image:
            assert found == [[image.index(x, y)] for x, y in xy]
            sampled = [int(value) for (value,) in image.sample(xy)]
    assert [numbers[place] for (place,) in found] == sampled


@pytest.mark.parametrize("radius", [7.5, 10.0, 23.0])
@pytest.mark.parametrize("grid", [GRID, ODD])
def test_a_disc_contains_the_pixels_whose_centres_are_within_its_radius(grid, radius):
    xy = random_points(grid, 100)
    rows, cols = np.mgrid[: grid.height, : grid.width]
    x = grid.x_min + (cols + 0.5) * grid.pixel_width
    y = grid.y_max - (rows + 0.5) * grid.pixel_height
    discs = outline_points(shapely.points(xy), grid, radius)
    found = pixels_of(discs, grid)
    for (px, py), disc, places in zip(xy, discs, found, strict=True):
        distance = np.hypot(x - px, y - py)
        chosen = np.zeros(grid.shape, bool)
        chosen[tuple(np.array(places, int).reshape(-1, 2).T)] = True
        assert chosen[distance < 0.9996 * radius].all()
        assert not chosen[distance > radius + 1e-6].any()
        # As for every other polygon.
        inside = rasterio.features.geometry_mask([disc], grid.shape, grid.transform, invert=True)
        assert (chosen == inside).all()


def test_a_multipoint_has_the_pixels_of_all_its_points():
    two = MultiPoint([(500001, 4000199), (500009, 4000191), (500025, 4000199), (500035, 4000199)])
    (outline,) = outline_points(np.array([two], object), GRID, 0)
    assert outline.is_valid
    assert (outline.area, outline.length) == (300, 100)
    assert pixels_of(np.array([outline]), GRID) == [[(0, 0), (0, 2), (0, 3)]]
    (discs,) = outline_points(np.array([two], object), GRID, 3.0)
    assert discs.area == pytest.approx(4 * np.pi * 9, rel=1e-3)


def test_only_points_are_replaced():
    square = box(500000, 4000000, 500020, 4000020)
    infinite = Point(np.inf, 4000000)
    others = [square, LineString([(0, 0), (1, 1)]), None, Polygon(), GeometryCollection(), infinite]
    geometries = np.array([*others, Point(500001, 4000199)], object)
    assert is_point(geometries).tolist() == [False] * 5 + [True] * 2
    for radius in (0, 5.0):
        outlines = outline_points(geometries, GRID, radius)
        assert outlines[:-1].tolist() == others
        assert outlines[-1].geom_type == "Polygon"
    assert geometries[-1] == Point(500001, 4000199)


def test_points_are_accepted_only_if_asked_for():
    line, empty = LineString([(0, 0), (1, 1)]), Point()
    collection = GeometryCollection([box(0, 0, 1, 1), Point(5, 5)])
    cases = [
        # geometry, reason without and with points
        (Point(1, 2), "not_a_polygon", ""),
        (MultiPoint([(1, 2), (3, 4)]), "not_a_polygon", ""),
        (Point(np.inf, 2), "not_a_polygon", "invalid_geometry"),
        (Point(1, np.nan), "not_a_polygon", "invalid_geometry"),
        (empty, "empty_geometry", "empty_geometry"),
        (line, "not_a_polygon", "not_a_polygon"),
        (collection, "", ""),
        (None, "null_geometry", "null_geometry"),
    ]
    geometries, without, with_points = map(list, zip(*cases, strict=True))
    assert mend(np.array(geometries, object)).reasons.tolist() == without
    found = mend(np.array(geometries, object), with_points=True)
    assert found.reasons.tolist() == with_points
    assert found.polygons[:2].tolist() == geometries[:2]
    assert not found.mended[:2].any()


@pytest.mark.parametrize("crs", ["EPSG:32631", "EPSG:4326"])
def test_a_point_belongs_to_the_first_tile_that_has_its_pixel(crs):
    import geopandas as gpd

    east = Grid("EPSG:32631", 500100.0, 4000200.0, 10.0, 10.0, 20, 30)
    xy = [
        # x, y; tile, tile with a disc of 20 m, whether the disc crosses the edge of the imagery
        (500005, 4000195, "west", "west", True),
        (500250, 4000100, "west", "west", False),
        (500295, 4000100, "west", "east", False),  # the disc is wholly on the eastern tile only
        (500305, 4000100, "east", "east", False),
        (500405, 4000100, "", "east", True),
        (500425, 4000100, "", "", False),
    ]
    points = gpd.GeoSeries([Point(x, y) for x, y, *_ in xy], crs=east.crs).to_crs(crs).to_numpy()
    tiles = {"west": GRID, "east": east}
    for radius, column in ((0, 2), (20.0, 3)):
        placed = place(
            mend(points, with_points=True), crs, tiles, buffer_m=0, slack_pixels=0.5,
            point_buffer_m=radius,
        )  # fmt: skip
        assert placed.tiles.tolist() == [row[column] for row in xy]
        assert placed.partial.tolist() == [bool(radius) and row[4] for row in xy]
        areas = [0 if p is None else p.area for p in placed.polygons]
        whole = np.pi * radius**2 if radius else 100
        np.testing.assert_allclose(areas, [whole * (row[column] != "") for row in xy], rtol=1e-3)
