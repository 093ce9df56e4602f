"""Stage index: which acquisitions are used, and why the others are not."""

import json
from datetime import date
from pathlib import Path

import netCDF4
import numpy as np
import pytest
from safe_fixture import write_image, write_safe

from geo.acquisitions import AcquisitionError
from geo.finding import find_acquisitions
from geo.grid import Grid
from pipeline.acquisition_table import (
    AcquisitionRow,
    AcquisitionTableError,
    read_acquisitions,
    read_used,
    write_acquisitions,
)
from pipeline.config import load, view
from pipeline.index import index

FLANDERS = Path(__file__).parents[2] / "shared" / "data" / "flanders-2018"
BANDS = ["B02", "B8A"]


@pytest.fixture
def rng():
    return np.random.default_rng(8)


class Run:
    """One run of the stage in a folder of its own."""

    def __init__(self, root):
        self.imagery = root / "imagery"
        self.table = root / "out" / "acquisitions.csv"
        self.grids = root / "out" / "grids.json"

    def __call__(self, imagery=None, clouds=None, **settings):
        values = {"imagery": {"bands": BANDS, **settings}, "clouds": clouds or {}}
        index(imagery or self.imagery, self.table, self.grids, view(load(values), "index"))
        return read_acquisitions(self.table)

    def refusal(self, **settings):
        with pytest.raises(AcquisitionError) as error:
            self(**settings)
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
    assert Grid.from_dict(grid[1]).bounds == (500_000, 5_599_400, 500_600, 5_600_000)
    assert {path.name for path in run.table.parent.iterdir()} == {"acquisitions.csv", "grids.json"}


def test_offsets_that_differ_are_listed_by_band(run, rng):
    write(run, rng, offsets={number: -1000 - number for number in range(13)})
    assert run()[0].offset == "B02=-1001 B8A=-1008"


def test_dates_and_clouds_set_acquisitions_aside(run, rng):
    for day, cloudy in ((3, 0), (5, 80), (8, 81), (13, 5), (18, 95)):
        write(run, rng, sensed=f"202204{day:02}T105031", cloudy=cloudy)
    assert days(run()) == {3: "used", 5: "used", 8: "too_cloudy", 13: "used", 18: "too_cloudy"}
    rows = run(start="2022-04-05", end="2022-04-13", max_cloud_fraction=0.9)
    expected = {3: "before_start", 5: "used", 8: "used", 13: "used", 18: "after_end"}
    assert days(rows) == expected
    assert {row.date.day for row in rows if row.used} == {5, 8, 13}


def test_one_tile_is_chosen(run, rng):
    write(run, rng, tile="31UDS")
    write(run, rng, tile="31UES")
    message = run.refusal()
    assert "has 2 tiles, and a run reads one: 31UDS (1), 31UES (1)" in message
    assert "There is no tile 31UFS in the imagery. It has: 31UDS (1), 31UES (1)" in run.refusal(
        tile="31UFS"
    )
    for wanted in ("31UES", "T31UES"):
        rows = run(tile=wanted)
        assert {row.tile: row.reason for row in rows} == {"31UDS": "other_tile", "31UES": ""}
        assert set(json.loads(run.grids.read_text())) == {"31UES"}


def test_the_newest_processing_is_used(run, rng):
    old = write(run, rng, baseline="04.00", generated="2022-04-13T15:00:00.000000Z")
    new = write(run, rng, baseline="05.10", generated="2023-02-01T15:00:00.000000Z")
    again = write(run, rng, baseline="05.10", generated="2023-03-01T15:00:00.000000Z")
    rows = {row.product: row for row in run()}
    assert {product: row.reason for product, row in rows.items()} == {
        old.path: "superseded", new.path: "superseded", again.path: "",
    }  # fmt: skip
    # What is used is found again under its id in its product alone.
    assert find_acquisitions(again.path)[0].id == rows[again.path].acquisition


def test_of_two_acquisitions_of_a_day_the_fuller_is_used(run, rng):
    full = write(run, rng, sensed="20220413T105031", baseline="04.00", no_data=10)
    edge = write(run, rng, sensed="20220413T104021", baseline="05.10", no_data=70)
    half = write(run, rng, sensed="20220413T105031", generated="2023-01-01T00:00:00Z", no_data=90)
    reasons = {row.product: row.reason for row in run()}
    assert reasons == {full.path: "", edge.path: "same_day", half.path: "same_day"}


