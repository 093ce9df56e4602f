"""Which raw values are data: impossible reflectance, and a scale that makes values impossible."""

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from geo.errors import InputError
from geo.grid import Grid
from geo.imagery.acquisition import Band
from geo.imagery.discovery import find_acquisitions
from geo.imagery.reduced_reading import read_coarse
from geo.imagery.valid_values import has_data, is_impossible
from geo.pixels.parcel_pixels import read_parcel_pixels
from geo.pixels.pixel_index import PixelIndex
from tests.builders.tiffs import write_tiff

GRID = Grid("EPSG:32631", 500_000.0, 5_600_000.0, 10.0, 10.0, 40, 40)
BANDS = ("B02", "B03", "B08")


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def every_pixel(grid=GRID):
    rows, cols = np.indices(grid.shape, np.int32).reshape(2, -1)
    return PixelIndex(["a"], np.array([0, rows.size]), rows, cols, "31UDS", grid)


def write(folder, values, names=BANDS, **options):
    return write_tiff(folder / "20180405.tif", values, names, **options)


def read(path, **options):
    """Return reflectance, has_values and impossible of every pixel, as images."""
    (found,) = find_acquisitions(path, **options)
    impossible = np.zeros(GRID.height * GRID.width, bool)
    pixels, has_values = read_parcel_pixels(
        found, every_pixel(), list(found.bands), impossible=impossible
    )
    shape = GRID.shape
    return pixels.reshape(-1, *shape), has_values.reshape(shape), impossible.reshape(shape)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "int32", "float32"])
@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (1.0, -1000.0), (300.0, 2.5)])
@pytest.mark.parametrize("nodata", [None, 0.0, 7.0, -9999.0])
def test_values_from_minus_0_2_to_2_are_data(dtype, scale, offset, nodata):
    """Expected: one value at a time, in decimals."""
    band = Band("B02", "x", 1, GRID, None, scale, offset, nodata)
    if dtype.startswith("float"):
        raw = np.array([0, 7, -1e38, 3, np.nan, np.inf, -np.inf, 1e-9, 20_000, 20_001], dtype)
    else:
        limits = np.iinfo(dtype)
        edges = [0, 7, -2000, -2001, 20_000, 20_001, 21_000, 21_001, -1000, -1001, -9999, 65_535]
        raw = np.array([n for n in edges if limits.min <= n <= limits.max], dtype)
        raw = np.append(raw, [limits.min, limits.max]).astype(dtype)
    data, impossible = has_data(band, raw), is_impossible(band, raw)
    for i, number in enumerate(map(float, raw)):
        is_value = not np.isnan(number) and number != nodata
        is_possible = -2000 <= (number + offset) * scale <= 20_000
        assert data[i] == (is_value and is_possible), number
        assert impossible[i] == (is_value and not is_possible), number


def test_masks_may_have_any_value():
    raw = np.array([0, 1, 250], np.uint8)
    assert has_data(Band("CLM", "x", 1, GRID, None, 1000.0), raw).all()
    scl = Band("SCL", "x", 1, GRID, None, 1000.0, 0.0, 0.0)
    assert has_data(scl, raw).tolist() == [False, True, True]


FILLS = {
    # dtype, fill, nodata tag, reflectance of 1
    "-9999 in int16": ("int16", -9999, None, None),
    "-32768 in int16": ("int16", -32768, None, None),
    "-9999 in int32, scaled": ("int32", -9999, None, 1e-4),
    "65535 in uint16": ("uint16", 65535, None, None),
    "-9999 in uint16": ("uint16", 55537, None, None),
    "32767 in int16": ("int16", 32767, None, None),
    "0 in float32": ("float32", 0, None, None),
    "0 in float32, tag NaN": ("float32", 0, np.nan, None),
    "-1 in float32": ("float32", -1, None, None),
    "-9999 in float64": ("float64", -9999, None, None),
    "1e20 in float32": ("float32", 1e20, None, None),
    "-inf in float32": ("float32", -np.inf, None, None),
    "NaN in float32, tag -1": ("float32", np.nan, -1, None),
    "0 in counts as float": ("float32", 0, None, 1e-4),
    "-9999 beside a tag of 0": ("int16", -9999, 0, None),
}


