"""Stage index: which acquisitions are used, and why others are not."""

import json
import shutil
from datetime import date, datetime
from pathlib import Path

import netCDF4
import numpy as np
import pytest

from geo.errors import InputError
from geo.grid import Grid
from geo.imagery.acquisition import Acquisition, Band
from geo.imagery.discovery import find_acquisitions
from geo.imagery.duplicates import duplicates
from pipeline.dataset.acquisition_choice import rank_tiles
from pipeline.stages.index import index
from pipeline.workflow.acquisition_table import (
    AcquisitionRow,
    read_acquisitions,
    read_used,
    write_acquisitions,
    write_view,
)
from pipeline.workflow.config import load, view
from pipeline.workflow.paths import RunPaths
from pipeline.workflow.software import environment_of
from tests.builders.paths import DATA
from tests.builders.safe import write_image, write_safe

FLANDERS = DATA / "flanders-2018"
BANDS = ["B02", "B8A"]


@pytest.fixture
def rng():
    return np.random.default_rng(8)


class Run:
    """The stage, with its paths in one folder."""

    def __init__(self, root):
        self.imagery = root / "imagery"
        self.table = root / "out" / "acquisitions.json"
        self.items = root / "out" / "acquisitions"
        self.grids = root / "out" / "grids.json"
        self.paths = RunPaths(root / "out")

    def __call__(self, imagery=None, clouds=None, **settings):
        values = {"imagery": {"bands": BANDS, **settings}, "clouds": clouds or {}}
        index(
            imagery or self.imagery, self.table, self.table.with_suffix(".csv"), self.items,
            self.grids, view(load(values), "index"), extracted=self.paths.of_extractions,
        )  # fmt: skip
        return read_acquisitions(self.table)

    def refusal(self, **settings):
        with pytest.raises(InputError) as error:
            self(**settings)
        assert not self.items.exists()
        assert not self.table.exists()
        assert not self.grids.exists()
        return str(error.value)


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def write(run, rng, **options):
    return write_safe(run.imagery, rng, **{"bands": ("B02", "B8A", "SCL"), **options})


def days(rows):
    return {row.date.day: row.reason or "used" for row in rows}


def test_what_was_extracted_of_acquisitions_that_are_gone_is_deleted(run, rng):
    names = ("20220403T105031_31UDS_N0301", "20220413T105031_31UDS_N0301")
    gone, _ = (write(run, rng, sensed=name[:15], baseline="03.01") for name in names)
    paths = run.paths

    def of(name):
        job = f"extract/{name}"
        files = [paths.extracted(name), paths.extracted_valid(name), paths.extraction_counts(name)]
        return [*files, paths.log(job), environment_of(paths.log(job)), paths.benchmark(job)]

    assert {path.parent for path in of("any")} == set(paths.of_extractions)
    others = [paths.extractions / f".{names[0]}.0000-1.part.npy", paths.log("assemble/31UDS")]
    files = [*of(names[0]), *of(names[1]), *others]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    run()
    assert [path for path in files if not path.exists()] == []
    shutil.rmtree(gone.path)
    run()
    assert [path for path in files if not path.exists()] == of(names[0])


def test_every_acquisition_has_a_row(run, rng):
    old = write(run, rng, sensed="20220403T105031", baseline="03.01", cloudy=10)
    new = write(run, rng, sensed="20220413T105031", baseline="04.00", offsets=-1000, cloudy=30)
    rows = run()
    assert rows == [
        AcquisitionRow(
            *("20220403T105031_31UDS_N0301", "31UDS", date(2022, 4, 3), old.path, "safe", "03.01"),
            *("Sentinel-2A", "0", 0.1, True, "", "SCL"),
        ),
        AcquisitionRow(
            *("20220413T105031_31UDS_N0400", "31UDS", date(2022, 4, 13), new.path, "safe", "04.00"),
            *("Sentinel-2A", "-1000", 0.3, True, "", "SCL", None, "undecided"),
        ),
    ]
    assert list(read_used(run.table)) == [row.acquisition for row in rows]
    (grid,) = json.loads(run.grids.read_text()).items()
    assert grid[0] == "31UDS"
    assert Grid(**grid[1]).bounds == (500_000, 5_599_400, 500_600, 5_600_000)
    assert {path.name for path in run.table.parent.iterdir()} == {
        "acquisitions", "acquisitions.json", "acquisitions.csv", "grids.json",
    }  # fmt: skip
    assert {path.stem for path in run.items.iterdir()} == {row.acquisition for row in rows}


