"""Stacks have the same arrays in every layout: any order and direction of axes, NetCDF and Zarr."""

import warnings
from itertools import permutations

import numpy as np
import pytest
import shapely
import xarray as xr

from geo.errors import InputError
from geo.imagery.discovery import find_acquisitions
from geo.imagery.raster_reading import read_window
from geo.pixels.parcel_pixels import read_parcel_pixels
from geo.pixels.pixel_index import index_pixels
from tests.builders.items import assert_survive, refusal
from tests.builders.paths import DATA
from tests.builders.stacks import DAYS, FORMATS, cube, write_stack

FLANDERS = DATA / "flanders-2018"
WHOLE = slice(None)


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def assert_equal(found, data, bands=("B02", "B8A")):
    """Compare every window of every band and date with the north-up arrays."""
    assert [item.date.isoformat() for item in found] == [str(t)[:10] for t in data["time"].values]
    for index, item in enumerate(found):
        for name in bands:
            band, expected = item.bands[name], data[name].values[index]
            assert band.grid.shape == expected.shape
            assert band.grid.bounds[0] == 500_000
            assert band.grid.bounds[3] == 5_600_000
            np.testing.assert_array_equal(read_window(band, WHOLE, WHOLE), expected)
            part = read_window(band, slice(1, 5), slice(2, 100))
            np.testing.assert_array_equal(part, expected[1:5, 2:])


def band_axis(data, name="bands", labels=None):
    stacked = data.to_dataarray(name).rename("reflectance")
    if labels is not None:
        stacked = stacked.assign_coords({name: labels})
    return stacked.to_dataset().assign_attrs(data.attrs)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_read(tmp_path, rng, form):
    data = cube(rng)
    assert_equal(find_acquisitions(write_stack(data, tmp_path, form)), data)


@pytest.mark.parametrize("form", ["netcdf", "zarr3"])
@pytest.mark.parametrize("order", list(permutations(("time", "y", "x")))[1:])
def test_axes_may_have_any_order(tmp_path, rng, form, order):
    data = cube(rng)
    assert_equal(find_acquisitions(write_stack(data.transpose(*order), tmp_path, form)), data)


@pytest.mark.parametrize("form", ["netcdf", "zarr2"])
@pytest.mark.parametrize("order", [("time", "y", "x"), ("x", "y", "time")])
def test_rows_may_be_stored_from_south_to_north(tmp_path, rng, form, order):
    data = cube(rng)
    path = write_stack(data.sortby("y").transpose(*order), tmp_path, form)
    assert_equal(find_acquisitions(path), data)


@pytest.mark.parametrize("form", ["netcdf", "zarr2", "zarr3"])
@pytest.mark.parametrize(("axis", "order"), [("bands", (1, 0, 2, 3)), ("band", (2, 3, 0, 1))])
def test_bands_may_be_an_axis(tmp_path, rng, form, axis, order):
    data = cube(rng, ("B02", "B8A", "SCL", "NDVI"))
    stacked = band_axis(data, axis)
    axes = (axis, "time", "y", "x")
    path = write_stack(stacked.transpose(*(axes[place] for place in order)), tmp_path, form)
    found = find_acquisitions(path)
    assert_equal(found, data)
    scl = found[1].masks["SCL"]
    np.testing.assert_array_equal(read_window(scl, WHOLE, WHOLE), data["SCL"].values[1])
    assert list(found[0].bands) == ["B02", "B8A"]


@pytest.mark.parametrize("is_axis", [False, True])
def test_bands_may_have_common_names(tmp_path, rng, is_axis):
    data = cube(rng)
    labelled = band_axis(data, labels=["blue", "nir08"])
    renamed = labelled if is_axis else data.rename(B02="blue", B8A="nir08")
    assert_equal(find_acquisitions(write_stack(renamed, tmp_path, "netcdf")), data)


def test_numbered_bands_may_be_described_as_rioxarray_writes(tmp_path, rng):
    data = cube(rng)
    stacked = band_axis(data, "band", labels=[1, 2])
    stacked["reflectance"].attrs["long_name"] = ["B02", "B8A"]
    assert_equal(find_acquisitions(write_stack(stacked, tmp_path, "netcdf")), data)


