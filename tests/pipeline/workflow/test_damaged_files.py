"""A file that cannot be read ends with one message that names it, whoever reads it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from geo.errors import InputError, reading
from geo.grid import Grid, read_grids
from geo.imagery.acquisition import read_item
from geo.pixels.pixel_index import PixelIndex
from pipeline.classes.class_mapping import read_declared
from pipeline.classes.crop_class import read_classes, read_names
from pipeline.classes.ledger import read_ledger
from pipeline.dataset.metadata import read_object
from pipeline.dataset.pixel_set_dataset import read_folds
from pipeline.report.scores import read_comparison, read_predictions
from pipeline.stages.ingest import _copy_json
from pipeline.stages.label import _read
from pipeline.stages.rasterise import _read_parcels
from pipeline.workflow.acquisition_table import read_acquisitions
from pipeline.workflow.config import read_record
from pipeline.workflow.paths import RunPaths
from pipeline.workflow.sections import Label
from tests.builders.paths import ROOT


def pixel_index(path):
    grid = Grid("EPSG:32631", 0.0, 0.0, 10.0, 10.0, 4, 4)
    places = np.zeros(1, np.int64)
    PixelIndex(["1"], np.array([0, 1]), places, places, "31UDS", grid).save(path)
    return path.read_bytes()


def comparison(path):
    """Read the scores of a run whose file of folds is at the path."""
    paths = RunPaths(path.parent)
    paths.models.mkdir(exist_ok=True)
    paths.spread.write_text("{}")
    read_comparison(paths, ["other"])


def declared(path):
    read_declared(None, Label(column="CODE", table=path), "crop", None, "refuse", None)


# Who reads it, and under which name.
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
    "META taken over": (lambda path: _copy_json(path, path.with_name("o")), "positions.json"),
    "classes": (read_classes, "classes.json"),
    "ledger": (read_ledger, "ledger.parquet"),
    "parcels": (_read_parcels, "31UDS.parquet"),
    "table of a stage": (lambda path: _read(path, "clean"), "register.parquet"),
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
# What is fine to read: an empty table, or any JSON that is taken over as it is.
FINE = {
    ("META of a dataset", "other JSON"),
    *(("META taken over", way) for way in ("other JSON", "a list")),
    ("record", "other JSON"),
}


# A folder in their place is as good as no file, which need not be there; or, to pandas, a table of
# no files.
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


def test_a_bug_is_not_taken_for_the_file():
    with pytest.raises(ZeroDivisionError), reading(Path("a.json"), "a thing", "Mend it."):
        _ = 1 / 0


def test_the_command_ends_with_the_message_alone(tmp_path):
    grids = tmp_path / "grids.json"
    grids.write_text(json.dumps({"31UDS": {"crs": "EPSG:32631"}}))
    log = tmp_path / "rasterise.log"
    choice = {"all_touched": False, "min_covered_fraction": None, "buffer_m": 0, "min_pixels": 1}
    settings = json.dumps({"parcels": choice})
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pipeline", "rasterise", "--settings", settings),
            *("--log", log, "--parcels", ROOT / "tests", "--grids", grids, "--tile", "31UDS"),
            *("--pixel-index", tmp_path / "i.npz", "--label-image", tmp_path / "l.tif"),
            *("--counts", tmp_path / "counts.parquet"),
        ],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert str(grids) in result.stderr
    assert "is not the grids of tiles" in result.stderr
    assert result.stderr == log.read_text()
