"""What `parcelwise.extract` returns is the dataset of a run."""

import gc
import logging
import pickle

import geopandas as gpd
import numpy as np
import pytest
import shapely

from geo.errors import InputError
from parcelwise import extract
from parcelwise.extraction import _as_register
from pipeline.workflow.config import load
from tests.builders.runs import opened, prepare_dataset
from tests.builders.tiles import COLUMNS, register, write_scene

IMAGERY = {"bands": ["B02", "B8A"], "radiometry": "trust"}
SETTINGS = {
    "imagery": IMAGERY,
    "parcels": {"id": COLUMNS["ID_PARCEL"], "labels": {"crop": COLUMNS["CODE"]}},
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return write_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="module")
def of_run(scene, tmp_path_factory):
    """Return the dataset of a run, in two UTM zones, with several dates in each."""
    parcels = {**SETTINGS["parcels"], "path": str(scene.register), "classes": {"min_parcels": 2}}
    imagery = {**IMAGERY, "path": str(scene.imagery)}
    settings = load({"imagery": imagery, "parcels": parcels, "split": {"folds": 2}})
    return opened(prepare_dataset(settings, tmp_path_factory.mktemp("run")))


def assert_equal(found, expected):
    assert found.ids == expected.ids
    for own, other in zip(found, expected, strict=True):
        for key, value in other.items():
            np.testing.assert_array_equal(own[key], value, strict=key != "id")


@pytest.mark.slow
def test_a_register_becomes_the_dataset_of_a_run(scene, of_run, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        found = extract(scene.imagery, scene.register, SETTINGS, folder=tmp_path / "kept")
    assert_equal(found, of_run)
    assert [crop.code for crop in found.classes] == ["A", "B"]
    assert found.parcel_dates == of_run.parcel_dates
    # No row disappears without a word.
    assert f"{len(register()) - len(found)} of {len(register())} parcels are not in" in caplog.text
    # The folder can be used again, and as an existing dataset.
    assert_equal(extract(scene.imagery, scene.register, SETTINGS, folder=tmp_path / "kept"), found)
    assert len(list(found.paths.pixels.glob("*.npy"))) == len(found)


@pytest.mark.slow
def test_a_geodataframe_becomes_a_dataset_that_lasts_as_long_as_it_is_used(scene, of_run):
    table = register().set_index(COLUMNS["ID_PARCEL"])
    parcels = {"labels": SETTINGS["parcels"]["labels"]}
    found = extract(str(scene.imagery), table, {"imagery": IMAGERY, "parcels": parcels}, threads=1)
    assert_equal(found, of_run)
    assert_equal(pickle.loads(pickle.dumps(found)), of_run)  # noqa: S301 (as in a DataLoader)
    folder = found.paths.root.parent
    assert folder.is_dir()
    del found
    gc.collect()
    assert not folder.exists()


SQUARE = gpd.GeoDataFrame({"ID": [1]}, geometry=[shapely.box(0, 0, 1, 1)], crs="EPSG:4326")


@pytest.mark.parametrize(
    ("table", "settings", "words"),
    [
        (SQUARE, {"train": {}}, "no use for the settings train; it uses the sections imagery, "),
        (SQUARE, {"parcel": {}}, "Did you mean 'parcels'"),
        (SQUARE, {"parcels": "ID"}, "parcels: expected settings and their values, found 'ID'"),
        (SQUARE, {"imagery": {"path": "x"}}, "imagery.path: the path is the argument imagery"),
        (SQUARE, {"imagery": {"bands": ["B99"]}}, "B99"),
        (SQUARE, {"parcels": {"id": "id"}}, "no column id; it has ID, geometry. Did you mean 'ID'"),
        (SQUARE, {"parcels": {"labels": {"crop": "CODE"}}}, "no column CODE"),
        (SQUARE.set_crs(None, allow_override=True), {}, "no coordinate system: set it by set_crs"),
        (SQUARE.drop(columns="geometry"), {}, "expected a GeoDataFrame or a path, found DataFrame"),
        (SQUARE[["ID", "ID", "geometry"]], {}, "has a column twice: ID"),
        ("missing.gpkg", {}, "parcels.path: there is no missing.gpkg"),
        (SQUARE, {"clouds": {"files": "masks"}}, "clouds.files: there is no masks"),
    ],
)
def test_what_cannot_be_used_is_refused_before_work_begins(table, settings, words, tmp_path):
    (tmp_path / "imagery").mkdir()
    (tmp_path / "imagery" / "file.tif").touch()
    with pytest.raises(InputError, match=words):
        extract(tmp_path / "imagery", table, settings)


def test_a_folder_with_other_files_is_not_written_to(tmp_path):
    (tmp_path / "mine.txt").touch()
    for folder, words in (
        (tmp_path, r"other files \(mine.txt\)"),
        (tmp_path / "mine.txt", "a file"),
    ):
        with pytest.raises(InputError, match=f"{words}: give an empty or new folder"):
            extract(tmp_path, SQUARE, folder=folder)


def test_a_folder_can_be_used_again_after_a_refusal(tmp_path):
    (tmp_path / "imagery").mkdir()
    (tmp_path / "imagery" / "file.tif").touch()
    for _ in range(2):
        with pytest.raises(InputError, match=r"file\.tif"):  # after the register was written
            extract(tmp_path / "imagery", SQUARE, folder=tmp_path / "kept")
    assert (tmp_path / "kept" / "parcels.parquet").is_file()
    with pytest.raises(InputError, match="threads: expected at least 1"):
        extract(tmp_path / "imagery", SQUARE, threads=0)


def test_ids_are_text_whatever_their_type(tmp_path):
    """Parquet has no columns of several types; geopandas reads integers with gaps as floats."""
    table = gpd.GeoDataFrame(
        {"ID": [7, "b"], "CODE": [2.0, np.nan]}, geometry=[*SQUARE.geometry] * 2
    )
    table = table.set_crs(SQUARE.crs)
    path = tmp_path / "register.parquet"
    for own, options, expected in (
        (table, {"id": "ID"}, ["7", "b"]),
        (table.set_index("CODE"), {}, ["2", ""]),
        (table.set_index("ID"), {"labels": {"crop": "CODE"}}, ["7", "b"]),
    ):
        settings = _as_register(own, options, path)
        written = gpd.read_parquet(path)
        assert written[settings["id"]].tolist() == expected
        assert written.crs == table.crs
        assert ("CODE" in written) == ("labels" in options)
