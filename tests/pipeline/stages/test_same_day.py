"""Acquisitions of one day on one grid: merged pixel by pixel if they complete each other."""

from datetime import date

import geopandas as gpd
import numpy as np
import pytest
from shapely import box

from pipeline.workflow.acquisition_table import read_acquisitions
from pipeline.workflow.config import load
from tests.builders.runs import opened, prepare_dataset, read_pixels, read_valid
from tests.builders.stacks import cube, write_stack
from tests.builders.tiffs import write_tiff

BANDS = ["B02", "B08"]
SIDE = 40
X, Y = 500_000, 5_600_000


@pytest.fixture
def rng():
    return np.random.default_rng(21)


def draw(rng, columns, nodata=0, dtype="uint16"):
    """Draw reflectance x 10,000 where columns are covered, nodata elsewhere, (2, 40, 40)."""
    values = rng.integers(100, 9000, (2, SIDE, SIDE)).astype(dtype)
    hidden = np.ones(SIDE, bool)
    hidden[columns] = False
    values[:, :, hidden] = nodata
    return values


def prepared(tmp_path, **imagery):
    """Make the dataset of 16 parcels that cover the whole grid, 10 x 10 pixels each."""
    outlines = [
        box(X + x, Y - y - 100, X + x + 100, Y - y)
        for y in range(0, 400, 100)
        for x in range(0, 400, 100)
    ]
    table = {"ID": [f"p{i:02}" for i in range(16)], "CODE": ["a", "b"] * 8}
    gpd.GeoDataFrame(table, geometry=outlines, crs=32631).to_file(tmp_path / "register.gpkg")
    settings = {
        "imagery": {"path": str(tmp_path / "imagery"), "bands": BANDS, **imagery},
        "clouds": {"fill": "none"},
        "parcels": {
            "path": str(tmp_path / "register.gpkg"), "id": "ID", "labels": {"crop": "CODE"},
            "classes": {"min_parcels": 2},
        },
        "split": {"folds": 2},
    }  # fmt: skip
    return prepare_dataset(load(settings), tmp_path / "run")


def read_day(run, day):
    """Return reflectance (2, 40, 40) and clear (40, 40) of a day as images.

    Pixels that are clear on no day are not in the dataset; a second, full day avoids that.
    """
    pixels, clear = np.zeros((2, SIDE, SIDE), int), np.zeros((SIDE, SIDE), bool)
    dataset = opened(run)
    for number in range(16):
        own = f"p{number:02}"
        at = (dataset.parcel_dates or {own: dataset.dates})[own].index(day)
        rows, cols = (slice(10 * n, 10 * n + 10) for n in divmod(number, 4))
        pixels[:, rows, cols] = read_pixels(run.dataset, own)[at].reshape(2, 10, 10)
        clear[rows, cols] = read_valid(run.dataset, own)[at].reshape(10, 10)
    return pixels, clear


def merged_by_hand(parts, nodata=0):
    """Take every pixel from the first part in which both bands have a value."""
    pixels, clear = np.zeros((2, SIDE, SIDE), int), np.zeros((SIDE, SIDE), bool)
    for row, col in np.ndindex(SIDE, SIDE):
        for part in parts:
            if (part[:, row, col] != nodata).all():
                pixels[:, row, col], clear[row, col] = part[:, row, col], True
                break
    return pixels, clear


def reasons(run, day):
    rows = [row for row in read_acquisitions(run.acquisitions) if row.date == day]
    return [(row.product.stem, row.reason) for row in rows]


LATE = date(2018, 4, 15)  # a full day, without which some pixels would never be clear
EARLY = date(2018, 4, 5)


