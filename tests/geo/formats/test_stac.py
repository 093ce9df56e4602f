"""STAC over HTTP equals the same files on the disk, whatever the network does meanwhile."""

import json
import time
from dataclasses import replace
from datetime import UTC, date, datetime

import geopandas
import numpy as np
import pytest
import rasterio
import requests
import shapely

from geo.errors import InputError
from geo.formats.stac_search import Search, save_items
from geo.imagery import remote
from geo.imagery.cloud_masks import CloudRules
from geo.imagery.discovery import find_acquisitions
from geo.imagery.raster_reading import read_coarse, read_header, read_window
from geo.imagery.signing import authorised, signature_v4
from geo.pixels.parcel_pixels import read_clear_mask, read_parcel_pixels
from geo.pixels.pixel_index import index_pixels
from tests.builders.stac import BLOCK, ORIGIN, SIZE, Server, item_of, write_scene

BANDS = ["B02", "B03", "B8A"]
DAYS = ["20180405", "20180420", "20180505", "20180520", "20180604"]
EVERYTHING = Search(["sentinel-2-l2a"], None, None, None)
FAULTS = ["503", "dropped", "short", "shorter"]
ENDINGS = [".tif", ".jp2"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A folder of COGs and one of JPEG 2000, a subfolder a day."""
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


@pytest.fixture(scope="module")
def index(scenes):
    """Circles in three of the nine blocks of the 10 m bands, in one of those of the 20 m bands."""
    item = item_of(DAYS[0], str(scenes))
    path = scenes / "grid.json"
    path.write_text(json.dumps(item))
    (acquisition,) = find_acquisitions(path)
    centres = [(200, -200), (400, -600), (1600, -300), (300, -1700)]
    circles = [shapely.Point(ORIGIN[0] + x, ORIGIN[1] + y).buffer(150) for x, y in centres]
    parcels = geopandas.GeoSeries(circles, crs=acquisition.grid.crs)
    return index_pixels(parcels.values, list("abcd"), acquisition.grid, "31UES")


def acquisition_at(folder, base, ending=".tif"):
    """The acquisition of the first day, whose files lie at `base`."""
    folder.mkdir(parents=True)
    path = folder / "item.json"
    path.write_text(json.dumps(item_of(DAYS[0], base, ending)))
    (found,) = find_acquisitions(path, bands=BANDS)
    return found


def base_of(root, ending):
    return f"{root}/jp2" if ending == ".jp2" else str(root)


@pytest.mark.parametrize("fault", [None, *FAULTS])
@pytest.mark.parametrize("ending", ENDINGS)
def test_pixels_are_those_of_the_files(server, scenes, index, tmp_path, ending, fault):
    near = acquisition_at(tmp_path / "near", base_of(scenes, ending), ending)
    far = acquisition_at(tmp_path / "far", base_of(server.url, ending), ending)
    assert not server.log  # the items say enough
    # Every other request fails, and fails again.
    server.faults = lambda number, time: fault if time < 2 and number % 2 else None
    expected = read_parcel_pixels(near, index, BANDS)
    pixels, valid = read_parcel_pixels(far, index, BANDS)
    np.testing.assert_array_equal(pixels, expected[0])
    np.testing.assert_array_equal(valid, expected[1])
    rules = CloudRules()
    np.testing.assert_array_equal(
        read_clear_mask(far, index, rules), read_clear_mask(near, index, rules)
    )
    assert fault is None or sum(entry["fault"] == fault for entry in server.log) > 5


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_fault_that_lasts_ends_with_its_name(server, index, tmp_path, ending, fault):
    far = acquisition_at(tmp_path / "far", base_of(server.url, ending), ending)
    secret = {
        name: replace(band, source=f"{band.source}?sig=SECRET") for name, band in far.bands.items()
    }
    far = replace(far, bands=secret)
    started = time.monotonic()
    # The heads of the files arrive, the pixels never do.
    server.faults = lambda number, _: fault if number > 3 else None
    with pytest.raises(InputError) as error:
        read_parcel_pixels(far, index, BANDS)
    assert time.monotonic() - started < 5
    message = str(error.value)
    assert message.startswith("Band B")
    assert f"{base_of(server.url, ending)}/{DAYS[0]}/B" in message
    assert "at each of 5 tries" in message
    assert {"503": "503", "dropped": "connection", "short": "broke off", "shorter": "ended after"}[
        fault
    ] in message
    assert "SECRET" not in message


def test_only_blocks_with_parcels_are_fetched(server, scenes, index, tmp_path):
    far = acquisition_at(tmp_path / "far", server.url)
    read_parcel_pixels(far, index, ["B02"])
    blocks = set(zip(index.rows // BLOCK, index.cols // BLOCK, strict=True))
    assert len(blocks) == 3
    expected = 0
    with rasterio.open(scenes / DAYS[0] / "B02.tif") as raster:
        assert SIZE // BLOCK == 3
        for row, col in blocks:
            expected += int(raster.get_tag_item(f"BLOCK_SIZE_{col}_{row}", "TIFF", bidx=1))
    head = 16_384
    assert server.bytes_sent == expected + head
    assert len(server.log) == len(blocks) + 1
    whole = (scenes / DAYS[0] / "B02.tif").stat().st_size
    assert server.bytes_sent < whole / 2


def test_small_files_and_ends_are_read(server, tmp_path, scenes):
    band = acquisition_at(tmp_path / "far", server.url).masks["SCL"]
    with rasterio.open(scenes / DAYS[0] / "SCL.tif") as raster:
        expected = raster.read(1)
    np.testing.assert_array_equal(read_window(band, slice(None), slice(None)), expected)
    part = read_window(band, slice(150, 400), slice(10, 20))
    np.testing.assert_array_equal(part, expected[150:, 10:20])


def test_overviews_stand_for_a_band(server, scenes, tmp_path):
    near = acquisition_at(tmp_path / "near", str(scenes)).bands["B02"]
    far = acquisition_at(tmp_path / "far", server.url).bands["B02"]
    np.testing.assert_array_equal(read_coarse(far, 100), read_coarse(near, 100))
    assert server.bytes_sent < (scenes / DAYS[0] / "B02.tif").stat().st_size / 2


def test_windows_stand_for_a_jpeg_2000(server, tmp_path):
    far = acquisition_at(tmp_path / "far", f"{server.url}/jp2", ".jp2").bands["B02"]
    whole = read_window(far, slice(None), slice(None))
    parts = read_coarse(far, 100)
    assert parts.size < whole.size / 10
    np.testing.assert_array_equal(parts[0], whole[: parts.shape[1], : parts.shape[2]])
    np.testing.assert_array_equal(parts[-1], whole[-parts.shape[1] :, -parts.shape[2] :])


def test_a_missing_file_and_a_refused_one_are_not_asked_for_again(server, tmp_path):
    band = acquisition_at(tmp_path / "far", server.url).bands["B02"]
    gone = replace(band, source=f"{server.url}/nowhere.tif")
    with pytest.raises(InputError, match=r"nowhere\.tif is not there \(404"):
        read_window(gone, slice(0, 1), slice(0, 1))
    server.needs_query = True
    with pytest.raises(InputError, match=r"is not to be read \(403 .*imagery\.sign"):
        read_window(band, slice(0, 1), slice(0, 1))


def test_a_server_that_knows_no_ranges_is_refused(server, tmp_path, monkeypatch):
    band = acquisition_at(tmp_path / "far", server.url).bands["B02"]
    monkeypatch.setattr(server, "knows_ranges", False)
    with pytest.raises(InputError, match=r"sends whole files only"):
        read_window(band, slice(0, 1), slice(0, 1))


def test_an_answer_from_elsewhere_in_the_file_is_not_taken(server, tmp_path, monkeypatch):
    band = acquisition_at(tmp_path / "far", server.url).bands["B02"]
    monkeypatch.setattr(server, "shift", 1)
    with pytest.raises(InputError, match=r"the server sent bytes 1-\d+/\d+, not from 0 on"):
        read_window(band, slice(0, 1), slice(0, 1))


def test_a_server_may_ask_for_patience(server, monkeypatch):
    waits = []
    monkeypatch.setattr(remote.time, "sleep", waits.append)
    monkeypatch.setattr(server, "patience", "7")
    server.faults = lambda _, time: "503" if time < 3 else None
    remote.read_whole(f"{server.url}/{DAYS[0]}/B02.tif")
    assert waits == [7, 7, 7]


def test_an_item_that_lies_about_its_grid_is_refused(server, index, tmp_path):
    far = acquisition_at(tmp_path / "far", server.url)
    band = far.bands["B02"]
    moved = replace(band, grid=replace(band.grid, x_min=band.grid.x_min + 10))
    with pytest.raises(InputError, match="its catalogue says on"):
        read_parcel_pixels(replace(far, bands={"B02": moved}), index, ["B02"])


def test_without_projection_the_file_says_where_it_lies(server, scenes, tmp_path):
    item = item_of(DAYS[0], server.url)
    for asset in item["assets"].values():
        del asset["proj:shape"]
    (tmp_path / "item.json").write_text(json.dumps(item))
    (found,) = find_acquisitions(tmp_path / "item.json", bands=BANDS)
    for name, band in found.bands.items():
        assert band.grid == read_header(scenes / DAYS[0] / f"{name}.tif").grid


# Sources of items


def saved(source, folder, search=EVERYTHING):
    save_items(source, folder, search)
    return sorted(path.name for path in folder.iterdir())


def names(days):
    return [f"S2A_31UES_{day}_0_L2A.json" for day in days]


@pytest.mark.parametrize("fault", [None, "503", "dropped", "short"])
def test_an_api_is_searched_page_by_page(server, tmp_path, fault):
    server.items = [item_of(day, server.url) for day in DAYS]
    server.items.append({**item_of("20180701", server.url), "collection": "landsat"})
    server.faults = lambda _, time: fault if time < 2 else None
    assert saved(f"{server.url}/api", tmp_path / "items") == names(DAYS)
    pages = [entry for entry in server.log if entry["path"] == "api/search"]
    assert len([entry for entry in pages if entry["fault"] is None]) == 3


def test_dates_and_area_limit_the_search(server, tmp_path):
    server.items = [item_of(day, server.url) for day in DAYS]
    server.items[2]["bbox"] = [8, 47, 9, 48]
    search = replace(EVERYTHING, start=date(2018, 4, 20), bbox=[3.05, 50.5, 3.1, 50.6])
    assert saved(f"{server.url}/api", tmp_path / "a", search) == names([*DAYS[1:2], *DAYS[3:]])
    search = replace(search, end=date(2018, 5, 20))
    assert saved(f"{server.url}/api", tmp_path / "a", search) == names([DAYS[1], DAYS[3]])
    nothing = replace(search, bbox=[-10, 0, -9, 1])
    with pytest.raises(InputError, match="no STAC item for"):
        saved(f"{server.url}/api", tmp_path / "b", nothing)


def test_an_api_without_collection_names_those_it_has(server, tmp_path):
    with pytest.raises(InputError, match=r"imagery\.collections. It has: landsat, sentinel"):
        saved(f"{server.url}/api", tmp_path / "a", replace(EVERYTHING, collections=[]))


def test_an_api_that_does_not_answer_ends_with_its_name(server, tmp_path):
    server.items = [item_of(DAYS[0], server.url)]
    server.faults = lambda number, _: "503" if number > 1 else None
    with pytest.raises(InputError, match=r"/api/search cannot be read: .*503"):
        saved(f"{server.url}/api", tmp_path / "a")


def write_catalogue(folder, hrefs):
    """A catalogue, a collection below it and the items below that, with relative links."""
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
def test_a_static_catalogue_is_walked(server, scenes, tmp_path, place):
    catalogue = scenes / f"catalogue-{place}"
    write_catalogue(catalogue, "../../..")
    source = {
        "file": catalogue / "catalog.json",
        "folder": catalogue,
        "address": f"{server.url}/{catalogue.name}/catalog.json",
    }[place]
    server.faults = lambda _, time: "short" if not time else None
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


def test_items_of_one_id_in_two_collections_stay_apart(scenes, tmp_path):
    path = tmp_path / "items.json"
    items = [item_of(DAYS[0], str(scenes)) for _ in range(3)]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    saved(path, tmp_path / "items")
    found = find_acquisitions(tmp_path / "items", bands=BANDS)
    assert [item.id.partition("L2A")[2] for item in found] == ["", "_2", "_3"]
    for item in found:
        assert find_acquisitions(item.product, bands=BANDS) == [item]


def test_items_stay_as_long_as_they_are_found_unchanged(scenes, tmp_path):
    path, folder = tmp_path / "items.json", tmp_path / "items"

    def write(items):
        path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
        saved(path, folder)
        return {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}

    items = [item_of(day, str(scenes)) for day in DAYS[:3]]
    before = write(items)
    items[1]["properties"]["eo:cloud_cover"] = 30
    for item in items:
        item["links"] = [{"rel": "self", "href": "https://elsewhere/?token=2"}]
    after = write(items[:2])
    assert after[names(DAYS)[0]] == before[names(DAYS)[0]]
    assert after[names(DAYS)[1]] > before[names(DAYS)[1]]
    assert sorted(after) == names(DAYS[:2])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as STAC"),
        ("[]", "is no STAC: it holds no object"),
        ('{"type": "Topology"}', r"its type is 'Topology', expected an item collection"),
        ('{"type": "FeatureCollection", "features": []}', "has no STAC item"),
        ('{"type": "Feature", "id": "a"}', "item a has no properties, assets"),
    ],
)
def test_what_is_no_stac_is_refused(tmp_path, content, message):
    path = tmp_path / "some.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        saved(path, tmp_path / "items")


# Signatures


def test_s3_requests_are_signed_as_amazon_shows():
    # The first example of "Authenticating Requests: Using the Authorization Header".
    environment = {
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    }
    headers = signature_v4(
        "examplebucket.s3.amazonaws.com", "/test.txt", {"range": "bytes=0-9"}, environment,
        datetime(2013, 5, 24, tzinfo=UTC),
    )  # fmt: skip
    assert headers["Authorization"].endswith(
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )


def test_s3_is_read_from_the_store_that_the_environment_names(
    server, scenes, index, tmp_path, monkeypatch
):
    near = acquisition_at(tmp_path / "near", str(scenes))
    store = scenes.name
    far = acquisition_at(tmp_path / "far", f"s3://{store}")
    with pytest.raises(InputError, match="set AWS_S3_ENDPOINT"):
        read_parcel_pixels(far, index, BANDS)
    server.root = scenes.parent
    monkeypatch.setenv("AWS_S3_ENDPOINT", server.url)
    monkeypatch.setenv("AWS_HTTPS", "NO")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "KEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRET")
    np.testing.assert_array_equal(
        read_parcel_pixels(far, index, BANDS)[0], read_parcel_pixels(near, index, BANDS)[0]
    )
    assert "Credential=KEY/" in server.log[0]["headers"]["Authorization"]
    assert server.log[0]["path"].startswith(f"{store}/{DAYS[0]}/B")
    with pytest.raises(InputError, match="that start with ftp:// are not read"):
        authorised("ftp://somewhere/B02.tif")


def test_addresses_are_signed_as_they_are_read(server, scenes, index, tmp_path, monkeypatch):
    # The service's own hosts, reached through a proxy: the server of the test.
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("PC_SDK_SAS_URL", "http://signatures.example/sas/token")
    server.root, server.needs_query = scenes.parent, True
    near = acquisition_at(tmp_path / "near", str(scenes))
    folder = tmp_path / "far"
    folder.mkdir()
    item = item_of(DAYS[0], f"http://account.blob.core.windows.net/{scenes.name}")
    (folder / "item.json").write_text(json.dumps(item))
    (plain,) = find_acquisitions(folder, bands=BANDS)
    with pytest.raises(InputError, match="403"):
        read_parcel_pixels(plain, index, BANDS)
    (far,) = find_acquisitions(folder, bands=BANDS, signed_by="planetary_computer")
    np.testing.assert_array_equal(
        read_parcel_pixels(far, index, BANDS)[0], read_parcel_pixels(near, index, BANDS)[0]
    )
    assert "sas/token/account/" + scenes.name in {entry["path"] for entry in server.log}
    lost = replace(far.bands["B02"], source=far.bands["B02"].source.replace("B02", "B77"))
    with pytest.raises(InputError) as error:
        read_window(lost, slice(0, 1), slice(0, 1))
    assert "SECRET" not in str(error.value)
    assert requests.utils.getproxies()["http"] == server.url
