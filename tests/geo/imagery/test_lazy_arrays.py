"""Lazy arrays equal the raw pixels with their offset, and what is extracted for parcels."""

import numpy as np
import pytest
import rasterio
from pyproj import CRS

from geo.errors import InputError
from geo.imagery.cloud_masks import CloudRules
from geo.imagery.discovery import find_acquisitions
from geo.imagery.open_rasters import OpenRasters
from geo.pixels.parcel_pixels import read_parcel_pixels
from geo.pixels.pixel_index import PixelIndex
from tests.builders.safe import write_safe

OFFSET = -1000
BANDS = ["B03", "B11", "B02", "B8A"]


@pytest.fixture(scope="module")
def product(tmp_path_factory):
    """A product of 60 x 60 pixels of 10 m with a corner of nodata in B02."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("safe")
    numbers = {
        "B02": rng.integers(500, 9000, (60, 60)).astype(np.uint16),
        "B03": rng.integers(500, 9000, (60, 60)).astype(np.uint16),
        "B8A": rng.integers(500, 9000, (30, 30)).astype(np.uint16),
        "B11": rng.integers(500, 9000, (30, 30)).astype(np.uint16),
        "SCL": rng.integers(0, 12, (30, 30)).astype(np.uint8),
    }
    numbers["B02"][:7, :5] = 0
    return write_safe(folder, rng, offsets=OFFSET, numbers=numbers)


@pytest.fixture(scope="module")
def acquisition(product):
    return find_acquisitions(str(product.path))[0]


def reflectance(raw):
    """Apply the offset of the product; nodata is NaN, and negative reflectance 0."""
    values = np.clip(raw.astype(float) + OFFSET, 0, None) / 10_000
    return np.where(raw == 0, np.nan, values).astype(np.float32)


def test_bands_on_the_grid_are_the_raw_pixels_with_their_offset(product, acquisition):
    image = acquisition.to_xarray(["B03", "B02"], chunk_pixels=17)
    assert image.dims == ("band", "y", "x")
    assert image.dtype == np.float32
    assert image.band.values.tolist() == ["B03", "B02"]
    for band in ("B03", "B02"):
        expected = reflectance(product.pixels[band])
        np.testing.assert_array_equal(image.sel(band=band).values, expected)


def test_coarse_bands_alone_keep_their_pixels(product, acquisition):
    image = acquisition.to_xarray(["B8A"])
    np.testing.assert_array_equal(image[0].values, reflectance(product.pixels["B8A"]))


@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "cubic"])
@pytest.mark.parametrize("chunk", [13, 1024])
def test_resampled_bands_equal_those_that_are_extracted(acquisition, resampling, chunk):
    image = acquisition.to_xarray(BANDS, resampling=resampling, chunk_pixels=chunk)
    grid = acquisition.grid
    rows, cols = np.indices(grid.shape, np.int32).reshape(2, -1)
    index = PixelIndex(["all"], np.array([0, rows.size]), rows, cols, "31UDS", grid)
    for band in BANDS:
        (values,), seen = read_parcel_pixels(acquisition, index, [band], resampling=resampling)
        expected = np.where(seen, values / 10_000, np.nan).reshape(grid.shape)
        np.testing.assert_allclose(image.sel(band=band).values, expected, rtol=1e-6)


def test_clouds_are_hidden_if_asked_for(product, acquisition):
    image = acquisition.to_xarray(["B03"], clear=True, chunk_pixels=20)
    hidden = np.isin(product.pixels["SCL"], CloudRules().classes).repeat(2, 0).repeat(2, 1)
    assert 0 < hidden.mean() < 1
    np.testing.assert_array_equal(np.isnan(image[0].values), hidden)


def test_pixels_are_where_rasterio_puts_them(acquisition):
    image = acquisition.to_xarray(["B03"])
    with rasterio.open(acquisition.bands["B03"].source) as raster:
        assert CRS(image.spatial_ref.crs_wkt) == CRS(raster.crs)
        to_gdal = [float(number) for number in image.spatial_ref.GeoTransform.split()]
        assert to_gdal == list(raster.transform.to_gdal())
        for row, col in ((0, 0), (59, 3)):
            assert raster.xy(row, col) == (image.x[col], image.y[row])
    assert image.time.values == np.datetime64(acquisition.sensing_start)


def test_no_file_is_opened_before_it_is_needed(acquisition, monkeypatch):
    opened = []
    use = OpenRasters.use

    def noted(self, source):
        opened.append(source)
        return use(self, source)

    monkeypatch.setattr(OpenRasters, "use", noted)
    image = acquisition.to_xarray(chunk_pixels=30)
    part = image.sel(band="B03")[:30, :30] * 2
    assert opened == []
    part.compute()
    assert opened == [acquisition.bands["B03"].source]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bands": ["B03", "B8"]}, "has no band 'B8'; it has B02, B03, B8A, B11. Did you mean"),
        ({"bands": []}, "bands is empty"),
        ({"chunk_pixels": 0}, "chunk_pixels: expected at least 1, found 0"),
    ],
)
def test_what_cannot_be_read_is_refused(acquisition, options, words):
    with pytest.raises(InputError, match=words):
        acquisition.to_xarray(**options)
