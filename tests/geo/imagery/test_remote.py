"""Remote pixels equal those of the same files on the disk, whatever faults the network has."""

import json
import traceback
from dataclasses import replace

import geopandas
import numpy as np
import pytest
import rasterio
import shapely

from geo.errors import InputError
from geo.imagery import remote
from geo.imagery.cloud_masks import CloudRules
from geo.imagery.discovery import find_acquisitions
from geo.imagery.raster_header import read_header
from geo.imagery.raster_reading import read_window
from geo.imagery.reduced_reading import read_points
from geo.imagery.valid_values import has_data
from geo.pixels.parcel_pixels import read_clear_mask, read_parcel_pixels
from geo.pixels.pixel_index import index_pixels
from tests.builders.stac import (
    BLOCK,
    ORIGIN,
    SIZE,
    item_of,
    write_scene,
)

BANDS = ["B02", "B03", "B8A"]
DAY = "20180405"
FAULTS = ["503", "dropped", "short", "shorter"]
ENDINGS = [".tif", ".jp2"]
RULES = CloudRules()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A folder of Cloud Optimized GeoTIFFs, and below it one of JPEG 2000."""
    folder = tmp_path_factory.mktemp("scenes")
    generator = np.random.default_rng(4)
    write_scene(folder, generator, DAY)
    write_scene(folder / "jp2", generator, DAY, ".jp2")
    return folder


@pytest.fixture(scope="module")
def index(scenes):
    """Circles in three of the nine blocks of the 10 m bands, in one block of the 20 m bands."""
    path = scenes / "grid.json"
    path.write_text(json.dumps(item_of(DAY, str(scenes))))
    (acquisition,) = find_acquisitions(path)
    centres = [(200, -200), (400, -600), (1600, -300), (300, -1700)]
    circles = [shapely.Point(ORIGIN[0] + x, ORIGIN[1] + y).buffer(150) for x, y in centres]
    parcels = geopandas.GeoSeries(circles, crs=acquisition.grid.crs)
    return index_pixels(parcels.values, list("abcd"), acquisition.grid, "31UES")


def acquisition_at(folder, base, ending=".tif", **options):
    """Return the acquisition whose files are in the folder or address `base`."""
    folder.mkdir(parents=True)
    path = folder / "item.json"
    path.write_text(json.dumps(item_of(DAY, base, ending)))
    (found,) = find_acquisitions(path, bands=BANDS, **options)
    return found


def base_of(root, ending):
    return f"{root}/jp2" if ending == ".jp2" else str(root)


@pytest.fixture(scope="module")
def expected(scenes, index, tmp_path_factory):
    """Pixels, clear pixels and clear mask of the files on the disk, by ending."""
    found = {}
    for ending in ENDINGS:
        near = acquisition_at(
            tmp_path_factory.mktemp("near") / "a", base_of(scenes, ending), ending
        )
        found[ending] = *read_parcel_pixels(near, index, BANDS), read_clear_mask(near, index, RULES)
    return found


# A cut answer is requested again from its start, or resumed by obstore if the file has an ETag.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "etag"), [(None, None), *((fault, None) for fault in FAULTS), ("short", '"1"')]
)
@pytest.mark.parametrize("ending", ENDINGS)
def test_pixels_equal_those_of_the_files(server, index, expected, tmp_path, ending, fault, etag):
    far = acquisition_at(tmp_path / "far", base_of(server.url, ending), ending)
    assert not server.log  # the items state the grids: no file is opened
    server.etag = etag
    # Every second request fails twice.
    server.faults = lambda number, repeat: fault if repeat < 2 and number % 2 else None
    pixels, clear = read_parcel_pixels(far, index, BANDS)
    mask = read_clear_mask(far, index, RULES)
    for found, wanted in zip((pixels, clear, mask), expected[ending], strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert fault is None or sum(entry["fault"] == fault for entry in server.log) > 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("503", "503 Service Unavailable, after 6 retries"),
        ("dropped", "the connection failed"),
        ("short", "ended too early"),
        ("shorter", "ended too early"),
    ],
)
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_lasting_fault_is_named_with_the_address_but_not_its_signature(
    server, index, tmp_path, ending, fault, words
):
    far = acquisition_at(tmp_path / "far", base_of(server.url, ending), ending)
    signed = {
        name: replace(band, source=f"{band.source}?sig=SECRET") for name, band in far.bands.items()
    }
    # The headers of the files arrive, the pixels never do.
    server.faults = lambda number, _: fault if number > 3 else None
    with pytest.raises(InputError, match=words) as error:
        read_parcel_pixels(replace(far, bands=signed), index, BANDS)
    message = str(error.value)
    assert message.startswith("Band B")
    assert f"{base_of(server.url, ending)}/{DAY}/B" in message
    assert "Run it again when the service answers" in message
    assert "SECRET" not in "".join(traceback.format_exception(error.value))


def test_only_blocks_with_parcels_are_read(server, scenes, index, tmp_path):
    far = acquisition_at(tmp_path / "far", server.url)
    read_parcel_pixels(far, index, ["B02"])
    blocks = set(zip(index.rows // BLOCK, index.cols // BLOCK, strict=True))
    assert len(blocks) == 3
    expected = 0
    with rasterio.open(scenes / DAY / "B02.tif") as raster:
        assert SIZE // BLOCK == 3
        for row, col in blocks:
            expected += int(raster.get_tag_item(f"BLOCK_SIZE_{col}_{row}", "TIFF", bidx=1))
    header = 16_384
    assert server.bytes_sent == expected + header
    assert len(server.log) == len(blocks) + 1
    assert server.bytes_sent < (scenes / DAY / "B02.tif").stat().st_size / 2


def test_windows_equal_those_of_the_file(server, tmp_path, scenes):
    band = acquisition_at(tmp_path / "far", server.url).masks["SCL"]
    with rasterio.open(scenes / DAY / "SCL.tif") as raster:
        expected = raster.read(1)
    np.testing.assert_array_equal(read_window(band, slice(None), slice(None)), expected)
    part = read_window(band, slice(150, 400), slice(10, 20))
    np.testing.assert_array_equal(part, expected[150:, 10:20])


def points(band, at):
    x = band.grid.x_min + (at + 0.5) * band.grid.pixel_width
    y = band.grid.y_max - (at + 0.5) * band.grid.pixel_height
    return read_points(band, x, y, lambda raw: has_data(band, raw))


def test_a_coarse_geotiff_is_read_from_its_overviews(server, scenes, tmp_path, monkeypatch):
    monkeypatch.setattr("geo.imagery.reduced_reading._REDUCED", 100)
    near = acquisition_at(tmp_path / "near", str(scenes)).bands["B02"]
    far = acquisition_at(tmp_path / "far", server.url).bands["B02"]
    at = np.linspace(0, min(far.grid.shape) - 1, 50).astype(int)
    for found, expected in zip(points(far, at), points(near, at), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert server.bytes_sent < (scenes / DAY / "B02.tif").stat().st_size / 2


@pytest.mark.slow
def test_a_coarse_jpeg_2000_is_read_in_windows(server, tmp_path):
    far = acquisition_at(tmp_path / "far", f"{server.url}/jp2", ".jp2").bands["B02"]
    whole = read_window(far, slice(None), slice(None))
    at = np.array([0, 5, 300, 310])
    values, _ = points(far, at)
    np.testing.assert_array_equal(values.reshape(4, 4), whole[np.ix_(at, at)])


@pytest.mark.parametrize("is_of_item", [False, True])
def test_a_grid_that_is_not_stated_is_that_of_the_file(server, scenes, tmp_path, is_of_item):
    """The item may state the grid of its assets of 10 m only."""
    item = item_of(DAY, server.url)
    if is_of_item:
        grid = ("proj:shape", "proj:transform")
        item["properties"] |= {name: item["assets"]["blue"][name] for name in grid}
    for asset in item["assets"].values():
        metres = asset.pop("proj:transform")[0]
        del asset["proj:shape"]
        asset["gsd"] = metres
    (tmp_path / "item.json").write_text(json.dumps(item))
    (found,) = find_acquisitions(tmp_path / "item.json", bands=BANDS)
    for name, band in found.bands.items():
        assert band.grid == read_header(scenes / DAY / f"{name}.tif").grid


def test_an_item_that_contradicts_its_file_is_refused(server, index, tmp_path):
    far = acquisition_at(tmp_path / "far", server.url)
    band = far.bands["B02"]
    moved = replace(band, grid=replace(band.grid, x_min=band.grid.x_min + 10))
    with pytest.raises(InputError, match="its catalogue states"):
        read_parcel_pixels(replace(far, bands={"B02": moved}), index, ["B02"])


# Addresses that are refused after one request: what the server does, the address, the message.
REFUSALS = {
    "missing file": ({}, "{url}/a.tif", r"a\.tif does not exist \(404 Not Found\)"),
    "no access": (
        {"needs_query": True},
        "{url}/{day}/B02.tif",
        r"Access to .*B02\.tif is refused \(403 Forbidden\)\. Set imagery\.sign",
    ),
    "no ranges": (
        {"supports_ranges": False},
        "{url}/{day}/B02.tif",
        "does not support range requests",
    ),
    "other bytes": ({"shift": 1}, "{url}/{day}/B02.tif", r"Requested 0\.\.16384, got 1\.\.16384"),
    "scheme": ({}, "ftp://somewhere/B02.tif", "start with ftp:// are not supported"),
    "no host": ({}, "https:///B02.tif", r"is not a valid address \(empty host\)"),
    "no S3 service": ({}, "s3://bucket/B02.tif", "set AWS_S3_ENDPOINT"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_addresses_that_cannot_be_read_are_refused(server, tmp_path, monkeypatch, case):
    monkeypatch.delenv("AWS_S3_ENDPOINT", raising=False)
    state, address, message = REFUSALS[case]
    for name, value in state.items():
        setattr(server, name, value)
    band = acquisition_at(tmp_path / "far", server.url).bands["B02"]
    band = replace(band, source=address.format(url=server.url, day=DAY))
    with pytest.raises(InputError, match=message):
        read_window(band, slice(0, 1), slice(0, 1))
    assert len(server.log) <= 1


def test_quoted_addresses_and_their_passwords_are_sent(server, tmp_path):
    name = "50 % of a+b #1.tif"
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / name).write_bytes(b"content")
    server.root = tmp_path
    host = server.url.removeprefix("http://")
    address = f"http://me:pass%40word@{host}/a%20folder/50%20%25%20of%20a+b%20%231.tif"
    assert remote.read_bytes(address, (3, 100)) == (b"tent", 7)
    assert remote.read_bytes(address) == (b"content", 7)
    assert server.log[0]["headers"]["authorization"] == "Basic bWU6cGFzc0B3b3Jk"
    assert remote.without_signature(address).startswith(f"http://{host}/")


def test_s3_is_read_from_the_service_of_the_environment(
    server, scenes, index, expected, tmp_path, monkeypatch
):
    bucket = scenes.name
    far = acquisition_at(tmp_path / "far", f"s3://{bucket}")
    server.root = scenes.parent
    environment = {
        "AWS_S3_ENDPOINT": server.url,
        "AWS_HTTPS": "NO",
        "AWS_ENDPOINT_URL": "https://elsewhere.example",
        "AWS_ACCESS_KEY_ID": "KEY",
        "AWS_SECRET_ACCESS_KEY": "SECRET",
        "AWS_SESSION_TOKEN": "TOKEN",
        "AWS_REGION": "eu-west-9",
        "AWS_REQUEST_PAYER": "requester",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    np.testing.assert_array_equal(read_parcel_pixels(far, index, BANDS)[0], expected[".tif"][0])
    assert server.log[0]["path"].startswith(f"{bucket}/{DAY}/B")
    headers = server.log[0]["headers"]
    assert headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=KEY/")
    assert "/eu-west-9/s3/aws4_request" in headers["authorization"]
    assert headers["x-amz-security-token"] == "TOKEN"
    assert headers["x-amz-request-payer"] == "requester"


def test_s3_without_a_key_is_read_unsigned(server, scenes, monkeypatch):
    for name in ("ACCESS_KEY_ID", "SESSION_TOKEN", "REGION", "REQUEST_PAYER"):
        monkeypatch.setenv(f"AWS_{name}", "")  # as good as not set
    monkeypatch.setenv("AWS_S3_ENDPOINT", server.url)
    monkeypatch.setenv("AWS_HTTPS", "NO")
    content = (scenes / DAY / "B03.tif").read_bytes()
    assert remote.read_bytes(f"s3://{DAY}/B03.tif", (10, 20)) == (content[10:20], len(content))
    assert "authorization" not in server.log[0]["headers"]


@pytest.fixture
def planetary_computer(server, scenes, monkeypatch):
    """The server as a proxy of Azure and of the Planetary Computer's tokens."""
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("PC_SDK_SAS_URL", "http://tokens.example/sas/token")
    server.root, server.needs_query, server.etag = scenes.parent, True, '"1"'
    remote._azure_store.cache_clear()  # the stores of the tests have the same address
    remote._tokens.cache_clear()
    remote._http_store.cache_clear()
    return f"http://account.blob.core.windows.net/{scenes.name}"


