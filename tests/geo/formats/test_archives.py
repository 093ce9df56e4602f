"""Archives as they are delivered: dates, bands, reflectance and clear pixels of each."""

from datetime import date

import numpy as np
import pytest
import rasterio
from pydantic import ValidationError

from geo.errors import InputError
from geo.formats.archives import own_convention
from geo.imagery.acquisition import BANDS
from geo.imagery.cloud_masks import CloudRules
from geo.imagery.discovery import find_acquisitions
from geo.imagery.radiometry import reflectance
from geo.imagery.raster_reading import read_window
from geo.imagery.valid_values import has_data
from geo.pixels.parcel_pixels import read_clear_mask
from geo.pixels.pixel_index import PixelIndex
from pipeline.dataset.acquisition_choice import damaged_rows, decide
from pipeline.workflow.config import load
from pipeline.workflow.sections.imagery import Imagery, NamingConvention
from pipeline.workflow.settings import IndexSettings, part_of
from tests.builders.archives import ARCHIVES, Image, request_text
from tests.builders.items import assert_survive, refusal
from tests.builders.tiffs import write_tiff

WHOLE = slice(None)


def write(name, folder, seed=3):
    return list(ARCHIVES[name](folder, np.random.default_rng(seed)))


def assert_equal(found, expected):
    """Check that acquisitions have the dates, pixels and masks that are right."""
    found = sorted(found, key=lambda item: (item.date, item.tile))
    expected = sorted(expected, key=lambda image: (image.day, image.tile))
    assert [(item.date, item.tile) for item in found] == [(i.day, i.tile) for i in expected]
    for item, image in zip(found, expected, strict=True):
        in_order = [band for band in BANDS if band in image.reflectance]
        assert list(item.bands) == in_order
        for name, band in item.bands.items():
            raw = read_window(band, WHOLE, WHOLE)
            right = image.reflectance[name]
            np.testing.assert_array_equal(has_data(band, raw), ~np.isnan(right), err_msg=name)
            values = reflectance(band, raw, raw.dtype)[~np.isnan(right)]
            np.testing.assert_array_equal(values, right[~np.isnan(right)], err_msg=name)
        assert list(item.masks) == ([] if image.clear is None else ["SCL"])
        for name, mask in item.masks.items():
            clear = CloudRules().is_clear(name, read_window(mask, WHOLE, WHOLE), mask)
            np.testing.assert_array_equal(clear, image.clear)


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_are_read_as_they_are_delivered(tmp_path, name):
    expected = write(name, tmp_path / "i")
    found = find_acquisitions(tmp_path / "i")
    assert_equal(found, expected)
    assert_survive(found, tmp_path / "items")


def foreign(folder):
    """Write images that are not bands, dated and undated, beside each file's folder."""
    values = np.ones((1, 12, 16), "float32")
    for path in {file.parent for file in folder.rglob("*.tif*")}:
        write_tiff(path / "20180405_LAI.tif", values)
        write_tiff(path / "dem.tif", values)


def renamed(change):
    def rename(folder):
        for file in sorted(folder.rglob("*")):
            if file.is_file() and (target := change(file)) != file:
                target.parent.mkdir(parents=True, exist_ok=True)
                file.rename(target)

    return rename


SIBLINGS = {
    "a foreign index and a model of the ground": foreign,
    "upper case": renamed(lambda file: file.with_stem(file.stem.upper())),
    "lower case": renamed(lambda file: file.with_stem(file.stem.lower())),
    "another ending": renamed(
        lambda file: file.with_suffix(".TIFF") if file.suffix == ".tif" else file
    ),
    "another version": renamed(
        lambda file: file.with_name(file.name.replace("v2.0", "v2.1").replace("V210", "V220"))
    ),
    "folders by year": renamed(lambda file: file.parent / "2018" / file.name),
}