@pytest.mark.parametrize(
    ("form", "names"),
    [
        ("netcdf", ("x_20m", "y_20m")),
        ("zarr2", ("x_r20m", "y_r20m")),
        ("zarr3", ("x20", "y20")),
    ],
)
def test_a_file_may_have_several_resolutions(tmp_path, rng, form, names):
    fine = cube(rng, ("B02", "B05"))
    coarse = cube(rng, ("B8A", "B05"), pixel=20, shape=(3, 4)).rename(B05="B05_20m")
    coarse = coarse.rename(x=names[0], y=names[1])
    found = find_acquisitions(
        write_stack(xr.merge([fine, coarse]).assign_attrs(fine.attrs), tmp_path, form)
    )
    assert_equal(found, fine, ("B02",))
    assert_equal(found, coarse.rename(B05_20m="B05"), ("B8A", "B05"))
    assert found[0].grid.pixel_width == 10
    # The native resolution of B05 is 20 m; the copy at 10 m is interpolated.
    assert found[0].bands["B05"].grid.pixel_width == 20


@pytest.mark.parametrize("form", ["netcdf", "zarr2", "zarr3 unconsolidated"])
def test_resolutions_may_be_in_groups(tmp_path, rng, form):
    fine, coarse = cube(rng, ("B02",)), cube(rng, ("B8A",), pixel=20, shape=(3, 4))
    write_stack(xr.Dataset(attrs=fine.attrs), tmp_path, form)
    write_stack(fine.drop_attrs(), tmp_path, form, group="10m")
    path = write_stack(coarse.drop_attrs(), tmp_path, form, group="deeper/20m")
    found = find_acquisitions(path)
    assert_equal(found, fine, ("B02",))
    assert_equal(found, coarse, ("B8A",))
    assert found[0].tile == "31UDS"


def test_a_folder_may_have_several_formats_and_resolutions(tmp_path, rng):
    fine, coarse = cube(rng, ("B02",)), cube(rng, ("B8A",), pixel=20, shape=(3, 4))
    write_stack(fine, tmp_path, "netcdf", "fine")
    write_stack(coarse.drop_attrs().assign_attrs(epsg=32631), tmp_path, "zarr2", "coarse")
    found = find_acquisitions(tmp_path)
    assert {item.tile for item in found} == {"31UDS"}
    assert_equal(found, fine, ("B02",))
    assert_equal(found, coarse, ("B8A",))


@pytest.mark.parametrize("form", ["netcdf", "zarr2"])
def test_missing_values_are_nodata_at_the_parcels(tmp_path, rng, form):
    data = cube(rng, shape=(60, 80), scale_factor=1e-4)
    data["B8A"].values[1, 20:40, 20:40] = 0
    data["B02"].attrs |= {"missing_value": np.uint16(77), "valid_max": np.uint16(9000)}
    data["B02"].values[1, 30:50, 30:60] = 77
    data_as_written = data.sortby("y").transpose("x", "time", "y")
    path = write_stack(data_as_written, tmp_path, form, chunk=(30, 40))
    item = find_acquisitions(path)[1]
    circles = [
        shapely.Point(500_000 + c, 5_600_000 - c).buffer(r) for c, r in ((0, 90), (300, 150))
    ]
    index = index_pixels(np.array(circles), ["a", "b"], item.grid, "31UDS")
    pixels, valid = read_parcel_pixels(item, index, ["B02", "B8A"])
    known = np.ones(len(index.rows), bool)
    for name in ("B02", "B8A"):
        raw = data[name].values[1][index.rows, index.cols]
        known &= raw != 0 if name == "B8A" else (raw != 77) & (raw <= 9000)
    assert 100 < known.sum() < len(known)
    np.testing.assert_array_equal(valid, known)
    for channel, name in enumerate(("B02", "B8A")):
        raw = data[name].values[1][index.rows, index.cols]
        np.testing.assert_array_equal(pixels[channel], np.where(known, raw, 0))


