"""A real run of the whole workflow on a small simulated scene; and which changes rerun what."""

import json
import os
import re
import shutil
import signal
import sqlite3
import time
import zipfile
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline.command_line import main
from pipeline.inspection.card import card
from pipeline.workflow.paths import RunPaths
from tests.builders.paths import ROOT
from tests.builders.runs import comparable, copied, opened, planned, snakemake, started

pytestmark = pytest.mark.slow

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


def artefacts(folder):
    """Return all artefacts of the run as they are compared: {path below the folder: bytes}."""
    return {RUN / path: content for path, content in comparable(folder / RUN).items()}


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """Return a folder with imagery, register and settings."""
    folder = tmp_path_factory.mktemp("inputs")
    from demo import simulate

    simulate(folder / "imagery", folder / "register.gpkg", **SCENE)
    (folder / "settings.yaml").write_text(yaml.safe_dump(SETTINGS))
    return folder


@pytest.fixture(scope="session")
def finished(inputs, tmp_path_factory):
    """Return the folder of a finished run, from raw products to report."""
    folder = copied(inputs, tmp_path_factory.mktemp("finished"))
    snakemake(folder, "--cores", "2")
    return folder


def test_every_input_parcel_is_in_the_predictions(finished):
    register = geopandas.read_file(finished / "register.gpkg")
    path = finished / RUN / "predictions" / "parcels.gpkg"
    table = pd.read_parquet(path.with_suffix(".parquet"))
    assert len(register) == len(table)
    # Points and lines are in a separate layer.
    is_other = register.geom_type.isin(["Point", "LineString"])
    for layer, rows in (
        ("parcels_not_polygons", register[is_other]),
        ("parcels", register[~is_other]),
    ):
        predictions = geopandas.read_file(path, layer=layer)
        assert len(predictions) == len(rows) > 1
        assert predictions.crs == register.crs
        expected, written = rows.geometry.reset_index(drop=True), predictions.geometry
        assert (expected.isna() == written.isna()).all()
        assert expected.dropna().geom_equals(written.dropna()).all()
    usable = predictions["status"] != "rejected"
    assert (predictions["pred_code"].notna() == usable).all()
    assert (predictions.loc[~usable, "reason"] != "").all()
    assert predictions.loc[usable, "confidence"].between(0, 1).all()
    assert (predictions["confidence"].dropna() >= predictions["confidence2"].dropna()).all()


def test_no_model_predicts_its_own_training_parcels(finished):
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


def test_predictions_come_from_the_fold_and_scores_from_the_predictions(finished):
    import torch

    from models.crop_model import CropModel
    from pipeline.dataset.model_inputs import read_inputs

    run = RunPaths(finished / RUN)
    table = pd.read_parquet(run.predictions.with_suffix(".parquet"))
    table = table[table["status"] == "used"].set_index("parcel_id")
    for number, fold in enumerate(opened(run).folds(run.folds), 1):
        trained = CropModel.load(run.fold(number), torch.device("cpu"))
        data = read_inputs(opened(run), [trained], opened(run).classes)
        # The members' mean log-probabilities do not add up to 1; the confidences do.
        temperature = json.loads(run.calibration(number).read_text())["temperature"]
        odds = np.exp(trained.log_probabilities(data, fold.test, 512) / temperature)
        written = table.loc[[data.ids[i] for i in fold.test], "confidence"]
        np.testing.assert_allclose(odds.max(axis=1) / odds.sum(axis=1), written, atol=1e-4)
    right = (table["pred_code"] == table["declared_code"]).mean()
    assert json.loads(run.overall.read_text())["Accuracy"] == pytest.approx(right)


def test_geopackage_and_report_state_that_the_scene_is_simulated(finished):
    with sqlite3.connect(finished / RUN / "predictions" / "parcels.gpkg") as database:
        (description,) = database.execute("SELECT description FROM gpkg_contents").fetchone()
    assert "SIMULATED" in description
    assert "imulated" in (finished / RUN / "report" / "report.html").read_text()


def test_a_second_run_has_nothing_to_do(finished):
    assert planned(finished) == {}


def test_a_finished_run_matches_its_provenance_and_an_edited_one_does_not(finished, tmp_path):
    folder = copied(finished, tmp_path)
    assert main(["verify", str(folder / RUN)]) == 0
    provenance = json.loads((folder / RUN / "provenance.json").read_text())
    assert provenance["simulated"] is True
    jobs = provenance["jobs"]
    assert {"index", "clean", "train/Fold_3", "report"} <= set(jobs)
    assert all(job["environment"] is not None for job in jobs.values())
    roles = {one["role"] for one in provenance["inputs"]}
    assert roles == {"register", "table", "imagery"}
    (folder / RUN / "predictions" / "parcels.csv").write_text("edited")
    assert main(["verify", str(folder / RUN)]) == 1


