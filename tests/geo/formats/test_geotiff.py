"""GeoTIFFs: names of files and bands, scales, nodata, grids, damaged files."""

import os
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine

from geo.errors import InputError
from geo.formats.conventions import band_name, tile_name
from geo.imagery.discovery import find_acquisitions
from geo.imagery.raster_reading import read_window
from tests.builders.items import assert_survive, refusal
from tests.builders.paths import DATA
from tests.builders.tiffs import write_tiff

WHOLE = slice(None)


@pytest.fixture
def rng():
    return np.random.default_rng(6)


def numbers(rng, count=2, dtype="uint16"):
    greatest = 10_000 if np.issubdtype(dtype, np.integer) else 1
    return (rng.random((count, 6, 8)) * greatest).astype(dtype)


def test_real_float_frames():
    folder = DATA / "slovenia-l1c"
    if not folder.is_dir():
        pytest.skip(reason=f"{folder} is not there")
    found = find_acquisitions(folder)
    assert [f"{item.date:%Y%m%d}" for item in found] == [
        "20150711", "20150731", "20150820", "20150830", "20150909",
    ]  # fmt: skip
    assert [item.id for item in found] == [f"{item.date:%Y%m%d}_scene" for item in found]
    assert len(found[0].bands) == 13
    assert not found[0].masks
    assert found[0].grid.shape == (101, 100)
    assert found[0].grid.pixel_width == pytest.approx(9.99479222)
    assert found[0].grid.pixel_height == pytest.approx(9.99744847)
    for item in found:
        with rasterio.open(item.product) as raster:
            expected = raster.read()
        for band, values in zip(item.bands.values(), expected, strict=True):
            np.testing.assert_array_equal(read_window(band, WHOLE, WHOLE), values)
            assert (band.scale, band.offset) == (10_000, 0)
            assert band.nodata == 0


@pytest.mark.parametrize(
    ("stem", "day", "tile"),
    [
        ("20180405", date(2018, 4, 5), "scene"),
        ("S2_2018-04-05_field", date(2018, 4, 5), "scene"),
        ("scene_2018_04_05", date(2018, 4, 5), "scene"),
        ("S2A_MSIL2A_20180405T105031_R051_T31UDS_20200101T000000", date(2018, 4, 5), "31UDS"),
        ("31UDS-20180405", date(2018, 4, 5), "31UDS"),
        # Not an MGRS tile.
        ("05APR_20180405", date(2018, 4, 5), "scene"),
        ("HLS.S30.T31TFM.2018095T105031.v2.0", date(2018, 4, 5), "31TFM"),
    ],
)
def test_dates_and_tiles_are_read_from_names(tmp_path, rng, stem, day, tile):
    path = write_tiff(tmp_path / f"{stem}.tif", numbers(rng), ("B02", "B8A"))
    (found,) = find_acquisitions(tmp_path)
    assert (found.date, found.tile, found.product) == (day, tile, path)
    assert found.id == f"20180405_{tile}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B02", "B02"), ("b2", "B02"), (" B2 ", "B02"), ("B8A", "B8A"), ("b8a", "B8A"),
        ("B8", "B08"), ("B12", "B12"), ("B1", "B01"), ("B02_10m", "B02"), ("B8A - 865 nm", "B8A"),
        ("SCL", "SCL"), ("scl_20m", "SCL"),
        ("Blue", "B02"), ("red (665 nm)", "B04"), ("nir08", "B8A"), ("NIR", "B08"),
        ("nir_narrow", "B8A"), ("rededge1", "B05"), ("Red Edge 3", "B07"),
        ("swir16", "B11"), ("SWIR 2", "B12"),
        ("red_10m", "B04"), ("MSK_CLDPRB", "CLDPRB"),
        ("B13", None), ("B00", None), ("B2x", None), ("rededge", None), ("Band 1", None),
        ("red_mask", None), ("bluebell", None), ("", None),
        ("NDVI", None), ("SCLX", None),
    ],
)  # fmt: skip
def test_band_names(text, expected):
    assert band_name(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("T31UDS", "31UDS"), ("x_31UDS_y", "31UDS"), ("X31UDS", None), ("31UDSX", None),
        ("31UIS", None), ("20180405", None), ("T01KAB.SAFE", "01KAB"),
    ],
)  # fmt: skip
def test_tile_names(text, expected):
    assert tile_name(text) == expected