def test_offsets_that_differ_are_listed_by_band(run, rng):
    write(run, rng, offsets={number: -1000 - number for number in range(13)})
    assert run()[0].offset == "B02=-1001 B8A=-1008"


def test_acquisitions_outside_the_period_or_too_cloudy_are_not_used(run, rng):
    for day, cloudy in ((3, 0), (5, 80), (8, 81), (13, 5), (18, 95)):
        write(run, rng, sensed=f"202204{day:02}T105031", cloudy=cloudy)
    assert days(run()) == {3: "used", 5: "used", 8: "too_cloudy", 13: "used", 18: "too_cloudy"}
    rows = run(start="2022-04-05", end="2022-04-13", max_cloud_fraction=0.9)
    expected = {3: "before_start", 5: "used", 8: "used", 13: "used", 18: "after_end"}
    assert days(rows) == expected
    assert {row.date.day for row in rows if row.used} == {5, 8, 13}


def test_all_tiles_are_used_unless_settings_name_some(run, rng):
    write(run, rng, tile="31UDS", sensed="20220403T105031")
    for tile in ("31UDS", "31UES", "32ULB"):
        write(run, rng, tile=tile)
    assert {row.tile: row.reason for row in run()} == {"31UDS": "", "31UES": "", "32ULB": ""}
    grids = json.loads(run.grids.read_text())
    assert list(grids) == ["31UDS", "31UES", "32ULB"]
    assert [grid["crs"] for grid in grids.values()] == ["EPSG:32631", "EPSG:32631", "EPSG:32632"]
    for wanted in ("31UES", "T31UES", ["T31UES"]):
        rows = run(tile=wanted)
        assert {row.tile for row in rows if row.used} == {"31UES"}
        assert {row.reason for row in rows if not row.used} == {"other_tile"}
        assert set(json.loads(run.grids.read_text())) == {"31UES"}
    assert {row.tile for row in run(tile=["31UES", "32ULB"]) if row.used} == {"31UES", "32ULB"}


def test_tiles_that_the_imagery_lacks_are_refused_by_name(run, rng):
    write(run, rng, tile="31UDS")
    write(run, rng, tile="31UES")
    message = run.refusal(tile=["31UDS", "31UFS", "32ULB"])
    assert "imagery.tile asks for 31UFS, 32ULB, which the imagery does not have" in message
    assert "It has: 31UDS (1), 31UES (1)" in message


def test_the_tile_with_the_most_used_dates_comes_first(run, rng):
    for day in (3, 5, 8):
        write(run, rng, tile="31UES", sensed=f"202204{day:02}T105031")
        if day > 3:
            write(run, rng, tile="31UDS", sensed=f"202204{day:02}T105031")
    run()
    assert list(json.loads(run.grids.read_text())) == ["31UES", "31UDS"]
    # Cloudy acquisitions do not count.
    for day in (13, 18, 23):
        write(run, rng, tile="31UDS", sensed=f"202204{day:02}T105031", cloudy=99)
    run()
    assert list(json.loads(run.grids.read_text())) == ["31UES", "31UDS"]