def test_snakemake_writes_its_report_of_the_same_results(finished, tmp_path):
    folder = copied(finished, tmp_path)
    snakemake(folder, "--report", "report.zip")
    with zipfile.ZipFile(folder / "report.zip") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    names = {"report.html", "scores.csv", "per_class.csv", "model_card.md", "areas.csv"}
    assert names | {"acquisitions.csv", "classes.csv"} <= {Path(name).name for name in files}
    figures = {path: path.read_bytes() for path in (folder / RUN).rglob("figures/*/*.svg")}
    names = {f"{path.parent.name}/{path.name}" for path in figures}
    assert {"imagery/clouds.svg", "confidence/accuracy.svg", "training/loss.svg"} <= names
    assert set(figures.values()) <= set(files.values())
    assert all(b"SIMULATED" in svg for svg in figures.values())
    # They are those of the page.
    page = (folder / RUN / "report" / "report.html").read_text(encoding="utf-8")
    assert len(figures) == page.count('class="chart"')


def test_more_epochs_rerun_from_train_on(finished):
    jobs = planned(finished, train={**SETTINGS["train"], "epochs": 3})
    assert set(jobs) == {"train", "calibrate", *SHOWING}
    assert jobs["train"] == 3


def test_cards_of_parcels_of_every_status(finished, tmp_path):
    paths = RunPaths(copied(finished, tmp_path) / RUN)
    table = pd.read_parquet(paths.predictions.with_suffix(".parquet"))
    # A row that is rejected because of its id shares the page of another one.
    table = table[(table["parcel_id"].fillna("") != "") & (table["reason"] != "duplicate_id")]
    chosen = table.drop_duplicates(["status", "reason"])["parcel_id"].tolist()
    card(paths.root, chosen)
    outlines = geopandas.read_file(paths.predictions, layer="parcels").set_index("parcel_id")
    for row in table.drop_duplicates(["status", "reason"]).to_dict("records"):
        page = (paths.cards / f"{row['parcel_id']}.html").read_text(encoding="utf-8")
        assert ("What the prediction depends on" in page) == bool(row["pred_source"])
        assert ("NDVI over time" in page) == bool(row["pred_source"])
        assert "SIMULATED" in page
        if row["status"] == "used":
            assert f"{row['area_ha']:.2f} ha" in page
            point = outlines.geometry[[row["parcel_id"]]].representative_point().to_crs(4326)
            place = re.search(r"geo:([\d.-]+),([\d.-]+)", page)
            assert float(place[1]) == pytest.approx(point.y.iloc[0], abs=2e-3)
            assert float(place[2]) == pytest.approx(point.x.iloc[0], abs=2e-3)
            assert "Nearest parcels" in page


def test_other_bands_rerun_from_extract_on(finished, tmp_path):
    folder = copied(finished, tmp_path)
    before = written(folder)
    imagery = {**SETTINGS["imagery"], "bands": ["B04", "B08"]}
    snakemake(folder, "dataset", "--cores", "2", imagery=imagery)
    after = written(folder)
    assert {path for path in before if path.parts[0] == "extracted"} <= set(after)
    assert all(after[p] != before[p] for p in after if p.parts[0] == "extracted")
    # Other bands can have other nodata pixels, so that label and names run again.
    for name in ("ledger.csv", "ledger.parquet", "classes.json", "classes.csv"):
        before.pop(Path("parcels") / name)
    assert "parcels" not in {p.parts[0] for p in before if before[p] != after[p]}
    parcel = next((folder / RUN / "dataset" / "DATA").iterdir())
    assert np.load(parcel).shape[1] == 2


# Rules that show class names, and rules that depend on the classes.
SHOWING = {
    *("evaluate", "model_card", "predict", "explain", "areas", "worklist", "report", "provenance"),
    *("all", "total"),
}
LEARNING = {"label", "names", "variogram", "split", "train", "calibrate", *SHOWING}