def test_other_grids_than_the_most_common_are_set_aside(run, rng):
    write(run, rng, sensed="20220403T105031", size=40)
    write(run, rng, sensed="20220408T105031")
    write(run, rng, sensed="20220413T105031")
    write(run, rng, sensed="20220418T105031", x_min=500_010)
    expected = {3: "other_grid", 8: "used", 13: "used", 18: "other_grid"}
    assert days(run()) == expected
    assert json.loads(run.grids.read_text())["31UDS"]["width"] == 60


def test_nothing_left_is_refused_with_the_counts(run, rng):
    write(run, rng, sensed="20220403T105031", cloudy=90)
    write(run, rng, sensed="20220408T105031", cloudy=99)
    write(run, rng, sensed="20220413T105031", cloudy=0)
    message = run.refusal(end="2022-04-10")
    assert "None of the 3 acquisitions from 2022-04-03 to 2022-04-13" in message
    assert "2 too_cloudy, 1 after_end" in message
    assert "imagery.max_cloud_fraction" in message


def test_a_failure_leaves_the_former_table_as_it_was(run, rng):
    write(run, rng)
    run()
    before = run.table.read_text()
    with pytest.raises(AcquisitionError):
        run(start="2030-01-01")
    assert run.table.read_text() == before


def test_clouds_come_from_the_scene_classification_where_metadata_say_nothing(run, rng):
    product = write(run, rng, cloudy=None)
    scl = product.pixels["SCL"]
    share = np.isin(scl, [3, 8, 9, 10]).sum() / (scl != 0).sum()
    clouds = {"classes": [0, 3, 8, 9, 10]}
    assert run(clouds=clouds)[0].cloud_fraction == pytest.approx(share, rel=1e-5)
    assert run(clouds=clouds | {"mask": "none"})[0].cloud_fraction is None


def test_unmasked_clouds_are_warned_of(run, rng, caplog):
    write(run, rng, bands=("B02", "B8A"), cloudy=None)
    assert run()[0].cloud_fraction is None
    assert "1 acquisitions have no cloud mask" in caplog.text


def test_masks_of_ones_own_are_used_and_missing_ones_named(run, rng, tmp_path):
    for day in (3, 8, 13):
        write(run, rng, sensed=f"202204{day:02}T105031", cloudy=95 if day == 8 else 0)
    mask = np.zeros((60, 60), np.uint8)
    mask[:30] = 1
    folder = tmp_path / "masks"
    folder.mkdir()
    write_image(folder / "clouds_20220403.tif", mask, "31UDS", 10, 500_000)
    clouds = {"files": str(folder), "mask": ["files"]}
    message = run.refusal(clouds=clouds)
    # The product's own metadata set the second aside.
    assert "1 of 2 acquisitions have no cloud mask MASK: 20220413T105031_31UDS_N0400" in message
    assert "clouds.files" in message
    write_image(folder / "clouds_20220413.tif", mask * 0, "31UDS", 10, 500_000)
    rows = run(clouds=clouds)
    assert days(rows) == {3: "used", 8: "too_cloudy", 13: "used"}
    assert [row.cloud_fraction for row in rows] == [0.5, 0.95, 0]
    assert [row.masks for row in rows] == ["MASK", "", "MASK"]
    assert rows[0].mask_file == folder / "clouds_20220403.tif"
    assert rows[1].mask_file is None


def test_clouds_of_a_real_stack(run):
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


def test_the_table_survives_a_round_trip(tmp_path):
    rows = [
        AcquisitionRow(
            *("20180405_scene", "scene", date(2018, 4, 5), Path("a, b/ü.tif"), "geotiff", "", ""),
            *("0", None, True, ""),
        ),
        AcquisitionRow(
            *("20180410_scene", "scene", date(2018, 4, 10), Path('"q"/c.tif'), "geotiff", "04.00"),
            *("Simulated", "-1000", 0.25, False, "too_cloudy"),
            *("SCL MASK", Path("a/20180410.tif")),
        ),
    ]
    write_acquisitions(tmp_path / "new" / "table.csv", rows)
    assert read_acquisitions(tmp_path / "new" / "table.csv") == rows
    assert read_used(tmp_path / "new" / "table.csv") == {"20180405_scene": rows[0]}


def test_broken_tables_are_refused(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("acquisition,tile\nx,y\n")
    with pytest.raises(AcquisitionTableError, match="no column date, product"):
        read_acquisitions(path)
    header = ",".join(AcquisitionRow._fields)
    path.write_text(f"{header}\nx,31UDS,2018-04-05,p,safe,,,0,0.1,perhaps,\n")
    with pytest.raises(AcquisitionTableError, match=r"line 2: 'perhaps' cannot be read"):
        read_acquisitions(path)
    path.write_text(f"{header}\nx,31UDS\n")
    with pytest.raises(AcquisitionTableError, match="line 2"):
        read_acquisitions(path)