def test_only_the_chunks_of_a_window_are_read(tmp_path, rng):
    data = cube(rng)
    path = write_stack(data, tmp_path, "zarr2")
    band = find_acquisitions(path)[0].bands["B02"]
    assert band.block_shape == (2, 3)
    for chunk in (path / "B02").glob("*.*.*"):
        if chunk.name not in ("0.0.0", "0.1.0"):
            chunk.write_bytes(b"damaged")
    values = read_window(band, slice(0, 4), slice(0, 3))
    np.testing.assert_array_equal(values, data["B02"].values[0, :4, :3])
    with pytest.raises(InputError, match=r"Band B02 of .*stack\.zarr cannot be read at rows"):
        read_window(band, slice(0, 4), slice(0, 4))


@pytest.mark.parametrize("form", ["netcdf", "zarr3"])
def test_times_may_be_unsorted_and_on_the_same_day(tmp_path, rng, form):
    days = ("2018-04-15T10:50", "2018-04-05T10:58", "2018-04-05T10:50", "2018-04-10")
    data = cube(rng, days=days)
    found = find_acquisitions(write_stack(data, tmp_path, form))
    ids = ["20180405_31UDS", "20180405_31UDS_2", "20180410_31UDS", "20180415_31UDS"]
    assert [item.id for item in found] == ids
    for item in found:
        place = list(data["time"].values.astype("datetime64[s]")).index(
            np.datetime64(item.sensing_start)
        )
        read = read_window(item.bands["B02"], WHOLE, WHOLE)
        np.testing.assert_array_equal(read, data["B02"].values[place])


def test_a_folder_may_have_a_file_for_each_date(tmp_path, rng):
    data = cube(rng)
    for index, day in enumerate(DAYS):
        one = data.isel(time=index, drop=index != 1)
        write_stack(one, tmp_path, ("zarr2", "netcdf", "zarr3")[index], f"openEO_{day[:10]}Z")
    found = find_acquisitions(tmp_path)
    assert_equal(found, data)
    for item in found:
        assert item.product.name.startswith(f"openEO_{item.date}")
        assert find_acquisitions(item.product) == [item]


def test_files_of_one_day_get_two_ids(tmp_path, rng):
    for name, hour in (("a", "10:50"), ("b", "10:58")):
        write_stack(cube(rng, days=(f"2018-04-05T{hour}",)), tmp_path, "netcdf", name)
    found = find_acquisitions(tmp_path)
    assert [item.id for item in found] == ["20180405_31UDS", "20180405_31UDS_2"]
    for item in found:
        # Read alone, its id has no number.
        assert item.bands in [other.bands for other in find_acquisitions(item.product)]


def test_times_may_have_another_name_than_their_axis(tmp_path, rng):
    data = cube(rng)
    path = write_stack(data.rename_dims(time="t").drop_indexes("time"), tmp_path)
    assert_equal(find_acquisitions(path), data)


@pytest.mark.parametrize(
    ("units", "scale", "dtype", "reflectance"),
    [
        ("1", 1, "float32", 1), ("reflectance", 1, "float32", 1), ("%", 1, "float32", 0.01),
        ("percent", 0.5, "int16", 0.005), ("1e-4", 1, "uint16", 1e-4), ("0.001", 1, "int16", 1e-3),
        ("1", 1, "uint16", 1e-4), ("", 1, "uint16", 1e-4), ("digital_counts", 1e-4, "uint16", 1e-4),
    ],
)  # fmt: skip
def test_units_are_honoured(tmp_path, rng, units, scale, dtype, reflectance):
    data = cube(rng, units=units, **({} if scale == 1 else {"scale_factor": scale}))
    attrs = data["B02"].attrs
    data = (data * (0.9 / 9999 / reflectance)).astype(dtype)
    for variable in data.data_vars.values():
        variable.attrs |= attrs
    band = find_acquisitions(write_stack(data.astype(dtype, keep_attrs=True), tmp_path))[0].bands[
        "B02"
    ]
    assert band.scale == pytest.approx(10_000 * reflectance)
    assert band.offset == 0


