"""Cloud masks: clear pixels equal a brute-force reading of the masks, whatever the blocks."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st

import geo.imagery.cloud_masks
import geo.pixels.parcel_pixels
from geo.errors import InputError
from geo.grid import Grid
from geo.imagery.acquisition import Acquisition, Band
from geo.imagery.cloud_masks import CloudRules, check_masks, cloud_fraction, cloud_rules, dilate
from geo.imagery.discovery import find_acquisitions
from geo.imagery.mask_files import with_mask_files
from geo.pixels.parcel_pixels import read_clear_mask
from geo.pixels.pixel_index import PixelIndex
from pipeline.workflow.config import load
from tests.builders.safe import write_safe

GRID = Grid("EPSG:32631", 500_000.0, 5_600_000.0, 10.0, 10.0, 60, 60)


def write_raster(path, values, grid, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", height=grid.height, width=grid.width, count=1,
        dtype=values.dtype, crs=grid.crs, transform=grid.transform, **options,
    ) as raster:  # fmt: skip
        raster.write(values, 1)
    return path


def band(name, path, grid, nodata=None, block_shape=(256, 256)):
    return Band(
        name=name, source=str(path), layer=1, grid=grid, block_shape=block_shape, scale=1.0,
        offset=0.0, nodata=nodata,
    )  # fmt: skip


def acquisition(bands=None, masks=None, id_="20180405_31UDS", tile="31UDS", clouds=None):
    return Acquisition(
        id=id_, tile=tile, date=date(2018, 4, 5), product=Path("p"), format="safe", baseline=None,
        platform=None, cloud_fraction=clouds, bands=bands or {}, masks=masks or {},
    )  # fmt: skip


def every_pixel(grid):
    rows, cols = (a.ravel().astype(np.int32) for a in np.indices(grid.shape))
    return PixelIndex(["all"], np.array([0, len(rows)]), rows, cols, "31UDS", grid)


def far_from(cloudy, size, distance):
    """Return the pixels farther than a distance from all cloudy ones, one pixel at a time."""
    rows, cols = np.nonzero(cloudy)
    far = np.ones(cloudy.shape, bool)
    for row, col in np.ndindex(cloudy.shape):
        away = np.hypot((rows - row) * size[0], (cols - col) * size[1])
        far[row, col] = not (away <= distance + 1e-6).any()
    return far


def describe(values, nodata=None):
    grid = Grid("EPSG:32631", 0, 0, 20, 20, *values.shape)
    return band("X", "none", grid, nodata)


def test_classes_hide_pixels_and_other_values_are_nodata():
    rules = CloudRules(classes=(3, 8, 9))
    values = np.arange(14, dtype=np.uint8)[None]
    expected = ~np.isin(values, [3, 8, 9])
    assert np.array_equal(rules.is_clear("SCL", values, describe(values)), expected)
    # Values that are not a class, and the nodata value of the file, are nodata (class 0).
    clear = replace(rules, classes=(0, 8)).is_clear("SCL", values, describe(values, nodata=6))
    assert np.array_equal(np.flatnonzero(~clear), [0, 6, 8, 12, 13])
    floats = np.array([[0, 4, 8, np.nan]], np.float32)
    clear = replace(rules, classes=(0, 8)).is_clear("SCL", floats, describe(floats))
    assert clear.tolist() == [[False, True, False, False]]


def test_bits_of_the_theia_mask_hide_pixels():
    values = np.arange(256, dtype=np.uint8)[None]
    assert np.array_equal(CloudRules().is_clear("CLM", values, describe(values)), values == 0)
    clear = CloudRules(theia_bits=(1, 7)).is_clear("CLM", values, describe(values))
    by_hand = [[f"{v:08b}"[-2] == "0" and f"{v:08b}"[0] == "0" for v in range(256)]]
    assert clear.tolist() == by_hand


def test_a_probability_up_to_the_threshold_is_clear():
    values = np.array([[0, 39, 40, 41, 100, 255]], np.uint8)
    clear = CloudRules(max_probability=40).is_clear("CLDPRB", values, describe(values))
    assert clear.tolist() == [[True, True, True, False, False, False]]


def test_every_value_but_0_of_the_users_mask_is_cloudy():
    for values in ([[0, 1, 255]], [[0.0, -1.0, np.nan]]):
        values = np.array(values)
        assert CloudRules().is_clear("MASK", values, describe(values)).tolist() == [
            [True, False, False]
        ]


@settings(deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(20, 20), (10, 10), (9.997, 9.995)]),
       st.sampled_from([0.5, 10, 20, 28.3, 40, 55, 1000]), st.floats(0, 0.1))  # fmt: skip
def test_a_dilated_mask_contains_all_pixels_within_the_distance(seed, size, distance, share):
    cloudy = np.random.default_rng(seed).random((12, 9)) < share
    assert np.array_equal(dilate(cloudy, size, distance), ~far_from(cloudy, size, distance))


def test_nodata_is_not_dilated():
    values = np.full((7, 7), 4, np.uint8)
    values[3, 3] = 0
    rules = CloudRules(dilation_m=45)
    assert (~rules.is_clear("SCL", values, describe(values))).sum() == 1
    values[3, 3] = 9
    assert (~rules.is_clear("SCL", values, describe(values))).sum() == 21  # a disc of 2.25 pixels


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """An acquisition with a mask at 20 m, and one at 10 m that is smaller than the scene."""
    rng = np.random.default_rng(3)
    folder = tmp_path_factory.mktemp("masks")
    coarse = Grid(GRID.crs, GRID.x_min, GRID.y_max, 20, 20, 30, 30)
    scl = rng.choice([0, 4, 4, 4, 4, 4, 4, 4, 4, 9], coarse.shape).astype(np.uint8)
    part = Grid(GRID.crs, GRID.x_min + 100, GRID.y_max - 50, 10, 10, 40, 45)
    own = (rng.random(part.shape) < 0.02).astype(np.uint8)
    masks = {
        "SCL": band("SCL", write_raster(folder / "scl.tif", scl, coarse), coarse, 0.0),
        "MASK": band("MASK", write_raster(folder / "own.tif", own, part), part),
    }
    return acquisition(masks=masks), scl, own


def expected_clear(scl, own, distance):
    far = far_from(scl == 9, (20, 20), distance) & (scl != 0)
    clear = np.kron(far, np.ones((2, 2), bool))
    inside = np.zeros(GRID.shape, bool)
    inside[5:45, 10:55] = far_from(own != 0, (10, 10), distance)
    return clear & inside


@pytest.mark.parametrize("distance", [0, 20, 47])
@pytest.mark.parametrize(("read_size", "block", "threads"), [(1024, (30, 30), 1), (1, (5, 7), 3)])
def test_clear_pixels_do_not_depend_on_blocks_and_threads(
    monkeypatch, masked, distance, read_size, block, threads
):
    item, scl, own = masked
    item = replace(item, masks={n: replace(b, block_shape=block) for n, b in item.masks.items()})
    monkeypatch.setattr(geo.pixels.parcel_pixels, "READ_SIZE", read_size)
    index = every_pixel(GRID)
    clear = read_clear_mask(item, index, CloudRules(dilation_m=distance), threads=threads)
    expected = expected_clear(scl, own, distance)
    assert 0 < expected.sum() < expected.size
    assert np.array_equal(clear.reshape(GRID.shape), expected)
    rules = CloudRules(masks=("SCL",), dilation_m=distance)
    alone = read_clear_mask(item, index, rules).reshape(GRID.shape)
    far = far_from(scl == 9, (20, 20), distance) & (scl != 0)
    assert np.array_equal(alone, np.kron(far, np.ones((2, 2), bool)))


@pytest.mark.parametrize("distance", [0, 30])
@pytest.mark.parametrize("rows", [512, 1])
def test_the_cloud_fraction_equals_that_of_the_masks(monkeypatch, masked, distance, rows):
    monkeypatch.setattr(geo.imagery.cloud_masks, "_ROWS", rows)
    item, scl, own = masked
    masks = {n: replace(b, block_shape=(1, 30)) for n, b in item.masks.items()}
    any_band = {"B02": replace(masks["SCL"], name="B02")}
    item = replace(item, masks=masks, bands=any_band, cloud_fraction=0.123)
    rules = CloudRules(masks=("SCL",), dilation_m=distance)
    cloudy = (~far_from(scl == 9, (20, 20), distance))[scl != 0].mean()
    expected = cloudy if distance else 0.123  # without dilation, the metadata count the same
    assert cloud_fraction(item, rules) == pytest.approx(expected)
    fewer_classes = replace(rules, classes=(0, 9))
    assert cloud_fraction(item, fewer_classes) == pytest.approx(cloudy)
    # Both masks at 20 m: the centre of a 20 m pixel is a corner of four 10 m pixels.
    at_20_m = expected_clear(scl, own, distance)[1::2, 1::2]
    both = cloud_fraction(item, replace(rules, masks=("SCL", "MASK")))
    assert both == pytest.approx((~at_20_m)[scl != 0].mean())
    # Without SCL, nodata is that of a reflectance band.
    alone = cloud_fraction(item, replace(rules, masks=("MASK",)))
    inside = np.zeros(GRID.shape, bool)
    inside[5:45, 10:55] = far_from(own != 0, (10, 10), distance)
    assert alone == pytest.approx((~inside[1::2, 1::2])[scl != 0].mean())
    assert cloud_fraction(item, replace(rules, masks=())) == 0.123


def test_an_acquisition_without_data_is_cloudy(tmp_path):
    grid = Grid(GRID.crs, 0, 0, 20, 20, 4, 4)
    path = write_raster(tmp_path / "scl.tif", np.zeros((4, 4), np.uint8), grid)
    scl = band("SCL", path, grid, 0.0)
    assert cloud_fraction(acquisition({"B02": scl}, {"SCL": scl}), CloudRules()) == 1.0


def test_the_users_masks_are_matched_by_date_and_tile(tmp_path):
    mask = np.zeros((60, 60), np.uint8)
    names = ("20180405_31UDS", "x_2018-04-05_T31UES_2", "20180410", "20180415_31UES")
    for name in names:
        write_raster(tmp_path / f"{name}.tif", mask, GRID)
    (tmp_path / "notes.txt").write_text("not a mask")
    items = [
        acquisition(id_="a"), acquisition(id_="b", tile="31UES"), acquisition(id_="c", tile="x"),
        replace(acquisition(id_="d"), date=date(2018, 4, 10)),
        replace(acquisition(id_="e", tile="scene"), date=date(2018, 4, 15)),
    ]  # fmt: skip
    found = with_mask_files(items, tmp_path)
    names = [Path(i.masks["MASK"].source).stem if i.masks else None for i in found]
    assert names == [
        "20180405_31UDS", "x_2018-04-05_T31UES_2", None, "20180410", "20180415_31UES",
    ]  # fmt: skip
    assert found[0].masks["MASK"].grid == GRID
    write_raster(tmp_path / "cloud_20180410_v2.tif", mask, GRID)
    with pytest.raises(InputError, match=r"d has 2 masks: .*20180410.*, .*v2.tif"):
        with_mask_files(items, tmp_path)
    write_raster(tmp_path / "second.tif", mask, GRID)
    with pytest.raises(InputError, match=r"1 masks of .* have no date .*: second.tif"):
        with_mask_files(items, tmp_path)


def test_masks_in_another_coordinate_system_are_refused(tmp_path, masked):
    grid = replace(GRID, crs="EPSG:32632")
    path = write_raster(tmp_path / "20180405.tif", np.zeros((60, 60), np.uint8), grid)
    (item,) = with_mask_files([masked[0]], path.parent)
    with pytest.raises(InputError, match=r"MASK of .*20180405.tif is in EPSG:32632, the p"):
        read_clear_mask(item, every_pixel(GRID), CloudRules())


@pytest.mark.parametrize(
    ("clouds", "masks", "required"),
    [
        ({}, {"SCL", "CLM", "MASK"}, set()),
        ({"mask": "none", "files": "x"}, set(), set()),
        ({"files": "x"}, {"SCL", "CLM", "MASK"}, {"MASK"}),
        ({"max_probability": 30}, {"SCL", "CLM", "MASK", "CLDPRB"}, {"CLDPRB"}),
        ({"mask": ["theia", "scl"], "files": "x"}, {"SCL", "CLM"}, {"SCL", "CLM"}),
    ],
)
def test_settings_choose_and_require_masks(clouds, masks, required):
    rules = cloud_rules(load({"clouds": clouds}).clouds)
    assert set(rules.masks) == masks
    assert set(rules.required) == required


@pytest.mark.parametrize(
    ("clouds", "words"),
    [
        ({"mask": ["cldprb"]}, "mask names cldprb: set max_probability, too"),
        ({"mask": ["scl", "files"]}, "mask names files: set files, too"),
        ({"mask": ["snow"]}, "clouds.mask"),
        ({"mask": []}, "clouds.mask"),
        ({"dilation_m": -1}, "clouds.dilation_m"),
        ({"max_probability": 101}, "clouds.max_probability"),
        ({"theia_bits": [8]}, "clouds.theia_bits"),
    ],
)
def test_impossible_settings_are_refused(clouds, words):
    with pytest.raises(InputError, match=words):
        load({"clouds": clouds})


def test_missing_required_masks_are_refused_by_name():
    items = [acquisition(id_=f"2018040{n}") for n in range(7)]
    rules = cloud_rules(load({"clouds": {"max_probability": 30}}).clouds)
    with pytest.raises(InputError) as error:
        check_masks(items, rules)
    assert "7 of 7 acquisitions have no cloud mask CLDPRB: 20180400, " in str(error.value)
    assert "20180404, ... and 2 more. Download MSK_CLDPRB, or set clouds.max_pro" in str(
        error.value
    )


def test_a_10_m_pixel_has_the_class_of_its_20_m_pixel(tmp_path):
    product = write_safe(tmp_path, np.random.default_rng(0))
    (item,) = find_acquisitions(tmp_path)
    index = every_pixel(item.grid)
    clear = read_clear_mask(item, index, CloudRules(classes=(3, 8)))
    scl = np.kron(product.pixels["SCL"], np.ones((2, 2), np.uint8))
    assert np.array_equal(clear.reshape(scl.shape), ~np.isin(scl, [3, 8]))
    assert read_clear_mask(item, index, CloudRules(masks=())).all()
