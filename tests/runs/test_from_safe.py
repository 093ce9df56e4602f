"""The whole workflow for real, on a small simulated scene; then what reruns, and what does not."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
import yaml

from tests.builders.paths import ROOT
from tests.builders.runs import opened, snakemake

RUN = Path("results") / "small"
SCENE = {"size_m": 1280, "acquisitions": 5, "parcels": 60, "seed": 3}
SETTINGS = {
    "run": "small",
    "imagery": {"path": "imagery", "max_cloud_fraction": 1.0},
    "parcels": {
        "path": "register.gpkg",
        "labels": {"crop": "CODE_CULTU"},
        "names": str(ROOT / "configs" / "nomenclatures" / "simulated.csv"),
        "classes": {"min_parcels": 4},
    },
    "split": {"folds": 3},
    "train": {"epochs": 2, "batch_size": 16, "pixels": 8, "members": 2},
}


def planned(folder, **settings):
    """Jobs that a run would do: {rule: how many}."""
    output = snakemake(folder, "-n", **settings)
    text = output.stdout + output.stderr
    if "Nothing to be done" in text:
        return {}
    table = text[text.index("Job stats:") :].split("\n\n")[0]
    return {rule: int(n) for rule, n in re.findall(r"^(\w+)\s+(\d+)$", table, re.M)}


def started(folder, *options, **arguments):
    """Start the workflow and do not wait for it."""
    command = [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")),
        *("--directory", str(folder), "--configfile", str(folder / "settings.yaml"), *options),
    ]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, env={**os.environ, "PATH": path}, **silent, **arguments)


def content(path):
    """Bytes of a file; of a GeoPackage, which says when it was written, all but the times."""
    if path.suffix != ".gpkg":
        return path.read_bytes()
    with sqlite3.connect(path) as database:
        return re.sub(r"'\d{4}-\d\d-\d\dT[\d:.]+Z'", "'time'", "\n".join(database.iterdump()))


def artefacts(folder):
    """Content of everything that a run leaves for the user."""
    kept = (".npy", ".json", ".csv", ".pkl", ".npz", ".tar", ".gpkg", ".parquet", ".html", ".tif")
    return {
        path.relative_to(folder): content(path)
        for path in sorted((folder / RUN).rglob("*"))
        if path.is_file() and path.name.endswith(kept)
    }


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """A folder with imagery, register and settings."""
    folder = tmp_path_factory.mktemp("inputs")
    from demo import simulate

    simulate(folder / "imagery", folder / "register.gpkg", **SCENE)
    (folder / "settings.yaml").write_text(yaml.safe_dump(SETTINGS))
    return folder


def copied(source, target):
    """Copy a run with its times, which Snakemake compares."""
    shutil.copytree(source, target, dirs_exist_ok=True, copy_function=shutil.copy2)
    for path in [source, *source.rglob("*")]:
        stat = path.stat()
        os.utime(target / path.relative_to(source), ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return target


@pytest.fixture(scope="session")
def finished(inputs, tmp_path_factory):
    """A run from raw products to report."""
    folder = copied(inputs, tmp_path_factory.mktemp("finished"))
    snakemake(folder, "--cores", "2")
    return folder


def test_every_input_parcel_comes_out(finished):
    register = geopandas.read_file(finished / "register.gpkg")
    path = finished / RUN / "predictions" / "parcels.gpkg"
    table = pd.read_parquet(path.with_suffix(".parquet"))
    assert len(register) == len(table)
    # Points and lines are in a layer of their own.
    is_other = register.geom_type.isin(["Point", "LineString"])
    for layer, given in (
        ("parcels_not_polygons", register[is_other]),
        ("parcels", register[~is_other]),
    ):
        predictions = geopandas.read_file(path, layer=layer)
        assert len(predictions) == len(given) > 1
        assert predictions.crs == register.crs
        given, written = given.geometry.reset_index(drop=True), predictions.geometry
        assert (given.isna() == written.isna()).all()
        assert given.dropna().geom_equals(written.dropna()).all()
    usable = predictions["status"] != "rejected"
    assert (predictions["pred_code"].notna() == usable).all()
    assert (predictions.loc[~usable, "reason"] != "").all()
    assert predictions.loc[usable, "confidence"].between(0, 1).all()
    assert (predictions["confidence"].dropna() >= predictions["confidence2"].dropna()).all()


def test_no_parcel_is_judged_by_a_model_that_saw_it(finished):
    predictions = pd.read_parquet(finished / RUN / "predictions" / "parcels.parquet")
    folds = json.loads((finished / RUN / "folds.json").read_text())["folds"]
    trained = {i for fold in folds for role in fold.values() for i in role}
    accepted = predictions[predictions["status"] != "rejected"].set_index("parcel_id")
    assert set(accepted.index[accepted["pred_source"] == "out_of_fold"]) == trained
    assert (
        set(accepted.index[accepted["pred_source"] == "ensemble"]) == set(accepted.index) - trained
    )
    tested = [i for fold in folds for i in fold["test"]]
    assert sorted(tested) == sorted(trained)
    for fold in folds:
        assert not set(fold["test"]) & (set(fold["train"]) | set(fold["validation"]))


def test_predictions_are_those_of_the_fold_and_scores_those_of_the_predictions(finished):
    import torch

    from models.crop_model import CropModel
    from pipeline.dataset.model_inputs import read_inputs
    from pipeline.workflow.paths import RunPaths

    run = RunPaths(finished / RUN)
    table = pd.read_parquet(run.predictions.with_suffix(".parquet"))
    table = table[table["status"] == "used"].set_index("parcel_id")
    for number, fold in enumerate(opened(run).folds(run.folds), 1):
        trained = CropModel.load(run.fold(number), torch.device("cpu"))
        data = read_inputs(opened(run), [trained], opened(run).classes)
        # The members' mean log-probabilities do not add up to 1; the confidences do.
        odds = np.exp(trained.log_probabilities(data, fold.test, 512))
        written = table.loc[[data.ids[i] for i in fold.test], "confidence"]
        np.testing.assert_allclose(odds.max(axis=1) / odds.sum(axis=1), written, atol=1e-4)
    right = (table["pred_code"] == table["declared_code"]).mean()
    assert json.loads(run.overall.read_text())["Accuracy"] == pytest.approx(right)


def test_the_geopackage_says_that_it_is_simulated(finished):
    with sqlite3.connect(finished / RUN / "predictions" / "parcels.gpkg") as database:
        (description,) = database.execute("SELECT description FROM gpkg_contents").fetchone()
    assert "SIMULATED" in description
    assert "imulated" in (finished / RUN / "report" / "report.html").read_text()


def test_a_second_run_has_nothing_to_do(finished):
    assert planned(finished) == {}


def test_more_epochs_rerun_from_train_on(finished):
    jobs = planned(finished, train={**SETTINGS["train"], "epochs": 3})
    assert set(jobs) == {"train", "evaluate", "predict", "report", "all", "total"}
    assert jobs["train"] == 3


def test_other_bands_rerun_from_extract_on(finished, tmp_path):
    folder = copied(finished, tmp_path)
    before = written(folder)
    imagery = {**SETTINGS["imagery"], "bands": ["B04", "B08"]}
    snakemake(folder, "dataset", "--cores", "2", imagery=imagery)
    after = written(folder)
    assert {path for path in before if path.parts[0] == "extracted"} <= set(after)
    assert all(after[p] != before[p] for p in after if p.parts[0] == "extracted")
    # Other pixels can be without data with other bands: label and names run again.
    for name in ("ledger.csv", "ledger.parquet", "classes.json", "classes.csv"):
        before.pop(Path("parcels") / name)
    assert "parcels" not in {p.parts[0] for p in before if before[p] != after[p]}
    parcel = next((folder / RUN / "dataset" / "DATA").iterdir())
    assert np.load(parcel).shape[1] == 2


# What shows names, and what is made of classes.
SHOWING = {"evaluate", "predict", "report", "all", "total"}
LEARNING = {"label", "names", "split", "train", *SHOWING}


@pytest.mark.parametrize(
    ("parcels", "jobs"),
    [
        ({"names": "names.csv"}, {"names", *SHOWING}),
        ({"classes": {"min_parcels": 5}}, LEARNING),
        ({"other_class": "other"}, LEARNING),
        ({"nomenclature": "crop", "labels": {"crop": "CODE_CULTU"}}, LEARNING),
        ({"labels": {"crop": {"column": "CODE_CULTU", "table": "codes.csv"}}}, LEARNING),
        ({"labels": {"a": "CODE_CULTU", "b": "CODE_CULTU"}, "nomenclature": "b"}, LEARNING),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_what_a_change_of_the_parcels_reruns(finished, tmp_path, parcels, jobs):
    folder = copied(finished, tmp_path)
    for table in ("codes.csv", "names.csv"):
        (folder / table).write_text("code,name\nBTH,wheat\n")
    assert set(planned(folder, parcels={**SETTINGS["parcels"], **parcels})) == jobs


def test_other_names_rerun_only_what_shows_them(finished, tmp_path):
    folder = copied(finished, tmp_path)
    names = Path(SETTINGS["parcels"]["names"]).read_text().replace("winter wheat", "renamed wheat")
    (folder / "names.csv").write_text(names)
    before = written(folder)
    parcels = {**SETTINGS["parcels"], "names": "names.csv"}
    snakemake(folder, "--cores", "2", parcels=parcels)
    after = written(folder)
    changed = {p.as_posix() for p in after if after[p] != before.get(p)}
    kept = ("extracted/", "dataset/DATA", "dataset/pixels", "parcels/tiles", "folds.json")
    assert not [path for path in changed if path.startswith(kept)]
    assert not [path for path in changed if path.endswith(("model.json", "model.pth.tar"))]
    assert "dataset/META/labels.json" not in changed
    assert {"dataset/META/names.json", "parcels/classes.csv"} <= changed
    assert "renamed wheat" in (folder / RUN / "report" / "report.html").read_text()
    assert "renamed wheat" in (folder / RUN / "predictions" / "parcels.csv").read_text()
    assert planned(folder, parcels=parcels) == {}


def test_another_column_reruns_label_and_no_extraction(finished, tmp_path):
    folder = copied(finished, tmp_path)
    labels = {"crop": "CODE_CULTU", "id": "ID_PARCEL"}
    parcels = {**SETTINGS["parcels"], "labels": labels}
    assert set(planned(folder, parcels=parcels)) == LEARNING
    snakemake(folder, "dataset", "--cores", "2", parcels=parcels)
    labels = json.loads((folder / RUN / "dataset" / "META" / "labels.json").read_text())
    assert {i: str(code) for i, code in labels["id"].items()} == {i: i for i in labels["crop"]}


def written(folder):
    """When each artefact was written: {path: time}."""
    return {
        path.relative_to(folder / RUN): path.stat().st_mtime_ns
        for path in (folder / RUN).rglob("*.*")
        if path.is_file() and path.suffix in (".npy", ".npz", ".parquet", ".csv", ".json")
    }


def test_a_new_acquisition_extracts_one(inputs, finished, tmp_path):
    folder = copied(inputs, tmp_path)
    products = sorted((folder / "imagery").glob("*.SAFE"))
    late = products[2].rename(folder / products[2].name)
    snakemake(folder, "dataset", "--cores", "2")
    extracted = {p: p.stat().st_mtime_ns for p in (folder / RUN / "extracted").iterdir()}
    pixel_index = folder / RUN / "parcels" / "pixel_index"
    indexed = {p: p.stat().st_mtime_ns for p in pixel_index.iterdir()}
    assert len(indexed) == 2  # index and counts
    assert len(extracted) == 2 * (SCENE["acquisitions"] - 1)
    late.rename(products[2])
    snakemake(folder, "dataset", "--cores", "2")
    again = {p: p.stat().st_mtime_ns for p in (folder / RUN / "extracted").iterdir()}
    assert len(again) == 2 * SCENE["acquisitions"]
    assert {p: again[p] for p in extracted} == extracted
    assert {p: p.stat().st_mtime_ns for p in pixel_index.iterdir()} == indexed
    # And the dataset is that of a run that had all of them from the start.
    for path, content in artefacts(folder).items():
        if "dataset" in path.parts:
            assert content == (finished / path).read_bytes(), path


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(inputs, finished, tmp_path):
    folder = copied(inputs, tmp_path)
    run = started(folder, "--cores", "2", start_new_session=True)
    try:
        while run.poll() is None and not (folder / RUN / "models" / "Fold_1").exists():
            time.sleep(0.05)
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    assert run.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    assert not (folder / RUN / "report").exists()
    snakemake(folder, "--unlock")
    snakemake(folder, "--cores", "2")
    resumed, unbroken = artefacts(folder), artefacts(finished)
    assert set(resumed) == set(unbroken)
    assert [str(p) for p in resumed if resumed[p] != unbroken[p]] == []


def test_bad_input_ends_before_any_work_and_loses_no_result(finished, tmp_path):
    folder = copied(finished, tmp_path)
    before = artefacts(folder)
    band = next((folder / "imagery").rglob("*_B03_10m.jp2"))
    whole = band.read_bytes()
    band.write_bytes(whole[:-500])
    os.utime(folder / "imagery")
    result = snakemake(folder, "--cores", "2", check=False)
    assert result.returncode != 0
    assert band.name in result.stdout + result.stderr
    # What index itself had written no longer holds, and goes; all that followed stays.
    gone = {RUN / name for name in ("acquisitions.json", "acquisitions.csv", "grids.json")}
    after = artefacts(folder)
    assert after == {path: content for path, content in before.items() if path not in gone}
    band.write_bytes(whole)
    snakemake(folder, "--cores", "2")
    again = artefacts(folder)
    # The band's file is newer than it was, and the item of its acquisition knows.
    changed = [path for path in before if again[path] != before[path]]
    assert [path.parent for path in changed] == [RUN / "acquisitions"]
    assert again.keys() == before.keys()


def test_a_setting_that_failed_is_not_taken_for_done(finished, tmp_path):
    folder = copied(finished, tmp_path)
    wrong = {**SETTINGS["parcels"], "id": "ID_PARZEL"}
    for _ in range(2):
        result = snakemake(folder, "--cores", "2", check=False, parcels=wrong)
        assert result.returncode != 0
        assert "Did you mean 'ID_PARCEL'?" in result.stdout + result.stderr


def everything(folder):
    """Every file of a folder but Snakemake's own, with its bytes and time."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and ".snakemake" not in path.parts
    }


