"""SAFE products: metadata of real products, radiometry, damaged files and metadata."""

import json
import os
import shutil
from datetime import date
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio

from geo.formats.safe import find_products, read_metadata
from geo.imagery.acquisition import NATIVE_RESOLUTION_M
from geo.imagery.discovery import find_acquisitions
from geo.imagery.raster_reading import read_window
from tests.builders.items import refusal
from tests.builders.paths import DATA
from tests.builders.safe import BAND_IDS, write_safe

WHOLE = slice(None)


@pytest.fixture
def rng():
    return np.random.default_rng(5)


REAL = [
    ("S2A_MSIL1C_20210908T042701_N0301_R133_T46RER_20210908T070248", None),
    ("S2A_MSIL2A_20190212T192651_N0212_R013_T07HFE_20201007T160857", None),
    ("S2A_MSIL2A_20230821T221941_N0509_R029_T01KAB_20230822T021825", -1000),
    ("S2B_MSIL2A_20220413T150759_N0400_R025_T33XWJ_20220414T082126", -1000),
    ("esa_S2B_MSIL2A_20210122T133229_N0214_R081_T22HBD_20210122T155500", None),
]


@pytest.mark.parametrize(("name", "offset"), REAL)
def test_metadata_of_real_products(name, offset):
    folder = DATA / "safe-metadata" / f"{name}.SAFE"
    if not folder.is_dir():
        pytest.skip(reason=f"{folder} is not there")
    (product,) = find_products(folder, [])
    metadata = read_metadata(product.parse(product.metadata), str(folder))
    (granule,) = metadata.granules

    # The values that stactools reads from the same file.
    stac = json.loads((folder / "expected_output.json").read_text())
    properties = stac["properties"]
    hrefs = {asset["href"] for asset in stac["assets"].values()}
    assert metadata.cloud_fraction == pytest.approx(properties["eo:cloud_cover"] / 100)
    assert metadata.baseline == properties["s2:processing_baseline"]
    assert metadata.platform.lower() == properties["platform"]
    assert metadata.generated == properties["s2:generation_time"]
    zone, band = properties["mgrs:utm_zone"], properties["mgrs:latitude_band"]
    assert granule.tile == f"{zone:02}{band}{properties['mgrs:grid_square']}"
    assert f"{metadata.sensing_start:%Y%m%dT%H%M%S}" == properties["s2:datatake_id"].split("_")[1]
    if "s2:nodata_pixel_percentage" in properties:
        missing = properties["s2:nodata_pixel_percentage"] / 100
        assert metadata.valid_fraction == pytest.approx(1 - missing, abs=1e-6)
    for image in granule.images.values():
        assert {f"./{image}.jp2", f"./{image}.tif"} & hrefs

    is_2a = "MSIL2A" in name
    assert set(granule.images) == set(NATIVE_RESOLUTION_M) - ({"B10"} if is_2a else {"SCL"})
    if is_2a:
        ends = {band: image.rpartition("_")[2] for band, image in granule.images.items()}
        assert ends == {band: f"{NATIVE_RESOLUTION_M[band]}m" for band in granule.images}
    assert metadata.quantification == 10_000
    assert set(metadata.offsets.values()) == (set() if offset is None else {offset})
    assert len(metadata.offsets) == (0 if offset is None else 13)


def test_the_reflectance_of_a_real_product_equals_that_of_its_authors():
    folder = DATA / "radiometry-l1c"
    if not folder.is_dir():
        pytest.skip(reason=f"{folder} is not there")
    path = next(folder.glob("*_MTD.xml"))
    metadata = read_metadata(ElementTree.parse(path).getroot(), str(path))  # noqa: S314
    product = path.name.removesuffix("_MTD.xml")
    with rasterio.open(folder / f"{product}.tif") as raster:
        numbers = raster.read()
    with rasterio.open(folder / f"{product}_toa.tif") as raster:
        expected = raster.read()
    offsets = [metadata.offsets.get(band, 0.0) for band in metadata.granules[0].images]
    found = (numbers + np.reshape(offsets, (-1, 1, 1))) / metadata.quantification
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_an_acquisition_has_the_metadata_and_the_grid_of_its_product(tmp_path, rng):
    write_safe(tmp_path, rng, offsets=-1000, cloudy=12.5, no_data=40)
    (found,) = find_acquisitions(tmp_path)
    assert found.id == "20220413T105031_31UDS_N0400"
    assert (found.tile, found.date, found.format) == ("31UDS", date(2022, 4, 13), "safe")
    assert (found.baseline, found.platform) == ("04.00", "Sentinel-2A")
    assert (found.cloud_fraction, found.valid_fraction) == (0.125, pytest.approx(0.6))
    assert list(found.bands) == ["B02", "B03", "B8A", "B11"]
    assert found.grid == found.bands["B02"].grid
    assert found.grid.crs == "EPSG:32631"
    assert found.grid.bounds == (500_000, 5_599_400, 500_600, 5_600_000)
    assert found.bands["B11"].grid.bounds == found.grid.bounds
    assert found.bands["B11"].grid.shape == (30, 30)
    assert {(b.scale, b.nodata) for b in (*found.bands.values(), *found.masks.values())} == {(1, 0)}