@pytest.mark.parametrize(
    ("counts", "order"),
    [
        ({"A": 2, "B": 3}, "BA"),
        ({"A": 9, "B": 10}, "AB"),
        ({"A": 10, "B": 9}, "AB"),
        ({"A": 8, "B": 10}, "BA"),
        ({"A": 8, "B": 9, "C": 10}, "BCA"),
        ({"C": 1, "B": 1, "A": 1}, "ABC"),
    ],
)
def test_tiles_that_differ_by_less_than_a_tenth_are_ordered_by_name(counts, order):
    used = {(tile, date.fromordinal(1 + i)) for tile, n in counts.items() for i in range(n)}
    assert "".join(rank_tiles(used)) == order


def test_the_newest_processing_is_used(run, rng):
    old = write(run, rng, baseline="04.00", generated="2022-04-13T15:00:00.000000Z")
    new = write(run, rng, baseline="05.10", generated="2023-02-01T15:00:00.000000Z")
    again = write(run, rng, baseline="05.10", generated="2023-03-01T15:00:00.000000Z")
    rows = {row.product: row for row in run()}
    assert {product: row.reason for product, row in rows.items()} == {
        old.path: "superseded", new.path: "superseded", again.path: "",
    }  # fmt: skip
    # Read alone, the product has the same id.
    assert find_acquisitions(again.path)[0].id == rows[again.path].acquisition


def test_the_acquisition_with_the_most_pixels_of_a_day_is_used(run, rng):
    full = write(run, rng, sensed="20220413T105031", baseline="04.00", no_data=10)
    edge = write(run, rng, sensed="20220413T104021", baseline="05.10", no_data=70)
    reasons = {row.product: row.reason for row in run()}
    assert reasons == {full.path: "", edge.path: "same_day"}


def test_both_halves_of_a_tile_are_used_and_older_versions_are_not(run, rng):
    """Rows are in the order of merging: the larger half comes first."""
    small = write(run, rng, generated="2022-04-13T15:00:00Z", no_data=60)
    large = write(run, rng, generated="2022-04-13T16:00:00Z", no_data=40)
    again = write(run, rng, generated="2023-04-13T15:00:00Z", baseline="05.10", no_data=60)
    rows = run()
    assert [(row.product, row.reason) for row in rows] == [
        (large.path, ""), (again.path, "merged"), (small.path, "superseded"),
    ]  # fmt: skip
    assert [row.used for row in rows] == [True, True, False]
    assert list(read_used(run.table)) == [rows[0].acquisition, rows[1].acquisition]


def test_a_half_is_used_if_the_other_half_is_too_cloudy(run, rng):
    cloudy = write(run, rng, generated="2022-04-13T15:00:00Z", no_data=40, cloudy=90)
    clear = write(run, rng, generated="2022-04-13T16:00:00Z", no_data=60, cloudy=10)
    assert [(row.product, row.reason) for row in run()] == [
        (cloudy.path, "too_cloudy"), (clear.path, ""),
    ]  # fmt: skip


def acquisition(id_, **values):
    """Return an acquisition of one band with the grid `grid`."""
    band = Band("B02", "x", 1, values.pop("grid", GRID), (8, 8), 1.0, 0.0, None)
    given = {
        **{"tile": "31UDS", "date": date(2022, 4, 13), "product": Path(id_), "format": "safe"},
        **{"baseline": "04.00", "platform": None, "cloud_fraction": None, "bands": {"B02": band}},
        **values,
    }
    return Acquisition(id=id_, masks={}, **given)