@pytest.mark.parametrize(
    ("dtype", "attrs", "hidden"),
    [
        ("uint16", {"_FillValue": 9, "missing_value": [5, 6]}, {5, 6, 9}),
        ("int16", {"missing_value": -1, "valid_range": [2, 8]}, {-1, 0, 1, 9}),
        ("uint16", {"fill_value": 0, "valid_min": 3}, {0, 1, 2}),
        ("uint16", {"valid_max": 0.6, "scale_factor": 0.1}, {0, 7, 8, 9}),
        ("float32", {"valid_min": 0.0, "_FillValue": -1.0}, {-1}),
    ],
)
@pytest.mark.parametrize("form", ["netcdf", "zarr2"])
def test_missing_and_invalid_values_are_nodata(tmp_path, rng, form, dtype, attrs, hidden):
    data = cube(rng, ("B02",), dtype=dtype)
    data["B02"].values[:] = np.resize(np.arange(-1 if dtype != "uint16" else 0, 10), (3, 6, 8))
    fill = {k: attrs[k] for k in ("_FillValue",) if k in attrs}
    data["B02"].attrs |= {k: v for k, v in attrs.items() if k not in fill}
    path = write_stack(data, tmp_path, form, **({"encoding": {"B02": fill}} if fill else {}))
    band = find_acquisitions(path, reflectance_scale=1e-4)[0].bands["B02"]
    values = read_window(band, WHOLE, WHOLE)
    expected = data["B02"].values[0]
    np.testing.assert_array_equal(values == band.nodata, np.isin(expected, list(hidden)))
    np.testing.assert_array_equal(values[values != band.nodata], expected[values != band.nodata])


def no_epsg(data):
    del data.attrs["epsg"]
    return data


@pytest.mark.parametrize(
    "place",
    [
        lambda d: d.assign_coords(epsg=32631),
        lambda d: d.assign_coords({"proj:code": "EPSG:32631"}),
        lambda d: d.assign({n: v.assign_attrs({"proj:epsg": 32631}) for n, v in d.items()}),
        lambda d: d.assign_coords(crs=((), 0, {"spatial_ref": "EPSG:32631"})),
        lambda d: d.assign(
            transverse_mercator=(
                (),
                0,
                {
                    "grid_mapping_name": "transverse_mercator",
                    "longitude_of_central_meridian": 3.0,
                    "latitude_of_projection_origin": 0.0,
                    "scale_factor_at_central_meridian": 0.9996,
                    "false_easting": 500_000.0,
                    "false_northing": 0.0,
                    "geographic_crs_name": "WGS 84",
                },
            ),
            B02=d["B02"].assign_attrs(grid_mapping="transverse_mercator: x y"),
        ),
    ],
)
def test_the_coordinate_system_may_be_in_several_places(tmp_path, rng, place):
    path = write_stack(place(no_epsg(cube(rng, ("B02",)))), tmp_path, "zarr2")
    crs = find_acquisitions(path)[0].grid.crs
    assert crs == "EPSG:32631" or "Transverse Mercator" in crs


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: band_axis(d, labels=[0, 1]), "none of the labels of the axis bands"),
        (lambda d: band_axis(d, labels=["B02", "b2"]), "B02 is twice on the axis bands"),
        (lambda d: band_axis(d).rename(bands="spectrum"), "nor one with a band axis labelled so"),
        (lambda d: d.assign_attrs(tile=""), None),
        (lambda d: d.isel(time=0, drop=True), "its bands have no time. Add a time axis"),
        (lambda d: d.assign(B8A=d["B8A"].rename(time="date")), "have different time axes"),
        (lambda d: d.astype("uint8"), "holds uint8 and says no scale"),
        (lambda d: d.astype("float32"), "Set reflectance_scale to the reflectance of 1: 0.0001"),
        (lambda d: d.assign(B02=d["B02"].assign_attrs(units="K")), "the units 'K' are none of"),
        (
            lambda d: d.assign(B02=d["B02"].assign_attrs(units="1e-4", scale_factor=1e-4)),
            "unclear whether both the scale 0.0001 and the units '1e-4' apply",
        ),
        (
            lambda d: d.assign_coords(
                x=d.x - 5,
                y=d.y + 5,
                spatial_ref=((), 0, {"GeoTransform": "500000 10 0 5600000 0 -10"}),
            ),
            "x and y are corners of pixels, expected their centres",
        ),
        (
            lambda d: d.assign_coords(
                time=("time", [1, 2, 3], {"units": "days since 2018-01-01", "calendar": "noleap"})
            ),
            "a standard calendar",
        ),
    ],
)
def test_unclear_stacks_are_refused(tmp_path, rng, change, words):
    path = write_stack(change(cube(rng)), tmp_path)
    if words is None:
        assert find_acquisitions(path)[0].tile == "scene"
        return
    message = refusal(path)
    assert words in message
    assert str(path) in message