def test_bands_are_in_order_of_wavelength_whatever_the_order_of_the_file(tmp_path, rng):
    values = numbers(rng, 4)
    write_tiff(tmp_path / "20180405.tif", values, ("B8A", "cloud", "B2", "SCL"))
    (found,) = find_acquisitions(tmp_path)
    assert {name: band.layer for name, band in found.bands.items()} == {"B02": 3, "B8A": 1}
    assert list(found.bands) == ["B02", "B8A"]
    assert found.masks["SCL"].layer == 4
    np.testing.assert_array_equal(read_window(found.bands["B02"], WHOLE, WHOLE), values[2])
    part = read_window(found.bands["B8A"], slice(2, 4), slice(3, 100))
    np.testing.assert_array_equal(part, values[0, 2:4, 3:])


def test_file_bands_names_bands_without_descriptions(tmp_path, rng):
    path = write_tiff(tmp_path / "20180405.tif", numbers(rng, 3))
    (found,) = find_acquisitions(tmp_path, file_bands=["B04", "NDVI", "B08"])
    assert {name: band.layer for name, band in found.bands.items()} == {"B04": 1, "B08": 3}
    message = refusal(tmp_path)
    assert f"{path}: none of its 3 bands is described" in message
    assert "Set file_bands" in message
    message = refusal(tmp_path, file_bands=["B04", "B08"])
    assert "has 3 bands, file_bands names 2: B04, B08" in message


def test_descriptions_take_precedence_over_file_bands(tmp_path, rng):
    write_tiff(tmp_path / "20180405.tif", numbers(rng), ("B02", "B03"))
    (found,) = find_acquisitions(tmp_path, file_bands=["B11", "B12"])
    assert list(found.bands) == ["B02", "B03"]


def test_files_that_differ_by_the_band_are_one_acquisition(tmp_path, rng):
    coarse = {"transform": Affine(20, 0, 500_000, 0, -20, 5_600_000)}
    for day in ("20180405", "20180410"):
        write_tiff(tmp_path / f"T31UDS_{day}_B02_10m.tif", numbers(rng, 1))
        write_tiff(tmp_path / f"T31UDS_{day}_B8A_20m.tif", numbers(rng, 1)[:, :3, :4], **coarse)
        write_tiff(tmp_path / f"T31UDS_{day}_SCL_20m.tif", numbers(rng, 1, "uint8")[:, :3, :4])
    found = find_acquisitions(tmp_path)
    assert [item.id for item in found] == ["20180405_31UDS", "20180410_31UDS"]
    for item in found:
        assert list(item.bands) == ["B02", "B8A"]
        scl = Path(item.masks["SCL"].source)
        assert scl.name == f"T31UDS_{item.date:%Y%m%d}_SCL_20m.tif"
        assert item.grid == item.bands["B02"].grid
        assert find_acquisitions(item.product) == [item]


