"""Products of EOPF: metadata, groups, resolutions, names and levels."""

import shlex
import shutil

import numpy as np
import pytest
import xarray as xr

from geo.imagery.discovery import find_acquisitions
from geo.imagery.raster_reading import read_window
from tests.builders.eopf import LEFT, NAME, SIDE, TOP, write_product
from tests.builders.items import refusal

WHOLE = slice(None)


@pytest.fixture
def rng():
    return np.random.default_rng(12)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original")
    write_product(folder, np.random.default_rng(12))
    return folder / f"{NAME}.zarr"


def copy(original, path):
    return shutil.copytree(original, path)


@pytest.fixture
def product(original, tmp_path):
    """A copy of a product; it is alone in `tmp_path`."""
    return copy(original, tmp_path / original.name)


def as_level_1c(product):
    shutil.rmtree(product / "conditions/mask/l2a_classification")
    shutil.rmtree(product / "quality/probability")


@pytest.mark.parametrize(("version", "consolidated"), [(2, True), (2, False), (3, True)])
def test_a_product_is_read_by_its_groups(tmp_path, rng, version, consolidated):
    raw = write_product(tmp_path, rng, version=version, consolidated=consolidated)
    (item,) = find_acquisitions(tmp_path)
    assert item.id == NAME
    assert (item.tile, item.date.isoformat()) == ("32TQM", "2025-10-08")
    assert f"{item.sensing_start:%H%M%S}" == "100041"
    assert (item.baseline, item.platform, item.cloud_fraction) == ("05.11", "Sentinel-2A", 0.335)
    assert item.grid.crs == "EPSG:32632"
    assert item.grid.bounds == (LEFT, TOP - SIDE, LEFT + SIDE, TOP)
    # Every band at the finest resolution that is not interpolated.
    finest = {"B01": 60, "B02": 10, "B03": 10, "B05": 20, "B8A": 20}
    assert {name: band.grid.pixel_width for name, band in item.bands.items()} == finest
    for name, band in item.bands.items():
        assert (band.scale, band.offset, band.nodata) == (1, -1000, 0)
        expected = raw[f"measurements/reflectance/r{finest[name]}m"][name.lower()]
        np.testing.assert_array_equal(read_window(band, WHOLE, WHOLE), expected)
    assert list(item.masks) == ["SCL", "CLDPRB"]
    scl = raw["conditions/mask/l2a_classification/r20m"]["scl"]
    np.testing.assert_array_equal(read_window(item.masks["SCL"], WHOLE, WHOLE), scl)
    cloudy = raw["quality/probability/r20m"]["cld"]
    np.testing.assert_array_equal(read_window(item.masks["CLDPRB"], WHOLE, WHOLE), cloudy)


def test_products_of_any_name_have_safe_ids_and_are_found_again(original, tmp_path):
    names = ("S2A$(touch EXECUTED).zarr", f"{NAME} (1).zarr", f"{NAME} (2).zarr")
    for name in names:
        copy(original, tmp_path / name)
    found = find_acquisitions(tmp_path)
    assert len({item.id for item in found}) == len(names)
    for item in found:
        assert shlex.quote(item.id) == item.id
        assert [again.id for again in find_acquisitions(item.product)] == [item.id]


def test_products_of_two_levels_are_refused(original, product, tmp_path):
    as_level_1c(copy(original, tmp_path / "other.zarr"))
    assert "1 products of level 2A are mixed with 1 of level 1C" in refusal(tmp_path)


def test_without_add_offset_the_offset_is_0(tmp_path, rng):
    write_product(tmp_path, rng, add_offset=None)
    (item,) = find_acquisitions(tmp_path)
    assert {(band.scale, band.offset) for band in item.bands.values()} == {(1, 0)}


def test_level_1c_has_no_masks(product):
    as_level_1c(product)
    (item,) = find_acquisitions(product)
    assert item.masks == {}


def test_a_renamed_product_keeps_its_tile(original, tmp_path):
    (item,) = find_acquisitions(copy(original, tmp_path / "MSIL2A of autumn.zarr"))
    assert item.tile == "32TQM"


def test_products_without_metadata_are_refused(product):
    attributes = product / ".zattrs"
    attributes.write_text(attributes.read_text().replace("2025-10-08T10:00:41", "yesterday"))
    message = refusal(product)
    assert f"{product} is not a product of EOPF" in message
    assert "yesterday" in message
    attributes.unlink()
    assert "attributes have no stac_discovery" in refusal(product)


def test_products_beside_other_stacks_are_refused(product, tmp_path):
    xr.Dataset().to_netcdf(tmp_path / "other.nc")
    assert "mixes 1 products of EOPF with 1 other stacks" in refusal(tmp_path)


def test_products_at_any_depth_are_found(original, product, tmp_path):
    later = NAME.replace("20251008", "20251018")
    copy(original, tmp_path / "by year" / "2025" / f"{later}.zarr")
    assert [item.id for item in find_acquisitions(tmp_path)] == sorted([NAME, later])
