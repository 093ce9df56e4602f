"""Archives as they are delivered: dates, bands, reflectance and clear pixels of each."""

import numpy as np
import pytest

from geo.imagery.acquisition import BANDS
from geo.imagery.cloud_masks import CloudRules
from geo.imagery.discovery import find_acquisitions
from geo.imagery.radiometry import reflectance
from geo.imagery.raster_reading import read_window
from geo.imagery.valid_values import has_data
from tests.builders.archives import ARCHIVES
from tests.builders.items import assert_survive
from tests.builders.tiffs import write_tiff

WHOLE = slice(None)


def write(name, folder, seed=3):
    return list(ARCHIVES[name](folder, np.random.default_rng(seed)))


def assert_equal(found, expected):
    """Check that acquisitions have the dates, pixels and masks that are right."""
    found = sorted(found, key=lambda item: (item.date, item.tile))
    expected = sorted(expected, key=lambda image: (image.day, image.tile))
    assert [(item.date, item.tile) for item in found] == [(i.day, i.tile) for i in expected]
    for item, image in zip(found, expected, strict=True):
        in_order = [band for band in BANDS if band in image.reflectance]
        assert list(item.bands) == in_order
        for name, band in item.bands.items():
            raw = read_window(band, WHOLE, WHOLE)
            right = image.reflectance[name]
            np.testing.assert_array_equal(has_data(band, raw), ~np.isnan(right), err_msg=name)
            values = reflectance(band, raw, raw.dtype)[~np.isnan(right)]
            np.testing.assert_array_equal(values, right[~np.isnan(right)], err_msg=name)
        assert list(item.masks) == ([] if image.clear is None else ["SCL"])
        for name, mask in item.masks.items():
            clear = CloudRules().is_clear(name, read_window(mask, WHOLE, WHOLE), mask)
            np.testing.assert_array_equal(clear, image.clear)


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_are_read_as_they_are_delivered(tmp_path, name):
    expected = write(name, tmp_path / "i")
    found = find_acquisitions(tmp_path / "i")
    assert_equal(found, expected)
    assert_survive(found, tmp_path / "items")


def foreign(folder):
    """Write images that are not bands, dated and undated, beside each file's folder."""
    values = np.ones((1, 12, 16), "float32")
    for path in {file.parent for file in folder.rglob("*.tif*")}:
        write_tiff(path / "20180405_LAI.tif", values)
        write_tiff(path / "dem.tif", values)


def renamed(change):
    def rename(folder):
        for file in sorted(folder.rglob("*")):
            if file.is_file() and (target := change(file)) != file:
                target.parent.mkdir(parents=True, exist_ok=True)
                file.rename(target)

    return rename


SIBLINGS = {
    "a foreign index and a model of the ground": foreign,
    "upper case": renamed(lambda file: file.with_stem(file.stem.upper())),
    "lower case": renamed(lambda file: file.with_stem(file.stem.lower())),
    "another ending": renamed(
        lambda file: file.with_suffix(".TIFF") if file.suffix == ".tif" else file
    ),
    "another version": renamed(
        lambda file: file.with_name(file.name.replace("v2.0", "v2.1").replace("V210", "V220"))
    ),
    "folders by year": renamed(lambda file: file.parent / "2018" / file.name),
}


@pytest.mark.parametrize("sibling", SIBLINGS)
@pytest.mark.parametrize(
    "name", ["HLS S30", "HLS L30", "FORCE", "sits", "Terrascope", "Earth Engine", "common names"]
)
def test_archives_are_also_read_if_their_names_vary(tmp_path, name, sibling):
    if name == "FORCE" and sibling == "folders by year":
        pytest.skip("the tile of FORCE is the name of the folder")
    expected = write(name, tmp_path)
    SIBLINGS[sibling](tmp_path)
    assert_equal(find_acquisitions(tmp_path), expected)