@pytest.mark.parametrize(
    ("name", "sibling"),
    [
        (name, sibling)
        for name in (
            *("HLS S30", "HLS L30", "FORCE", "sits", "Terrascope", "Earth Engine", "common names"),
        )
        for sibling in SIBLINGS
        # The tile of FORCE is the name of the folder.
        if (name, sibling) != ("FORCE", "folders by year")
    ],
)
def test_archives_are_also_read_if_their_names_vary(tmp_path, name, sibling):
    expected = write(name, tmp_path)
    SIBLINGS[sibling](tmp_path)
    assert_equal(find_acquisitions(tmp_path), expected)


BANDS_OF_ONE = np.arange(1, 385, dtype="uint16").reshape(2, 12, 16)


TILES = (("T31UDS", "05"), ("T31TFM", "06"))


def dates(folder, *names, bands=("B02", "B8A"), **own):
    """Return the dates of files of these names, read with a convention of the user."""
    for name in names:
        write_tiff(folder / f"{name}.tif", BANDS_OF_ONE, bands)
    return [f"{item.date}" for item in find_acquisitions(folder, convention=convention(own))]


def convention(own):
    return own_convention(NamingConvention(**own).model_dump()) if own else None


@pytest.mark.parametrize(
    ("names", "own", "expected"),
    [
        # A date that is the same in every name is that of the production.
        (["20230101_S2_20180405", "20230101_S2_20180410"], {}, ["2018-04-05", "2018-04-10"]),
        (["2018-04-05/v20230101", "2018-04-10/v20230101"], {}, ["2018-04-05", "2018-04-10"]),
        (["20230101/2018095T105031", "20230101/2018100T1050"], {}, ["2018-04-05", "2018-04-10"]),
        (["a_2018095", "a_2018-100"], {}, ["2018-04-05", "2018-04-10"]),
        # Two dates of one day, and names in which the first is known to be that of sensing.
        (["20180405_20180405", "20180410_20180410"], {}, ["2018-04-05", "2018-04-10"]),
        (
            [f"S2A_MSIL2A_201804{day}T1_R051_T31UDS_201901{day}T1" for day in ("05", "10")],
            {},
            ["2018-04-05", "2018-04-10"],
        ),
        (
            [f"S2A_MSIL2A_20180405T1_R051_{tile}_201901{day}T1" for tile, day in TILES],
            {},
            ["2018-04-05", "2018-04-05"],
        ),
        (["20180231/20180405", "20180231/20180410"], {}, ["2018-04-05", "2018-04-10"]),
        (["20180405_20190102", "20180410_20190103"], {}, None),
        (
            ["20180405_20190102", "20180410_20190103"],
            {"date": "^.*/%Y%m%d_"},
            ["2018-04-05", "2018-04-10"],
        ),
        (["x_05042018_y", "x_10042018_y"], {"date": "_%d%m%Y_"}, ["2018-04-05", "2018-04-10"]),
        (["x_5-Apr-18"], {"date": "_%d-%b-%y"}, ["2018-04-05"]),
        (["18095"], {"date": "/%y%j$"}, ["2018-04-05"]),
        # Composites have the date in the middle of their period.
        (["2018-04", "201805"], {"period": "month"}, ["2018-04-15", "2018-05-16"]),
        (["20180201", "20200201"], {"period": "month"}, ["2018-02-14", "2020-02-15"]),
        (
            ["20180501", "20180511", "20180521"],
            {"period": "ten_days"},
            ["2018-05-05", "2018-05-15", "2018-05-26"],
        ),
        (["2018-05-D1", "2018-05-D3"], {"period": "ten_days"}, ["2018-05-05", "2018-05-26"]),
        (["20180501"], {"period": 16}, ["2018-05-08"]),
        (["20180501_20180510", "20180511_20180520"], {"period": 10}, ["2018-05-05", "2018-05-15"]),
        (["20180501_20180510"], {"period": 10}, ["2018-05-05"]),
        (["20180501_v20230101"], {"period": "month"}, ["2018-05-16"]),
        (["20180501_20180801", "20180601_20180801"], {"period": 16}, ["2018-05-08", "2018-06-08"]),
        (["2018-W19", "2018W20"], {"period": 7}, ["2018-05-10", "2018-05-17"]),
        (["2018-04", "2018-05"], {}, None),
        (["2018-W19"], {}, None),
    ],
)
def test_the_date_of_a_name(tmp_path, names, own, expected):
    if expected is not None:
        assert dates(tmp_path, *names, **own) == expected
        return
    with pytest.raises(InputError, match=r"imagery\.convention: \{(date|period)"):
        dates(tmp_path, *names, **own)


