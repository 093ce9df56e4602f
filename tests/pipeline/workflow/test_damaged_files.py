"""Every reader names a file that it cannot read, in one message."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from geo.errors import InputError, reading
from geo.grid import Grid, read_grids
from geo.imagery.acquisition import read_item
from geo.pixels.pixel_index import PixelIndex
from geo.register.placement import read_placed
from pipeline.classes.class_mapping import read_declared
from pipeline.classes.crop_class import read_classes, read_names
from pipeline.classes.ledger import read_ledger
from pipeline.dataset.metadata import read_object
from pipeline.dataset.pixel_set_dataset import read_folds
from pipeline.report.divisions import read_comparison
from pipeline.report.scores import read_predictions
from pipeline.stages.label import _read
from pipeline.workflow.acquisition_table import read_acquisitions
from pipeline.workflow.config import read_record
from pipeline.workflow.paths import RunPaths
from pipeline.workflow.sections.parcels import Label


def pixel_index(path):
    grid = Grid("EPSG:32631", 0.0, 0.0, 10.0, 10.0, 4, 4)
    places = np.zeros(1, np.int64)
    PixelIndex(["1"], np.array([0, 1]), places, places, "31UDS", grid).save(path)
    return path.read_bytes()


def comparison(path):
    """Read the scores of the run with these folds."""
    paths = RunPaths(path.parent)
    paths.models.mkdir(exist_ok=True)
    paths.spread.write_text("{}")
    read_comparison(paths, ["other"])


def declared(path):
    read_declared(None, Label(column="CODE", table=path), "crop", None, "refuse", None)


# {what: (reader, file name)}.
READERS = {
    "grids": (read_grids, "grids.json"),
    "pixel index": (PixelIndex.load, "31UDS.npz"),
    "folds": (read_folds, "folds.json"),
    "names": (read_names, "names.csv"),
    "table of codes": (declared, "codes.csv"),
    "record": (lambda path: read_record([path]), "train.json"),
    "predictions": (read_predictions, "parcels.parquet"),
    "compared run": (comparison, "folds.json"),
    "META of a dataset": (lambda path: read_object(path, optional=True), "dataset.json"),
    "classes": (read_classes, "classes.json"),
    "ledger": (read_ledger, "ledger.parquet"),
    "parcels": (read_placed, "31UDS.parquet"),
    "table of a stage": (lambda path: _read(path, "row"), "register.parquet"),
    "acquisitions": (read_acquisitions, "acquisitions.json"),
    "acquisition": (read_item, "S2A.json"),
}
SPOILED = {
    "empty": b"",
    "binary": bytes(range(256)) * 20,
    "Latin-1": "code,name\n1,\xe9t\xe9\n".encode("latin-1"),
    "cut JSON": b'{"31UDS": {"crs"',
    "other JSON": b'{"31UDS": 3}',
    "a list": b"[3]",
}
# Not damaged for these readers, which accept any JSON or any JSON object.
FINE = {
    ("META of a dataset", "other JSON"),
    *(("META taken over", way) for way in ("other JSON", "a list")),
    ("record", "other JSON"),
}


# These files are optional, and a folder counts as a missing file. Or pandas reads them, and takes a
# folder for a table without rows.
WITHOUT_FILE = {
    *("META of a dataset", "META taken over", "compared run", "record"),
    *("ledger", "table of a stage"),
}


@pytest.mark.parametrize(
    ("reader", "way"), [(r, w) for r in READERS for w in SPOILED if (r, w) not in FINE]
)
def test_a_damaged_file_is_named(tmp_path, reader, way):
    read, name = READERS[reader]
    path = tmp_path / name
    path.write_bytes(SPOILED[way])
    with pytest.raises(InputError) as error:
        read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("reader", [r for r in READERS if r not in WITHOUT_FILE])
def test_a_folder_in_place_of_a_file_is_named(tmp_path, reader):
    read, name = READERS[reader]
    path = tmp_path / name
    path.mkdir()
    with pytest.raises((InputError, OSError), match=name):
        read(path)


def test_a_pixel_index_that_is_cut_is_named(tmp_path):
    path = tmp_path / "31UDS.npz"
    whole = pixel_index(path)
    assert PixelIndex.load(path).parcel_ids == ["1"]
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"31UDS\.npz is not a pixel index: .*snakemake -R"):
        PixelIndex.load(path)


def test_a_missing_key_is_named():
    with pytest.raises(InputError, match=r"a\.json is not a thing: it lacks 'b'\. Mend it\."), \
            reading(Path("a.json"), "a thing", "Mend it."):  # fmt: skip
        _ = {}["b"]


def test_a_bug_is_not_reported_as_a_damaged_file():
    with pytest.raises(ZeroDivisionError), reading(Path("a.json"), "a thing", "Mend it."):
        _ = 1 / 0


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EMFILE, errno.EIO])
def test_an_error_of_the_machine_is_not_blamed_on_the_file(number):
    with pytest.raises(OSError, match=os.strerror(number)), reading("a.npy", "a thing", "Mend it."):
        raise OSError(number, os.strerror(number))