@pytest.mark.parametrize(
    "pattern",
    [
        "{day}/B{band}.tif",
        "{day}_31UDS/B{band}_10m.tif",
        "S2A_MSIL2A_{day}T104021_N0206_R008_T31UDS_20200101T000000/IMG_DATA/B{band}.tif",
        "{day}/T31UDS_{day}T104021_B{band}_10m.tif",
        "a/b/c/{day}_B{band}.tif",
    ],
)
def test_dates_and_tiles_may_be_in_the_names_of_two_folders(tmp_path, rng, pattern):
    written = {}
    for day in ("20180405", "20180410"):
        for band in ("02", "8A"):
            written[day, f"B{band}"] = numbers(rng, 1)
            path = tmp_path / pattern.format(day=day, band=band)
            write_tiff(path, written[day, f"B{band}"])
    found = find_acquisitions(tmp_path)
    assert [f"{item.date:%Y%m%d}" for item in found] == ["20180405", "20180410"]
    assert {item.tile for item in found} == {"31UDS" if "31UDS" in pattern else "scene"}
    for item in found:
        for name, band in item.bands.items():
            expected = written[f"{item.date:%Y%m%d}", name][0]
            np.testing.assert_array_equal(read_window(band, WHOLE, WHOLE), expected)
        assert find_acquisitions(item.product) == [item]


def test_two_folders_of_one_day_get_two_ids(tmp_path, rng):
    for part in "ab":
        write_tiff(tmp_path / part / "20180405.tif", numbers(rng), ("B02", "B03"))
    found = find_acquisitions(tmp_path)
    assert [item.id for item in found] == ["20180405_scene", "20180405_scene_2"]
    for item in found:
        # Alone it has no number.
        assert item.bands in [other.bands for other in find_acquisitions(item.product)]


def test_subfolders_are_ignored_if_the_folder_has_geotiffs(tmp_path, rng):
    write_tiff(tmp_path / "20180405.tif", numbers(rng), ("B02", "B03"))
    write_tiff(tmp_path / "old" / "20180101.tif", numbers(rng), ("B02", "B03"))
    assert [item.id for item in find_acquisitions(tmp_path)] == ["20180405_scene"]


def test_a_band_is_read_at_its_native_resolution(tmp_path, rng):
    for pixel in (10, 20, 60):
        for band in ("B02", "B05"):
            path = tmp_path / f"T31UDS_20180505T104021_{band}_{pixel}m.tif"
            transform = Affine(pixel, 0, 500_000, 0, -pixel, 5_600_000)
            write_tiff(path, numbers(rng, 1), transform=transform)
    (found,) = find_acquisitions(tmp_path)
    assert {n: band.grid.pixel_width for n, band in found.bands.items()} == {"B02": 10, "B05": 20}


def test_0_is_nodata_in_the_scene_classification_only(tmp_path, rng):
    for name in ("B02", "SCL", "CLDPRB_20m", "CLM_R1"):
        write_tiff(tmp_path / f"T31UDS_20180505_{name}.tif", numbers(rng, 1, "uint8"), nodata=0)
    (found,) = find_acquisitions(tmp_path, reflectance_scale=0.004)
    nodata = {name: mask.nodata for name, mask in found.masks.items()}
    # In the other masks 0 is clear, whatever the file states.
    assert nodata == {"SCL": 0, "CLDPRB": None, "CLM": None}
    assert {(mask.scale, mask.offset) for mask in found.masks.values()} == {(1, 0)}


def test_images_that_are_not_bands_are_left_out(tmp_path, rng, caplog):
    write_tiff(tmp_path / "T31UDS_20180505_B02_10m.tif", numbers(rng, 1))
    write_tiff(tmp_path / "T31UDS_20180505_TCI_10m.tif", numbers(rng, 3, "uint8"))
    write_tiff(tmp_path / "T31UDS_20180505_AOT_10m.tif", numbers(rng, 1))
    with caplog.at_level("INFO"):
        (found,) = find_acquisitions(tmp_path)
    assert list(found.bands) == ["B02"]
    assert "2 images contain no band: T31UDS_20180505_AOT_10m.tif" in caplog.text


