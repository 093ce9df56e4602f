"""Parts of the tiles of JPEG 2000 files equal the same parts of GDAL's whole tiles, to the bit."""

import logging
import os

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine

from geo.errors import InputError
from geo.grid import Grid
from geo.imagery import jpeg2000, openjpeg
from geo.imagery.acquisition import Band
from geo.imagery.cloud_masks import CloudRules
from geo.imagery.discovery import find_acquisitions
from geo.imagery.jpeg2000 import read_needed
from geo.imagery.open_rasters import OpenRasters
from geo.imagery.raster_reading import read_windows
from geo.pixels.parcel_pixels import read_clear_mask, read_parcel_pixels
from geo.pixels.pixel_index import index_pixels
from tests.builders.safe import write_image, write_safe

HEIGHT, WIDTH = 700, 610
LOSSLESS = {"quality": "100", "reversible": "YES"}
TILES = {"blockxsize": 256, "blockysize": 256}
LAYOUTS = {
    "lossless": {},
    "tiles that are no multiple of a cell": {"blockxsize": 192, "blockysize": 320},
    "lossy": {"quality": "15", "resolutions": 6},
    "layers, precincts, small blocks, all markers": {
        **{"quality": "5,20,100", "precincts": "{256,256},{128,128}", "progression": "RPCL"},
        **{"codeblock_width": 32, "codeblock_height": 16, "tileparts": "R", "resolutions": 4},
        **{"sop": "YES", "eph": "YES", "plt": "YES", "tlm": "YES"},
    },
    "one tile": {"blockxsize": 1024, "blockysize": 1024},
    "8 bits": {"dtype": "uint8"},
    "12 bits": {"nbits": 12},
}


def write(path, values, **options):
    profile = {**LOSSLESS, **TILES, "driver": "JP2OpenJPEG", "crs": "EPSG:32631", **options}
    bands = values if values.ndim == 3 else values[np.newaxis]
    profile |= {"count": len(bands), "height": bands.shape[1], "width": bands.shape[2]}
    profile |= {"transform": Affine(10, 0, 600_000, 0, -10, 4_900_020)}
    with rasterio.open(path, "w", **{"dtype": bands.dtype, **profile}) as image:
        image.write(bands)
    return path


def draw(rng, dtype="uint16"):
    """Draw a landscape without 0, which stands for a pixel that is not decoded."""
    fields = np.kron(rng.integers(20, 200, (70, 61)), np.ones((10, 10), int))
    return (fields + rng.integers(0, 50, fields.shape)).astype(dtype)


