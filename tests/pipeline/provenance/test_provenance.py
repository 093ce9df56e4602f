"""provenance.json, and what `parcelwise verify` says about a run that was changed."""

import hashlib
import json
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from geo.errors import InputError
from pipeline.command_line import main
from pipeline.inspection import verify
from pipeline.provenance import record
from pipeline.provenance.digests import SAMPLE_BYTES, SAMPLES, digest_state
from pipeline.provenance.inputs import imagery_sources, read_inputs
from pipeline.stages.inputs import inputs
from pipeline.stages.provenance import provenance
from pipeline.workflow.config import load
from pipeline.workflow.inputs import named_inputs
from pipeline.workflow.paths import RunPaths
from tests.builders.finished import MACHINE, SOFTWARE, make_finished, read


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return the paths of a run with provenance.json, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(verify, "software", lambda: SOFTWARE)
    monkeypatch.setattr(record, "environment", lambda: SOFTWARE | {"machine": MACHINE})
    made, records = make_finished(tmp_path)
    (tmp_path / "register.gpkg").write_bytes(b"outlines")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "a.tif").write_bytes(bytes(2 * SAMPLES * SAMPLE_BYTES))
    own = RunPaths(made.root.relative_to(tmp_path))
    inputs([Path("register.gpkg")], [], [Path("masks")], [], [], own.inputs)
    provenance(own.root, own.inputs, records, own.provenance)
    return own


def run_verify(capsys, *words):
    code = main(["verify", *map(str, words)])
    return code, capsys.readouterr().out


def test_provenance_says_what_a_run_was_made_from(run):
    found = read(run.provenance)
    assert found["simulated"] is True
    assert found["seeds"] == {"split.seed": 1, "train.seed": 1, "check.seed": 1}
    assert found["settings"]["train"]["epochs"] == 3
    assert found["environments"] == [SOFTWARE | {"machine": MACHINE}]
    split, train = found["jobs"]["split"], found["jobs"]["train/Fold_1"]
    assert (split["seconds"], split["max_memory_mb"], split["environment"]) == (1.5, 80.25, 0)
    assert (train["max_memory_mb"], train["environment"]) == (None, None)
    # Its own digest, logs and hidden files are not in it. The oracle is hashlib on the bytes.
    files = [path for path in run.root.rglob("*") if path.is_file()]
    left_out = {"logs", "benchmarks"}
    expected = {
        path.relative_to(run.root).as_posix(): hashlib.blake2b(path.read_bytes(), digest_size=32)
        for path in files
        if not left_out & set(path.parts) and path.name not in (".digests.json", "provenance.json")
    }
    assert {name: state["blake2b"] for name, state in found["artefacts"].items()} == {
        name: digest.hexdigest() for name, digest in expected.items()
    }
    (register, masks) = read_inputs(run.inputs)
    assert (register.role, register.state.bytes) == ("register", 8)
    assert (masks.role, masks.state.files) == ("cloud masks", 1)
    assert found["inputs"] == read(run.inputs)


def test_a_run_and_its_copy_match(run, tmp_path, capsys):
    code, shown = run_verify(capsys, run.root)
    assert code == 0
    assert "results/hand matches its provenance.json of" in shown
    assert "Not checked: the software of 1 job without a record of it: train" in shown
    copy = tmp_path / "elsewhere" / "copy"
    shutil.copytree(run.root, copy, copy_function=shutil.copyfile)
    (tmp_path / "register.gpkg").unlink()
    code, shown = run_verify(capsys, copy)
    assert code == 0
    assert "Not checked: 1 input not here, such as register.gpkg" in shown


def edit(path, content):
    """Write another content, with the time of the file before."""
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def other_epochs(run):
    path = run.record("train")
    edit(path, path.read_bytes().replace(b'"epochs":3', b'"epochs":4'))


def other_sample(run):
    path = run.root.parent.parent / "masks" / "a.tif"
    edit(path, bytes(2 * SAMPLES * SAMPLE_BYTES - 1) + b"1")


