"""The numbers of NetCDF variables: stored as another type, missing, never written, out of range."""

import netCDF4
import numpy as np
import pytest

from geo.errors import InputError
from geo.imagery.discovery import find_acquisitions
from geo.imagery.raster_reading import read_window
from geo.imagery.valid_values import has_data
from geo.pixels.parcel_pixels import read_parcel_pixels
from geo.pixels.pixel_index import PixelIndex
from tests.builders.items import assert_survive

WHOLE = slice(None)


@pytest.fixture
def rng():
    return np.random.default_rng(12)


def packed(folder, attributes, raw, dtype, fill_value=None):
    """Write B02 and B8A with netCDF4 as they are: no software adds or decodes anything."""
    path = folder / "20180405.nc"
    with netCDF4.Dataset(path, "w") as data:
        data.setncatts({"epsg": np.int32(32631)})
        for axis, size, first, step in (("y", 6, 5_600_000, -10), ("x", 8, 500_000, 10)):
            data.createDimension(axis, size)
            places = first + step * (np.arange(size) + 0.5)
            data.createVariable(axis, "f8", (axis,))[:] = places
        for name in ("B02", "B8A"):
            endian = "big" if dtype[0] == ">" else "little"
            variable = data.createVariable(
                name, dtype, ("y", "x"), fill_value=fill_value, endian=endian
            )
            variable.set_auto_maskandscale(False)
            variable.setncatts(attributes)
            if raw is not None:
                variable[:4] = raw[:4]  # nothing is written into the last rows
    return path


UNSIGNED = {
    # attributes, fill value of the file, numbers that are nodata
    "nothing named": ({}, None, {0, 32_769}),
    "a fill value as stored": ({}, np.int16(-1), {65_535}),
    "a missing value as meant": ({"missing_value": np.uint16(40_000)}, None, {40_000, 32_769}),
    "a missing value as stored": ({"missing_value": np.int16(-25_536)}, None, {40_000, 32_769}),
    "both": ({"missing_value": np.int16(5)}, np.int16(-1), {5, 65_535}),
    "a range as stored": (
        {"valid_range": np.array([1, -15_536], "i2")}, None, {*range(50_001, 65_536), 0, 32_769}
    ),
    "a greatest value as meant": (
        {"valid_max": np.uint16(50_000)}, None, {*range(50_001, 65_536), 0, 32_769}
    ),
}  # fmt: skip


@pytest.mark.parametrize("stored", ["<i2", ">i2"])
@pytest.mark.parametrize("case", UNSIGNED)
def test_unsigned_numbers_may_be_stored_as_signed_ones(tmp_path, rng, case, stored):
    """0 is nodata unless the file names another value."""
    attributes, fill, hidden = UNSIGNED[case]
    numbers = rng.integers(1, 65_535, (6, 8), endpoint=True).astype("uint16")
    numbers.ravel()[:6] = (0, 5, 32_769, 40_000, 50_001, 65_535)
    attributes = {"_Unsigned": "true", **attributes}
    raw = numbers.view("int16").astype(stored)
    fill = None if fill is None else np.array(fill, stored)
    path = packed(tmp_path, attributes, raw, stored, fill)
    (found,) = find_acquisitions(path, reflectance_scale=2e-5)  # all numbers are possible
    numbers[4:] = 32_769 if fill is None else 65_535
    is_nodata = np.isin(numbers, list(hidden))
    for band in found.bands.values():
        values = read_window(band, WHOLE, WHOLE)
        assert values.dtype == np.uint16
        assert np.array_equal(~has_data(band, values), is_nodata)
        assert np.array_equal(values[~is_nodata], numbers[~is_nodata])
        assert np.array_equal(read_window(band, slice(1, 3), slice(2, 9)), values[1:3, 2:])
    assert_survive([found], tmp_path / "items")


def test_signed_numbers_may_be_stored_as_unsigned_ones(tmp_path):
    raw = np.arange(-24, 24, dtype="int16").reshape(6, 8)
    path = packed(tmp_path, {"_Unsigned": "false"}, raw.view("uint16"), "u2", 9)
    (found,) = find_acquisitions(path)
    values = read_window(found.bands["B02"], WHOLE, WHOLE)
    assert values.dtype == np.int16
    assert np.array_equal(values[:4], raw[:4])
    assert (values[4:] == 9).all()


@pytest.mark.parametrize("dtype", ["i2", "u2", "i4", "f4", "f8"])
def test_what_was_never_written_is_nodata(tmp_path, rng, dtype):
    """NetCDF fills it with a value of its own, if the file names none."""
    raw = rng.integers(1, 9000, (6, 8)).astype(dtype) / (10_000 if dtype[0] == "f" else 1)
    (found,) = find_acquisitions(packed(tmp_path, {}, raw, dtype))
    band = found.bands["B02"]
    values = has_data(band, read_window(band, WHOLE, WHOLE))
    assert values[:4].all()
    assert not values[4:].any()


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"missing_value": "none"}, r"B02: missing_value is 'none', expected a number"),
        ({"valid_range": "0, 9000"}, r"B02: valid_range is '0, 9000', expected a number"),
        ({"valid_range": np.array([1, 2, 3], "u2")}, "B02: its valid range has 3 limits"),
        ({"scale_factor": 0.0}, "B02: B02 has the scale 0.0 .*expected a scale above 0"),
        ({"scale_factor": -1e-4}, "B02: .*expected a scale above 0"),
        ({"scale_factor": np.nan}, "B02: .*expected a scale above 0"),
        ({"add_offset": np.inf}, "B02: .*the offset inf, expected"),
        ({"scale_factor": "1e-4 per count"}, "B02: could not convert"),
    ],
)
def test_attributes_that_are_not_numbers_are_refused(tmp_path, rng, attributes, words):
    path = packed(tmp_path, attributes, rng.integers(1, 9000, (6, 8)), "u2")
    with pytest.raises(InputError, match=rf"20180405\.nc: {words}"):
        find_acquisitions(path)


@pytest.mark.parametrize("dtype", ["<u2", ">u2", ">i2", ">i4", ">f4"])
def test_numbers_in_another_order_of_bytes_give_the_same_reflectance(tmp_path, rng, dtype):
    counts = rng.integers(1, 9000, (6, 8))
    raw = (counts / (10_000 if "f" in dtype else 1)).astype(dtype)
    (found,) = find_acquisitions(packed(tmp_path, {}, raw, dtype))
    rows, cols = np.indices((4, 8), np.int32).reshape(2, -1)
    index = PixelIndex(["a"], np.array([0, 32]), rows, cols, "scene", found.grid)
    pixels, has_values = read_parcel_pixels(found, index, ["B02", "B8A"])
    assert has_values.all()
    assert np.array_equal(pixels, np.tile(counts[:4].ravel(), (2, 1)))