def test_layers_of_a_file_may_be_months(tmp_path):
    layers = [f"2018-{month:02}_{band}" for month in (4, 5) for band in ("B4", "B8A")]
    values = np.arange(1, 769, dtype="uint16").reshape(4, 12, 16)
    write_tiff(tmp_path / "monthly.tif", values, layers)
    found = find_acquisitions(tmp_path, convention=convention({"period": "month"}))
    assert [f"{item.date}" for item in found] == ["2018-04-15", "2018-05-16"]
    assert [band.layer for item in found for band in item.bands.values()] == [1, 2, 3, 4]


def test_descriptions_without_a_day_that_exists_are_no_dates(tmp_path):
    write_tiff(tmp_path / "20180405.tif", BANDS_OF_ONE, ("B2 20180231", "B8A 2018-W60"))
    (item,) = find_acquisitions(tmp_path, convention=convention({"period": 1}))
    assert (item.date, list(item.bands)) == (date(2018, 4, 5), ["B02", "B8A"])


@pytest.mark.parametrize(
    ("mask", "is_clear"),
    [
        ({"clear": [0, 3]}, lambda v: v in (0, 3)),
        ({"clear": [0, 3], "nodata": [3]}, lambda v: v == 0),
        ({"cloudy": [1, 2]}, lambda v: v not in (1, 2)),
        ({"cloudy_bits": [1, 2]}, lambda v: not (v >> 1 & 1 or v >> 2 & 1)),
        ({"cloudy_bits": [1], "nodata": [0]}, lambda v: v != 0 and not v >> 1 & 1),
    ],
)
@pytest.mark.parametrize("is_layer", [False, True])
def test_the_convention_of_a_user(tmp_path, mask, is_clear, is_layer):
    """Own names of bands, of a mask beside or inside the files, and of what to leave out."""
    mask_values = np.arange(192, dtype="uint16").reshape(12, 16) % 8
    layers, names = np.stack([*BANDS_OF_ONE, mask_values]), ("sr_red", "sr_nir", "Quality")
    if is_layer:
        write_tiff(tmp_path / "f12_a_20180405.tif", layers, names)
    else:
        for name, values in zip(names, layers, strict=True):
            write_tiff(tmp_path / f"f12_a_20180405_{name}.tif", values[None])
    write_tiff(tmp_path / "f12_a_20180405_smooth.tif", layers[:2], ("B04", "B05"))
    own = {"bands": {"SR_red": "B04", "sr_nir": "B8A"}, "mask": {"name": "quality", **mask}}
    own |= {"tile": "/(f12)_", "ignore": "smooth"}
    (item,) = find_acquisitions(tmp_path, convention=convention(own))
    right = dict(zip(("B04", "B8A"), BANDS_OF_ONE.astype(float), strict=True))
    clear = np.array([[bool(is_clear(int(v))) for v in row] for row in mask_values])
    assert_equal([item], [Image(date(2018, 4, 5), "f12", right, clear)])


@pytest.mark.parametrize(
    ("own", "problem"),
    [
        ({"band": "_B.._"}, "no group: write"),
        ({"tile": "("}, "not a regular expression"),
        ({"date": "_%d%m_"}, "must contain %Y or %y"),
        ({"mask": {"name": "QA"}}, "set one of clear, cloudy and cloudy_bits"),
        ({"bands": {"x": "B13"}}, "a name of convention: {bands"),
        ({"bands": {"x": "SCL"}}, "are masks: set mask"),
        ({"period": "week"}, "month"),
    ],
)
def test_conventions_that_cannot_be_are_refused(own, problem):
    with pytest.raises(ValidationError, match=problem):
        NamingConvention(**own)