NOON = datetime(2022, 4, 13, 12)
GRID = Grid("EPSG:32631", 0.0, 0.0, 10.0, 10.0, 8, 8)
EAST = Grid("EPSG:32631", 80.0, 0.0, 10.0, 10.0, 8, 8)
PAIRS = {
    # If the fractions are equal, b is preferred, because it was generated later.
    "the same data strip": ({"datastrip": "1"}, {"datastrip": "1"}, {"a": "superseded"}),
    "two data strips": ({"datastrip": "1"}, {"datastrip": "2"}, {}),
    "the same strip, other fractions": (
        {"datastrip": "1", "valid_fraction": 0.8},
        {"datastrip": "1", "valid_fraction": 0.5},
        {"b": "superseded"},
    ),
    "the same time": ({"sensing_start": NOON}, {"sensing_start": NOON}, {"a": "superseded"}),
    "the same time, half each": (
        {"sensing_start": NOON, "valid_fraction": 0.39},
        {"sensing_start": NOON, "valid_fraction": 0.62},
        {},
    ),
    "other times, half each": (
        {"sensing_start": NOON, "valid_fraction": 0.4},
        {"sensing_start": NOON.replace(hour=13), "valid_fraction": 0.6},
        {},
    ),
    "other times, overlapping": (
        {"sensing_start": NOON, "valid_fraction": 0.8},
        {"sensing_start": NOON.replace(hour=13), "valid_fraction": 0.6},
        {"b": "same_day"},
    ),
    "nothing stated": ({}, {}, {"a": "same_day"}),
    "nothing stated, other extents": ({}, {"grid": EAST}, {}),
    "one strip stated": (
        {"datastrip": "1", "sensing_start": NOON},
        {"sensing_start": NOON},
        {"a": "superseded"},
    ),
}


@pytest.mark.parametrize("case", PAIRS)
def test_duplicates_of_a_day(case):
    first, second, reasons = PAIRS[case]
    a, b = acquisition("a", generated="2022", **first), acquisition("b", generated="2023", **second)
    assert duplicates([a, b]) == duplicates([b, a]) == reasons


def test_the_grid_of_a_tile_is_the_union_of_aligned_grids(run, rng):
    write(run, rng, sensed="20220403T105031", size=40)
    write(run, rng, sensed="20220408T105031")
    write(run, rng, sensed="20220413T105031", x_min=499_900)
    write(run, rng, sensed="20220418T105031", x_min=500_005)
    assert days(run()) == {3: "used", 8: "used", 13: "used", 18: "other_grid"}
    grid = Grid(**json.loads(run.grids.read_text())["31UDS"])
    assert grid.bounds == (499_900, 5_599_400, 500_600, 5_600_000)
    assert (grid.pixel_width, grid.shape) == (10.0, (60, 70))


def test_a_run_without_used_acquisitions_is_refused_with_counts(run, rng):
    write(run, rng, sensed="20220403T105031", cloudy=90)
    write(run, rng, sensed="20220408T105031", cloudy=99)
    write(run, rng, sensed="20220413T105031", cloudy=0)
    message = run.refusal(end="2022-04-10")
    assert "None of the 3 acquisitions from 2022-04-03 to 2022-04-13" in message
    assert "2 too_cloudy, 1 after_end" in message
    assert "imagery.max_cloud_fraction" in message


def test_a_failure_does_not_change_an_earlier_table(run, rng):
    write(run, rng)
    run()
    before = run.table.read_text()
    with pytest.raises(InputError):
        run(start="2030-01-01")
    assert run.table.read_text() == before


def test_the_cloud_fraction_is_read_from_masks_if_metadata_do_not_state_it(run, rng):
    product = write(run, rng, cloudy=None)
    scl = product.pixels["SCL"]
    share = np.isin(scl, [3, 8, 9, 10]).sum() / (scl != 0).sum()
    clouds = {"classes": [0, 3, 8, 9, 10]}
    assert run(clouds=clouds)[0].cloud_fraction == pytest.approx(share, rel=1e-5)
    assert run(clouds=clouds | {"mask": "none"})[0].cloud_fraction is None


def test_acquisitions_without_cloud_mask_cause_a_warning(run, rng, caplog):
    write(run, rng, bands=("B02", "B8A"), cloudy=None)
    assert run()[0].cloud_fraction is None
    assert "1 acquisitions have no cloud mask" in caplog.text