def test_a_clip_may_keep_the_geotransform_of_the_original(tmp_path, rng):
    attrs = {"GeoTransform": "499000 10 0 5610000 0 -10"}
    data = cube(rng).assign_coords(spatial_ref=((), 0, attrs))
    assert_equal(find_acquisitions(write_stack(data, tmp_path)), data)


def test_a_zarr_with_damaged_metadata_is_refused(tmp_path, rng):
    path = write_stack(cube(rng), tmp_path, "zarr3 unconsolidated")
    (path / "B02" / "zarr.json").write_text("{")
    assert f"{path} cannot be" in refusal(path)


@pytest.fixture(scope="module")
def flanders():
    if not FLANDERS.is_dir():
        pytest.skip(reason=f"{FLANDERS} is not there")
    return find_acquisitions(FLANDERS)


def bands_along_an_axis(data):
    names = [name for name in data.data_vars if str(name).startswith("B")]
    scale = data["B05" if "B05" in data else "B02"].attrs["scale_factor"]
    stacked = data[names].to_dataarray("bands").rename("reflectance")
    rest = data.drop_vars(names)
    return rest.assign(reflectance=stacked.assign_attrs(scale_factor=scale)).transpose(
        "timestamp", "bands", "y", "x"
    )


@pytest.mark.parametrize(
    ("form", "change"),
    [
        ("zarr2", lambda data: data),
        ("zarr3", lambda data: data),
        ("netcdf", bands_along_an_axis),
        ("zarr3", bands_along_an_axis),
        ("netcdf", lambda data: data.sortby("y")),
        (
            "zarr2",
            lambda d: d.sortby("y").isel(timestamp=slice(None, None, -1)).transpose("x", ...),
        ),
    ],
)
def test_a_real_stack_is_the_same_in_other_layouts(tmp_path, flanders, form, change):
    for file in FLANDERS.glob("S2_L2A_*.nc"):
        data = xr.open_dataset(file, mask_and_scale=False).load().drop_encoding()
        changed = change(data)
        if form == "netcdf":
            changed.to_netcdf(tmp_path / file.name)
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            changed.to_zarr(tmp_path / f"{file.stem}.zarr", zarr_format=int(form[4]))
    found = find_acquisitions(tmp_path)
    assert [(i.id, i.date, i.tile) for i in found] == [(i.id, i.date, i.tile) for i in flanders]
    for index in (0, 31, 117):
        ours, theirs = found[index], flanders[index]
        for name, band in {**theirs.bands, **theirs.masks}.items():
            other = (ours.bands | ours.masks)[name]
            assert other.grid == band.grid
            assert (other.scale, other.offset, other.nodata) == (
                band.scale,
                band.offset,
                band.nodata,
            )
            window = slice(3, 30), slice(2, 29)
            np.testing.assert_array_equal(read_window(other, *window), read_window(band, *window))


@pytest.mark.parametrize("form", ["netcdf", "zarr2"])
def test_items_keep_the_layout_of_a_stack(tmp_path, rng, form):
    """South up, time as the last axis, with missing values and a valid range."""
    data = (cube(rng) / 10_000).astype("float32").transpose("y", "x", "time").sortby("y")
    data["B02"].attrs |= {"missing_value": np.float32(-1), "valid_min": np.float32(0)}
    folder = tmp_path / "imagery"
    folder.mkdir()
    path = write_stack(data.assign_attrs(crs="EPSG:32631"), folder, form)
    found = find_acquisitions(path)
    assert found[0].bands["B02"].layer.south_up
    assert found[0].bands["B02"].layer.valid_range == (0, np.inf)
    assert_survive(found, tmp_path / "items")


def test_subfolders_are_searched_if_the_folder_has_no_stack(tmp_path, rng):
    (tmp_path / "2018").mkdir()
    write_stack(cube(rng), tmp_path / "2018", "netcdf")
    assert len(find_acquisitions(tmp_path)) == len(DAYS)
    write_stack(cube(rng, days=("2019-04-05",)), tmp_path, "netcdf")
    assert len(find_acquisitions(tmp_path)) == 1