def test_bands_of_other_sensors_have_the_names_of_the_user(tmp_path):
    write_tiff(tmp_path / "20180405.tif", BANDS_OF_ONE, ("Yellow", "NIR"))
    own = {"bands": {"yellow": "yellow"}}
    settings = Imagery(bands=["yellow", "B08"], convention=own)
    found = find_acquisitions(tmp_path, bands=settings.bands, convention=convention(own))
    assert list(found[0].bands) == ["B08", "yellow"]
    assert found[0].bands["yellow"].layer == 1
    assert_survive(found, tmp_path / "items")
    with pytest.raises(ValidationError, match="bands: yellow is none of B01, B02"):
        Imagery(bands=["yellow"])


@pytest.mark.parametrize(
    ("name", "own", "offset"),
    [
        ("20220124T1_20220124T1_T31UES", {"offset": "from_2022"}, 0),
        ("20220125T1_20220125T1_T31UES", {"offset": "from_2022"}, -1000),
        ("20220125T1_20220125T1_T31UES", {}, 0),
        ("20220615_N0400", {}, -1000),
        ("20220615_N0400", {"offset": "none"}, 0),
    ],
)
def test_the_offset_of_a_convention(tmp_path, name, own, offset):
    write_tiff(tmp_path / f"{name}.tif", BANDS_OF_ONE, ("B2", "SCL"), nodata=7)
    (item,) = find_acquisitions(tmp_path, convention=convention(own))
    assert (item.bands["B02"].offset, item.masks["SCL"].offset) == (offset, 0)
    # What a file states is not replaced by the convention.
    own = own | {"nodata": 5}
    assert find_acquisitions(tmp_path, convention=convention(own))[0].bands["B02"].nodata == 7
    write_tiff(tmp_path / f"{name}.tif", BANDS_OF_ONE, ("B2", "SCL"))
    assert find_acquisitions(tmp_path, convention=convention(own))[0].bands["B02"].nodata == 5


def test_a_damaged_image_whose_date_is_in_folders_is_set_aside(tmp_path):
    write("AWS", tmp_path)
    path = next(tmp_path.rglob("2018/4/5/0/R10m/B02.jp2"))
    path.write_bytes(path.read_bytes()[:100])
    damaged = []
    found = find_acquisitions(tmp_path, damaged=damaged)
    assert len(found) == 2
    assert [row.date for row in damaged_rows(damaged)] == [date(2018, 4, 5)]


def test_of_several_masks_that_of_the_user_or_the_most_specific_is_used(tmp_path):
    layers = np.stack([*BANDS_OF_ONE, BANDS_OF_ONE[0], BANDS_OF_ONE[1]])
    write_tiff(tmp_path / "20180405.tif", layers, ("B2", "QA60", "SCL", "own"))
    (item,) = find_acquisitions(tmp_path)
    assert item.masks["SCL"].layer == 3
    own = {"mask": {"name": "own", "clear": [0]}}
    (item,) = find_acquisitions(tmp_path, convention=convention(own))
    assert item.masks["SCL"].layer == 4


def test_names_like_those_of_bands_are_not_taken_for_them(tmp_path):
    for plot in ("B13", "B99"):
        write_tiff(tmp_path / f"plot_{plot}_20180405.tif", BANDS_OF_ONE, ("B02", "B8A"))
    found = find_acquisitions(tmp_path)
    assert [item.id for item in found] == ["20180405_scene", "20180405_scene_2"]


def test_a_pattern_of_the_user_finds_the_band(tmp_path):
    for band in ("k2", "k8a"):
        write_tiff(tmp_path / f"{band}-part_20180405_x.tif", BANDS_OF_ONE[:1])
    own = {"band": r"^k(\w+)-", "bands": {"2": "B02", "8a": "B8A"}}
    (item,) = find_acquisitions(tmp_path, convention=convention(own))
    assert list(item.bands) == ["B02", "B8A"]