def test_an_unknown_scale_is_refused(tmp_path, rng):
    path = write_tiff(tmp_path / "20180405.tif", numbers(rng, dtype="uint8"), ("B02", "B03"))
    assert f"{path}: B02 holds uint8 and says no scale" in refusal(tmp_path)
    assert find_acquisitions(tmp_path, reflectance_scale=0.004)[0].bands["B02"].scale == 40
    write_tiff(path, numbers(rng).astype("float32"), ("B02", "B03"))
    message = refusal(tmp_path)
    assert f"B02 of {path} would be taken as reflectance (0 to 1)" in message
    assert "Set reflectance_scale to the reflectance of 1: 0.0001 for counts" in message
    assert find_acquisitions(tmp_path, reflectance_scale=1e-4)[0].bands["B02"].scale == 1


@pytest.mark.parametrize("name", ["20180405_SCL", "SCL_20180405", "20180405-scl_20m"])
def test_a_scene_classification_may_be_a_separate_file(tmp_path, rng, name):
    image = write_tiff(tmp_path / "20180405.tif", numbers(rng), ("B02", "B03"))
    beside = write_tiff(tmp_path / f"{name}.tif", numbers(rng, 1, "uint8"))
    (found,) = find_acquisitions(image)
    assert found.product == image
    assert found.masks["SCL"].source == str(beside)


def test_two_images_of_a_day_have_the_same_ids_when_read_alone(tmp_path, rng):
    for part in "ab":
        write_tiff(tmp_path / f"20180405_{part}.tif", numbers(rng), ("B02", "B03"))
    found = find_acquisitions(tmp_path)
    assert [item.id for item in found] == ["20180405_scene", "20180405_scene_2"]
    for item in found:
        assert find_acquisitions(item.product) == [item]


@pytest.mark.parametrize(
    ("dtype", "scales", "offsets", "given"),
    [
        ("uint16", None, None, None),
        ("uint16", (1e-4, 2e-4), (-0.1, 0.05), None),
        ("uint16", None, None, 2e-5),
        ("uint16", (1e-4, 2e-4), (-0.1, 0.05), 2e-5),
        ("int16", (1e-4, 1e-4), (0, 0), None),
        ("float32", None, None, None),
        ("float32", (0.01, 0.01), (0.2, 0.2), None),
        ("float32", None, None, 0.01),
    ],
)
def test_scale_and_offset_give_reflectance(tmp_path, rng, dtype, scales, offsets, given):
    raw = numbers(rng, dtype=dtype)
    names = ("B02", "B03")
    write_tiff(tmp_path / "20180405.tif", raw, names, scales=scales, offsets=offsets)
    (found,) = find_acquisitions(tmp_path, reflectance_scale=given)
    for layer, band in enumerate(found.bands.values()):
        scale, offset = 1.0 if dtype == "float32" else 1e-4, 0.0
        if scales is not None:
            scale, offset = scales[layer], offsets[layer]
        if given is not None:
            scale, offset = given, 0.0
        reflectance = raw[layer].astype(float) * scale + offset
        decoded = (read_window(band, WHOLE, WHOLE).astype(float) + band.offset) * band.scale
        np.testing.assert_allclose(decoded, 10_000 * reflectance, rtol=1e-6, atol=1e-6)


def test_a_scale_in_single_precision_is_rounded(tmp_path, rng):
    single = float(np.float32(1e-4))
    options = {"scales": (single, single), "offsets": (-0.1, -0.1)}
    write_tiff(tmp_path / "20180405.tif", numbers(rng), ("B02", "B03"), **options)
    (found,) = find_acquisitions(tmp_path)
    assert {(band.scale, band.offset) for band in found.bands.values()} == {(1.0, -1000.0)}


@pytest.mark.parametrize(
    ("dtype", "nodata", "expected"),
    [
        ("uint16", None, 0), ("uint16", 65535, 65535), ("float32", -1, -1),
        # NaN is nodata in any case, and software states it for all floats.
        ("float32", None, 0), ("float32", np.nan, 0), ("float32", np.inf, np.inf),
    ],
)  # fmt: skip
def test_nodata(tmp_path, rng, dtype, nodata, expected):
    values = numbers(rng, dtype=dtype)
    write_tiff(tmp_path / "20180405.tif", values, ("B02", "B03"), nodata=nodata)
    (found,) = find_acquisitions(tmp_path)
    assert found.bands["B02"].nodata == expected