@pytest.mark.parametrize("case", FILLS)
def test_fill_values_without_a_tag_are_not_data(tmp_path, rng, case):
    dtype, fill, nodata, scale = FILLS[case]
    reflectance = rng.integers(1, 19_000, (3, 40, 40))  # snow and clouds reach 1.9
    is_count = dtype not in ("float32", "float64") or scale is not None
    values = (reflectance / (1 if is_count else 10_000)).astype(dtype)
    hidden = np.zeros((40, 40), bool)
    hidden[:, 22:] = True  # of one band only: it hides the pixel in all
    values[1][hidden] = fill
    path = write(tmp_path, values, nodata=nodata)
    pixels, has_values, impossible = read(path, reflectance_scale=scale)
    assert np.array_equal(has_values, ~hidden)
    assert np.array_equal(pixels, np.where(hidden, 0, reflectance))
    is_named = fill == 0 or np.isnan(fill)
    assert np.array_equal(impossible, hidden & (not is_named))


@pytest.mark.parametrize("dtype", ["int16", "int32"])
@pytest.mark.parametrize("fill", [-1, -99, -999, -1000])
def test_a_small_negative_fill_value_is_not_data(tmp_path, rng, fill, dtype):
    """In one of three dates, and of one band; other negative numbers are data."""
    values = rng.integers(1, 9000, (3, 40, 40)).astype(dtype)
    values[0, 0, :8] = range(fill + 1, fill + 9) if fill < -8 else 5
    hidden = np.zeros((40, 40), bool)
    hidden[30:] = True
    for day in (1, 2, 3):
        own = values.copy()
        own[0][hidden & (day == 3)] = fill
        write_tiff(tmp_path / f"2018040{day}.tif", own, BANDS)
    for item in find_acquisitions(tmp_path):
        pixels, has_values = read_parcel_pixels(item, every_pixel(), BANDS)
        expected = ~(hidden & (item.date.day == 3)).ravel()
        assert np.array_equal(has_values, expected)
        own = np.maximum(values, 0).reshape(3, -1)
        assert np.array_equal(pixels, np.where(expected, own, 0))


def test_slightly_negative_reflectance_is_data(tmp_path, rng):
    values = rng.integers(-1900, 9000, (3, 40, 40)).astype("int16")
    values[values == 0] = 1
    pixels, has_values, impossible = read(write(tmp_path, values))
    assert has_values.all()
    assert not impossible.any()
    assert np.array_equal(pixels, np.maximum(values, 0))


def test_an_acquisition_of_fill_values_alone_is_nodata_and_not_refused(tmp_path):
    """A date whose swath is beside the parcels; a seam of interpolated values belongs to it."""
    values = np.full((3, 40, 40), -9999, "int16")
    values[:, 0] = np.linspace(-9000, 500, 40)
    _, has_values, impossible = read(write(tmp_path, values))
    assert has_values.sum() < 40
    assert np.array_equal(impossible, ~has_values)


WRONG_SCALES = {
    "counts as floats": (lambda v: v.astype("float32"), {}, None),
    "percent as floats": (lambda v: (v / 100).astype("float32"), {}, None),
    "a scale of 0.001 in the file": (
        lambda v: (v * 3).astype("uint16"),
        {"scales": (1e-3,) * 3, "offsets": (0,) * 3},
        None,
    ),
    "a scale of 1 in the settings": (lambda v: v.astype("uint16"), {}, 1.0),
    "one band in other units": (
        lambda v: np.stack([v[0], v[1], v[2] * 100]).astype("int32"),
        {},
        None,
    ),
}


