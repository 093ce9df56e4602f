"""Products of THEIA: metadata, FRE and SRE, scale, cloud mask."""

import numpy as np
import pytest

from geo.imagery.discovery import detect_format, find_acquisitions
from geo.imagery.raster_reading import read_window
from tests.builders.items import refusal
from tests.builders.theia import COARSE, FINE, NAME, write_product

WHOLE = slice(None)


@pytest.fixture
def rng():
    return np.random.default_rng(13)


@pytest.mark.parametrize("depth", [".", "2018/31UDS", "S2A_MSIL2A_20180505T105031_T31UDS.SAFE"])
def test_a_product_is_found_with_its_metadata(tmp_path, rng, depth):
    arrays = write_product(tmp_path / depth, rng)
    assert detect_format(tmp_path) == "theia"
    (item,) = find_acquisitions(tmp_path)
    assert (item.id, item.tile, item.platform) == (NAME, "31UDS", "Sentinel-2A")
    assert item.sensing_start.isoformat() == "2018-05-05T10:53:55.460000"
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


def test_sre_is_read_if_there_is_no_fre(tmp_path, rng):
    arrays = write_product(tmp_path, rng, kinds=("SRE",))
    (item,) = find_acquisitions(tmp_path)
    values = read_window(item.bands["B8A"], WHOLE, WHOLE)
    np.testing.assert_array_equal(values, arrays["SRE_B8A"])


def test_the_mask_at_20_m_is_read_if_there_is_none_at_10_m(tmp_path, rng):
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


def test_the_scale_is_that_of_the_quantification(tmp_path, rng):
    write_product(tmp_path, rng, quantification=1000)
    (item,) = find_acquisitions(tmp_path)
    assert {band.scale for band in item.bands.values()} == {10}
    assert item.masks["CLM"].scale == 1


def test_a_folder_without_products_is_refused(tmp_path):
    assert "There is no product of THEIA" in refusal(tmp_path, format="theia")