def test_block_shape_is_that_of_the_tiles(tmp_path, rng):
    values = rng.integers(0, 9000, (1, 64, 100)).astype("uint16")
    tiles = {"tiled": True, "blockxsize": 32, "blockysize": 16}
    write_tiff(tmp_path / "20180405.tif", values, ("B02",), **tiles)
    (found,) = find_acquisitions(tmp_path)
    assert found.bands["B02"].block_shape == (16, 32)


def test_dates_to_come_are_refused_or_set_aside(tmp_path, rng):
    values = rng.integers(0, 9000, (1, 40, 40)).astype("uint16")
    write_tiff(tmp_path / "20180405.tif", values, ("B02",))
    path = write_tiff(tmp_path / "20991231.tif", values, ("B02",))
    with pytest.raises(InputError, match=r"20991231\.tif has the date 2099-12-31, expected"):
        find_acquisitions(tmp_path)
    damaged = []
    (found,) = find_acquisitions(tmp_path, damaged=damaged)
    assert found.date == date(2018, 4, 5)
    assert [item.product for item in damaged] == [path]


@pytest.mark.parametrize("options", [{}, {"tiled": True, "blockxsize": 16, "blockysize": 16}])
@pytest.mark.parametrize("interleave", ["band", "pixel"])
def test_a_truncated_file_is_refused_before_its_pixels_are_read(tmp_path, rng, options, interleave):
    values = rng.integers(0, 10_000, (2, 50, 60)).astype("uint16")
    whole = write_tiff(tmp_path / "whole" / "20180405.tif", values, ("B02", "B03"))
    path = tmp_path / "20180405.tif"
    # A copy has its directory at the start, which is not truncated.
    rasterio.shutil.copy(whole, path, driver="GTiff", interleave=interleave, **options)
    assert len(find_acquisitions(path)) == 1
    os.truncate(path, path.stat().st_size // 2)
    message = refusal(path)
    assert f"{path} ends at byte {path.stat().st_size}, its pixels at byte" in message


def test_sparse_files_are_complete(tmp_path):
    values = np.zeros((1, 64, 64), "uint16")
    tiles = {"tiled": True, "blockxsize": 16, "blockysize": 16, "SPARSE_OK": True}
    write_tiff(tmp_path / "20180405.tif", values, ("B02",), **tiles)
    (found,) = find_acquisitions(tmp_path)
    assert not read_window(found.bands["B02"], WHOLE, WHOLE).any()


def test_files_without_a_date_are_refused(tmp_path, rng):
    write_tiff(tmp_path / "20180405.tif", numbers(rng), ("B02", "B03"))
    write_tiff(tmp_path / "elevation.tif", numbers(rng), ("B02", "B03"))
    message = refusal(tmp_path)
    assert "1 of 2 GeoTIFFs" in message
    assert "elevation.tif" in message
    (tmp_path / "elevation.tif").rename(tmp_path / "20180231.tif")
    assert "20180231.tif holds no date (day is out of range" in refusal(tmp_path)
    (tmp_path / "20180231.tif").rename(tmp_path / "2018366T105031.tif")
    assert "2018366T105031.tif holds no date (2018 has no day 366)" in refusal(tmp_path)


def test_a_band_that_exists_twice_is_refused(tmp_path, rng):
    write_tiff(tmp_path / "20180405.tif", numbers(rng), ("B02", "B03"))
    write_tiff(tmp_path / "20180405_B03.tif", numbers(rng, 1))
    message = refusal(tmp_path)
    assert f"twice there, in {tmp_path / '20180405.tif'} layer 2" in message
    assert f"and in {tmp_path / '20180405_B03.tif'} layer 1" in message


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_grids_that_cannot_be_used_are_refused(tmp_path, rng):
    names = ("B02", "B03")
    path = write_tiff(tmp_path / "20180405.tif", numbers(rng), names, crs=None)
    assert f"{path} has no coordinate system" in refusal(path)
    write_tiff(path, numbers(rng), names, transform=Affine(9, 1, 0, 1, -9, 0))
    assert f"{path}: Rotated rasters are not read" in refusal(path)
    write_tiff(path, numbers(rng), names, transform=Affine(10, 0, 0, 0, 10, 0))
    assert "south-up rasters are not read" in refusal(path)


def test_acquisitions_without_a_band_are_counted(tmp_path, rng):
    write_tiff(tmp_path / "20180405.tif", numbers(rng), ("B02", "B03"))
    write_tiff(tmp_path / "20180410.tif", numbers(rng), ("B02", "B04"))
    message = refusal(tmp_path, bands=["B02", "B03"])
    assert "1 of 2 acquisitions lack bands" in message
    assert "20180410.tif: no B03 (it has B02)" in message


@pytest.mark.parametrize("name", ["B8A", "SCL"])
@pytest.mark.parametrize(
    "elsewhere",
    [
        {"crs": "EPSG:32632"},
        {"transform": Affine(10, 0, 600_000, 0, -10, 5_600_000)},
        {"transform": Affine(10, 0, 500_000, 0, -10, 5_500_000)},
    ],
)
def test_layers_of_one_acquisition_overlap(tmp_path, rng, name, elsewhere):
    for day in ("20180405", "20180410"):
        write_tiff(tmp_path / f"{day}_B02.tif", numbers(rng, 1))
        where = elsewhere if day == "20180410" else {"transform": Affine(20, 0, 5e5, 0, -20, 5.6e6)}
        path = write_tiff(tmp_path / f"{day}_{name}.tif", numbers(rng, 1), **where)
    assert f"{name} of {path} has its corner at" in refusal(tmp_path)
    damaged = []
    assert [item.id for item in find_acquisitions(tmp_path, damaged=damaged)] == ["20180405_scene"]
    assert "warp it to that" in damaged[0].problem


def test_a_folder_without_geotiffs_is_refused(tmp_path):
    assert "There is no GeoTIFF" in refusal(tmp_path, format="geotiff")


def test_an_item_keeps_a_coordinate_system_without_epsg_code(tmp_path, rng):
    crs = "+proj=laea +lat_0=50 +lon_0=9 +units=m +ellps=GRS80"
    write_tiff(tmp_path / "imagery" / "20180405.tif", numbers(rng), ("B02", "B03"), crs=crs)
    assert_survive(find_acquisitions(tmp_path / "imagery"), tmp_path / "items")


NAME = "S2A_MSIL2A_20220413T105031_{}R051_T31UDS_20220413T150000"
METADATA = "<PROCESSING_BASELINE>04.00</PROCESSING_BASELINE>"
LIST = "".join(f'<BOA_ADD_OFFSET band_id="{n}">{-1000 - n}</BOA_ADD_OFFSET>' for n in range(13))


@pytest.mark.parametrize(
    ("name", "baseline", "offset"),
    [
        (NAME.format("N0400_"), "04.00", -1000),
        (NAME.format("N0510_"), "05.10", -1000),
        (NAME.format("N0214_"), "02.14", 0),
        (NAME.format(""), None, 0),
        ("20220413_N05.09_clip", "05.09", -1000),
        (NAME.format("N0400_") + ".SAFE/20220413", "04.00", -1000),
        (NAME.format("N0400_") + ".SAFE/clip/20220413", "04.00", -1000),
        ("20220413_N5100_E0400", None, 0),  # a place
        ("20220413_PLAN0400", None, 0),
    ],
)
def test_the_baseline_in_names_implies_the_offset(tmp_path, rng, name, baseline, offset):
    write_tiff(tmp_path / "i" / f"{name}.tif", numbers(rng), ("B02", "SCL"), nodata=0)
    (found,) = find_acquisitions(tmp_path / "i", "geotiff")
    assert found.baseline == baseline
    assert found.bands["B02"].offset == offset
    assert found.masks["SCL"].offset == 0


@pytest.mark.parametrize(
    ("dtype", "options", "given", "expected"),
    [
        ("uint16", {}, None, (1, -1000)),
        ("int16", {"scales": [1e-4], "offsets": [0.0]}, None, (1, -1000)),
        # What a file states or a user sets is not replaced, and floats are reflectance already.
        ("uint16", {"scales": [1e-4], "offsets": [-0.05]}, None, (1, -500)),
        ("uint16", {"scales": [2e-4], "offsets": [0.0]}, None, (2, 0)),
        ("uint16", {}, 1e-4, (1, 0)),
        ("float32", {}, None, (10_000, 0)),
    ],
)
def test_only_digital_numbers_have_the_offset_of_their_baseline(
    tmp_path, rng, dtype, options, given, expected
):
    path = tmp_path / f"{NAME.format('N0400_')}.tif"
    write_tiff(path, numbers(rng, 1, dtype), ("B02",), **options)
    (found,) = find_acquisitions(tmp_path, "geotiff", reflectance_scale=given)
    band = found.bands["B02"]
    assert (band.scale, band.offset) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("sidecar", "text", "expected"),
    [
        ("20220413_MTD.xml", METADATA, (-1000, -1000)),
        ("20220413_MTD_MSIL2A.xml", METADATA, (-1000, -1000)),
        ("MTD_DS.xml", METADATA.replace("04.00", "03.01"), (0, 0)),
        ("MTD_TL.xml", "<TILE_ID>S2B_OPER_MSI_L2A_TL_x_T31UDS_N04.00</TILE_ID>", (-1000, -1000)),
        ("20220413_MTD.xml", METADATA + LIST, (-1001, -1008)),
        ("20220413_MTD.xml", LIST.replace("BOA", "RADIO"), (-1001, -1008)),
        ("20220418_MTD.xml", METADATA, (0, 0)),  # of another date
        ("20220413.tif.aux.xml", METADATA, (0, 0)),
        # Damaged: what can be read counts.
        ("20220413_MTD.xml", METADATA + "<BOA_ADD_OFFSET band_id=", (-1000, -1000)),
    ],
)
def test_metadata_beside_a_file_tell_its_offset(tmp_path, rng, sidecar, text, expected):
    write_tiff(tmp_path / "20220413.tif", numbers(rng), ("B02", "B8A"))
    (tmp_path / sidecar).write_text(f"<?xml version='1.0'?><n1:Product>{text}</n1:Product>")
    (found,) = find_acquisitions(tmp_path, "geotiff")
    assert tuple(band.offset for band in found.bands.values()) == expected


def test_metadata_of_a_folder_are_not_those_of_several_dates(tmp_path, rng):
    for day in ("20220413", "20220418"):
        write_tiff(tmp_path / f"{day}.tif", numbers(rng), ("B02", "B8A"))
    (tmp_path / "MTD_TL.xml").write_text(METADATA)
    found = find_acquisitions(tmp_path, "geotiff")
    assert [item.baseline for item in found] == [None, None]


def test_the_baseline_in_tags_implies_the_offset(tmp_path, rng):
    """GDAL copies the metadata of a SAFE product into the files that are made from it."""
    path = write_tiff(tmp_path / "20220413.tif", numbers(rng), ("B02", "B8A"))
    with rasterio.open(path, "r+") as raster:
        raster.update_tags(PROCESSING_BASELINE="04.00")
    (found,) = find_acquisitions(tmp_path)
    assert found.baseline == "04.00"
    assert {band.offset for band in found.bands.values()} == {-1000}
