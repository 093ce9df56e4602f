"""NetCDF stacks: a real one compared with netCDF4; scales, nodata, times, grids, refusals."""

from datetime import date

import netCDF4
import numpy as np
import pytest
from pyproj import CRS

from geo.imagery.discovery import find_acquisitions
from geo.imagery.raster_reading import read_window
from tests.builders.items import refusal
from tests.builders.paths import DATA
from tests.builders.stacks import DAYS, cube, write_stack

FLANDERS = DATA / "flanders-2018"
WHOLE = slice(None)


@pytest.fixture
def flanders():
    if not FLANDERS.is_dir():
        pytest.skip(reason=f"{FLANDERS} is not there")
    return FLANDERS


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_every_time_of_a_real_stack_is_found(flanders):
    found = find_acquisitions(flanders)
    (fine,) = flanders.glob("S2_L2A_10m*.nc")
    with netCDF4.Dataset(fine) as data:
        axis = data["timestamp"]
        times = netCDF4.num2date(axis[:], axis.units, axis.calendar)
    assert len(found) == 118
    assert [item.date for item in found] == [date(t.year, t.month, t.day) for t in times]
    assert len({item.id for item in found}) == 118
    assert found[0].id == "20170804_31UDS"
    assert found[-1].date == date(2018, 11, 27)
    first = found[0]
    assert list(first.bands) == [
        "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12",
    ]  # fmt: skip
    assert first.grid.crs == "EPSG:32631"
    assert first.grid.bounds == (501360, 5629040, 502000, 5629680)
    assert first.grid.shape == (64, 64)
    assert first.bands["B8A"].grid.bounds == first.grid.bounds
    assert first.bands["B8A"].grid.shape == (32, 32)
    assert {(b.scale, b.offset, b.nodata) for b in first.bands.values()} == {(1, 0, 0)}
    assert first.product == flanders


def test_windows_of_a_real_stack_are_its_raw_values(flanders):
    found = find_acquisitions(flanders)
    for path in flanders.glob("S2_L2A_*.nc"):
        with netCDF4.Dataset(path) as data:
            data.set_auto_maskandscale(False)
            for name in set(data.variables) & {*found[0].bands, "SCL"}:
                expected = data[name][:]
                for index in (0, 57, 117):
                    item = found[index]
                    band = item.masks["SCL"] if name == "SCL" else item.bands[name]
                    values = read_window(band, slice(5, 30), slice(2, 1000))
                    assert values.dtype == expected.dtype
                    np.testing.assert_array_equal(values, expected[index, 5:30, 2:])


@pytest.mark.parametrize("time", ["t", "time", "timestamp", "date"])
def test_the_time_axis_may_have_several_names(tmp_path, rng, time):
    data = cube(rng, time=time)
    path = write_stack(data, tmp_path)
    found = find_acquisitions(path)
    assert [item.id for item in found] == ["20180405_31UDS", "20180410_31UDS", "20180415_31UDS"]
    values = read_window(found[1].bands["B8A"], slice(1, 4), slice(2, 5))
    np.testing.assert_array_equal(values, data["B8A"].values[1, 1:4, 2:5])
    assert found[0].grid.bounds == (500_000, 5_599_940, 500_080, 5_600_000)


