"""Inputs are checked before a run starts, and only if they have changed since a run started."""

import subprocess
import sys

import geopandas as gpd
import pytest
import yaml
from shapely import box

from geo.errors import InputError
from pipeline.inspection.check import check
from pipeline.workflow import snakefile
from pipeline.workflow.config import load, merged
from pipeline.workflow.paths import RunPaths
from pipeline.workflow.snakefile import check_target, freeze, refuse_unlabelled, start
from tests.builders.models import save_models
from tests.builders.paths import ROOT
from tests.builders.pixel_sets import BANDS, make, write
from tests.builders.runs import snakemake


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return the current folder: a register, a table of codes, and weights."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imagery").mkdir()
    (tmp_path / "imagery" / "20220403.tif").write_bytes(b"")
    (tmp_path / "register.shp").write_bytes(b"shapes")
    (tmp_path / "register.dbf").write_bytes(b"codes")
    (tmp_path / "codes.csv").write_text("code,class\n")
    save_models(tmp_path / "weights", members=1)
    return tmp_path


VALUES = {
    "run": "mine",
    "imagery": {"path": "imagery", "bands": BANDS},
    "parcels": {
        "path": "register.shp",
        "labels": {"crop": {"column": "CODE", "table": "codes.csv"}},
    },
    "predict": {"weights": "weights"},
}


@pytest.fixture
def checks(monkeypatch):
    """Return the list of checks that were started; nothing is checked."""
    calls = []

    def run(command, **_):
        calls.append(command)
        return subprocess.CompletedProcess(command, 0, stderr="")

    monkeypatch.setattr(snakefile.subprocess, "run", run)
    return calls


def test_inputs_are_checked_again_only_if_they_have_changed(folder, checks):
    def begin(**over):
        checks.clear()
        return start([], merged(VALUES, over), ROOT, is_main=True)

    begin()
    settings = begin()
    assert len(checks) == 1, "a dry run leaves no record"
    assert not (folder / "results").exists()
    freeze(settings, [])
    begin()
    assert checks == []
    begin(train={"epochs": 3})
    assert checks == []
    start([], VALUES, ROOT, is_main=False)
    assert checks == []
    begin(parcels={"id": "ID"})
    assert len(checks) == 1
    for name in ("register.shp", "register.dbf", "codes.csv", "weights/Fold_2/model.json"):
        freeze(settings, [])
        begin()
        assert checks == []
        path = folder / name
        path.write_bytes(path.read_bytes() + b" ")
        begin()
        assert len(checks) == 1, name
    assert checks[0][:4] == [sys.executable, "-P", "-m", "pipeline.inspection.check"]


def test_what_the_check_says_ends_the_process(folder, monkeypatch, capsys):
    def run(command, **_):
        text = "pipeline.check: register.shp has no rows."
        return subprocess.CompletedProcess(command, code, stderr=f"{text}\n")

    monkeypatch.setattr(snakefile.subprocess, "run", run)
    code = 1
    with pytest.raises(SystemExit) as end:
        start([], VALUES, ROOT, is_main=True)
    assert end.value.code == "\nregister.shp has no rows."
    code = 0
    start([], VALUES, ROOT, is_main=True)
    assert capsys.readouterr().err == "register.shp has no rows.\n"


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("run: a\n\nrun: b", [], r"settings.yaml is not YAML: the key run is .*lines 1 and 3"),
        ("run: mine", ["--cores", "2", "-R", "extrct"], r"'extrct' is .* Did you mean 'extract'"),
        ("run: mine", ["--until", "labl"], r"'labl' is neither .*Did you mean 'label'"),
        (
            "run: mine",
            ["--omit-from", "clean", "soil"],
            r"'soil' is neither .* Known are all, areas, as",
        ),
        ("run: mine", ["-R", "train", "label"], r"nothing is trained"),
    ],
)
def test_settings_and_stages_are_checked_under_plain_snakemake(
    folder, checks, monkeypatch, text, words, message
):
    path = folder / "settings.yaml"
    path.write_text(text)
    monkeypatch.setattr(sys, "argv", ["snakemake", *words])
    with pytest.raises(SystemExit, match=message):
        start([path], VALUES, ROOT, is_main=True)
    assert checks == []


@pytest.mark.parametrize("words", [["-R", "extract", "-n"], ["-R", "-n"], ["--until=label"], []])
def test_stages_can_be_named(folder, checks, monkeypatch, words):
    monkeypatch.setattr(sys, "argv", ["snakemake", *words])
    assert start([], VALUES, ROOT, is_main=True, cores=1).run == "mine"


@pytest.mark.parametrize("name", ["results", "results/mine"])
@pytest.mark.parametrize("is_link", [False, True])
def test_results_must_be_a_folder(folder, checks, name, is_link):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.symlink_to("nowhere") if is_link else path.write_text("")
    what = "a link to nowhere" if is_link else "a file"
    with pytest.raises(SystemExit, match=f"{path} is {what}, not a folder"):
        start([], VALUES, ROOT, is_main=True)


def test_no_job_runs_without_cores(folder, checks):
    with pytest.raises(SystemExit, match="--cores must be at least 1, or all"):
        start([], VALUES, ROOT, is_main=True, cores=0)


@pytest.mark.parametrize("target", ["models", "split", "calibrate", "evaluate", "train", "season"])
def test_with_existing_weights_there_is_no_training(target):
    with pytest.raises(InputError, match=r"predict.weights is set: .* nothing is trained. Choose"):
        check_target(target, load(VALUES))
    check_target("predictions", load(VALUES))


