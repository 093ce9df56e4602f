"""Sampling at chosen pixels equals GDAL's warp of the whole band."""

import numpy as np
import pytest
from rasterio.enums import Resampling
from rasterio.warp import reproject

from geo.grid import Grid
from geo.resampling import Footprint, sample, window_of

FINE = Grid("EPSG:32631", 500_000.0, 5_600_000.0, 10.0, 10.0, 48, 52)
COARSE = {
    "20 m": Grid("EPSG:32631", 500_000.0, 5_600_000.0, 20.0, 20.0, 24, 26),
    "60 m": Grid("EPSG:32631", 499_980.0, 5_600_040.0, 60.0, 60.0, 9, 10),
    "not quite 20 m": Grid("EPSG:32631", 500_000.0, 5_600_000.0, 19.9896, 19.9949, 25, 27),
}


def sampled(values, valid, grid, method, rows, cols):
    footprint = Footprint.of(rows, cols, FINE, grid)
    window = window_of(footprint, method)
    return sample(values[window], valid[window], window, footprint, method)


def every_pixel():
    rows, cols = np.indices(FINE.shape)
    return rows.ravel().astype(np.int32), cols.ravel().astype(np.int32)


@pytest.mark.parametrize("method", ["nearest", "bilinear", "cubic"])
@pytest.mark.parametrize("name", COARSE)
def test_equals_gdal_warp(name, method):
    grid = COARSE[name]
    values = np.random.default_rng(0).integers(1, 10_000, grid.shape).astype(np.float64)
    warped = np.zeros(FINE.shape)
    reproject(
        values, warped, src_transform=grid.transform, src_crs=grid.crs,
        dst_transform=FINE.transform, dst_crs=FINE.crs, resampling=Resampling[method],
        tolerance=0,
    )  # fmt: skip
    samples, known = sampled(values, np.ones(grid.shape, bool), grid, method, *every_pixel())
    assert known.all()
    difference = np.abs(samples.reshape(FINE.shape) - warped)
    # GDAL falls back to bilinear where a cubic kernel crosses the edge of the source.
    inner = (slice(12, -12), slice(12, -12)) if method == "cubic" else ...
    assert difference[inner].max() < 1.0


@pytest.mark.parametrize("method", ["nearest", "bilinear"])
def test_missing_source_pixels_get_no_weight_as_in_gdal(method):
    grid = COARSE["20 m"]
    generator = np.random.default_rng(1)
    values = generator.integers(1, 10_000, grid.shape).astype(np.float64)
    values[generator.random(grid.shape) < 0.2] = 0
    warped = np.zeros(FINE.shape)
    reproject(
        values, warped, src_transform=grid.transform, src_crs=grid.crs, src_nodata=0,
        dst_transform=FINE.transform, dst_crs=FINE.crs, dst_nodata=0,
        resampling=Resampling[method], tolerance=0,
    )  # fmt: skip
    samples, known = sampled(values, values != 0, grid, method, *every_pixel())
    samples, known = samples.reshape(FINE.shape), known.reshape(FINE.shape)
    assert np.array_equal(known, np.kron(values != 0, np.ones((2, 2), bool)))
    assert np.abs(samples - warped)[known].max() < 1.0
    assert (samples[~known] == 0).all()


@pytest.mark.parametrize("method", ["nearest", "bilinear", "cubic"])
def test_a_window_gives_what_the_whole_band_gives(method):
    grid = COARSE["20 m"]
    values = np.random.default_rng(2).random(grid.shape)
    valid = np.ones(grid.shape, bool)
    rows, cols = every_pixel()
    whole, _ = sampled(values, valid, grid, method, rows, cols)
    chosen = np.flatnonzero((rows > 20) & (rows < 31) & (cols > 3) & (cols < 9))
    part, _ = sampled(values, valid, grid, method, rows[chosen], cols[chosen])
    assert np.array_equal(part, whole[chosen])