@pytest.mark.parametrize(
    ("dtype", "attrs", "given"),
    [
        ("uint16", {}, None),
        ("uint16", {"scale_factor": 1e-4}, None),
        ("uint16", {"scale_factor": np.float32(1e-4), "add_offset": np.float32(-0.1)}, None),
        ("uint16", {"scale_factor": 2e-4, "add_offset": 0.05}, None),
        ("uint16", {"scale_factor": 2e-4, "add_offset": 0.05}, 1e-5),
        ("float32", {}, None),
        ("float32", {}, 0.01),
    ],
)
def test_scale_and_offset_give_reflectance(tmp_path, rng, dtype, attrs, given):
    data = cube(rng, dtype=dtype, **attrs)
    found = find_acquisitions(write_stack(data, tmp_path), reflectance_scale=given)
    scale = attrs.get("scale_factor", 1.0 if dtype == "float32" else 1e-4)
    offset = attrs.get("add_offset", 0.0)
    if given is not None:
        scale, offset = given, 0.0
    raw = data["B02"].values[2].astype(float)
    band = found[2].bands["B02"]
    decoded = (read_window(band, WHOLE, WHOLE).astype(float) + band.offset) * band.scale
    expected = 10_000 * (raw * float(scale) + float(offset))
    np.testing.assert_allclose(decoded, expected, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "encoding", "expected"),
    [
        ("uint16", {}, 0), ("uint16", {"_FillValue": 65535}, 65535),
        ("int16", {"_FillValue": -999}, -999), ("float32", {"_FillValue": -1.0}, -1),
    ],
)  # fmt: skip
def test_nodata(tmp_path, rng, dtype, encoding, expected):
    data = cube(rng, dtype=dtype)
    path = write_stack(data, tmp_path, encoding=dict.fromkeys(data, encoding))
    assert find_acquisitions(path)[0].bands["B02"].nodata == expected


def test_zero_is_nodata_in_floats_too(tmp_path, rng):
    """xarray states NaN as the fill value of all floats; NaN is nodata in any case."""
    path = write_stack(cube(rng, dtype="float32"), tmp_path)
    assert find_acquisitions(path)[0].bands["B02"].nodata == 0


def test_block_shape_is_that_of_the_chunks(tmp_path, rng):
    path = write_stack(cube(rng), tmp_path, encoding={"B02": {"chunksizes": (1, 3, 4)}})
    assert find_acquisitions(path)[0].bands["B02"].block_shape == (3, 4)


def epsg_attribute(data, value):
    return data.assign_attrs(epsg=value)


def crs_attribute(data, value):
    del data.attrs["epsg"]
    return data.assign_attrs(crs=value)


def grid_mapping(data, value):
    del data.attrs["epsg"]
    for variable in data.data_vars.values():
        variable.attrs["grid_mapping"] = "projection"
    return data.assign_coords(projection=((), 0, {"crs_wkt": value}))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (epsg_attribute, 32631), (epsg_attribute, "32631"),
        (crs_attribute, "EPSG:32631"), (crs_attribute, "+init=epsg:32631"),
        (crs_attribute, CRS(32631).to_wkt()), (grid_mapping, CRS(32631).to_wkt()),
    ],
)  # fmt: skip
def test_the_coordinate_system_may_be_in_several_attributes(tmp_path, rng, place, value):
    path = write_stack(place(cube(rng), value), tmp_path)
    assert find_acquisitions(path)[0].grid.crs == "EPSG:32631"


def test_two_times_of_a_day_get_two_ids(tmp_path, rng):
    days = ("2018-04-05T10:50", "2018-04-05T10:58", "2018-04-10T10:50")
    path = write_stack(cube(rng, days=days), tmp_path)
    found = find_acquisitions(path)
    assert [i.id for i in found] == ["20180405_31UDS", "20180405_31UDS_2", "20180410_31UDS"]
    assert [item.bands["B02"].layer.axes[0] for item in found] == [0, 1, 2]