DIFFERENCES = [
    (other_epochs, "settings/train.json has other settings than the run: train.epochs is 4 "),
    (
        lambda run: run.predictions.with_suffix(".csv").unlink(),
        "predictions/parcels.csv is missing. Make it again: snakemake -R predict.",
    ),
    (
        lambda run: edit(run.report, b"<p>"),
        "report/report.html has 3 bytes, and in the run 11 bytes. Make it again: snakemake -R",
    ),
    (
        lambda run: edit(run.report, b"<p>PAGE</p>"),
        "report/report.html has another content than in the run.",
    ),
    (
        lambda run: (run.fold(1) / "model.json").unlink(),
        "models/Fold_1/model.json is missing. Make it again: snakemake -R train.",
    ),
    (
        lambda run: edit(run.root.parent.parent / "register.gpkg", b"outline5"),
        "input register.gpkg (register) has another content than in the run. Restore it, or ",
    ),
    (
        lambda run: (run.root.parent.parent / "masks" / "b.tif").write_bytes(b""),
        "input masks (cloud masks) has 2,097,152 bytes in 2 files, and in the run 2,097,152 bytes "
        "in 1 file.",
    ),
    (other_sample, "input masks (cloud masks) has another content than in the run."),
]


@pytest.mark.parametrize(("change", "message"), DIFFERENCES)
def test_verify_names_what_does_not_match(run, capsys, change, message):
    change(run)
    code, shown = run_verify(capsys, run.root)
    assert code == 1
    assert shown.startswith(message)
    assert shown.count("\n") == 2
    assert "This is the first difference; --all names every one." in shown


def test_verify_can_name_every_difference(run, capsys, monkeypatch):
    other = SOFTWARE | {"packages": {"numpy": "2.5.0"}, "commit": "def"}
    monkeypatch.setattr(verify, "software", lambda: other)
    for change, _ in DIFFERENCES[:2]:
        change(run)
    _, first = run_verify(capsys, run.root)
    code, shown = run_verify(capsys, run.root, "--all")
    assert code == 1
    lines = shown.splitlines()
    assert first.splitlines()[0] == lines[0]
    assert "missing" not in first
    assert lines[0].startswith("settings/train.json has other settings")
    assert lines[1].startswith("predictions/parcels.csv is missing")
    assert lines[2:5] == [
        "numpy is 2.5.0 here, and was 2.4.6 in the run.",
        "torch is not installed here, and was 2.13.0 in the run.",
        "commit of parcelwise is def here, and was abc in the run.",
    ]
    assert lines[5].startswith("5 differences.")


def test_large_inputs_of_another_time_are_named_as_sampled(run, capsys):
    (path,) = (run.root.parent.parent / "masks").iterdir()
    content = bytearray(path.read_bytes())
    content[SAMPLE_BYTES + 5] = 1  # between two samples
    path.write_bytes(content)
    code, shown = run_verify(capsys, run.root)
    assert code == 0
    assert "Not checked: 1 large input of another time than in the run, of which only" in shown


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no provenance.json, which a run writes last. Finish it: parcelwise run FILE"),
        ("{", "provenance.json is not the provenance of a run"),
        ("[]", "provenance.json is not the provenance of a run"),
        ("outside", "is not a path below the folder of the run"),
    ],
)
def test_verify_refuses_what_is_not_a_finished_run(run, capsys, content, message):
    if content is None:
        run.provenance.unlink()
    elif content == "outside":
        values = read(run.provenance)
        values["artefacts"]["../../secret"] = {"bytes": 0, "mtime_ns": 0, "blake2b": ""}
        run.provenance.write_text(json.dumps(values))
    else:
        run.provenance.write_text(content)
    assert main(["verify", str(run.root)]) == 1
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.out == ""


def test_verify_names_the_folder_that_may_be_meant(run, capsys):
    assert main(["verify", "hnd"]) == 1
    assert "There is no run hnd. Did you mean 'hand'? Name one, or its " in capsys.readouterr().err
    assert run_verify(capsys, "hand")[0] == 0


def test_unchanged_files_are_not_digested_again(run, tmp_path, monkeypatch):
    digested = []

    def digest_all(paths, threads):
        digested.extend(path.name for path, _ in paths)
        return [digest_state(path, is_sampled=False) for path, _ in paths]

    monkeypatch.setattr(record, "digest_all", digest_all)
    before = read(run.provenance)["artefacts"]
    run.report.write_text("<p>another page</p>")
    records = sorted(run.settings.rglob("*.json"))
    provenance(run.root, run.inputs, records, run.provenance)
    assert digested == ["report.html"]
    after = read(run.provenance)["artefacts"]
    assert {name for name in before if before[name] != after[name]} == {"report/report.html"}


