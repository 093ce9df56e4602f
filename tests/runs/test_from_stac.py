"""The workflow from a STAC API to the dataset, and a second run after a new acquisition."""

import csv
import itertools
from collections import Counter

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import yaml

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
    """Write squares of 60 m at distances of 600 m, of two crops, and return their corners."""
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


@pytest.mark.slow
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
    # Every fourth request fails once.
    faults = itertools.cycle(["503", "dropped", "short"])
    server.faults = lambda number, repeat: next(faults) if number % 4 == 0 and not repeat else None
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

    # After a new acquisition, only a rerun of index searches again, and only its files are read.
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
    # Of the others, index reads one header for each grid, to compare it with the catalogue.
    sent = Counter()
    for entry in server.log:
        sent[entry["path"]] += entry["bytes"]
    headers = {f"{day}/{name}.tif": 40_000 for day in DAYS[:2] for name in BANDS}
    assert all(sent[path] < limit for path, limit in headers.items())
    assert all(sent[f"{DAYS[2]}/{name}.tif"] > 40_000 for name in BANDS)
