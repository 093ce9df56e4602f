"""Properties that hold for the reader of every format, on one scene that is written in each."""

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import shapely

from geo.errors import InputError
from geo.formats.archives import PLAIN
from geo.imagery.discovery import find_acquisitions
from geo.imagery.imagery_files import one_product
from geo.imagery.raster_reading import read_window
from geo.pixels.parcel_pixels import read_parcel_pixels
from geo.pixels.pixel_index import index_pixels
from tests.builders.items import assert_survive
from tests.builders.readers import FINE, READERS, SHAPES, draw_scene

WHOLE = slice(None)
# The order of the channels, which is not the order of wavelength.
CHANNELS = ["B8A", "B02", "B03"]


@dataclass
class Imagery:
    path: Path
    scene: object
    file: str  # pattern of the file that contains B02
    named: str  # pattern of the file that messages name

    def find(self, **options):
        return find_acquisitions(self.path, **options)


@pytest.fixture(scope="module", params=READERS)
def written(request, tmp_path_factory):
    """The scene in one format; tests get a copy of it."""
    write, file, named = READERS[request.param]
    scene = draw_scene(np.random.default_rng(21))
    folder = tmp_path_factory.mktemp("written") / "imagery"
    write(folder, scene)
    return Imagery(folder, scene, file, named)


@pytest.fixture
def imagery(written, tmp_path):
    shutil.copytree(written.path, tmp_path / "imagery")
    return replace(written, path=tmp_path / "imagery")


def at_10_m(values):
    size = FINE[0] // values.shape[0]
    return values.repeat(size, axis=0).repeat(size, axis=1)


def index_of(item):
    """Index two parcels, one of them cut by the edge of the imagery."""
    x_min, _, _, y_max = item.grid.bounds
    circles = [shapely.Point(x_min + x, y_max - x).buffer(130) for x in (20, 300)]
    return index_pixels(np.array(circles), ["a", "b"], item.grid, item.tile)


@pytest.mark.parametrize("threads", [1, 2])
def test_bands_have_the_order_and_the_values_that_were_written(imagery, threads):
    (item,) = imagery.find(bands=CHANNELS)
    assert list(item.bands) == ["B02", "B03", "B8A"]
    assert {name: band.grid.shape for name, band in item.bands.items()} == SHAPES
    index = index_of(item)
    pixels, with_data = read_parcel_pixels(
        item, index, CHANNELS, resampling="nearest", threads=threads
    )
    scene, at = imagery.scene, (index.rows, index.cols)
    nodata = np.any([at_10_m(scene.nodata[band])[at] for band in CHANNELS], axis=0)
    assert 0 < nodata.sum() < len(nodata)
    np.testing.assert_array_equal(with_data, ~nodata)
    expected = np.array([at_10_m(scene.reflectance[band])[at] for band in CHANNELS])
    np.testing.assert_array_equal(pixels, np.where(nodata, 0, expected))


def test_windows_from_several_threads_equal_those_of_the_whole_band(imagery):
    (item,) = imagery.find(bands=CHANNELS)
    whole = {name: read_window(band, WHOLE, WHOLE) for name, band in item.bands.items()}
    rng = np.random.default_rng(3)

    def is_same(name, top, left):
        rows, cols = slice(top, top + 9), slice(left, left + 30)
        window = read_window(item.bands[name], rows, cols)
        return np.array_equal(window, whole[name][rows, cols], equal_nan=True)

    names, tops, lefts = rng.choice(CHANNELS, 40), rng.integers(0, 20, 40), rng.integers(0, 20, 40)
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(is_same, names, tops, lefts))


def test_bands_that_are_not_asked_for_are_not_in_the_acquisition(imagery):
    (item,) = imagery.find(bands=["B03"])
    assert list(item.bands) == ["B03"]


def test_an_acquisition_is_found_again_in_its_product(imagery):
    (item,) = imagery.find()
    # As text, in which NaN equals NaN.
    assert repr(find_acquisitions(item.product)) == repr([item])


def test_an_acquisition_is_the_same_when_it_is_read_from_its_item(imagery, tmp_path):
    assert_survive(imagery.find(), tmp_path / "items")


def test_a_missing_band_is_refused_by_name(imagery):
    with pytest.raises(InputError) as error:
        imagery.find(bands=["B02", "B12"])
    (item,) = imagery.find()
    assert f"{item.product}: no B12 (it has B02)" in str(error.value)


@pytest.mark.parametrize("kept", [0.5, 0])
def test_a_truncated_file_is_refused_by_name(imagery, kept):
    (file,) = imagery.path.glob(imagery.file)
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(InputError) as error:
        for item in imagery.find():
            read_window(item.bands["B02"], WHOLE, WHOLE)
    (named,) = imagery.path.glob(imagery.named)
    assert str(named) in str(error.value)


def test_a_file_that_is_damaged_or_missing_after_the_index_is_refused_by_name(imagery):
    (item,) = imagery.find(bands=["B02"])
    (file,) = imagery.path.glob(imagery.file)
    (named,) = imagery.path.glob(imagery.named)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    words = rf"Band B02 of .*{re.escape(str(named))}.* cannot be read at rows 0-48"
    with pytest.raises(InputError, match=words):
        read_window(item.bands["B02"], WHOLE, WHOLE)
    file.unlink()
    if file == named:  # a missing chunk of a Zarr array is nodata
        with pytest.raises(InputError, match=words):
            read_window(item.bands["B02"], WHOLE, WHOLE)
    else:
        assert (read_window(item.bands["B02"], WHOLE, WHOLE)[:16, :24] == 0).all()


def test_a_setting_of_another_format_is_refused(imagery):
    (item,) = imagery.find()
    if item.format != "geotiff":
        with pytest.raises(InputError, match="file_bands names bands of GeoTIFFs"):
            imagery.find(file_bands=["B02"])
        with pytest.raises(InputError, match="convention names bands of GeoTIFFs"):
            imagery.find(convention=PLAIN)
    if item.format not in ("geotiff", "stack"):
        with pytest.raises(InputError, match="leave out reflectance_scale"):
            imagery.find(reflectance_scale=1e-4)


@pytest.mark.parametrize(
    ("files", "product"),
    [
        (["2018/S2A.SAFE/MTD_MSIL2A.xml", "2018/S2A.SAFE/GRANULE/a.jp2"], "2018/S2A.SAFE"),
        (["a/MTD_MSIL2A.xml", "b/MTD_MSIL2A.xml"], "a"),
        (["S2A.zip", "S2B.zip"], "S2A.zip"),
        (["20180401.tif", "20180402.tif"], "20180401.tif"),
        (["2018/20180401_B02.TIFF"], "2018/20180401_B02.TIFF"),
        (["x/SENTINEL2A_1_L2A_2_MTD_ALL.xml", "x/SENTINEL2A_1_FRE_B2.tif"], "x"),
        (["a.nc"], "a.nc"),
        (["a.zarr/zarr.json", "a.zarr/B02/zarr.json", "a.zarr/B02/c/0/0/0"], "a.zarr"),
        (["notes.txt"], None),
    ],
)
def test_one_product_is_the_first(tmp_path, files, product):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = one_product(tmp_path)
    assert found is None if product is None else found.match(str(tmp_path / product))


def test_one_product_is_at_the_place_of_all(imagery):
    found = find_acquisitions(one_product(imagery.path))
    places = [item.grid.bounds for item in imagery.find()]
    assert found
    assert all(item.grid.bounds in places for item in found)