def test_images_that_name_no_band_are_left_out_beside_bands_only(tmp_path, caplog):
    write_tiff(tmp_path / "20180405.tif", BANDS_OF_ONE, ("B02", "B8A"))
    write_tiff(tmp_path / "20180405_angles.tif", np.ones((4, 12, 16), "float32"))
    write_tiff(
        tmp_path / "20180405_colours.tif", np.ones((3, 12, 16), "uint8"), ("Red", "Green", "Blue")
    )
    write_tiff(tmp_path / "20180410_LAI.tif", BANDS_OF_ONE[:1])
    write_tiff(tmp_path / "dem.tif", BANDS_OF_ONE[:1])
    # The dates of such images may be unclear, or not exist.
    for name in ("mean_20180101_20180331", "mean_20180401_20180630", "20180231"):
        write_tiff(tmp_path / f"{name}.tif", BANDS_OF_ONE[:1])
    (item,) = find_acquisitions(tmp_path)
    assert item.date == date(2018, 4, 5)
    (warning,) = [r.message for r in caplog.records if "left out" in r.message]
    assert warning.startswith("7 images are left out")
    # Several layers of another date are an image whose bands must be named.
    write_tiff(tmp_path / "20180415.tif", np.ones((2, 12, 16), "uint16"))
    assert "20180415.tif: none of its 2 bands is described" in refusal(tmp_path)
    damaged = []
    assert [i.date for i in find_acquisitions(tmp_path, damaged=damaged)] == [item.date]
    assert [d.product.name for d in damaged] == ["20180415.tif"]


@pytest.mark.parametrize("name", ["FORCE", "AWS", "HLS S30"])
def test_other_images_above_the_folders_of_an_archive_are_left_out(tmp_path, name):
    expected = write(name, tmp_path / "2018")
    write_tiff(tmp_path / "dem.tif", BANDS_OF_ONE[:1])
    assert_equal(find_acquisitions(tmp_path), expected)


def test_a_mask_of_another_name_belongs_to_the_only_bands_of_its_day_and_folder(tmp_path):
    product = tmp_path / "L2A_T31TFM_A014532_20180403T105030"
    write_tiff(product / "IMG_DATA/R10m/T31TFM_20180403T105031_B02_10m.tif", BANDS_OF_ONE[:1])
    write_tiff(product / "QI_DATA/MSK_CLDPRB_20m.tif", BANDS_OF_ONE[:1])
    write_tiff(product / "QI_DATA/MSK_DETFOO_B02.tif", BANDS_OF_ONE[:1])
    (item,) = find_acquisitions(tmp_path, "geotiff")
    assert (list(item.bands), list(item.masks)) == (["B02"], ["CLDPRB"])


def test_a_mask_without_bands_is_refused_by_name(tmp_path):
    for name in ("20180405_B02", "20180405_SCL", "20180410_SCL"):
        write_tiff(tmp_path / f"{name}.tif", BANDS_OF_ONE[:1])
    assert "20180410_scene has no bands, but SCL: complete it" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("request_options", "values", "offset", "scale"),
    [
        ({}, "uint16", 0, 1),
        ({"processing": {"harmonizeValues": "false"}}, "uint16", -1000, 1),
        ({"units": "REFLECTANCE", "kind": "FLOAT32"}, "float32", 0, 10_000),
        ({"units": "REFLECTANCE", "factor": "10000 * "}, "uint16", 0, 1),
        ({"units": "REFLECTANCE"}, "uint16", 0, 1),
        ({"units": "REFLECTANCE", "kind": "AUTO"}, "uint8", 0, 10_000 / 255),
        ({"units": "REFLECTANCE", "kind": "FLOAT32", "processing": {"harmonizeValues": False}},
         "float32", -0.1, 10_000),
    ],
)  # fmt: skip
def test_the_script_of_a_request_tells_the_scale(tmp_path, request_options, values, offset, scale):
    answer = tmp_path / ("a" * 32)
    numbers = np.full((2, 12, 16), 0.25 if values == "float32" else 250)
    write_tiff(answer / "response.tiff", numbers.astype(values))
    text = request_text(date(2022, 6, 15), ["B02", "B08"], **request_options)
    (answer / "request.json").write_text(text)
    (item,) = find_acquisitions(tmp_path)
    band = item.bands["B08"]
    assert (band.layer, band.offset, band.scale) == pytest.approx((2, offset, scale))