def test_the_users_masks_are_used_and_missing_ones_refused_by_name(run, rng, tmp_path):
    for day in (3, 8, 13):
        write(run, rng, sensed=f"202204{day:02}T105031", cloudy=95 if day == 8 else 0)
    mask = np.zeros((60, 60), np.uint8)
    mask[:30] = 1
    folder = tmp_path / "masks"
    folder.mkdir()
    write_image(folder / "clouds_20220403.tif", mask, "31UDS", 10, 500_000)
    clouds = {"files": str(folder), "mask": ["files"]}
    message = run.refusal(clouds=clouds)
    # The second acquisition is too cloudy by its metadata.
    assert "1 of 2 acquisitions have no cloud mask MASK: 20220413T105031_31UDS_N0400" in message
    assert "clouds.files" in message
    write_image(folder / "clouds_20220413.tif", mask * 0, "31UDS", 10, 500_000)
    rows = run(clouds=clouds)
    assert days(rows) == {3: "used", 8: "too_cloudy", 13: "used"}
    assert [row.cloud_fraction for row in rows] == [0.5, 0.95, 0]
    assert [row.masks for row in rows] == ["MASK", "", "MASK"]
    assert rows[0].mask_file == folder / "clouds_20220403.tif"
    assert rows[1].mask_file is None


def test_cloud_fractions_of_a_real_stack_are_those_of_its_classification(run):
    if not FLANDERS.is_dir():
        pytest.skip(reason=f"{FLANDERS} is not there")
    rows = run(FLANDERS)
    (path,) = FLANDERS.glob("S2_L2A_20m*.nc")
    with netCDF4.Dataset(path) as data:
        data.set_auto_maskandscale(False)
        scl = data["SCL"][:].reshape(118, -1)
    with np.errstate(invalid="ignore"):
        shares = np.isin(scl, [1, 3, 8, 9, 10]).sum(1) / (scl != 0).sum(1)
    shares[(scl == 0).all(1)] = 1
    assert len(rows) == 118
    np.testing.assert_allclose([row.cloud_fraction for row in rows], shares, rtol=1e-5)
    assert [row.used for row in rows] == list(shares <= 0.8)
    assert {row.product for row in rows} == {FLANDERS}


def test_the_table_is_the_same_when_read_again(tmp_path):
    rows = [
        AcquisitionRow(
            *("20180405_scene", "scene", date(2018, 4, 5), Path("a, b/ü.tif"), "geotiff", "", ""),
            *("0", None, True, ""),
        ),
        AcquisitionRow(
            *("20180410_scene", "scene", date(2018, 4, 10), Path('"q"/c.tif'), "geotiff", "04.00"),
            *("Simulated", "-1000", 1 / 3, False, "too_cloudy"),
            *("SCL MASK", Path("a/20180410.tif")),
        ),
    ]
    table = tmp_path / "new" / "table.json"
    write_acquisitions(table, rows)
    assert read_acquisitions(table) == rows
    assert read_used(table) == {"20180405_scene": rows[0]}
    found = json.loads(table.read_text())
    assert [item["id"] for item in found] == ["20180405_scene", "20180410_scene"]
    assert [item["used"] for item in found] == [True, False]
    write_view(tmp_path / "table.csv", rows)
    assert (tmp_path / "table.csv").read_text().splitlines()[2] == (
        '20180410_scene,scene,2018-04-10,"""q""/c.tif",geotiff,04.00,Simulated,-1000,0.333333,no,'
        "too_cloudy,SCL MASK,a/20180410.tif,"
    )


def test_damaged_tables_are_refused(tmp_path):
    path = tmp_path / "table.json"
    for text in ("acquisition,tile\nx,y\n", '[{"id": "x", "tile": "31UDS"}]', "[3]"):
        path.write_text(text)
        with pytest.raises(
            InputError, match="is not the table of acquisitions as the stage index writes it"
        ):
            read_acquisitions(path)
