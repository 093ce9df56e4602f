"""Sentinel-2 products of EOPF in Zarr: groups by resolution, attributes as the real ones have."""

import shlex
import shutil
import warnings

import numpy as np
import pytest
import shapely
import xarray as xr

from geo.errors import InputError
from geo.imagery.discovery import find_acquisitions
from geo.imagery.raster_reading import read_window
from geo.pixels.parcel_pixels import read_parcel_pixels
from geo.pixels.pixel_index import index_pixels
from tests.builders.items import assert_survive

WHOLE = slice(None)
NAME = "S2A_MSIL2A_20251008T100041_N0511_R122_T32TQM_20251008T122613"
LEFT, TOP, SIDE = 699_960, 4_700_040, 480
REFLECTANCE = {
    10: ("b02", "b03"), 20: ("b01", "b02", "b03", "b05", "b8a"), 60: ("b01", "b02", "b8a"),
}  # fmt: skip


@pytest.fixture
def rng():
    return np.random.default_rng(12)


def dataset(rng, pixel, names, greatest, attrs):
    """One group: (y, x) without a time, integer pixel centres, CRS as an attribute."""
    n = SIDE // pixel
    values = {
        name: (("y", "x"), rng.integers(0, greatest, (n, n)).astype(attrs["dtype"]),
               {**attrs, "proj:epsg": 32632})
        for name in names
    }  # fmt: skip
    x = LEFT + pixel // 2 + pixel * np.arange(n)
    return xr.Dataset(values, {"x": x, "y": TOP - (x - LEFT)})


def write_product(folder, rng, name=NAME, version=2, consolidated=True, add_offset=-0.1, **over):
    """Write a product, and give its raw arrays by group and name."""
    scale = {"scale_factor": 1e-4} | ({} if add_offset is None else {"add_offset": add_offset})
    counts = {"dtype": "<u2", "fill_value": 0, "valid_min": 1, "valid_max": 65535,
              "units": "digital_counts", **scale}  # fmt: skip
    groups = {
        f"measurements/reflectance/r{pixel}m": dataset(rng, pixel, names, 9000, counts)
        for pixel, names in REFLECTANCE.items()
    }
    bytes_ = {"dtype": "|u1"}
    # What is named as bands are, but is none.
    groups["conditions/mask/detector_footprint/r10m"] = dataset(rng, 10, ["b02"], 7, bytes_)
    groups["quality/mask/r10m"] = dataset(rng, 10, ["b02"], 7, bytes_)
    if "MSIL2A" in name:
        for pixel in (20, 60):
            place = f"conditions/mask/l2a_classification/r{pixel}m"
            groups[place] = dataset(rng, pixel, ["scl"], 12, bytes_)
        groups["quality/probability/r20m"] = dataset(rng, 20, ["cld", "snw"], 101, bytes_)
    properties = {
        "start_datetime": "2025-10-08T10:00:41.024000+00:00", "platform": "sentinel-2a",
        "created": "2025-10-08T12:26:13+00:00", "eopf:baseline": "05.11",
        "eo:cloud_cover": 33.5, "datetime": None, **over,
    }  # fmt: skip
    attributes = {
        "stac_discovery": {"id": f"{NAME}.SAFE", "properties": properties},
        "other_metadata": {"horizontal_CRS_code": "EPSG:32632"},
    }
    tree = xr.DataTree.from_dict({"/": xr.Dataset(attrs=attributes), **groups})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree.to_zarr(folder / f"{name}.zarr", zarr_format=version, consolidated=consolidated)
    return {group: {n: v.values for n, v in data.items()} for group, data in groups.items()}


def refusal(path, **options):
    with pytest.raises(InputError) as error:
        find_acquisitions(path, **options)
    return str(error.value)


@pytest.mark.parametrize(("version", "consolidated"), [(2, True), (2, False), (3, True)])
def test_a_product_is_read_by_its_groups(tmp_path, rng, version, consolidated):
    raw = write_product(tmp_path, rng, version=version, consolidated=consolidated)
    (item,) = find_acquisitions(tmp_path)
    assert find_acquisitions(item.product) == [item]
    assert item.id == NAME
    assert (item.tile, item.date.isoformat()) == ("32TQM", "2025-10-08")
    assert f"{item.sensed:%H%M%S}" == "100041"
    assert (item.baseline, item.platform, item.cloud_fraction) == ("05.11", "Sentinel-2A", 0.335)
    assert item.grid.crs == "EPSG:32632"
    assert item.grid.bounds == (LEFT, TOP - SIDE, LEFT + SIDE, TOP)
    # Each once, at the finest resolution that is not interpolated.
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