def test_files_of_a_folder_are_joined_and_files_without_bands_left_out(tmp_path, rng, caplog):
    write_stack(cube(rng, ("B02", "B03")), tmp_path, name="10m")
    write_stack(cube(rng, ("B8A", "SCL"), pixel=20), tmp_path, name="20m")
    write_stack(cube(rng, ("CT",)).isel(time=0), tmp_path, name="labels")
    with caplog.at_level("INFO"):
        found = find_acquisitions(tmp_path, bands=["B8A", "B02"])
    assert "labels.nc is left out: it has no band" in caplog.text
    assert list(found[0].bands) == ["B02", "B8A"]
    assert found[0].grid.pixel_width == 10
    assert found[0].masks["SCL"].grid.pixel_width == 20


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.isel(x=slice(None, None, -1)), 'Sort it: `data.sortby("x")`'),
        (lambda d: d.rename(y="depth"), "has the axes (time, depth, x), and depth is none of"),
        (lambda d: d.isel(x=0), "has the axes (time, y), expected y and x among them"),
        (lambda d: d.expand_dims(height=[2, 10]), "and height is none of time, y and x"),
        (lambda d: d.drop_vars("time"), "the time axis time has no coordinate"),
        (lambda d: d.assign_coords(time=[1, 2, 3]), "holds int64, expected times"),
        (
            lambda d: d.assign_coords(
                time=("time", [1, 2, 3], {"units": "moons since 1969-07-21"})
            ),
            "cannot be read: ",
        ),
        (lambda d: d.drop_vars("y"), "the axis y needs coordinates"),
        (lambda d: d.assign_coords(x=np.geomspace(1, 8, 8)), "x are not evenly spaced"),
        (lambda d: d.drop_attrs(), "has no coordinate system"),
        (lambda d: d.assign_attrs(epsg="Mars"), "'Mars' is not a coordinate system"),
        (lambda d: d.rename(B02="one", B8A="two"), "none of 1 NetCDF files and Zarr folders has"),
    ],
)
def test_stacks_that_cannot_be_used_are_refused(tmp_path, rng, change, words):
    path = write_stack(change(cube(rng)), tmp_path)
    message = refusal(path)
    assert words in message
    assert str(path) in message


def test_files_of_one_stack_must_have_the_same_times_and_different_bands(tmp_path, rng):
    write_stack(cube(rng), tmp_path, name="a")
    write_stack(cube(rng, ("B11",), days=(*DAYS[:2], "2018-05-01")), tmp_path, name="b")
    message = refusal(tmp_path)
    assert "must hold the same times" in message
    assert "2018-04-15T10:50:00, 2018-05-01T00:00:00" in message
    write_stack(cube(rng, ("B8A",)), tmp_path, name="b")
    assert "B8A of one acquisition is twice there, in " in refusal(tmp_path)


@pytest.mark.parametrize("form", ["netcdf", "zarr2", "zarr3"])
@pytest.mark.parametrize(
    "variable", ["s2:processing_baseline", "processing:version", "processing_baseline"]
)
def test_each_time_has_the_offset_of_its_baseline(tmp_path, rng, form, variable):
    """Programs that stack STAC items keep the baseline of every item."""
    data = cube(rng).assign_coords({variable: ("time", ["03.01", "04.00", "05.10"])})
    write_stack(data, tmp_path, form)
    found = find_acquisitions(tmp_path)
    assert [item.baseline for item in found] == ["03.01", "04.00", "05.10"]
    for item, offset in zip(found, (0, -1000, -1000), strict=True):
        assert {band.offset for band in item.bands.values()} == {offset}


@pytest.mark.parametrize("value", ["04.00", "N0400", "4.0", 4.0])
def test_a_stack_has_the_baseline_of_its_attributes_or_name(tmp_path, rng, value):
    data = cube(rng)
    data.attrs["processing_baseline"] = value
    write_stack(data, tmp_path / "attribute")
    write_stack(cube(rng), tmp_path / "name", name="31UDS_N0400_2022")
    write_stack(cube(rng), tmp_path / "none", name="31UDS_2022")
    for folder, offset in (("attribute", -1000), ("name", -1000), ("none", 0)):
        for item in find_acquisitions(tmp_path / folder):
            assert {band.offset for band in item.bands.values()} == {offset}


def test_what_a_stack_states_is_not_replaced_by_its_baseline(tmp_path, rng):
    data = cube(rng, scale_factor=1e-4, add_offset=-0.05)
    data.attrs["processing_baseline"] = "04.00"
    write_stack(data, tmp_path / "stated")
    write_stack(cube(rng, dtype="float32"), tmp_path / "float", name="N0400")
    write_stack(cube(rng), tmp_path / "given", name="N0400")
    for folder, given, expected in (
        ("stated", None, -500), ("float", None, 0), ("given", 1e-4, 0),
    ):  # fmt: skip
        for item in find_acquisitions(tmp_path / folder, reflectance_scale=given):
            assert {band.offset for band in item.bands.values()} == {expected}
