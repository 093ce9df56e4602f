"""The items of item collections, static catalogues and APIs, on disks and servers."""

import json
import time
import traceback
from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from geo.errors import InputError
from geo.formats.stac_search import Search, search_items
from geo.imagery.discovery import find_acquisitions
from geo.imagery.raster_reading import read_window
from tests.builders.stac import item_of, write_scene

BANDS = ["B02", "B03", "B8A"]
DAYS = ["20180405", "20180420", "20180505", "20180520", "20180604"]
EVERYTHING = Search(["sentinel-2-l2a"], None, None, None)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A folder with a subfolder of Cloud Optimized GeoTIFFs for each of two days."""
    folder = tmp_path_factory.mktemp("scenes")
    generator = np.random.default_rng(4)
    for day in DAYS[:2]:
        write_scene(folder, generator, day)
    return folder


def saved(source, folder, search=EVERYTHING):
    """Write the items of a source as files, and return their names."""
    folder.mkdir(exist_ok=True)
    for name, item in search_items(source, search).items():
        (folder / f"{name}.json").write_text(json.dumps(item))
    return sorted(path.name for path in folder.iterdir())


def names(days):
    return [f"S2A_31UES_{day}_0_L2A.json" for day in days]


@pytest.mark.parametrize("fault", [None, "503", "dropped", "short"])
def test_an_api_is_searched_page_by_page(server, tmp_path, fault):
    server.items = [item_of(day, server.url) for day in DAYS]
    server.items.append({**item_of("20180701", server.url), "collection": "landsat"})
    server.faults = lambda _, repeat: fault if repeat < 2 else None
    assert saved(f"{server.url}/api", tmp_path / "items") == names(DAYS)
    pages = [entry for entry in server.log if entry["path"] == "api/search"]
    assert len([entry for entry in pages if entry["fault"] is None]) == 3


def test_dates_and_area_limit_the_search(server, tmp_path):
    server.items = [item_of(day, server.url) for day in DAYS]
    server.items[2]["bbox"] = [8, 47, 9, 48]
    search = replace(EVERYTHING, start=date(2018, 4, 20), bbox=[3.05, 50.5, 3.1, 50.6])
    assert saved(f"{server.url}/api", tmp_path / "a", search) == names([*DAYS[1:2], *DAYS[3:]])
    search = replace(search, end=date(2018, 5, 20))
    assert saved(f"{server.url}/api", tmp_path / "b", search) == names([DAYS[1], DAYS[3]])
    nothing = replace(search, bbox=[-10, 0, -9, 1])
    with pytest.raises(InputError, match="no STAC item for"):
        saved(f"{server.url}/api", tmp_path / "c", nothing)


def test_without_collections_the_message_lists_those_of_the_api(server, tmp_path):
    with pytest.raises(InputError, match=r"to search\. It has: landsat, sentinel"):
        saved(f"{server.url}/api", tmp_path / "a", replace(EVERYTHING, collections=[]))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("503", "the server answered 503"),
        ("dropped", "closed"),
        ("short", "ended too early"),
    ],
)
@pytest.mark.parametrize(
    ("query", "answers", "message"),
    [
        ("?key={key}", 0, "/api cannot be read as STAC"),
        ("", 2, "/api did not answer the search for sentinel-2-l2a"),
    ],
)
def test_an_api_that_does_not_answer_is_named(
    server, tmp_path, caplog, query, answers, message, fault, reason
):
    server.items = [item_of(DAYS[0], server.url)]
    server.faults = lambda number, _: fault if number >= answers else None
    key = "SEC" + "RET"
    with pytest.raises(InputError, match=f"{message}.*{reason}") as error:
        saved(f"{server.url}/api{query.format(key=key)}", tmp_path)
    assert key not in "".join(traceback.format_exception(error.value))
    assert key not in caplog.text
    assert len(server.log) == answers + 7


def test_the_waits_are_those_that_a_server_asks_for(server, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    server.items = [item_of(DAYS[0], server.url)]
    server.retry_after = "7"
    server.faults = lambda number, _: "503" if number < 3 else None
    assert saved(f"{server.url}/api", tmp_path) == names(DAYS[:1])
    assert waits == [7, 7, 7]


def write_catalogue(folder, hrefs):
    """Write a catalogue, a collection below it and its items, with relative links."""
    items = []
    for day in DAYS[:2]:
        path = folder / "s2" / day / f"{day}.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(item_of(day, hrefs)))
        items.append({"rel": "item", "href": f"./{day}/{day}.json"})
    collection = {"type": "Collection", "id": "s2", "links": [{"rel": "root", "href": "../x"}]}
    collection["links"] += items
    (folder / "s2" / "collection.json").write_text(json.dumps(collection))
    root = {"type": "Catalog", "id": "c", "links": [{"rel": "child", "href": "s2/collection.json"}]}
    (folder / "catalog.json").write_text(json.dumps(root))


@pytest.mark.parametrize("place", ["file", "folder", "address"])
def test_the_items_of_a_static_catalogue_are_found(server, scenes, tmp_path, place):
    catalogue = scenes / f"catalogue-{place}"
    write_catalogue(catalogue, "../../..")
    source = {
        "file": catalogue / "catalog.json",
        "folder": catalogue,
        "address": f"{server.url}/{catalogue.name}/catalog.json",
    }[place]
    server.faults = lambda _, repeat: "short" if not repeat else None
    assert saved(source, tmp_path / "items") == names(DAYS[:2])
    found = find_acquisitions(tmp_path / "items", bands=BANDS)
    root = server.url if place == "address" else scenes
    assert found[1].bands["B02"].source == f"{root}/{DAYS[1]}/B02.tif"
    assert read_window(found[0].bands["B02"], slice(0, 4), slice(0, 4)).all()


def test_an_item_collection_is_read_from_disk(scenes, tmp_path):
    path = tmp_path / "items.json"
    items = [item_of(day, str(scenes)) for day in DAYS[:2]]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    assert saved(path, tmp_path / "items") == names(DAYS[:2])
    found = find_acquisitions(tmp_path / "items", bands=BANDS)
    assert find_acquisitions(found[1].product, bands=BANDS) == [found[1]]


def test_items_with_the_same_id_get_different_files(scenes, tmp_path):
    path = tmp_path / "items.json"
    items = [item_of(DAYS[0], str(scenes)) for _ in range(3)]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    saved(path, tmp_path / "items")
    found = find_acquisitions(tmp_path / "items", bands=BANDS)
    assert [item.id.partition("L2A")[2] for item in found] == ["", "_2", "_3"]
    for item in found:
        assert find_acquisitions(item.product, bands=BANDS) == [item]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as STAC"),
        ("[]", "is not STAC: it does not contain a JSON object"),
        ('{"type": "Topology"}', r"its type is 'Topology', expected an item collection"),
        ('{"type": "FeatureCollection", "features": []}', "has no STAC item"),
        ('{"type": "Feature", "id": "a"}', "item a has no properties, assets"),
    ],
)
def test_sources_that_are_not_stac_are_refused(tmp_path, content, message):
    path = tmp_path / "some.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        saved(path, tmp_path / "items")


IDS = [
    ".hidden",
    "..",
    "-rf",
    "a/b",
    "a:b",
    "A:B",
    "x" * 300,
    "Ä" * 60,
    "same",
    "SAME",
    "same_2",
    "",
    7,
]


def test_any_id_becomes_a_file_of_its_own(tmp_path):
    """Also on disks that do not tell upper from lower case."""
    items = []
    for number, name in enumerate(IDS):
        item = item_of(f"201804{number + 1:02}", "https://somewhere")
        items.append({**item, "id": name})
    (tmp_path / "items.json").write_text(
        json.dumps({"type": "FeatureCollection", "features": items})
    )
    files = saved(tmp_path / "items.json", tmp_path / "items")
    assert len({name.lower() for name in files}) == len(IDS)
    assert not any(name.startswith((".", "-")) for name in files)
    found = find_acquisitions(tmp_path / "items", bands=BANDS)
    assert [item.date.day for item in found] == list(range(1, len(IDS) + 1))
    assert len({item.id.lower() for item in found}) == len(IDS)
    assert {f"{item.id}.json" for item in found} == set(files)
    texts = [json.loads(item.product.read_text())["id"] for item in found]
    assert texts == IDS


@pytest.mark.parametrize("version", ["0.8.1", "1.0.0"])
def test_items_are_completed_by_their_collection(tmp_path, version):
    item = item_of(DAYS[0], "https://somewhere")
    item["stac_version"] = version
    item["assets"] = {
        "a": {**item["assets"]["blue"], "eo:bands": [1]},
        "b": item["assets"]["nir08"],
        "scl": item["assets"]["scl"],
    }
    collection = {"type": "Collection", "id": "s2", "links": [{"rel": "item", "href": "item.json"}]}
    listed = [{"name": "B04"}, {"name": "B03"}]
    if version == "0.8.1":
        collection["properties"] = {"eo:bands": listed, "eo:cloud_cover": 99}
        item["assets"]["b"]["eo:bands"] = [0]
    else:
        assets = {"a": {"eo:bands": listed[1:]}, "b": {"eo:bands": listed[:1], "href": "no"}}
        collection["item_assets"] = {**assets, "c": {"eo:bands": [{"name": "B02"}]}}
        del item["assets"]["a"]["eo:bands"]
    (tmp_path / "collection.json").write_text(json.dumps(collection))
    (tmp_path / "item.json").write_text(json.dumps(item))
    saved(tmp_path / "collection.json", tmp_path / "items")
    (found,) = find_acquisitions(tmp_path / "items", bands=["B03", "B04"])
    assert {name: band.source[-7:] for name, band in found.bands.items()} == {
        "B03": "B02.tif", "B04": "B8A.tif",
    }  # fmt: skip
    assert found.cloud_fraction == 0.2