@pytest.mark.parametrize(
    ("parcels", "jobs"),
    [
        ({"names": "names.csv"}, {"inputs", "names", *SHOWING}),
        ({"classes": {"min_parcels": 5}}, LEARNING),
        ({"other_class": "other"}, LEARNING),
        ({"nomenclature": "crop", "labels": {"crop": "CODE_CULTU"}}, LEARNING),
        (
            {"labels": {"crop": {"column": "CODE_CULTU", "table": "codes.csv"}}},
            {"inputs", *LEARNING},
        ),
        ({"labels": {"a": "CODE_CULTU", "b": "CODE_CULTU"}, "nomenclature": "b"}, LEARNING),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_change_of_parcels_reruns_these_rules(finished, tmp_path, parcels, jobs):
    folder = copied(finished, tmp_path)
    (folder / "names.csv").write_text("code,name\nBTH,wheat\n")
    (folder / "codes.csv").write_text(Path(SETTINGS["parcels"]["names"]).read_text())
    assert set(planned(folder, parcels={**SETTINGS["parcels"], **parcels})) == jobs


def test_other_names_rerun_only_the_rules_that_show_them(finished, tmp_path):
    folder = copied(finished, tmp_path)
    names = Path(SETTINGS["parcels"]["names"]).read_text().replace("winter wheat", "renamed wheat")
    (folder / "names.csv").write_text(names)
    before = written(folder)
    parcels = {**SETTINGS["parcels"], "names": "names.csv"}
    snakemake(folder, "--cores", "2", parcels=parcels)
    after = written(folder)
    changed = {p.as_posix() for p in after if after[p] != before.get(p)}
    unchanged = ("extracted/", "dataset/DATA", "dataset/pixels", "parcels/tiles", "folds.json")
    assert not [path for path in changed if path.startswith(unchanged)]
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
    """Return the time of each artefact: {path: time}."""
    return {
        path.relative_to(folder / RUN): path.stat().st_mtime_ns
        for path in (folder / RUN).rglob("*.*")
        if path.is_file() and path.suffix in (".npy", ".npz", ".parquet", ".csv", ".json")
    }


def test_a_new_acquisition_extracts_only_itself(inputs, finished, tmp_path):
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
    # The dataset equals that of a run with all acquisitions from the start.
    for path, content in artefacts(folder).items():
        if "dataset" in path.parts:
            assert content == (finished / path).read_bytes(), path


def test_a_killed_run_continues_to_the_same_bytes(finished, tmp_path):
    folder = copied(finished, tmp_path)
    for part in ("folds.json", "models", "predictions", "report"):
        path = folder / RUN / part
        shutil.rmtree(path) if path.is_dir() else path.unlink()
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


def test_bad_input_ends_the_run_and_keeps_all_results(finished, tmp_path):
    folder = copied(finished, tmp_path)
    before = artefacts(folder)
    band = next((folder / "imagery").rglob("*_B03_10m.jp2"))
    whole, times = band.read_bytes(), band.stat()
    band.write_bytes(whole[:-500])
    result = snakemake(folder, "--cores", "2", check=False)
    assert result.returncode != 0
    assert band.name in result.stdout + result.stderr
    # Snakemake deletes the outputs of index, which are no longer true. All later ones stay.
    gone = {RUN / name for name in ("acquisitions.json", "acquisitions.csv", "grids.json")}
    after = artefacts(folder)
    assert after == {path: content for path, content in before.items() if path not in gone}
    band.write_bytes(whole)
    os.utime(band, ns=(times.st_atime_ns, times.st_mtime_ns))
    snakemake(folder, "--cores", "2")
    assert artefacts(folder) == before


def test_a_wrong_setting_is_refused_again_and_again(finished, tmp_path):
    folder = copied(finished, tmp_path)
    wrong = {**SETTINGS["parcels"], "id": "ID_PARZEL"}
    for _ in range(2):
        result = snakemake(folder, "--cores", "2", check=False, parcels=wrong)
        assert result.returncode != 0
        assert "Did you mean 'ID_PARCEL'?" in result.stdout + result.stderr


def everything(folder):
    """Return bytes and time of all files of a folder, without those of Snakemake."""
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
    """A dry run in a second terminal and an edit of the settings file do not disturb a run."""
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
            time.sleep(0.02)  # until a fold is being trained
        snakemake(folder, "-n", train={**SETTINGS["train"], "epochs": 1})
        edited = {**SETTINGS, "train": {**SETTINGS["train"], "epochs": 1}}
        (folder / "settings.yaml").write_text(yaml.safe_dump(edited))
        assert run.poll() is None, "the run ended before it could be disturbed"
        assert run.wait() == 0
    finally:
        run.kill()
    folds = [folder / RUN / "models" / f"Fold_{k}" / "trainlog.json" for k in (1, 2, 3)]
    epochs = [max(int(e) for e in json.loads(path.read_text())) for path in folds]
    recorded = yaml.safe_load((folder / RUN / "config.yaml").read_text())
    page = (folder / RUN / "report" / "report.html").read_text()
    assert recorded["train"]["epochs"] == 3
    assert "epochs: 3" in page
    assert "epochs: 1" not in page
    assert epochs == [3, 3, 3]


def test_the_config_of_a_run_repeats_the_run(finished):
    recorded = yaml.safe_load((finished / RUN / "config.yaml").read_text())
    settings = json.dumps(recorded["train"])
    assert recorded["train"]["epochs"] == SETTINGS["train"]["epochs"], settings
    result = snakemake(finished, "-n", configfile=finished / RUN / "config.yaml")
    assert "Nothing to be done" in result.stdout + result.stderr


def test_a_job_on_another_machine_uses_the_settings_of_the_start(finished, tmp_path):
    """Such a job parses the workflow again, when the settings file may have changed."""
    folder = copied(finished, tmp_path)
    (folder / "settings.yaml").write_text(yaml.safe_dump({**SETTINGS, "split": {"folds": 2}}))
    job = ["--mode", "remote", "--target-jobs", "split:", "--allowed-rules", "split"]
    snakemake(folder, *job, "--cores", "1", "--force", "--nolock")
    used = json.loads((folder / RUN / "settings" / "split.json").read_text())
    assert used["split"]["folds"] == SETTINGS["split"]["folds"]
    assert len(json.loads((folder / RUN / "folds.json").read_text())["folds"]) == 3