@pytest.mark.parametrize("case", WRONG_SCALES)
def test_a_wrong_scale_is_refused_before_the_pixels_are_read(tmp_path, rng, case):
    convert, tags, scale = WRONG_SCALES[case]
    path = write(tmp_path, convert(rng.integers(300, 9000, (3, 40, 40))), **tags)
    with pytest.raises(
        InputError,
        match=r"B0\d of .*20180405.tif would be taken as reflectance .* -0.2 to 2, such as "
        r"[\d.e+]+ \(stored as .*Set reflectance_scale to the reflectance of 1",
    ):
        find_acquisitions(path, reflectance_scale=scale)


CONSTANTS = {"counts": 2500, "percent": 37, "thousandths": 420}


@pytest.mark.parametrize("case", CONSTANTS)
def test_a_wrong_scale_of_an_image_of_one_value_is_refused(tmp_path, case):
    path = write(tmp_path, np.full((3, 40, 40), CONSTANTS[case], "float32"))
    with pytest.raises(InputError, match=r"20180405.tif would be taken as reflectance .*stored as"):
        find_acquisitions(path)


@pytest.mark.parametrize("fill", [-9999, 65535, 1e20, 9999, 255])
def test_an_image_of_one_fill_value_is_nodata_and_not_refused(tmp_path, fill):
    _, has_values, impossible = read(write(tmp_path, np.full((3, 40, 40), fill, "float32")))
    assert not has_values.any()
    assert impossible.all()


# How counts are stored, their type, the scale in the settings, the scale that the message says.
TOO_SMALL = {
    "reflectance as counts": (1e-4, "float32", 0.0001, "1"),
    "percent as counts": (0.01, "uint16", None, "0.01"),
    "percent, and a scale": (0.01, "float32", 0.0001, "0.01"),
}


@pytest.mark.parametrize("case", TOO_SMALL)
def test_a_scale_that_makes_all_numbers_too_small_is_refused(tmp_path, rng, case):
    factor, dtype, scale, remedy = TOO_SMALL[case]
    values = (rng.integers(300, 5000, (3, 40, 40)) * factor).astype(dtype)
    path = write(tmp_path, values)
    with pytest.raises(
        InputError,
        match=rf"20180405.tif are below .*no surface is so dark.*reflectance, probably {remedy}\.",
    ):
        find_acquisitions(path, reflectance_scale=scale)
    has_values = read(path, reflectance_scale=float(remedy))[1]  # the remedy works
    assert has_values.mean() > 0.99


def test_a_scale_that_makes_land_as_dark_as_water_is_said(tmp_path, rng, caplog):
    values = (rng.integers(300, 5000, (3, 40, 40)) * 0.1).astype("uint16")
    find_acquisitions(write(tmp_path, values))
    assert "If this is not water or burnt land, set imagery.reflectance_scale" in caplog.text
    assert "probably 0.001" in caplog.text


@pytest.mark.parametrize(
    ("names", "highest", "scale"),
    [
        (("B02", "B03", "B04"), 400, None),  # dense forest
        (("B02", "B03", "B08"), 700, 0.0001),  # a lake, whose scale is stated
        (("B02", "B03", "B08"), 1400, None),  # winter
    ],
)
def test_dark_images_are_read(tmp_path, rng, caplog, names, highest, scale):
    values = rng.integers(1, highest, (3, 40, 40)).astype("uint16")
    (found,) = find_acquisitions(write(tmp_path, values, names), reflectance_scale=scale)
    pixels, has_values = read_parcel_pixels(found, every_pixel(), list(names))
    assert has_values.all()
    assert np.array_equal(pixels, values.reshape(3, -1))
    assert caplog.text == ""


def test_land_beside_a_lake_in_the_centre_is_read(tmp_path, rng, caplog):
    values = rng.integers(100, 500, (3, 400, 400)).astype("uint16")
    values[:, :60] = rng.integers(500, 4000, (3, 60, 400))
    assert find_acquisitions(write(tmp_path, values))
    assert caplog.text == ""