def draw_needed(rng, shape):
    """Draw some pixels in a few places of a window."""
    found = []
    for _ in range(rng.integers(1, 5)):
        row, col = rng.integers(0, shape)
        rows, cols = (
            np.arange(at, min(at + 12, end)) for at, end in zip((row, col), shape, strict=True)
        )
        place = (rows[:, np.newaxis] * shape[1] + cols).ravel()
        found.append(rng.choice(place, len(place) // 2 + 1))
    return np.concatenate(found)


def draw_windows(rng, count):
    for _ in range(count):
        rows, cols = (np.sort(rng.choice(end + 1, 2, replace=False)) for end in (HEIGHT, WIDTH))
        yield slice(*rows.tolist()), slice(*cols.tolist())


@pytest.mark.parametrize("options", LAYOUTS.values(), ids=LAYOUTS)
def test_equal_the_whole_tiles(tmp_path, options):
    rng = np.random.default_rng(0)
    dtype = options.get("dtype", "uint16")
    path = write(tmp_path / "a.jp2", draw(rng, dtype), **options)
    with rasterio.open(path) as image:
        expected = image.read(1)
    decoded, n_parts = [], 0
    for rows, cols in [(slice(0, HEIGHT), slice(0, WIDTH)), *draw_windows(rng, 40)]:
        shape = rows.stop - rows.start, cols.stop - cols.start
        needed = draw_needed(rng, shape)
        found = read_needed(path, expected.shape, rows, cols, needed)
        if found is not None:
            n_parts += 1
            assert found.dtype == dtype
            assert found.shape == shape
            np.testing.assert_array_equal(
                found.ravel()[needed], expected[rows, cols].ravel()[needed]
            )
            decoded.append((found != 0).mean())
    assert n_parts > 8
    assert min(decoded) < 0.01


def test_every_pixel_of_a_tile_is_in_a_window():
    """A tile at the edge, whose sides are not those of cells."""
    rng = np.random.default_rng(1)
    extent = (640, 1043, 1280, 1910)
    for n in (1, 3, 30, 300):
        row, col = rng.integers(640, 1043, n), rng.integers(1280, 1910, n)
        seen = np.zeros((1100, 2000), int)
        for top, bottom, left, right in jpeg2000._windows(row, col, extent):
            seen[top:bottom, left:right] += 1
        assert seen[row, col].min() == seen.max() == 1
        assert not seen[:640].any()
        assert not seen[:, 1910:].any()


OTHERS = {
    "irreversible wavelet": {"reversible": "NO"},
    "signed": {"dtype": "int16"},
    "two bands": {"bands": 2},
}


@pytest.mark.parametrize("options", OTHERS.values(), ids=OTHERS)
def test_other_codestreams_are_left_to_gdal(tmp_path, options):
    values = draw(np.random.default_rng(2), options.get("dtype", "uint16"))
    bands = options.get("bands", 1)
    options = {key: value for key, value in options.items() if key != "bands"}
    path = write(tmp_path / "a.jp2", np.stack([values] * bands), **options)
    window = slice(0, HEIGHT), slice(0, WIDTH)
    assert read_needed(path, values.shape, *window, np.array([5])) is None


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "a.jp2"
    return write(path, draw(np.random.default_rng(3)))


def read(path, needed):
    grid = Grid("EPSG:32631", 600_000, 4_900_020, 10, 10, HEIGHT, WIDTH)
    band = Band("B02", str(path), 1, grid, (256, 256))
    with OpenRasters() as rasters:
        return read_windows([band], slice(0, HEIGHT), slice(0, WIDTH), rasters, needed)[0]


FEW = np.arange(50_000, 50_010)  # in row 81: the first tiles
MANY = np.arange(0, HEIGHT * WIDTH, 20)


def test_where_most_is_needed_whole_tiles_are_decoded(image):
    np.testing.assert_array_equal(read(image, MANY), read(image, None))
    assert (read(image, FEW) == 0).mean() > 0.9
    assert (read(image, np.array([0]))[:256, :256] != 0).sum() == 1


def cut(content):
    return content[: len(content) // 4]


def wrong_length(content):
    at = content.index(b"\xff\x90\0\x0a")
    return content[: at + 6] + b"\0\0\0\x0d" + content[at + 10 :]


def zero_packets(content):
    at = content.index(b"\xff\x93")
    return content[: at + 2] + b"\xff" * 5000 + content[at + 5002 :]


@pytest.mark.parametrize("damage", [cut, wrong_length, zero_packets])
def test_a_damaged_file_is_refused_in_the_same_words(tmp_path, image, damage):
    path = tmp_path / "a.jp2"
    path.write_bytes(damage(image.read_bytes()))
    with pytest.raises(InputError, match=r"Band B02 of .* cannot be read at rows 0-700") as whole:
        read(path, None)
    with pytest.raises(InputError, match="The file is damaged or incomplete") as part:
        read(path, np.array([70]))
    assert str(part.value) == str(whole.value)


def test_a_missing_file_and_a_pipe_are_refused_in_the_same_words(tmp_path):
    os.mkfifo(tmp_path / "pipe.jp2")
    for name in ("a.jp2", "pipe.jp2"):
        with pytest.raises(InputError, match="is not a file"):
            read(tmp_path / name, FEW)


def test_without_openjpeg_gdal_reads_and_the_log_says_so_once(image, monkeypatch, caplog):
    monkeypatch.setattr(openjpeg, "_names", lambda: ["libc.so.6", "/nowhere/libopenjp2.so"])
    openjpeg.openjpeg.cache_clear()
    with caplog.at_level(logging.INFO):
        np.testing.assert_array_equal(read(image, FEW), read(image, None))
        read(image, FEW)
    assert caplog.text.count("No OpenJPEG of a known version was found") == 1
    openjpeg.openjpeg.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "cubic"])
def test_parcels_of_a_product_are_the_same_pixels(tmp_path, monkeypatch, resampling):
    """Parcels far apart: on seams of tiles, at the edge, and one with no pixel beside a seam."""
    product = write_safe(tmp_path, np.random.default_rng(4), size=1500, cloudy=None)
    (path,) = product.path.rglob("*_B8A_20m.jp2")
    write_image(path, product.pixels["B8A"], "31UDS", 20, 500_000, **TILES)
    (acquisition,) = find_acquisitions(product.path)
    left, _, _, top = acquisition.grid.bounds
    places = [(200, 300), (10_240, 5_000), (14_960, 14_960), (3_000, 10_237)]
    circles = [shapely.Point(left + x, top - y).buffer(70) for x, y in places]
    thin = shapely.box(left + 10_231, top - 12_100, left + 10_249, top - 12_000)
    index = index_pixels(np.array([*circles, thin]), list("abcde"), acquisition.grid, "31UDS")
    bands, rules = ["B02", "B8A", "B11"], CloudRules(classes=(3, 8), dilation_m=45)
    counts = []

    def decode(codestream, extent, windows):
        counts.append(len(windows))
        return openjpeg.decode(codestream, extent, windows)

    monkeypatch.setattr(jpeg2000, "decode", decode)
    parts = [
        *read_parcel_pixels(acquisition, index, bands, resampling=resampling, threads=2),
        read_clear_mask(acquisition, index, rules),
    ]
    assert len(counts) >= 4 + 5 + 1 + 1  # tiles of B02, B8A, B11 and SCL that contain parcels
    monkeypatch.setattr(jpeg2000, "openjpeg", lambda: None)
    whole = [
        *read_parcel_pixels(acquisition, index, bands, resampling=resampling),
        read_clear_mask(acquisition, index, rules),
    ]
    for part, expected in zip(parts, whole, strict=True):
        np.testing.assert_array_equal(part, expected)
    assert 0 < parts[2].sum() < len(parts[2])
