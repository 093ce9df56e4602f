"""The workflow from a STAC API on the loopback to the dataset, and what it does when run again."""

import csv
import itertools

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import yaml

from geo.errors import InputError
from geo.register.reading import read_bounds
from pipeline.workflow.config import load
from pipeline.workflow.inputs import check_inputs, imagery_state
from tests.builders.runs import snakemake
from tests.builders.stac import ORIGIN, Server, item_of, write_scene

DAYS = ["20180405", "20180420", "20180505"]
BANDS = ["B02", "B8A"]


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "scenes"
    generator = np.random.default_rng(9)
    for day in DAYS:
        write_scene(folder, generator, day)
    server = Server(folder)
    server.items = [item_of(day, server.url) for day in DAYS[:2]]
    yield server
    server.close()


def write_register(path):
    """Squares of 60 m, 12 pixels apart, of two crops."""
    corners = [(x, y) for x in range(100, 3000, 600) for y in range(100, 3000, 600)]
    squares = [
        shapely.box(ORIGIN[0] + x, ORIGIN[1] - y - 60, ORIGIN[0] + x + 60, ORIGIN[1] - y)
        for x, y in corners
    ]
    crops = [["A", "B"][number % 2] for number in range(len(squares))]
    frame = {"ID_PARCEL": range(len(squares)), "CODE": crops}
    geopandas.GeoDataFrame(frame, geometry=squares, crs="EPSG:32631").to_file(path)
    return corners


def rows_of(folder):
    with (folder / "results" / "run" / "acquisitions.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_dataset_from_an_api(server, tmp_path):
    corners = write_register(tmp_path / "register.gpkg")
    settings = {
        "run": "run",
        "imagery": {
            "path": f"{server.url}/api",
            "collections": ["sentinel-2-l2a"],
            "bands": BANDS,
            "resampling": "nearest",
        },
        "clouds": {"mask": "none"},
        "parcels": {
            "path": "register.gpkg",
            "labels": {"crop": "CODE"},
            "classes": {"min_parcels": 2},
        },
        "split": {"folds": 2},
    }
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    # A fault now and then, each passing.
    faults = itertools.cycle(["503", "dropped", "short"])
    server.faults = lambda number, time: next(faults) if number % 4 == 0 and not time else None
    snakemake(tmp_path, "dataset", "--cores", "2")
    assert {entry["fault"] for entry in server.log} >= {"503", "dropped", "short"}
    rows = rows_of(tmp_path)
    assert [(row["tile"], row["used"]) for row in rows] == [("31UES", "yes")] * 2
    assert rows[0]["product"] == f"results/run/items/S2A_31UES_{DAYS[0]}_0_L2A.json"

    for parcel in (0, 7, len(corners) - 1):
        x, y = corners[parcel]
        expected = []
        for day in DAYS[:2]:
            with rasterio.open(tmp_path / "scenes" / day / "B02.tif") as fine:
                blue = fine.read(1)[y // 10 : y // 10 + 6, x // 10 : x // 10 + 6]
            with rasterio.open(tmp_path / "scenes" / day / "B8A.tif") as coarse:
                whole = coarse.read(1).repeat(2, 0).repeat(2, 1)
            near = whole[y // 10 : y // 10 + 6, x // 10 : x // 10 + 6]
            expected.append([blue.ravel(), near.ravel()])
        path = tmp_path / "results" / "run" / "dataset" / "DATA" / f"{parcel}.npy"
        np.testing.assert_array_equal(np.load(path), np.array(expected))

    # An acquisition later nothing is searched or read but that one.
    extracted = tmp_path / "results" / "run" / "extracted"
    before = {path.name: path.stat().st_mtime_ns for path in extracted.iterdir()}
    server.log.clear()
    server.faults = lambda *_: None
    server.items = [item_of(day, server.url) for day in DAYS]
    assert "Nothing to be done" in str(snakemake(tmp_path, "-n", "dataset"))
    assert not server.log
    snakemake(tmp_path, "dataset", "-R", "index", "--cores", "2")
    after = {path.name: path.stat().st_mtime_ns for path in extracted.iterdir()}
    assert before.items() <= after.items()
    assert len(after) == len(before) + 2
    read = {entry["path"] for entry in server.log if entry["path"].endswith(".tif")}
    assert read == {f"{DAYS[2]}/{name}.tif" for name in BANDS}


@pytest.mark.parametrize("ending", ["gpkg", "parquet"])
def test_the_registers_bounds_are_in_degrees(tmp_path, ending):
    corners = geopandas.points_from_xy([880_000, 910_000], [6_510_000, 6_550_000])
    parcels = geopandas.GeoDataFrame({"id": [1, 2]}, geometry=corners.buffer(50), crs=2154)
    path = tmp_path / f"register.{ending}"
    parcels.to_parquet(path) if ending == "parquet" else parcels.to_file(path)
    west, south, east, north = read_bounds(path)
    expected = parcels.to_crs(4326).total_bounds
    # The bounds of the box, which is turned against the meridians.
    np.testing.assert_allclose([west, south, east, north], expected, atol=0.03)
    assert west <= expected[0]
    assert south <= expected[1]
    assert east >= expected[2]
    assert north >= expected[3]


def test_a_register_without_geometry_has_no_bounds(tmp_path):
    path = tmp_path / "register.gpkg"
    geopandas.GeoDataFrame({"id": [1]}, geometry=[None], crs=2154).to_file(path)
    with pytest.raises(InputError, match=r"no area to search imagery for. Set imagery\.bbox"):
        read_bounds(path)


@pytest.mark.parametrize(
    ("imagery", "message"),
    [
        ({"path": "https://somewhere", "format": "safe"}, "only STAC is read from an address"),
        ({"path": "a.json", "bbox": [1, 2, 3]}, r"imagery\.bbox"),
        ({"path": "a.json", "bbox": [3, 2, 1, 4]}, "bbox is west, south, east, north"),
        ({"path": "a.json", "sign": "me"}, r"imagery\.sign"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(imagery, message):
    with pytest.raises(InputError, match=message):
        load({"imagery": imagery})


@pytest.mark.parametrize(
    ("imagery", "is_stac"),
    [
        ({"path": "https://somewhere/v1"}, True),
        ({"path": "s3://bucket/catalog.json"}, True),
        ({"path": "items.json"}, True),
        ({"path": "folder", "format": "stac"}, True),
        ({"path": "folder"}, False),
        ({"path": "items.json", "format": "geotiff"}, False),
        ({}, False),
    ],
)
def test_stac_is_recognised(imagery, is_stac):
    assert load({"imagery": imagery}).imagery.is_stac == is_stac


def test_an_address_is_kept_and_has_no_files_to_watch(tmp_path):
    register = tmp_path / "register.gpkg"
    register.touch()
    values = {"imagery": {"path": "https://somewhere//v1"}, "parcels": {"path": str(register)}}
    settings = load(values)
    assert settings.imagery.path == "https://somewhere//v1"
    assert load(settings.model_dump(mode="json")) == settings
    assert imagery_state(settings) == imagery_state(load({}))
    check_inputs(settings)