def test_a_dark_date_among_others_is_read(tmp_path, rng):
    values = rng.integers(300, 4000, (3, 40, 40))
    for day, divisor in ((1, 1), (2, 20), (3, 1)):
        write_tiff(tmp_path / f"2018040{day}.tif", (values // divisor).astype("uint16"), BANDS)
    assert len(find_acquisitions(tmp_path)) == 3


def test_a_wrong_scale_of_one_of_many_acquisitions_is_found_when_it_is_read(tmp_path, rng):
    values = rng.integers(300, 9000, (3, 40, 40))
    for day in range(1, 8):
        factor = 30 if day == 3 else 1
        write_tiff(tmp_path / f"2018040{day}.tif", (values * factor).astype("int32"), BANDS)
    found = find_acquisitions(tmp_path)
    for item in found:
        if item.date.day != 3:
            assert read_parcel_pixels(item, every_pixel(), BANDS)[1].all()
            continue
        with pytest.raises(InputError, match=r"20180403\.tif would be taken as reflectance"):
            read_parcel_pixels(item, every_pixel(), BANDS)


def test_a_patch_of_impossible_values_is_taken_out_and_not_refused(tmp_path, rng, monkeypatch):
    """Also if the patch is a whole block that is read at once."""
    monkeypatch.setattr("geo.pixels.parcel_pixels.READ_SIZE", 1)
    values = rng.integers(1, 9000, (3, 40, 40)).astype("uint16")
    values[0, :16, :16] = rng.integers(30_000, 60_000, (16, 16))
    path = write(tmp_path, values, tiled=True, blockxsize=16, blockysize=16)
    _, has_values, impossible = read(path)
    assert np.array_equal(impossible, values[0] > 20_000)
    assert np.array_equal(has_values, ~impossible)


@pytest.mark.parametrize("method", ["bilinear", "cubic"])
def test_impossible_values_have_no_weight_in_resampling(tmp_path, rng, method):
    """The same as if the file named its fill value."""
    values = rng.integers(1, 9000, (1, 20, 20)).astype("int16")
    values[0, 5:9, 3:16] = -9999
    found = {}
    for name, nodata in (("tagged", -9999), ("untagged", None)):
        fine = rng.integers(1, 9000, (1, 40, 40)).astype("int16")
        write_tiff(tmp_path / name / "20180405_B02.tif", fine)
        transform = GRID.transform @ GRID.transform.scale(2)
        write_tiff(tmp_path / name / "20180405_B05.tif", values, transform=transform, nodata=nodata)
        (item,) = find_acquisitions(tmp_path / name)
        found[name] = read_parcel_pixels(item, every_pixel(), ["B05"], resampling=method)
    assert not found["tagged"][1].all()
    for untagged, tagged in zip(found["untagged"], found["tagged"], strict=True):
        assert np.array_equal(untagged, tagged)


def with_internal_mask(path, hidden):
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as raster:
        raster.write_mask(~hidden)


def with_mask_file(path, hidden):
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as raster:
        raster.write_mask(~hidden)
    assert path.with_name(f"{path.name}.msk").is_file()


def with_alpha(path, hidden):
    """As gdalwarp -dstalpha writes it."""
    with rasterio.open(path) as raster:
        values, profile, names = raster.read(), raster.profile, raster.descriptions
    alpha = np.where(hidden, 0, 40).astype(values.dtype)  # partly transparent is visible
    profile |= {"count": len(values) + 1}
    with rasterio.open(path, "w", **profile) as raster:
        raster.colorinterp = [*[ColorInterp.gray] * len(values), ColorInterp.alpha]
        raster.write(np.stack([*values, alpha]))
        for layer, name in enumerate(names, 1):
            raster.set_band_description(layer, name or "")


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
@pytest.mark.parametrize("nodata", [None, 0, 17])
@pytest.mark.parametrize("hide", [with_internal_mask, with_mask_file, with_alpha])
def test_the_masks_of_a_geotiff_hide_its_pixels(tmp_path, rng, monkeypatch, hide, nodata, dtype):
    """With several blocks, and with a band that is resampled from 20 m."""
    monkeypatch.setattr("geo.pixels.parcel_pixels.READ_SIZE", 1)
    counts = rng.integers(100, 9000, (3, 40, 40))
    values = (counts / (10_000 if dtype == "float32" else 1)).astype(dtype)
    tiles = {"tiled": True, "blockxsize": 16, "blockysize": 16, "nodata": nodata}
    path = write(tmp_path, values, **tiles)
    hidden = rng.random((40, 40)) < 0.3
    hide(path, hidden)
    pixels, has_values, impossible = read(path)
    if nodata is None and dtype == "uint16":  # GDAL itself applies an alpha band only then
        with rasterio.open(path) as raster:
            assert np.array_equal(raster.dataset_mask() != 0, ~hidden)
    assert np.array_equal(has_values, ~hidden)
    assert np.array_equal(pixels, np.where(hidden, 0, counts))
    assert not impossible.any()


def test_coarse_pixels_are_masked_too(tmp_path, rng):
    path = write(tmp_path, rng.integers(100, 9000, (3, 40, 40)).astype("uint16"))
    hidden = np.zeros((40, 40), bool)
    hidden[:, :20] = True
    with_internal_mask(path, hidden)
    band = find_acquisitions(path)[0].bands["B03"]
    coarse = has_data(band, read_coarse(band, 10))
    assert coarse.shape == (1, 10, 10)
    assert np.array_equal(coarse[0], ~hidden[::4, ::4])


@pytest.mark.parametrize("names", [("B02", "B03", "B08"), None])
def test_an_alpha_band_needs_no_name(tmp_path, rng, names):
    path = write(tmp_path, rng.integers(100, 9000, (3, 40, 40)).astype("uint16"), names or ())
    with_alpha(path, np.eye(40, dtype=bool))
    (found,) = find_acquisitions(path, file_bands=None if names else list(BANDS))
    assert {name: band.layer for name, band in found.bands.items()} == dict(
        zip(BANDS, (1, 2, 3), strict=True)
    )
    assert read(path, file_bands=None if names else list(BANDS))[1].sum() == 40 * 39


def test_a_file_of_one_band_may_have_an_alpha_band(tmp_path, rng):
    values = rng.integers(100, 9000, (1, 40, 40)).astype("uint16")
    path = write_tiff(tmp_path / "20180405_B02.tif", values)
    with_alpha(path, np.eye(40, dtype=bool))
    pixels, has_values, _ = read(path)
    assert np.array_equal(has_values, ~np.eye(40, dtype=bool))
    assert np.array_equal(pixels[0][has_values], values[0][has_values])


@pytest.mark.parametrize("fourth", ["B08", "CLDPRB"])
def test_a_fourth_layer_that_gdal_takes_for_alpha_is_the_band_that_it_is_called(
    tmp_path, rng, fourth
):
    """GDAL does so if the photometric interpretation is RGB, as after gdal_translate -b."""
    values = rng.integers(100, 9000, (4, 40, 40)).astype("uint16")
    values[3, :5] = 0
    names = ("B04", "B03", "B02", fourth)
    path = write(tmp_path, values, names, photometric="RGB", alpha="YES")
    with rasterio.open(path) as raster:
        assert raster.colorinterp[3] == ColorInterp.alpha
    (found,) = find_acquisitions(path)
    assert {**found.bands, **found.masks}[fourth].layer == 4
    has_values = read(path)[1]
    assert np.array_equal(has_values, (values[3] != 0) | (fourth == "CLDPRB"))