def test_with_a_second_division_stages_of_both_are_no_targets():
    trained = {key: value for key, value in VALUES.items() if key != "predict"}
    check_target("evaluate", load(trained))
    both = load(trained | {"split": {"also": "block"}})
    for target in ("split", "calibrate", "evaluate"):
        with pytest.raises(InputError, match=r"runs once per division into folds .* cannot be a"):
            check_target(target, both)
        check_target(target, both, is_alone=False)
    for target in ("models", "variogram"):
        check_target(target, both)


def reference_weights(folder):
    """Write weights of the reference: models without a description."""
    save_models(folder / "reference", members=1)
    for path in folder.glob("reference/Fold_*/model.json"):
        path.unlink()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dataset": {"classes": ["barley", "maize"]}}, "predicts 3 classes, the settings name 2"),
        ({"dataset": {"bands": ["B02"]}}, "have 4 channels, but 1 bands are named"),
        ({"model": {"pooling": "mean_std_min_max"}}, "Set model.pooling to that of the training"),
        ({}, None),
    ],
)
def test_weights_of_the_reference_are_checked(tmp_path, values, message):
    make(tmp_path / "existing", 30)
    reference_weights(tmp_path)
    settings = load(
        merged(
            {
                "dataset": {
                    "path": str(tmp_path / "existing"),
                    "bands": BANDS,
                    "classes": ["barley", "maize", "wheat"],
                },
                "predict": {"weights": str(tmp_path / "reference")},
            },
            values,
        )
    )
    if message is None:
        check(settings)
        return
    with pytest.raises(InputError, match=message):
        check(settings)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("code\nwheat\n", "codes.csv lacks 1 codes .*'maize' .1 parcels"),
        ("code\nwheat\nmaize", None),
    ],
)
def test_with_imagery_on_a_server_every_code_must_be_in_the_table(tmp_path, table, message):
    outlines = gpd.GeoDataFrame(
        {"ID_PARCEL": [1, 2], "CODE": ["wheat", "maize"]},
        geometry=[box(i, 0, i + 1, 1) for i in (0, 2)],
        crs=32631,
    )
    outlines.to_file(tmp_path / "register.gpkg")
    (tmp_path / "codes.csv").write_text(table)
    label = {"column": "CODE", "table": str(tmp_path / "codes.csv")}
    parcels = {"path": str(tmp_path / "register.gpkg"), "labels": {"crop": label}}
    values = {"imagery": {"path": "http://127.0.0.1:9/", "collections": ["s2"]}}
    save_models(tmp_path / "weights", members=1)
    settings = load(values | {"parcels": parcels, "predict": {"weights": f"{tmp_path}/weights"}})
    if message is None:
        check(settings)
        return
    with pytest.raises(InputError, match=message):
        check(settings)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"set parcels\.labels to .* target dataset, or set predict\.weights"),
        ({"labels": {"crop": "CODE"}}, None),
        ({"path": "fiboa.geojson"}, None),
        ({"path": None}, r"write .*existing/META/labels\.json"),
        ({"path": None, "codes": {"1": None, "2": ""}}, r"write .*existing/META/labels\.json"),
        ({"path": None, "codes": {"1": None, "2": 0}}, None),
    ],
)
def test_training_without_labels_is_refused_before_anything_is_made(
    tmp_path, monkeypatch, values, message
):
    monkeypatch.chdir(tmp_path)
    outlines = gpd.GeoDataFrame({"id": ["a"]}, geometry=[box(0, 0, 1, 1)], crs=4326)
    outlines.to_file("plain.geojson")
    outlines.assign(**{"crop:code": "wheat"}).to_file("fiboa.geojson")
    make(tmp_path / "existing", labelled=0)
    parcels = {"path": "plain.geojson", **values}
    if parcels["path"] is None:
        labels = {"crop": values.get("codes", {}), "other": {"1": "wheat"}}
        write(tmp_path / "existing" / "META" / "labels.json", labels)
        settings = load({"dataset": {"path": tmp_path / "existing"}})
    else:
        settings = load({"imagery": {"path": "imagery"}, "parcels": parcels})
    if message is None:
        refuse_unlabelled(settings)
        return
    with pytest.raises(InputError, match=message):
        refuse_unlabelled(settings)
    folds = RunPaths.of(settings.run).folds
    folds.parent.mkdir(parents=True)
    folds.write_text("{}")
    refuse_unlabelled(settings)


@pytest.mark.slow
def test_a_dry_run_of_wrong_inputs_fails_with_one_message(tmp_path):
    make(tmp_path / "existing")
    settings = {"run": "small", "dataset": {"path": "existing", "bands": BANDS}}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    result = snakemake(tmp_path, "-n", check=False)
    assert result.returncode == 1
    message = "0 classes have at least 30 parcels, and a model needs two: 'barley' (20)"
    output = result.stdout + result.stderr
    assert output.count(message) == 1
    assert "Traceback" not in output
    assert len(output.splitlines()) < 8
    assert not RunPaths(tmp_path / "results").root.exists()
    dataset = {"classes": {"min_parcels": 5}}
    assert snakemake(tmp_path, "-n", dataset=dataset).returncode == 0
    assert not RunPaths(tmp_path / "results").root.exists()
