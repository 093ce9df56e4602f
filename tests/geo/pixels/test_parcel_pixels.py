"""Pixels of parcels equal GDAL's warp of whole bands, with any blocks and threads."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.warp import reproject

import geo.pixels.block_reading
import geo.pixels.parcel_pixels
from geo.errors import InputError
from geo.grid import Grid
from geo.imagery.acquisition import Acquisition, Band
from geo.imagery.discovery import find_acquisitions
from geo.imagery.open_rasters import OpenRasters
from geo.pixels.parcel_pixels import read_parcel_pixels
from geo.pixels.pixel_index import index_pixels
from tests.builders.safe import write_image, write_safe

BANDS = ["B03", "B8A", "B02", "B11"]


@pytest.fixture(
    scope="module", params=[{"baseline": "04.00", "offsets": -1000}, {"baseline": "03.01"}]
)
def product(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("safe")
    return write_safe(folder, np.random.default_rng(0), **request.param)


@pytest.fixture(scope="module")
def acquisition(product):
    return find_acquisitions(product.path)[0]


@pytest.fixture(scope="module")
def parcels(acquisition):
    """Make overlapping circles, one with a hole, one at the corner of the scene."""
    left, _, _, top = acquisition.grid.bounds
    points = [(left + 100, top - 100), (left + 130, top - 90), (left + 400, top - 350), (left, top)]
    circles = [shapely.Point(p).buffer(r) for p, r in zip(points, (70, 45, 120, 60), strict=True)]
    circles[2] = circles[2].difference(shapely.Point(points[2]).buffer(30))
    return geopandas.GeoSeries(circles, crs=acquisition.grid.crs)


@pytest.fixture(scope="module")
def index(parcels, acquisition):
    return index_pixels(parcels.values, list("abcd"), acquisition.grid, "31UDS")


def brute_force(product, acquisition, index):
    """Warp every band with GDAL, apply the offset and clip; return where all have values, too."""
    offset = {"N0400": -1000, "N0301": 0}[acquisition.id[-5:]]
    expected = np.zeros((len(BANDS), len(index.rows)), np.uint16)
    has_values = np.ones(len(index.rows), bool)
    for channel, name in enumerate(BANDS):
        band = acquisition.bands[name]
        grid = index.grid
        with rasterio.open(band.source) as source, WarpedVRT(
            source, transform=grid.transform, height=grid.height, width=grid.width,
            resampling=Resampling.bilinear, src_nodata=0, nodata=0,
        ) as warped:  # fmt: skip
            raw = warped.read(1)[index.rows, index.cols].astype(int)
        expected[channel] = np.clip(raw + offset, 0, None)
        ratio = int(band.grid.pixel_width / 10)
        has_values &= product.pixels[name][index.rows // ratio, index.cols // ratio] != 0
    expected[:, ~has_values] = 0
    return expected, has_values


def test_equals_gdals_warp_of_the_whole_bands(product, acquisition, index):
    pixels, has_values = read_parcel_pixels(acquisition, index, BANDS)
    expected, known = brute_force(product, acquisition, index)
    assert pixels.dtype == np.uint16
    assert np.array_equal(has_values, known)
    difference = np.abs(pixels.astype(int) - expected.astype(int))
    # GDAL rounds exact halves to either side.
    assert difference.max() <= 1
    ten_metres = [BANDS.index("B02"), BANDS.index("B03")]
    assert difference[ten_metres].max() == 0


def test_blocks_and_threads_change_nothing(monkeypatch, acquisition, index):
    whole = read_parcel_pixels(acquisition, index, BANDS)
    monkeypatch.setattr(geo.pixels.parcel_pixels, "READ_SIZE", 1)
    bands = {name: replace(b, block_shape=(7, 5)) for name, b in acquisition.bands.items()}
    parts = read_parcel_pixels(replace(acquisition, bands=bands), index, BANDS, threads=4)
    assert np.array_equal(whole[0], parts[0])
    assert np.array_equal(whole[1], parts[1])


def test_a_pixel_that_is_nodata_in_one_band_is_nodata_in_all(tmp_path, index):
    generator = np.random.default_rng(1)
    product = write_safe(tmp_path, generator)
    found = find_acquisitions(product.path)[0]
    holes = {}
    for name in ("B02", "B03"):
        holes[name] = np.where(generator.random((60, 60)) < 0.2, 0, product.pixels[name])
        write_image(Path(found.bands[name].source), holes[name], "31UDS", 10, 500_000)
    pixels, has_values = read_parcel_pixels(found, index, ["B02", "B03"])
    values = np.array([holes[name][index.rows, index.cols] for name in ("B02", "B03")])
    missing = (values == 0).any(axis=0)
    assert 0 < missing.sum() < len(missing)
    assert np.array_equal(has_values, ~missing)
    assert np.array_equal(pixels, np.where(missing, 0, values))


CRS = "EPSG:32736"  # south of the equator
TILE = Grid(CRS, 300_000.0, 9_100_000.0, 10.0, 10.0, 80, 90)
LAYOUTS = {
    "as the tile": {"B02": TILE, "B03": TILE},
    "20 and 60 m": {
        "B02": TILE,
        "B05": Grid(CRS, 300_000, 9_100_000, 20, 20, 40, 45),
        "B09": Grid(CRS, 300_000, 9_100_000, 60, 60, 14, 15),
    },
    "a clip": {
        "B02": Grid(CRS, 300_200, 9_099_900, 10, 10, 50, 200),
        "B05": Grid(CRS, 300_200, 9_099_900, 20, 20, 25, 100),
    },
    "wider than the tile": {
        "B02": Grid(CRS, 299_800, 9_100_100, 10, 10, 150, 150),
        "B05": Grid(CRS, 299_780, 9_100_120, 20, 20, 75, 75),
    },
    "aside, not quite 10 m": {
        "B02": Grid(CRS, 300_003.3, 9_099_996.1, 9.995, 9.997, 80, 90),
        "B05": Grid(CRS, 300_153.3, 9_099_946.1, 19.995, 19.997, 20, 20),
    },
    "elsewhere": {
        "B02": Grid(CRS, 400_000, 9_100_000, 10, 10, 80, 90),
        "B05": Grid(CRS, 300_000, 9_000_000, 20, 20, 40, 45),
    },
}


def write_bands(folder, grids, dtype="uint16", nodata=0):
    """Write an acquisition, one file per band, a tenth nodata; return it with its values."""
    generator = np.random.default_rng(5)
    bands, values = {}, {}
    for name, grid in grids.items():
        data = generator.integers(10_000, 20_000, grid.shape).astype(dtype)
        data[generator.random(grid.shape) < 0.1] = nodata
        path = folder / f"{name}.tif"
        with rasterio.open(
            path, "w", driver="GTiff", height=grid.height, width=grid.width, count=1, dtype=dtype,
            crs=grid.crs, transform=grid.transform, tiled=True, blockxsize=16, blockysize=16,
        ) as raster:  # fmt: skip
            raster.write(data, 1)
        values[name] = data
        bands[name] = Band(
            name=name, source=str(path), layer=1, grid=grid, block_shape=(16, 16), scale=1.0,
            offset=0.0, nodata=float(nodata),
        )  # fmt: skip
    return Acquisition(
        id="20180405_36MZE", tile="36MZE", date=date(2018, 4, 5), product=folder, format="geotiff",
        baseline=None, platform=None, cloud_fraction=None, bands=bands, masks={},
    ), values  # fmt: skip


def some_parcels(grid, n=12):
    generator = np.random.default_rng(6)
    left, bottom, right, top = grid.bounds
    places = np.column_stack([generator.uniform(left, right, n), generator.uniform(bottom, top, n)])
    circles = shapely.buffer(shapely.points(places), generator.uniform(15, 90, n))
    return index_pixels(circles, [str(i) for i in range(n)], grid, "36MZE")


@pytest.mark.parametrize("read_size", [1, 1024])
@pytest.mark.parametrize("method", ["nearest", "bilinear", "cubic"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_bands_on_any_grid_equal_gdals_warp(tmp_path, monkeypatch, layout, method, read_size):
    monkeypatch.setattr(geo.pixels.parcel_pixels, "READ_SIZE", read_size)
    acquisition, values = write_bands(tmp_path, LAYOUTS[layout])
    index = some_parcels(TILE)
    pixels, has_values = read_parcel_pixels(
        acquisition, index, list(values), resampling=method, threads=2
    )
    expected = np.zeros((len(values), *TILE.shape), np.uint16)
    for channel, (name, data) in enumerate(values.items()):
        grid = acquisition.bands[name].grid
        reproject(
            data, expected[channel], src_transform=grid.transform, src_crs=CRS, src_nodata=0,
            dst_transform=TILE.transform, dst_crs=CRS, dst_nodata=0, tolerance=0,
            resampling=Resampling[method],
        )  # fmt: skip
    expected = expected[:, index.rows, index.cols].astype(int)
    known = (expected != 0).all(axis=0)
    assert known.any() == (layout != "elsewhere")
    assert np.array_equal(has_values, known)
    assert np.abs(pixels - expected)[:, known].max(initial=0) <= 1
    assert not pixels[:, ~known].any()


def test_only_blocks_with_parcels_are_read_and_only_their_pixels_sampled(tmp_path, monkeypatch):
    acquisition, _ = write_bands(tmp_path, LAYOUTS["20 and 60 m"])
    index = index_pixels(
        [shapely.box(300_107, 9_099_513, 300_137, 9_099_543)], ["a"], TILE, "36MZE"
    )
    read, sampled = [], []
    read_windows, read_sample = (
        geo.pixels.block_reading.read_windows,
        geo.pixels.block_reading.sample,
    )
    monkeypatch.setattr(geo.pixels.parcel_pixels, "READ_SIZE", 1)
    monkeypatch.setattr(
        geo.pixels.block_reading,
        "read_windows",
        lambda bands, *w: read.append((bands[0].name, w[:2])) or read_windows(bands, *w),
    )
    monkeypatch.setattr(
        geo.pixels.block_reading, "sample", lambda *a: sampled.append(len(a[2])) or read_sample(*a)
    )
    read_parcel_pixels(acquisition, index, ["B02", "B05", "B09"], resampling="cubic")
    # Rows 46 to 48 and columns 11 to 13 of 10 m, in blocks of 16 pixels.
    assert len(index.rows) == 9
    assert sorted(read) == [
        ("B02", (slice(46, 48), slice(11, 14))),
        ("B02", (slice(48, 49), slice(11, 14))),
        ("B05", (slice(21, 26), slice(4, 9))),
        ("B09", (slice(6, 10), slice(0, 4))),
    ]
    assert sum(sampled) == 3 * 9  # three bands


@pytest.mark.parametrize("method", ["nearest", "bilinear", "cubic"])
def test_no_pixel_is_read_twice(tmp_path, monkeypatch, method):
    acquisition, _ = write_bands(tmp_path, LAYOUTS["20 and 60 m"])
    read = {name: np.zeros(band.grid.shape, int) for name, band in acquisition.bands.items()}
    read_windows = geo.pixels.block_reading.read_windows

    def note(bands, *window):
        for band in bands:
            read[band.name][window[:2]] += 1
        return read_windows(bands, *window)

    monkeypatch.setattr(geo.pixels.parcel_pixels, "READ_SIZE", 1)
    monkeypatch.setattr(geo.pixels.block_reading, "read_windows", note)
    index = index_pixels([shapely.box(*TILE.bounds)], ["a"], TILE, "36MZE")
    read_parcel_pixels(acquisition, index, list(read), resampling=method)
    assert all((times == 1).all() for times in read.values())


def test_a_file_of_several_bands_is_opened_once(tmp_path, monkeypatch):
    path = tmp_path / "20180405.tif"
    values = np.random.default_rng(7).integers(1, 10_000, (4, 80, 90)).astype(np.uint16)
    with rasterio.open(
        path, "w", driver="GTiff", height=80, width=90, count=4, dtype="uint16", crs=CRS,
        transform=TILE.transform, tiled=True, blockxsize=16, blockysize=16,
    ) as raster:  # fmt: skip
        raster.write(values)
    names = ["B02", "B03", "B04", "B08"]
    (found,) = find_acquisitions(path, bands=names, file_bands=names)
    index = some_parcels(TILE)
    opened = []
    rasterio_open = rasterio.open
    monkeypatch.setattr(geo.pixels.parcel_pixels, "READ_SIZE", 1)
    monkeypatch.setattr(
        rasterio, "open", lambda *a, **k: opened.append(a) or rasterio_open(*a, **k)
    )
    pixels, has_values = read_parcel_pixels(found, index, ["B08", "B02", "B03"])
    n_blocks = len(np.unique(index.rows // 16 * 100 + index.cols // 16))
    assert n_blocks > 4
    assert len(opened) == 1
    assert has_values.all()
    assert np.array_equal(pixels, values[[3, 0, 1]][:, index.rows, index.cols])


@pytest.mark.parametrize("nodata", [float("nan"), -0.1])
def test_float_bands_keep_their_nodata(tmp_path, nodata):
    acquisition, values = write_bands(tmp_path, {"B02": TILE}, "float32", nodata)
    index = some_parcels(TILE)
    pixels, has_values = read_parcel_pixels(acquisition, index, ["B02"])
    expected = values["B02"][index.rows, index.cols]
    assert np.array_equal(has_values, expected > 0)
    assert 0 < has_values.sum() < len(has_values)
    assert np.array_equal(pixels[0], np.where(has_values, expected, 0))


def test_cubic_overshoot_is_clipped_to_the_raw_type(tmp_path):
    coarse = Grid(CRS, 300_000, 9_100_000, 20, 20, 40, 45)
    acquisition, _ = write_bands(tmp_path, {"B05": coarse})
    stripes = np.where(np.arange(45) // 3 % 2, 65_535, 1).astype(np.uint16)
    with rasterio.open(acquisition.bands["B05"].source, "r+") as raster:
        raster.write(np.tile(stripes, (40, 1)), 1)
    band = replace(acquisition.bands["B05"], offset=-1000.0, scale=0.1)
    shifted = replace(acquisition, bands={"B05": band})
    index = some_parcels(TILE)
    pixels, _ = read_parcel_pixels(shifted, index, ["B05"], resampling="cubic")
    assert (pixels.min(), pixels.max()) == (0, 6454)


def test_bands_too_fine_or_in_another_zone_are_refused(tmp_path):
    fine = Grid(CRS, 300_000, 9_100_000, 5, 5, 160, 180)
    acquisition, values = write_bands(tmp_path, {"B02": fine})
    index = some_parcels(TILE)
    with pytest.raises(InputError, match=r"has pixels of 5 x 5 m, smaller than the 10 x 10"):
        read_parcel_pixels(acquisition, index, ["B02"])
    pixels, _ = read_parcel_pixels(acquisition, index, ["B02"], resampling="nearest")
    assert np.array_equal(pixels[0], values["B02"][index.rows * 2 + 1, index.cols * 2 + 1])
    acquisition, _ = write_bands(tmp_path, {"B02": replace(TILE, crs="EPSG:32735")})
    with pytest.raises(InputError, match=r"is in EPSG:32735, the parcels' pixels are in EPSG"):
        read_parcel_pixels(acquisition, index, ["B02"])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32"])
@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (1.0, -1000.0), (0.37, 12.0)])
def test_every_type_of_raw_values_becomes_reflectance(tmp_path, dtype, scale, offset):
    acquisition, _ = write_bands(tmp_path, {"B02": TILE})
    generator = np.random.default_rng(8)
    limits = np.iinfo("int16" if dtype in ("int32", "float32") else dtype)
    least, greatest = max(limits.min, -4000), min(limits.max, 25_000)
    values = generator.integers(least, greatest, TILE.shape, endpoint=True).astype(dtype)
    path = tmp_path / "raw.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=80, width=90, count=1, dtype=dtype, crs=CRS,
        transform=TILE.transform,
    ) as raster:  # fmt: skip
        raster.write(values, 1)
    band = replace(acquisition.bands["B02"], source=str(path), scale=scale, offset=offset)
    index = some_parcels(TILE)
    pixels, has_values = read_parcel_pixels(
        replace(acquisition, bands={"B02": band}), index, ["B02"]
    )
    raw = values[index.rows, index.cols].astype(np.float64)
    numbers = (raw + offset) * scale
    is_data = (raw != 0) & (numbers >= -2000) & (numbers <= 20_000)
    expected = np.where(is_data, np.clip(np.floor(numbers + 0.5), 0, 65_535), 0)
    assert np.array_equal(pixels[0], expected)
    assert np.array_equal(has_values, is_data)


@pytest.mark.parametrize("threads", [1, 3])
def test_after_a_block_that_cannot_be_read_no_further_block_is_read(tmp_path, monkeypatch, threads):
    acquisition, _ = write_bands(tmp_path, {"B02": TILE})
    read = []

    def fail(bands, *window):
        read.append(window)
        raise InputError("this one is damaged")

    monkeypatch.setattr(geo.pixels.parcel_pixels, "READ_SIZE", 1)
    monkeypatch.setattr(geo.pixels.block_reading, "read_windows", fail)
    with pytest.raises(InputError, match="this one is damaged"):
        read_parcel_pixels(acquisition, some_parcels(TILE, 40), ["B02"], threads=threads)
    assert len(read) <= threads


def test_an_open_file_is_used_by_one_thread_at_a_time_and_closed_at_the_end(tmp_path):
    acquisition, _ = write_bands(tmp_path, {"B02": TILE})
    source = acquisition.bands["B02"].source
    with OpenRasters() as rasters:
        with rasters.use(source) as first, rasters.use(source) as second:
            assert first is not second
        with rasters.use(source) as again:
            assert again in (first, second)
        with pytest.raises(OSError, match="unreadable"), rasters.use(source) as failed:
            raise OSError("unreadable")
        assert failed.closed
    assert first.closed
    assert second.closed
