"""Sampling of selected pixels equals GDAL's warp of the whole band."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.enums import Resampling
from rasterio.warp import reproject

from geo.grid import Grid
from geo.pixels.resampling import Stencil, is_too_fine, sample

CRS = "EPSG:32631"
FINE = Grid(CRS, 500_000.0, 5_600_000.0, 10.0, 10.0, 48, 52)
MISSING = 7
METHODS = ["nearest", "bilinear", "cubic"]
# {name: (source, grid that it is sampled on)}
GRIDS = {
    "20 m": (Grid(CRS, 500_000.0, 5_600_000.0, 20.0, 20.0, 24, 26), FINE),
    "60 m": (Grid(CRS, 499_980.0, 5_600_040.0, 60.0, 60.0, 9, 10), FINE),
    "not quite 20 m": (Grid(CRS, 500_000.0, 5_600_000.0, 19.9896, 19.9949, 25, 27), FINE),
    "not quite 10 m": (Grid(CRS, 500_001.3, 5_599_997.9, 9.995, 9.997, 46, 50), FINE),
    "onto not quite 10 m": (FINE, Grid(CRS, 500_001.3, 5_599_997.9, 9.995, 9.997, 46, 50)),
    "half a pixel aside": (FINE, Grid(CRS, 500_005.0, 5_599_995.0, 10.0, 10.0, 48, 52)),
    "half a pixel to the other side": (FINE, Grid(CRS, 499_995.0, 5_600_005.0, 10.0, 10.0, 48, 52)),
    "20 m, a quarter aside": (Grid(CRS, 500_005.0, 5_600_005.0, 20.0, 20.0, 20, 20), FINE),
    "smaller than the grid": (Grid(CRS, 500_055.0, 5_599_927.0, 20.0, 20.0, 12, 14), FINE),
    "partly beside the grid": (Grid(CRS, 499_720.0, 5_600_100.0, 20.0, 20.0, 30, 30), FINE),
    "somewhat finer": (FINE, Grid(CRS, 500_000.0, 5_600_000.0, 10.4, 10.4, 40, 43)),
    "south of the equator": (
        Grid("EPSG:32736", 300_000.0, 9_999_960.0, 20.0, 20.0, 24, 26),
        Grid("EPSG:32736", 300_000.0, 9_999_960.0, 10.0, 10.0, 48, 52),
    ),
    "across the equator": (  # northings below 0 in a northern zone
        Grid("EPSG:32636", 300_020.0, 240.0, 20.0, 20.0, 24, 26),
        Grid("EPSG:32636", 300_000.0, 230.0, 10.0, 10.0, 48, 52),
    ),
}


def warped(values, source, grid, method, nodata=None):
    """Warp the whole band with GDAL; nodata is 0."""
    result = np.zeros(grid.shape, values.dtype)
    missing = {} if nodata is None else {"src_nodata": nodata, "dst_nodata": nodata}
    reproject(
        values, result, src_transform=source.transform, src_crs=source.crs,
        dst_transform=grid.transform, dst_crs=grid.crs, resampling=Resampling[method],
        tolerance=0, **missing,
    )  # fmt: skip
    return result


def sampled(values, valid, source, grid, method, chosen=None):
    """Sample pixels one by one: float64 samples, and which are not nodata."""
    stencil = Stencil.of(grid, source, method)
    rows, cols = (a.ravel().astype(np.int32) for a in np.indices(grid.shape))
    everywhere = np.arange(len(rows)) if chosen is None else chosen
    rows, cols = rows[everywhere], cols[everywhere]
    inside = np.flatnonzero(stencil.down.inside[rows] & stencil.right.inside[cols])
    place = rows[inside], cols[inside], lambda row, col: row * source.width + col
    samples, known = np.zeros(len(everywhere)), np.zeros(len(everywhere), bool)
    samples[inside], known[inside] = sample(
        np.where(valid, values, MISSING).astype(values.dtype),
        lambda taken: taken != MISSING,
        stencil.centres(*place),
        stencil.taps(*place),
    )
    shape = grid.shape if chosen is None else (len(chosen),)
    return samples.reshape(shape), known.reshape(shape)


def rounded(samples):
    return np.clip(np.floor(samples + 0.5), 0, 65_535)


@pytest.mark.parametrize("missing", [0, 0.04, 0.4])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", GRIDS)
def test_every_pixel_equals_gdals_warp(name, method, missing):
    source, grid = GRIDS[name]
    generator = np.random.default_rng(0)
    # Far from 0: if a cubic kernel results in the nodata value, GDAL changes it by one.
    values = generator.integers(20_000, 30_000, source.shape).astype(np.uint16)
    values[generator.random(source.shape) < missing] = 0
    expected = warped(values, source, grid, method, nodata=0 if missing else None)
    samples, known = sampled(values, values != 0, source, grid, method)
    assert known.any()
    assert np.array_equal(known, expected != 0)
    assert np.abs(rounded(samples) - expected)[known].max() <= 1
    assert (samples[~known] == 0).all()


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 10_000),
    method=st.sampled_from(METHODS),
    left=st.integers(-900, 900),
    top=st.integers(-900, 900),
    size=st.tuples(*[st.sampled_from([9.991, 10, 12.34, 20, 30, 60])] * 2),
    # GDAL takes the nearest pixel of a band with nodata that is one row or column wide.
    shape=st.tuples(st.integers(2, 12), st.integers(2, 12)),
    missing=st.sampled_from([0, 0.02, 0.3]),
    dtype=st.sampled_from(["uint16", "int16", "float32"]),
)
def test_grids_at_any_place_equal_gdals_warp(seed, method, left, top, size, shape, missing, dtype):
    grid = Grid(CRS, 500_000.0, 5_600_000.0, 10.0, 10.0, 25, 21)
    # Shifted by a third of a metre: on a border of pixels, GDAL's rounding would decide.
    source = Grid(CRS, 500_000 + left + 0.329, 5_600_000 + top + 0.417, *size, *shape)
    generator = np.random.default_rng(seed)
    values = generator.integers(10_000, 20_000, shape).astype(dtype)
    values[generator.random(shape) < missing] = 0
    expected = warped(values, source, grid, method, nodata=0 if missing else None)
    samples, known = sampled(values, values != 0, source, grid, method)
    assert np.array_equal(known, expected != 0)
    assert np.abs(samples - expected).max() <= 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", GRIDS)
def test_a_window_equals_the_same_part_of_the_whole(name, method):
    source, grid = GRIDS[name]
    generator = np.random.default_rng(2)
    values, valid = generator.random(source.shape), generator.random(source.shape) < 0.97
    whole, known = sampled(values, valid, source, grid, method)
    rows, cols = np.indices(grid.shape)
    chosen = np.flatnonzero((rows > 20) & (rows < 31) & (cols > 3) & (cols < 29))
    part = sampled(values, valid, source, grid, method, chosen)
    assert np.array_equal(part[0], whole.ravel()[chosen])
    assert np.array_equal(part[1], known.ravel()[chosen])


def test_sources_that_gdal_would_average_are_detected():
    for size, expected in ((10, False), (9.6, False), (9.3, True), (5, True)):
        assert is_too_fine(Grid(CRS, 0, 0, size, 10, 9, 9), FINE) is expected
        assert is_too_fine(Grid(CRS, 0, 0, 60, size, 9, 9), FINE) is expected
        # For finer sources, GDAL's values differ from those of the kernels here.
        source = Grid(CRS, 500_000, 5_600_000, size, size, 120, 120)
        values = np.random.default_rng(3).integers(10_000, 20_000, (120, 120)).astype(np.float32)
        samples, known = sampled(values, values != 0, source, FINE, "bilinear")
        expected_values = warped(values, source, FINE, "bilinear")
        there = known & (expected_values != 0)
        assert bool((np.abs(samples - expected_values)[there] > 1).any()) is expected
