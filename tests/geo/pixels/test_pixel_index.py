"""The pixel index equals rasterio's masks, parcel by parcel."""

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import geometry_mask

from geo.grid import Grid
from geo.pixels.pixel_index import TOLERANCE, PixelIndex, index_pixels
from geo.register.placement import buffered
from tests.builders.paths import SHARED

# Pixels of 2 m: coordinates in quarters of a metre are exact, also in rasterio's arithmetic.
GRID = Grid("EPSG:32631", 1024.0, 4096.0, 2.0, 2.0, 12, 15)


def index(geometries, grid=GRID, **options):
    geometries = np.asarray(geometries, object)
    return index_pixels(geometries, [f"p{i}" for i in range(len(geometries))], grid, "T", **options)


def pixels(found, parcel):
    part = slice(found.offsets[parcel], found.offsets[parcel + 1])
    return list(zip(found.rows[part].tolist(), found.cols[part].tolist(), strict=True))


def expected(geometry, grid, all_touched):
    if geometry is None or geometry.is_empty:
        return []
    mask = geometry_mask(
        [geometry], grid.shape, grid.transform, all_touched=all_touched, invert=True
    )
    return list(map(tuple, np.argwhere(mask).tolist()))


def assert_as_rasterio(geometries, grid, all_touched, **options):
    found = index(geometries, grid, all_touched=all_touched, **options)
    for i, geometry in enumerate(geometries):
        assert pixels(found, i) == expected(geometry, grid, all_touched), f"parcel {i}"
    return found


def assert_same(one, other):
    np.testing.assert_array_equal(one.offsets, other.offsets)
    np.testing.assert_array_equal(one.rows, other.rows)
    np.testing.assert_array_equal(one.cols, other.cols)


def test_a_small_grid_by_eye():
    # A 4 x 4 grid of 10 m pixels. A covers the upper left 2 x 2, B the middle 2 x 2; they share
    # the pixel (1, 1). C covers no pixel centre.
    #   A A . .
    #   A * B .
    #   . B B .
    #   . . . .
    grid = Grid("EPSG:32631", 0.0, 40.0, 10.0, 10.0, 4, 4)
    a = shapely.box(0, 20, 20, 40)
    b = shapely.box(10, 10, 30, 30)
    c = shapely.box(31, 1, 34, 4)
    found = index([a, b, c], grid)
    assert pixels(found, 0) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert pixels(found, 1) == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert pixels(found, 2) == []
    assert found.sizes.tolist() == [4, 4, 0]
    assert found.offsets.tolist() == [0, 4, 8, 8]
    assert (found.rows.dtype, found.cols.dtype, found.offsets.dtype) == (np.int32, np.int32, "i8")
    assert pixels(index([c], grid, all_touched=True), 0) == [(3, 3)]


def test_a_buffer_adds_or_removes_pixels():
    # The same grid: 5.1 m inwards leaves no pixel centre of 2 x 2 pixels, 4.9 m all four.
    grid = Grid("EPSG:32631", 0.0, 40.0, 10.0, 10.0, 4, 4)
    polygons = np.array([shapely.box(0, 20, 20, 40)])
    for buffer_m, n_pixels in ((0, 4), (-4.9, 4), (-5.1, 0), (-10.1, 0), (5.1, 8)):
        assert index(buffered(polygons, buffer_m), grid).sizes.tolist() == [n_pixels], buffer_m


def test_empty_polygons_have_no_pixels():
    assert index([]).offsets.tolist() == [0]
    found = index([None, shapely.Polygon(), shapely.box(0, 0, 1, 1), shapely.box(*GRID.bounds)])
    assert found.sizes.tolist() == [0, 0, 0, GRID.height * GRID.width]


quarters_x = st.integers(-8, 4 * 34).map(lambda q: GRID.x_min + q / 4)
quarters_y = st.integers(-8, 4 * 28).map(lambda q: GRID.y_max - q / 4)
outlines = st.lists(st.tuples(quarters_x, quarters_y), min_size=3, max_size=7)


@st.composite
def polygons(draw):
    """Draw a polygon or multipolygon, perhaps with holes, that may reach beyond the grid."""
    rings = [
        shapely.make_valid(shapely.Polygon(ring)) for ring in draw(st.lists(outlines, max_size=3))
    ]
    shape = shapely.make_valid(shapely.Polygon(draw(outlines)))
    for number, ring in enumerate(rings):
        shape = shape.difference(ring) if number else shape.union(ring)
    parts = [p for p in shapely.get_parts(shape) if p.geom_type == "Polygon"]
    return shapely.MultiPolygon(parts) if len(parts) != 1 else parts[0]


@settings(max_examples=60, deadline=None)
@given(st.lists(polygons(), max_size=6), st.integers(1, 12))
def test_edges_through_pixel_centres_are_as_in_rasterio(geometries, rows):
    # Quarters of a metre put many edges and corners exactly on pixel centres (1 m off a border).
    geometries = [shapely.set_precision(g, 0.25) for g in geometries]
    whole = index(geometries)
    for i, geometry in enumerate(geometries):
        assert pixels(whole, i) == expected(geometry, GRID, False)
    assert_same(whole, index(geometries, strip_pixels=rows * GRID.width))


