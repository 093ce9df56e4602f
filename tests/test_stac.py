"""STAC over HTTP equals the same files on the disk, whatever the network does meanwhile."""

import geopandas
import numpy as np
import pytest
import shapely
from stac_fixture import BLOCK, ORIGIN, Server, item_of, write_scene

from geo import remote
from geo.finding import find_acquisitions
from geo.gather import gather
from geo.pixel_index import index_pixels
from geo.readers.stac_search import Search, save_items

BANDS = ["B02", "B03", "B8A"]
DAYS = ["20180405", "20180420", "20180505", "20180520", "20180604"]
EVERYTHING = Search(["sentinel-2-l2a"], None, None, None)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A folder of COGs, a subfolder a day."""
    folder = tmp_path_factory.mktemp("scenes")
    generator = np.random.default_rng(4)
    for day in DAYS[:2]:
        write_scene(folder, generator, day)
    write_scene(folder / "jp2", generator, DAYS[0], ".jp2")
    return folder


@pytest.fixture
def server(scenes, monkeypatch):
    monkeypatch.setattr(remote, "RETRY_DELAYS_S", (0.01, 0.02, 0.04, 0.08))
    server = Server(scenes)
    yield server
    server.close()


def test_smoke(server, scenes, tmp_path):
    server.items = [item_of(day, server.url) for day in DAYS]
    save_items(f"{server.url}/api", tmp_path / "items", EVERYTHING)
    found = find_acquisitions(tmp_path / "items", bands=BANDS)
    assert [a.date.strftime("%Y%m%d") for a in found] == DAYS
    print(found[0], server.log)