def test_environments_that_contradict_each_other_are_told_apart(run):
    other = SOFTWARE | {"packages": {"numpy": "2.0.0", "gdal": "3.10"}, "machine": MACHINE}
    for name, own in (
        ("train/Fold_1", other),
        ("split", SOFTWARE | {"packages": {"gdal": "3.11"}, "machine": MACHINE}),
    ):
        run.log(name).parent.mkdir(parents=True, exist_ok=True)
        (run.log(name).with_suffix(".json")).write_text(json.dumps(own))
    provenance(run.root, run.inputs, sorted(run.settings.rglob("*.json")), run.provenance)
    found = read(run.provenance)
    assert found["jobs"]["train/Fold_1"]["environment"] == 1
    packages = [one["packages"] for one in found["environments"]]
    assert packages == [
        {"gdal": "3.11", "numpy": "2.4.6", "torch": "2.13.0"},
        {"numpy": "2.0.0", "gdal": "3.10"},
    ]


@pytest.mark.parametrize("size", [0, 1, SAMPLES * SAMPLE_BYTES, SAMPLES * SAMPLE_BYTES + 1])
def test_samples_of_a_file_notice_its_ends_and_its_size(tmp_path, size):
    path = tmp_path / "a.tif"
    content = np.random.default_rng(1).integers(0, 256, size, np.uint8).tobytes()
    path.write_bytes(content)
    digest = digest_state(path, is_sampled=True).blake2b
    whole = hashlib.blake2b(content, digest_size=32).hexdigest()
    assert (digest == whole) == (size <= SAMPLES * SAMPLE_BYTES)
    for changed in (content + b"1", content[:-1] + b"\x00\x01", b"\x00\x01" + content[1:]):
        path.write_bytes(changed)
        assert digest_state(path, is_sampled=True).blake2b != digest


def test_files_of_a_folder_are_digested_by_name_and_content(tmp_path):
    for name, content in (("b/z.npy", b"1"), ("a.npy", b"2")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    state = digest_state(tmp_path, is_sampled=True)
    assert (state.bytes, state.files) == (2, 2)
    (tmp_path / "a.npy").rename(tmp_path / "c.npy")
    assert digest_state(tmp_path, is_sampled=True).blake2b != state.blake2b


def test_a_database_that_was_only_opened_is_the_same(tmp_path):
    path = tmp_path / "parcels.gpkg"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE parcels (id)")
    digest = digest_state(path, is_sampled=False).blake2b
    before = path.read_bytes()
    with closing(sqlite3.connect(path)) as database:  # as QGIS does
        for mode in ("wal", "delete"):
            database.execute(f"PRAGMA journal_mode={mode}")
            database.execute("SELECT * FROM parcels")
    assert path.read_bytes() != before
    assert digest_state(path, is_sampled=False).blake2b == digest
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("INSERT INTO parcels VALUES (1)")
    assert digest_state(path, is_sampled=False).blake2b != digest


def test_addresses_are_recorded_without_their_signature(tmp_path, monkeypatch):
    class Band:
        source = "https://user:secret@host/a/B02.tif?sig=secret#x"

    class Item:
        bands, masks = {"B02": Band}, {}

    monkeypatch.setattr("pipeline.provenance.inputs.read_item", lambda _: Item)
    assert imagery_sources([tmp_path / "a.json"]) == ["https://host/a/B02.tif"]


def test_the_settings_name_these_inputs(tmp_path):
    for name in ("a.shp", "a.dbf", "a.txt", "names.csv", "masks/m.tif", "old.gdb/a.gdbtable"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    settings = {
        "imagery": {"path": tmp_path},
        "parcels": {"path": tmp_path / "a.shp", "names": tmp_path / "names.csv"},
        "clouds": {"files": tmp_path / "masks"},
    }
    assert named_inputs(load(settings)) == {
        "register": [tmp_path / "a.shp", tmp_path / "a.dbf"],
        "tables": [tmp_path / "names.csv"],
        "masks": [tmp_path / "masks"],
        "dataset": [],
        "weights": [],
    }
    settings["parcels"]["path"] = tmp_path / "old.gdb"
    assert named_inputs(load(settings))["register"] == [tmp_path / "old.gdb"]


def test_a_missing_input_ends_in_one_message(tmp_path):
    with pytest.raises((InputError, OSError), match=r"register\.gpkg"):
        inputs([tmp_path / "register.gpkg"], [], [], [], [], tmp_path / "inputs.json")