def test_a_window_may_reach_beyond_the_image(tmp_path, rng):
    product = write_safe(tmp_path, rng, bands=("B02",))
    (found,) = find_acquisitions(tmp_path)
    window = read_window(found.bands["B02"], slice(7, 19), slice(50, 99))
    np.testing.assert_array_equal(window, product.pixels["B02"][7:19, 50:99])


@pytest.mark.parametrize("level", ["2A", "1C"])
def test_a_band_has_the_offset_of_its_band_id(tmp_path, rng, level):
    offsets = {number: -1000 - number for number in range(13)}
    bands = ("B02", "B03", "B8A", "B11")
    write_safe(tmp_path, rng, level=level, offsets=offsets, bands=bands, quantification=5000)
    (found,) = find_acquisitions(tmp_path)
    ids = {f"B{name[1:]:0>2}": number for number, name in enumerate(BAND_IDS)}
    assert {n: band.offset for n, band in found.bands.items()} == {n: -1000 - ids[n] for n in bands}
    assert {band.scale for band in found.bands.values()} == {2.0}


def test_the_scene_classification_is_neither_shifted_nor_scaled(tmp_path, rng):
    write_safe(tmp_path, rng, offsets=-1000, quantification=5000)
    (found,) = find_acquisitions(tmp_path)
    assert (found.masks["SCL"].scale, found.masks["SCL"].offset) == (1, 0)


@pytest.mark.parametrize(
    ("baseline", "listed", "offset"),
    [
        ("02.14", None, 0),
        ("03.01", None, 0),
        ("04.00", None, -1000),
        ("05.10", None, -1000),
        ("05.10", 0, 0),  # stated
        ("99.99", None, 0),  # not a baseline: Sen2Cor that a user has run
    ],
)
@pytest.mark.parametrize("level", ["1C", "2A"])
def test_without_a_list_of_offsets_the_baseline_implies_the_offset(
    tmp_path, rng, level, baseline, listed, offset
):
    write_safe(tmp_path, rng, level=level, baseline=baseline, offsets=listed, bands=("B02",))
    (found,) = find_acquisitions(tmp_path)
    assert {band.offset for band in found.bands.values()} == {offset}


def test_products_at_any_depth_are_the_same_as_when_read_alone(tmp_path, rng):
    nested = tmp_path / "2022" / "04"
    write_safe(nested, rng, name="esa_product_without_ending")
    write_safe(tmp_path, rng, sensed="20220403T105031", ending=".tif")
    whole = find_acquisitions(tmp_path, "safe")
    assert [item.date.day for item in whole] == [3, 13]
    for item in whole:
        assert find_acquisitions(item.product) == [item]


def test_relative_paths_stay_relative(tmp_path, rng, monkeypatch):
    write_safe(tmp_path / "imagery", rng)
    monkeypatch.chdir(tmp_path)
    (found,) = find_acquisitions(Path("imagery"))
    assert found.product.parts[0] == "imagery"
    assert Path(found.bands["B02"].source).parts[0] == "imagery"


def test_the_newest_processing_keeps_the_id(tmp_path, rng):
    write_safe(tmp_path, rng, generated="2022-04-13T15:00:00.000000Z")
    newest = write_safe(tmp_path, rng, generated="2022-05-01T15:00:00.000000Z")
    found = {item.id: item.product for item in find_acquisitions(tmp_path)}
    assert set(found) == {"20220413T105031_31UDS_N0400", "20220413T105031_31UDS_N0400_2"}
    assert found["20220413T105031_31UDS_N0400"] == newest.path


def test_bands_that_are_not_asked_for_may_be_damaged(tmp_path, rng):
    product = write_safe(tmp_path, rng)
    image(product, "B03").write_text("not an image")
    (found,) = find_acquisitions(tmp_path, bands=["B8A", "B02"])
    assert list(found.bands) == ["B02", "B8A"]
    assert "SCL" in found.masks


