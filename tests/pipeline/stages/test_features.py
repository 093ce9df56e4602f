"""Geometric features by hand and one parcel at a time."""

import json

import geopandas as gpd
import numpy as np
import pytest
import shapely

from geo.errors import InputError
from geo.grid import Grid
from geo.pixels.pixel_index import index_pixels
from pipeline.stages.features import features, measures, shape_features

GRID = Grid("EPSG:32631", 0.0, 40.0, 10.0, 10.0, 4, 4)
# A square of 2 x 2 pixels, and an L of 3 pixels in a bounding box of 2 x 2.
SQUARE = shapely.box(0, 20, 20, 40)
ANGLE = shapely.Polygon([(20, 0), (40, 0), (40, 10), (30, 10), (30, 20), (20, 20)])


def index(geometries):
    return index_pixels(np.array(geometries), [f"p{i}" for i in range(len(geometries))], GRID, "T")


def test_features_by_hand():
    found = shape_features(measures(np.array([SQUARE, ANGLE])), index([SQUARE, ANGLE]))
    np.testing.assert_allclose(found, [[80, 4, 1.0, 80 / 400], [80, 3, 0.75, 80 / 300]])


def test_holes_change_perimeter_area_and_cover():
    ring = shapely.box(0, 10, 30, 40).difference(shapely.box(10, 20, 20, 30))
    found = shape_features(measures(np.array([ring])), index([ring]))
    np.testing.assert_allclose(found, [[120 + 40, 8, 8 / 9, 160 / 800]])


def test_features_equal_those_of_single_parcels():
    rng = np.random.default_rng(3)
    grid = Grid("EPSG:32631", 0.0, 500.0, 10.0, 10.0, 50, 50)
    geometries = shapely.buffer(
        shapely.points(rng.uniform(100, 400, (30, 2))), rng.uniform(10, 90, 30)
    )
    found = index_pixels(geometries, list(map(str, range(30))), grid, "T")
    for i, row in enumerate(shape_features(measures(geometries), found)):
        part = slice(found.offsets[i], found.offsets[i + 1])
        rows, cols = found.rows[part], found.cols[part]
        polygon = geometries[i]
        expected = [
            polygon.length,
            len(rows),
            len(rows) / ((np.ptp(rows) + 1) * (np.ptp(cols) + 1)),
            polygon.length / polygon.area,
        ]
        np.testing.assert_allclose(row, expected)


def test_without_parcels_there_are_no_features():
    assert shape_features(measures(np.array([])), index([])).shape == (0, 4)


def test_features_and_positions_are_those_of_the_dataset(tmp_path):
    parcels = tmp_path / "T.parquet"
    table = gpd.GeoDataFrame(
        {"row": [0, 1], "parcel_id": ["p0", "p1"]}, geometry=[SQUARE, ANGLE], crs=GRID.crs
    )
    table.to_parquet(parcels)
    index([SQUARE, ANGLE]).save(tmp_path / "index.npz")
    paths = tmp_path / "META" / "geomfeat.json", tmp_path / "META" / "positions.json"
    (tmp_path / "META").mkdir()
    (tmp_path / "META" / "sizes.json").write_text('{"p0": 4, "p1": 2}')
    (tmp_path / "META" / "tiles.json").write_text('["T"]')
    features(tmp_path, [tmp_path / "index.npz"], tmp_path, *paths)
    found, positions = (json.loads(path.read_text()) for path in paths)
    assert found == {"p0": [80.0, 4.0, 1.0, 0.2], "p1": pytest.approx([80, 3, 0.75, 80 / 300])}
    assert list(positions) == ["p0", "p1"]
    assert shapely.Point(positions["p0"]).within(SQUARE)
    assert shapely.Point(positions["p1"]).within(ANGLE)

    # The tile may have further parcels, in another order.
    more = {"row": [2, 1, 0], "parcel_id": ["few", "p1", "p0"]}
    gpd.GeoDataFrame(more, geometry=[SQUARE, ANGLE, SQUARE], crs=GRID.crs).to_parquet(parcels)
    features(tmp_path, [tmp_path / "index.npz"], tmp_path, *paths)
    assert [json.loads(path.read_text()) for path in paths] == [found, positions]

    # Parcels outside the dataset have no features; the others count all pixels of the outline.
    (tmp_path / "META" / "sizes.json").write_text('{"p1": 2}')
    features(tmp_path, [tmp_path / "index.npz"], tmp_path, *paths)
    assert [json.loads(path.read_text()) for path in paths] == [
        {"p1": found["p1"]}, {"p1": positions["p1"]},
    ]  # fmt: skip


def test_an_index_of_other_parcels_is_refused(tmp_path):
    parcels = tmp_path / "T.parquet"
    table = gpd.GeoDataFrame({"row": [0], "parcel_id": ["p0"]}, geometry=[SQUARE], crs=GRID.crs)
    table.to_parquet(parcels)
    index([SQUARE, ANGLE]).save(tmp_path / "index.npz")
    (tmp_path / "META").mkdir()
    (tmp_path / "META" / "sizes.json").write_text('{"p0": 4}')
    (tmp_path / "META" / "tiles.json").write_text('["T"]')
    with pytest.raises(
        InputError,
        match=r"was not made from.*2 parcels.* 1 are not there, such as p1\. .*rasterise",
    ):
        features(tmp_path, [tmp_path / "index.npz"], tmp_path, *[tmp_path / "a.json"] * 2)
    index([shapely.box(0, 0, 1, 1)]).save(tmp_path / "index.npz")
    with pytest.raises(InputError, match=r"1 parcels \(0 with pixels\)"):
        features(tmp_path, [tmp_path / "index.npz"], tmp_path, *[tmp_path / "a.json"] * 2)