def test_products_of_any_name_have_safe_ids_and_are_found_again(tmp_path, rng):
    write_product(tmp_path, rng)
    product = tmp_path / f"{NAME}.zarr"
    names = ("S2A$(touch EXECUTED).zarr", f"{NAME} (1).zarr", f"{NAME} (2).zarr")
    for name in names:
        shutil.copytree(product, tmp_path / name)
    shutil.rmtree(product)
    found = find_acquisitions(tmp_path)
    assert len({item.id for item in found}) == len(names)
    for item in found:
        assert shlex.quote(item.id) == item.id
        assert [again.id for again in find_acquisitions(item.product)] == [item.id]


@pytest.mark.parametrize("add_offset", [-0.1, None])
def test_reflectance_at_the_parcels_has_scale_and_offset(tmp_path, rng, add_offset):
    raw = write_product(tmp_path, rng, add_offset=add_offset)
    (item,) = find_acquisitions(tmp_path, bands=["B03", "B02"])
    circle = shapely.Point(LEFT + 240, TOP - 240).buffer(200)
    index = index_pixels(np.array([circle]), ["a"], item.grid, "32TQM")
    pixels, valid = read_parcel_pixels(item, index, ["B03", "B02"])
    counts = [
        raw["measurements/reflectance/r10m"][n][index.rows, index.cols] for n in ("b03", "b02")
    ]
    known = (counts[0] != 0) & (counts[1] != 0)
    np.testing.assert_array_equal(valid, known)
    shift = 0 if add_offset is None else -1000
    expected = np.where(known, np.clip(np.array(counts, int) + shift, 0, None), 0)
    np.testing.assert_array_equal(pixels, expected)


def test_levels_are_not_mixed(tmp_path, rng):
    write_product(tmp_path, rng)
    write_product(tmp_path, rng, name=NAME.replace("MSIL2A", "MSIL1C"))
    assert "1 products of level 2A are mixed with 1 of level 1C" in refusal(tmp_path)


def test_level_1c_has_no_masks(tmp_path, rng):
    write_product(tmp_path, rng, name=NAME.replace("MSIL2A", "MSIL1C"))
    (item,) = find_acquisitions(tmp_path)
    assert item.masks == {}


def test_a_renamed_product_keeps_its_tile(tmp_path, rng):
    write_product(tmp_path, rng, name="MSIL2A of autumn")
    (item,) = find_acquisitions(tmp_path)
    assert item.tile == "32TQM"


def test_products_that_say_too_little_are_refused(tmp_path, rng):
    write_product(tmp_path, rng, start_datetime="yesterday")
    message = refusal(tmp_path)
    assert f"{tmp_path / NAME}.zarr is no product of EOPF" in message
    assert "yesterday" in message
    shutil.rmtree(tmp_path / f"{NAME}.zarr")
    write_product(tmp_path, rng)
    (tmp_path / f"{NAME}.zarr" / ".zattrs").unlink()
    assert "attributes have no stac_discovery" in refusal(tmp_path)


def test_missing_bands_are_named(tmp_path, rng):
    write_product(tmp_path, rng)
    assert f"{NAME}.zarr: no B11 (it has B02)" in refusal(tmp_path, bands=["B02", "B11"])


def test_products_are_not_mixed_with_other_stacks(tmp_path, rng):
    write_product(tmp_path, rng)
    xr.Dataset().to_netcdf(tmp_path / "other.nc")
    assert "mixes 1 products of EOPF with 1 other stacks" in refusal(tmp_path)


@pytest.mark.parametrize("version", [2, 3])
def test_products_survive_their_items(tmp_path, rng, version):
    write_product(tmp_path / "imagery", rng, version=version)
    assert_survive(find_acquisitions(tmp_path / "imagery"), tmp_path / "items")


def test_products_in_folders_by_year_are_seen(tmp_path, rng):
    write_product(tmp_path, rng)
    later = NAME.replace("20251008", "20251018")
    write_product(tmp_path / "by year" / "2025", rng, name=later)
    assert [item.id for item in find_acquisitions(tmp_path)] == sorted([NAME, later])