def test_requests_that_tell_no_date_are_refused(tmp_path):
    answer = tmp_path / ("a" * 32)
    write_tiff(answer / "response.tiff", BANDS_OF_ONE)
    assert "There is no" in refusal(tmp_path)
    day = date(2022, 6, 1)
    text = request_text(day, ["B02", "B08"], to="2022-07-01T00:00:00Z")
    (answer / "request.json").write_text(text)
    assert "asks for one image of 2022-06-01 to 2022-06-30" in refusal(tmp_path)
    (item,) = find_acquisitions(tmp_path, convention=convention({"period": "month"}))
    assert item.date == date(2022, 6, 15)
    (answer / "request.json").write_text(
        request_text(day, ["B02", "B08"]).replace("sample.B02,", "x,")
    )
    assert "none of its 2 bands is described" in refusal(tmp_path)
    assert list(find_acquisitions(tmp_path, file_bands=["B02", "B08"])[0].bands) == ["B02", "B08"]
    for factor in ("0 * ", "1..2 * "):  # a scale that cannot be
        text = request_text(day, ["B02", "B08"], to="2022-06-01T12:00:00", factor=factor)
        (answer / "request.json").write_text(text)
        assert find_acquisitions(tmp_path, file_bands=["B02", "B08"])[0].bands["B02"].scale == 1
    (answer / "request.json").write_text("{}")
    assert "request.json is not a request of Sentinel Hub" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "classes", "bits", "nodata"),
    [
        ("HLS S30", (9,), 0b10, ()),
        ("HLS S30", (0, 3, 9, 11), 0b11010, (255,)),
        ("HLS S30", (6,), 0b100000, ()),
    ],
)
def test_clouds_classes_apply_to_every_mask(tmp_path, name, classes, bits, nodata):
    """The parcels' pixels: classes choose bits, of which the higher may be hidden by lower ones."""
    write(name, tmp_path)
    (item, *_) = find_acquisitions(tmp_path)
    with rasterio.open(item.masks["SCL"].source) as raster:
        values = raster.read(1).ravel().astype(int)
    rows, cols = (a.ravel().astype(np.int32) for a in np.indices(item.grid.shape))
    index = PixelIndex(["all"], np.array([0, len(rows)]), rows, cols, item.tile, item.grid)
    clear = read_clear_mask(item, index, CloudRules(classes=classes))
    # A pixel has one class: cloud before shadow, surroundings, snow and water.
    order = [2, 8, 4, 16, 32]
    first = [next((bit for bit in order if value & bit), 0) for value in values]
    hidden = np.array([bool(bit & bits) for bit in first]) & (values != 255)
    np.testing.assert_array_equal(clear, ~(hidden | np.isin(values, nodata)))


def test_the_settings_describe_an_archive(tmp_path):
    """From settings as a user writes them to the decision on each date."""
    clear = np.zeros((12, 16), "uint8")
    for day, mask in (("05042018", clear), ("10042018", np.ones_like(clear))):
        write_tiff(tmp_path / f"{day}_sr_2.tif", BANDS_OF_ONE[:1])
        write_tiff(tmp_path / f"{day}_quality.tif", mask[None])
    own = {"date": "/%d%m%Y_", "bands": {"sr_2": "B02"}, "mask": {"name": "quality", "clear": [0]}}
    settings = load({"imagery": {"path": str(tmp_path), "bands": ["B02"], "convention": own}})
    rows = decide(tmp_path, part_of(settings, IndexSettings)).rows
    assert [(f"{row.date}", row.masks, row.reason) for row in rows] == [
        ("2018-04-05", "SCL", ""),
        ("2018-04-10", "SCL", "too_cloudy"),
    ]
