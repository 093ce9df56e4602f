"""Stage index: catalogue items whose grid is not that of their files."""

import json
import re

import numpy as np
import pytest

from geo.errors import InputError
from pipeline.stages.index import index
from pipeline.workflow.acquisition_table import read_acquisitions
from pipeline.workflow.config import load, view
from tests.builders.stac import Server, item_of, shorten_waits, write_scene

DAYS = ("20180403", "20180408", "20180413")
BANDS = ["B02", "B8A"]


@pytest.fixture(params=["local", "remote"])
def catalogue(request, tmp_path, monkeypatch):
    """Items by day, and their address: local files, or those of a server."""
    shorten_waits(monkeypatch)
    folder = tmp_path / "scenes"
    for number, day in enumerate(DAYS):
        write_scene(folder, np.random.default_rng(number), day)
    if request.param == "local":
        yield {day: item_of(day, str(folder)) for day in DAYS}
        return
    server = Server(folder)
    yield {day: item_of(day, server.url) for day in DAYS}
    server.close()


def run_index(tmp_path, items, **imagery):
    path = tmp_path / "items.json"
    collection = {"type": "FeatureCollection", "features": list(items.values()), "links": []}
    path.write_text(json.dumps(collection))
    out = tmp_path / "out"
    settings = load({"imagery": {"path": str(path), "bands": BANDS, **imagery}})
    index(
        path, out / "table.json", out / "table.csv", out / "acquisitions", out / "grids.json",
        view(settings, "index"), out / "items",
    )  # fmt: skip
    return read_acquisitions(out / "table.json")


def shift(asset):
    asset["proj:transform"][2] += 100


def halve(asset):
    asset["proj:shape"] = [side // 2 for side in asset["proj:shape"]]


def other_zone(asset):
    asset["proj:epsg"] = 32632


def lose(asset):
    asset["href"] = asset["href"].replace(".tif", "_lost.tif")


SPOILT = {
    "shifted": (shift, ["blue"], "has the grid .*but its catalogue states"),
    "smaller": (halve, ["blue"], "has the grid .*but its catalogue states"),
    "20 m band shifted": (shift, ["nir08"], "has the grid .*but its catalogue states"),
    "lost file": (lose, ["blue"], "cannot be opened|does not exist"),
}


def spoil(items, case):
    change, keys, words = SPOILT[case]
    assets = items[DAYS[1]]["assets"]
    for key in keys:
        change(next(a for name, a in assets.items() if name.startswith(key)))
    return words


@pytest.mark.parametrize("case", SPOILT)
def test_an_item_unlike_its_files_is_refused_by_name(tmp_path, catalogue, case):
    words = spoil(catalogue, case)
    with pytest.raises(InputError) as error:
        run_index(tmp_path, catalogue)
    message = str(error.value)
    assert "1 of 3 acquisitions are not as their catalogue states" in message
    assert re.search(rf"S2A_31UES_{DAYS[1]}_0_L2A.json: .*({words})", message)
    assert not (tmp_path / "out" / "table.json").exists()


def test_an_item_unlike_its_files_can_be_set_aside(tmp_path, catalogue, caplog):
    spoil(catalogue, "smaller")
    rows = run_index(tmp_path, catalogue, damaged="set_aside")
    assert [row.reason for row in rows] == ["", "damaged", ""]
    assert f"Set aside: {rows[1].product}" in caplog.text


def test_items_like_their_files_are_used(tmp_path, catalogue):
    assert [row.reason for row in run_index(tmp_path, catalogue)] == ["", "", ""]
