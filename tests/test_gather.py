"""Gathering equals a read of one pixel at a time, whatever the blocks and threads."""

from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from safe_fixture import write_image, write_safe

import geo.gather
from geo.finding import find_acquisitions
from geo.gather import gather
from geo.pixel_index import index_pixels

BANDS = ["B03", "B8A", "B02", "B11"]


@pytest.fixture(
    scope="module", params=[{"baseline": "04.00", "offsets": -1000}, {"baseline": "03.01"}]
)
def product(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("safe")
    return write_safe(folder, np.random.default_rng(0), **request.param)


@pytest.fixture(scope="module")
def acquisition(product):
    return find_acquisitions(product.path)[0]


@pytest.fixture(scope="module")
def parcels(acquisition):
    """Overlapping circles, one with a hole, one at the very corner of the scene."""
    left, _, _, top = acquisition.grid.bounds
    points = [(left + 100, top - 100), (left + 130, top - 90), (left + 400, top - 350), (left, top)]
    circles = [shapely.Point(p).buffer(r) for p, r in zip(points, (70, 45, 120, 60), strict=True)]
    circles[2] = circles[2].difference(shapely.Point(points[2]).buffer(30))
    return geopandas.GeoSeries(circles, crs=acquisition.grid.crs)


@pytest.fixture(scope="module")
def index(parcels, acquisition):
    return index_pixels(parcels.values, list("abcd"), acquisition.grid, "31UDS")


def brute_force(product, acquisition, index):
    """Every band warped whole by GDAL, then offset and clipped."""
    offset = {"N0400": -1000, "N0301": 0}[acquisition.id[-5:]]
    expected = np.zeros((len(BANDS), len(index.rows)), np.uint16)
    known = np.ones(len(index.rows), bool)
    for channel, name in enumerate(BANDS):
        band = acquisition.bands[name]
        grid = index.grid
        with rasterio.open(band.source) as source, WarpedVRT(
            source, transform=grid.transform, height=grid.height, width=grid.width,
            resampling=Resampling.bilinear, src_nodata=0, nodata=0,
        ) as warped:  # fmt: skip
            raw = warped.read(1)[index.rows, index.cols].astype(int)
        expected[channel] = np.clip(raw + offset, 0, None)
        ratio = int(band.grid.pixel_width / 10)
        known &= product.pixels[name][index.rows // ratio, index.cols // ratio] != 0
    expected[:, ~known] = 0
    return expected, known


def test_equals_gdals_warp_of_the_whole_bands(product, acquisition, index):
    pixels, valid = gather(acquisition, index, BANDS)
    expected, known = brute_force(product, acquisition, index)
    assert pixels.dtype == np.uint16
    assert np.array_equal(valid, known)
    difference = np.abs(pixels.astype(int) - expected.astype(int))
    # The warper rounds exact halves to either side.
    assert difference.max() <= 1
    ten_metres = [BANDS.index("B02"), BANDS.index("B03")]
    assert difference[ten_metres].max() == 0


def test_blocks_and_threads_change_nothing(monkeypatch, acquisition, index):
    whole = gather(acquisition, index, BANDS)
    monkeypatch.setattr(geo.gather, "READ_SIZE", 1)
    bands = {name: replace(b, block_shape=(7, 5)) for name, b in acquisition.bands.items()}
    parts = gather(replace(acquisition, bands=bands), index, BANDS, threads=4)
    assert np.array_equal(whole[0], parts[0])
    assert np.array_equal(whole[1], parts[1])


def test_a_pixel_that_one_band_lacks_is_missing_in_all(tmp_path, index):
    generator = np.random.default_rng(1)
    product = write_safe(tmp_path, generator)
    found = find_acquisitions(product.path)[0]
    holes = {}
    for name in ("B02", "B03"):
        holes[name] = np.where(generator.random((60, 60)) < 0.2, 0, product.pixels[name])
        write_image(Path(found.bands[name].source), holes[name], "31UDS", 10, 500_000)
    pixels, valid = gather(found, index, ["B02", "B03"])
    values = np.array([holes[name][index.rows, index.cols] for name in ("B02", "B03")])
    missing = (values == 0).any(axis=0)
    assert 0 < missing.sum() < len(missing)
    assert np.array_equal(valid, ~missing)
    assert np.array_equal(pixels, np.where(missing, 0, values))