def test_a_dry_run_writes_nothing(inputs, finished, tmp_path):
    folder = copied(inputs, tmp_path / "new")
    before = everything(folder)
    snakemake(folder, "-n")
    assert everything(folder) == before
    folder = copied(finished, tmp_path / "finished")
    before = everything(folder)
    snakemake(folder, "-n", train={**SETTINGS["train"], "epochs": 7}, run="small")
    assert everything(folder) == before


def test_a_run_keeps_the_settings_of_its_start(finished, tmp_path):
    """A dry run in a second terminal, and an edit of the settings file, meet a run at work."""
    folder = copied(finished, tmp_path)
    train = json.dumps({**SETTINGS["train"], "epochs": 3})
    run = started(folder, "--cores", "1", "--config", f"train={train}")
    logs = sorted((folder / RUN / "logs" / "train").iterdir())
    before = [log.stat().st_mtime_ns for log in logs]
    try:
        while (
            run.poll() is None
            and [log.stat().st_mtime_ns for log in logs if log.exists()] == before
        ):
            time.sleep(0.02)  # until one of the folds trains
        snakemake(folder, "-n", train={**SETTINGS["train"], "epochs": 1})
        edited = {**SETTINGS, "train": {**SETTINGS["train"], "epochs": 1}}
        (folder / "settings.yaml").write_text(yaml.safe_dump(edited))
        assert run.poll() is None, "the run ended before it could be disturbed"
        assert run.wait() == 0
    finally:
        run.kill()
    folds = [folder / RUN / "models" / f"Fold_{k}" / "trainlog.json" for k in (1, 2, 3)]
    epochs = [max(int(e) for e in json.loads(path.read_text())) for path in folds]
    told = yaml.safe_load((folder / RUN / "config.yaml").read_text())
    page = (folder / RUN / "report" / "report.html").read_text()
    assert told["train"]["epochs"] == 3
    assert "epochs: 3" in page
    assert "epochs: 1" not in page
    assert epochs == [3, 3, 3]


def test_what_a_run_was_made_with_makes_it_again(finished):
    told = yaml.safe_load((finished / RUN / "config.yaml").read_text())
    settings = json.dumps(told["train"])
    assert told["train"]["epochs"] == SETTINGS["train"]["epochs"], settings
    result = snakemake(finished, "-n", configfile=finished / RUN / "config.yaml")
    assert "Nothing to be done" in result.stdout + result.stderr


def test_a_job_on_another_machine_has_the_settings_of_its_runs_start(finished, tmp_path):
    """Such a job parses the workflow again; the settings file may have changed by then."""
    folder = copied(finished, tmp_path)
    (folder / "settings.yaml").write_text(yaml.safe_dump({**SETTINGS, "split": {"folds": 2}}))
    job = ["--mode", "remote", "--target-jobs", "split:", "--allowed-rules", "split"]
    snakemake(folder, *job, "--cores", "1", "--force", "--nolock")
    used = json.loads((folder / RUN / "settings" / "split.json").read_text())
    assert used["split"]["folds"] == SETTINGS["split"]["folds"]
    assert len(json.loads((folder / RUN / "folds.json").read_text())["folds"]) == 3