@pytest.mark.parametrize("nodata", [0, -9999])
@pytest.mark.parametrize(
    ("left", "right"),
    [
        (slice(0, 22), slice(18, 40)),  # they overlap
        (slice(0, 20), slice(20, 40)),
        (slice(0, 30), slice(27, 40)),
        (slice(0, 15), slice(25, 40)),  # they leave a gap
    ],
)
def test_two_halves_on_one_grid_are_merged(tmp_path, rng, left, right, nodata):
    folder = tmp_path / "imagery"
    halves = [draw(rng, columns, nodata, "int16") for columns in (left, right)]
    for name, values in zip("ab", halves, strict=True):
        write_tiff(folder / f"20180405_{name}.tif", values, BANDS)
    write_tiff(folder / "20180415.tif", draw(rng, slice(0, 40)), BANDS)
    run = prepared(tmp_path)
    # The larger half comes first, of equal ones the last.
    order = [1, 0] if left.stop - left.start == right.stop - right.start else [0, 1]
    names = [f"20180405_{'ab'[i]}" for i in order]
    assert reasons(run, EARLY) == [(names[0], ""), (names[1], "merged")]
    pixels, clear = read_day(run, EARLY)
    expected, expected_clear = merged_by_hand([halves[i] for i in order], nodata)
    assert np.array_equal(clear, expected_clear)
    assert np.array_equal(pixels[:, clear], expected[:, clear])


def test_three_parts_are_merged_and_a_fourth_that_adds_nothing_is_not(tmp_path, rng):
    folder = tmp_path / "imagery"
    columns = (slice(0, 12), slice(8, 30), slice(24, 40), slice(10, 20))
    parts = [draw(rng, some) for some in columns]
    for name, values in zip("abcd", parts, strict=True):
        write_tiff(folder / f"20180405_{name}.tif", values, BANDS)
    run = prepared(tmp_path)
    assert reasons(run, EARLY) == [
        ("20180405_b", ""), ("20180405_c", "merged"), ("20180405_a", "merged"),
        ("20180405_d", "same_day"),
    ]  # fmt: skip
    pixels, clear = read_day(run, EARLY)
    expected, _ = merged_by_hand([parts[i] for i in (1, 2, 0)])
    assert clear.all()
    assert np.array_equal(pixels, expected)


@pytest.mark.parametrize("change", ["none", "reprocessed", "a few pixels more"])
def test_full_images_of_one_day_are_not_merged(tmp_path, rng, change):
    folder = tmp_path / "imagery"
    values = draw(rng, slice(0, 40))
    other = values + 7 if change == "reprocessed" else values.copy()
    if change == "a few pixels more":
        values[:, 0, :5] = 0
    write_tiff(folder / "20180405_a.tif", values, BANDS)
    write_tiff(folder / "20180405_b.tif", other, BANDS)
    run = prepared(tmp_path)
    assert reasons(run, EARLY) == [("20180405_b", ""), ("20180405_a", "same_day")]
    assert np.array_equal(read_day(run, EARLY)[0], other)


@pytest.mark.parametrize("times", [("10:50", "10:53"), ("10:50", "10:50")])
@pytest.mark.parametrize("form", ["netcdf", "zarr2"])
def test_two_times_of_a_day_in_a_stack_are_merged(tmp_path, rng, form, times):
    days = (f"2018-04-05T{times[0]}", f"2018-04-05T{times[1]}", "2018-04-15T10:50")
    data = cube(rng, BANDS, days, shape=(SIDE, SIDE))
    parts = [draw(rng, columns) for columns in (slice(0, 20), slice(20, 40), slice(0, 40))]
    for at, name in enumerate(BANDS):
        data[name].values[:] = np.stack([part[at] for part in parts])
    write_stack(data, tmp_path / "imagery", form, chunk=(16, 16))
    run = prepared(tmp_path)
    assert [reason for _, reason in reasons(run, EARLY)] == ["", "merged"]
    pixels, clear = read_day(run, EARLY)
    assert clear.all()
    assert np.array_equal(pixels, merged_by_hand(parts[:2])[0])
    assert np.array_equal(read_day(run, LATE)[0], parts[2])


def test_halves_of_float_reflectance_are_merged(tmp_path, rng):
    folder = tmp_path / "imagery"
    parts = [draw(rng, slice(0, 40), dtype="float32") / 10_000 for _ in range(2)]
    parts[0][:, :, 25:], parts[1][:, :, :25] = np.nan, np.nan
    for name, values in zip("ab", parts, strict=True):
        write_tiff(folder / f"20180405_{name}.tif", values, BANDS, nodata=np.nan)
    run = prepared(tmp_path)
    assert [reason for _, reason in reasons(run, EARLY)] == ["", "merged"]
    pixels, clear = read_day(run, EARLY)
    assert clear.all()
    together = np.where(np.isnan(parts[0]), parts[1], parts[0])
    assert np.abs(pixels - 10_000 * together).max() <= 0.51