def image(product, band):
    return next(product.path.rglob(f"*_{band}_*.*"))


@pytest.mark.parametrize("kept", [0.7, 0.99, -2])
def test_a_truncated_image_is_refused_before_its_pixels_are_read(tmp_path, rng, kept):
    product = write_safe(tmp_path, rng)
    path = image(product, "B8A")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept > 0 else kept])
    message = refusal(tmp_path)
    assert str(path) in message
    assert "ends at byte" in message
    assert "download" in message


def codestream_box(content):
    start = content.index(b"jp2c") - 4
    length = int.from_bytes(content[start : start + 4], "big")
    assert start + length == len(content)
    return start


def test_the_codestream_must_be_as_long_as_its_box_states(tmp_path, rng):
    path = image(write_safe(tmp_path, rng, bands=("B02",)), "B02")
    content = path.read_bytes()
    start = codestream_box(content)
    to_the_end = content[:start] + bytes(4) + content[start + 4 :]
    long_length = (len(content) - start + 8).to_bytes(8, "big")
    long = content[:start] + b"\0\0\0\1jp2c" + long_length + content[start + 8 :]
    another_box = content + (12).to_bytes(4, "big") + b"free" + bytes(4)
    for whole in (to_the_end, long, another_box):
        path.write_bytes(whole)
        assert len(find_acquisitions(tmp_path)) == 1
    for cut in (to_the_end[:-2], long[:-2], content[:-500] + b"\xff\xd9"):
        path.write_bytes(cut)
        assert "before its image does" in refusal(tmp_path)


def test_an_error_page_saved_as_an_image_is_refused(tmp_path, rng):
    path = image(write_safe(tmp_path, rng), "B02")
    path.write_text("<html>503 Service Unavailable</html>")
    message = refusal(tmp_path)
    assert f"{path} cannot be opened" in message


def test_the_first_five_damaged_products_are_listed(tmp_path, rng):
    for day in range(11, 18):
        write_safe(tmp_path, rng, sensed=f"202204{day}T105031", bands=("B02",))
        os.truncate(next(tmp_path.rglob(f"*202204{day}*_B02_10m.jp2")), 500)
    message = refusal(tmp_path)
    assert "7 of 7 acquisitions cannot be read" in message
    assert message.count("B02_10m.jp2") == 5
    assert "and 2 more" in message


def edit(product, old, new):
    (path,) = product.path.glob("MTD_*.xml")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("</n1:General_Info>", "", "is damaged or incomplete (mismatched tag"),
        ("SPACECRAFT_NAME", "CRAFT", "has no SPACECRAFT_NAME"),
        ("BOA_QUANTIFICATION_VALUE", "BOA", "has no BOA_QUANTIFICATION_VALUE or "),
        (">10000<", ">ten thousand<", "could not convert string to float: 'ten thousand'"),
        ('BOA_ADD_OFFSET band_id="8"', 'BOA_ADD_OFFSET x="8"', "is not the metadata of a product"),
        ('band_id="8"', 'band_id="0"', "states additive offsets, but none for B8A"),
        ('band_id="8"', 'band_id="13"', "is not the metadata of a product"),
        ("T31UDS_20220413T105031_B03", "T31UES_20220413T105031_B03", "images of 2 tiles"),
    ],
)
def test_metadata_that_cannot_be_used_are_refused(tmp_path, rng, old, new, words):
    product = write_safe(tmp_path, rng, offsets=-1000)
    edit(product, old, new)
    message = refusal(tmp_path)
    assert words in message
    assert "MTD_MSIL2A.xml" in message


def test_products_of_two_levels_are_refused(tmp_path, rng):
    write_safe(tmp_path, rng, bands=("B02",))
    write_safe(tmp_path, rng, bands=("B02",), level="1C")
    assert "1 products of level 2A are mixed with 1 of level 1C" in refusal(tmp_path)


def test_folders_without_products_are_refused(tmp_path):
    assert "There is no" in refusal(tmp_path / "nowhere")
    assert "no SAFE product" in refusal(tmp_path, format="safe")
    assert "No imagery was recognised" in refusal(tmp_path)


def test_several_formats_in_one_folder_are_refused_unless_one_is_chosen(tmp_path, rng):
    product = write_safe(tmp_path, rng, bands=("B02",), ending=".tif")
    shutil.copy(image(product, "B02"), tmp_path / "20220413_B02.tif")
    assert "several formats: safe, geotiff" in refusal(tmp_path)
    assert len(find_acquisitions(tmp_path, "safe")) == 1
    assert len(find_acquisitions(tmp_path, "geotiff")) == 1