@pytest.mark.parametrize("all_touched", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_overlapping_parcels_are_as_in_rasterio(seed, all_touched):
    # Several parcels over most pixels, some with holes, some across the edge, one over it all.
    rng = np.random.default_rng(seed)
    grid = Grid("EPSG:32633", 465181.05, 5080254.63, 9.995, 9.997, 101, 100)
    x_min, y_min, x_max, y_max = grid.bounds
    centres = shapely.points(rng.uniform(x_min, x_max, 60), rng.uniform(y_min, y_max, 60))
    geometries = shapely.buffer(centres, rng.uniform(1, 300, 60), quad_segs=3)
    geometries = shapely.difference(geometries, shapely.buffer(centres, rng.uniform(0, 60, 60)))
    geometries[::7] = shapely.union(geometries[::7], geometries[1::7][: len(geometries[::7])])
    geometries[0] = shapely.box(x_min - 1e6, y_min - 1e6, x_max + 1e6, y_max + 1e6)
    geometries[1] = geometries[2]
    whole = assert_as_rasterio(geometries, grid, all_touched)
    for rows in (9, 64):
        strips = index(geometries, grid, all_touched=all_touched, strip_pixels=rows * grid.width)
        assert_same(whole, strips)


@pytest.mark.parametrize("all_touched", [False, True])
def test_parcels_of_slovenia_are_as_in_rasterio(all_touched):
    folder = SHARED / "data" / "slovenia-l1c"
    if not folder.is_dir():
        pytest.skip(reason="shared/data/slovenia-l1c is not there")
    with rasterio.open(folder / "S2L1C_20150711.tif") as image:
        grid = Grid.from_transform(image.crs.to_string(), image.transform, *image.shape)
    parcels = gpd.read_file(folder / "landuse.gpkg").to_crs(grid.crs).geometry.to_numpy()
    assert len(parcels) == 88
    whole = assert_as_rasterio(parcels, grid, all_touched)
    assert whole.sizes.sum() > 5000
    assert_same(whole, index(parcels, grid, all_touched=all_touched, strip_pixels=1000))


@pytest.mark.parametrize("all_touched", [False, True])
def test_parcels_of_flanders_are_as_in_rasterio(all_touched):
    folder = SHARED / "data" / "flanders-2018"
    if not folder.is_dir():
        pytest.skip(reason="shared/data/flanders-2018 is not there")
    table = gpd.read_file(folder / "parcels_subdivided.gpkg")
    assert len(table) == 138
    # The parcels follow the borders of 10 m pixels; a grid of 64 x 64 contains all of them.
    x_min, _, _, y_max = table.total_bounds
    x_min, y_max = np.floor(x_min / 10) * 10, np.ceil(y_max / 10) * 10
    grid = Grid(table.crs.to_string(), x_min, y_max, 10.0, 10.0, 64, 64)
    found = assert_as_rasterio(table.geometry, grid, all_touched)
    if not all_touched:
        assert found.sizes.tolist() == table["npix"].tolist()


def test_a_saved_index_is_loaded_unchanged(tmp_path):
    found = PixelIndex(
        ["007", "b/ä", ""],
        np.array([0, 1, 2, 4]),
        np.array([1, 2, 3, 3], np.int32),
        np.array([0, 5, 6, 7], np.int32),
        "31TFM",
        GRID,
    )
    found.save(tmp_path / "one.npz")
    found.save(tmp_path / "two.npz")
    loaded = PixelIndex.load(tmp_path / "one.npz")
    assert (loaded.parcel_ids, loaded.tile, loaded.grid) == (found.parcel_ids, "31TFM", GRID)
    assert_same(loaded, found)
    assert (loaded.rows.dtype, loaded.offsets.dtype) == (np.int32, np.int64)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.npz", "two.npz"]


@pytest.mark.parametrize("least", [0.01, 0.3, 0.5, 1.0])
def test_covered_fractions_equal_shapely(least):
    rng = np.random.default_rng(int(100 * least))
    grid = Grid("EPSG:32633", 465181.05, 5080254.63, 9.995, 9.997, 21, 20)
    x_min, y_min, x_max, y_max = grid.bounds
    centres = shapely.points(rng.uniform(x_min, x_max, 12), rng.uniform(y_min, y_max, 12))
    shapes = shapely.buffer(centres, rng.uniform(2, 60, 12), quad_segs=3)
    shapes[0] = shapely.difference(shapes[0], shapely.buffer(centres[0], 1.0))
    shapes[1] = shapely.union(shapely.difference(shapes[1], shapes[2]), shapes[3])
    shapes[4] = shapely.box(x_min - 500, y_min, x_min - 400, y_max)
    geometries = [*shapes, None, shapely.Polygon()]
    found = index(geometries, grid, min_covered_fraction=least)
    for i, shape in enumerate(shapes):
        pixel = {
            (row, col): shapely.box(
                x_min + col * 9.995, y_max - (row + 1) * 9.997,
                x_min + (col + 1) * 9.995, y_max - row * 9.997,
            )
            for row in range(grid.height)
            for col in range(grid.width)
        }  # fmt: skip
        fraction = {place: shape.intersection(p).area / p.area for place, p in pixel.items()}
        # exactextract's fractions are float32: one that is this near to the limit may be on either
        # side of it.
        near = {place for place, f in fraction.items() if least - 2 * TOLERANCE < f < least}
        assert [p for p in pixels(found, i) if p not in near] == [
            p for p, f in fraction.items() if f >= least
        ], i
    assert found.sizes[[4, 12, 13]].tolist() == [0, 0, 0]


def test_pixels_that_are_covered_exactly_by_the_fraction_count():
    grid = Grid("EPSG:32631", 500000.0, 40.0, 10.0, 10.0, 4, 4)
    half = shapely.box(500005, 10, 500020, 40)
    found = index([half], grid, min_covered_fraction=0.5)
    assert pixels(found, 0) == [(r, c) for r in range(3) for c in (0, 1)]
    found = index([shapely.box(500005, 10, 500017, 40)], grid, min_covered_fraction=0.7)
    assert pixels(found, 0) == [(r, 1) for r in range(3)]
    found = index([half], grid, min_covered_fraction=0.501)
    assert pixels(found, 0) == [(r, 1) for r in range(3)]
