"""Products of THEIA: metadata, FRE before SRE, cloud mask, values at the parcels."""

import numpy as np
import pytest
import shapely

from geo.errors import InputError
from geo.imagery.discovery import detect_format, find_acquisitions
from geo.imagery.raster_reading import read_window
from geo.pixels.parcel_pixels import read_parcel_pixels
from geo.pixels.pixel_index import index_pixels
from tests.builders.items import assert_survive
from tests.builders.theia import COARSE, FINE, NAME, write_product

WHOLE = slice(None)


@pytest.fixture
def rng():
    return np.random.default_rng(13)


def refusal(path, **options):
    with pytest.raises(InputError) as error:
        find_acquisitions(path, **options)
    return str(error.value)


@pytest.mark.parametrize("depth", [".", "2018/31UDS"])
def test_a_product_is_found_with_its_metadata(tmp_path, rng, depth):
    arrays = write_product(tmp_path / depth, rng)
    assert detect_format(tmp_path) == "theia"
    (item,) = find_acquisitions(tmp_path)
    assert find_acquisitions(item.product) == [item]
    assert (item.id, item.tile, item.platform) == (NAME, "31UDS", "Sentinel-2A")
    assert item.sensed.isoformat() == "2018-05-05T10:53:55.460000"
    assert item.cloud_fraction == 0.42
    assert list(item.bands) == [
        "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12",
    ]  # fmt: skip
    for band, name in zip((*FINE, *COARSE), ("B02", "B03", "B04", "B08", "B05"), strict=False):
        values = read_window(item.bands[name], WHOLE, WHOLE)
        np.testing.assert_array_equal(values, arrays[f"FRE_{band}"])
        assert (item.bands[name].scale, item.bands[name].nodata) == (1, -10_000)
    assert list(item.masks) == ["CLM"]
    mask = read_window(item.masks["CLM"], WHOLE, WHOLE)
    np.testing.assert_array_equal(mask, arrays["CLM_R1"])
    assert item.masks["CLM"].nodata is None


def test_sre_stands_in_where_there_is_no_fre(tmp_path, rng):
    arrays = write_product(tmp_path, rng, kinds=("SRE",))
    (item,) = find_acquisitions(tmp_path)
    values = read_window(item.bands["B8A"], WHOLE, WHOLE)
    np.testing.assert_array_equal(values, arrays["SRE_B8A"])


@pytest.mark.parametrize("quantification", [10_000, 1000])
def test_reflectance_at_the_parcels(tmp_path, rng, quantification):
    arrays = write_product(tmp_path, rng, quantification=quantification)
    (item,) = find_acquisitions(tmp_path)
    circle = shapely.Point(500_100, 5_699_800).buffer(120)
    index = index_pixels(np.array([circle]), ["a"], item.grid, "31UDS")
    pixels, valid = read_parcel_pixels(item, index, ["B04", "B02"])
    raw = np.array([arrays[f"FRE_{b}"][index.rows, index.cols] for b in ("B4", "B2")], int)
    assert 0 < valid.sum() < len(valid)
    np.testing.assert_array_equal(valid, index.cols >= 5)
    expected = np.clip(raw * (10_000 // quantification), 0, 65535) * valid
    np.testing.assert_array_equal(pixels, expected)


def test_a_mask_at_20_m_will_do(tmp_path, rng):
    write_product(tmp_path, rng)
    next(tmp_path.glob("*/MASKS/*_CLM_R1.tif")).unlink()
    (item,) = find_acquisitions(tmp_path)
    assert item.masks["CLM"].grid.pixel_width == 20


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("REFLECTANCE_QUANT", "X", "has no REFLECTANCE_QUANTIFICATION_VALUE: download"),
        ('name="nodata"', 'name="none"', "has no SPECIAL_VALUE[@name='nodata']: download"),
        ("ACQUISITION_DATE", "DATE", "has no ACQUISITION_DATE: download"),
        ("2018-05-05T", "2018-05-35T", "day is out of range"),
        ("</Muscate", "<", "is damaged"),
    ],
)
def test_metadata_that_cannot_be_used_are_refused(tmp_path, rng, old, new, words):
    write_product(tmp_path, rng)
    (path,) = tmp_path.glob("*/*_MTD_ALL.xml")
    path.write_text(path.read_text().replace(old, new))
    message = refusal(tmp_path)
    assert words in message
    assert str(path) in message


def test_other_refusals(tmp_path, rng):
    assert "There is no product of THEIA" in refusal(tmp_path, format="theia")
    write_product(tmp_path, rng)
    next(tmp_path.glob("*/*_FRE_B8A.tif")).unlink()
    assert "no B8A (it has B02)" in refusal(tmp_path, bands=["B02", "B8A"])
    assert "state their scale" in refusal(tmp_path, reflectance_scale=1e-4)


def test_products_survive_their_items(tmp_path, rng):
    write_product(tmp_path / "imagery", rng)
    assert_survive(find_acquisitions(tmp_path / "imagery"), tmp_path / "items")