def test_the_planetary_computer_is_read_with_its_tokens(
    planetary_computer, server, scenes, index, expected, tmp_path
):
    far = acquisition_at(tmp_path / "far", planetary_computer, signed_by="planetary_computer")
    server.faults = lambda number, _: "503" if number % 3 == 0 else None
    np.testing.assert_array_equal(read_parcel_pixels(far, index, BANDS)[0], expected[".tif"][0])
    token = f"sas/token/account/{scenes.name}"
    # The token is requested once, and once again after a fault.
    assert [entry["path"] for entry in server.log].count(token) == 2
    lost = replace(far.bands["B02"], source=far.bands["B02"].source.replace("B02", "B77"))
    with pytest.raises(InputError, match=r"B77\.tif does not exist") as error:
        read_window(lost, slice(0, 1), slice(0, 1))
    assert "SECRET" not in "".join(traceback.format_exception(error.value))


def test_without_tokens_the_planetary_computer_refuses_access(
    planetary_computer, server, scenes, monkeypatch
):
    address = f"{planetary_computer}/{DAY}/B02.tif"
    with pytest.raises(InputError, match=r"403 Forbidden\)\. Set imagery\.sign"):
        remote.read_bytes(address, (0, 10))
    monkeypatch.setenv("PC_SDK_SAS_URL", "http://tokens.example/nowhere")
    remote._tokens.cache_clear()
    with pytest.raises(InputError, match=r"is refused .*404 Client Error.*tokens\.example"):
        remote.read_bytes(f"planetary-computer+{address}", (0, 10))
    # Addresses of other hosts, and addresses with a signature, need no token.
    server.needs_query = False
    content = (scenes / DAY / "B02.tif").read_bytes()[:10]
    path = f"{scenes.name}/{DAY}/B02.tif"
    for other in (f"{server.url}/{path}", f"{address}?sp=r&sig=x"):
        assert remote.read_bytes(f"planetary-computer+{other}", (0, 10))[0] == content
