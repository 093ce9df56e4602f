"""Runs of two seasons: trained from the weights of the first, and on both together."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from pipeline.provenance.inputs import read_inputs
from tests.builders.pixel_sets import BANDS, make, write
from tests.builders.runs import planned, snakemake

pytestmark = pytest.mark.slow

MODEL = {
    "mlp1": [4, 8], "mlp2": [16, 8], "mlp3": [8, 8], "mlp4": [8, 8, 3],
    "n_head": 2, "d_k": 4, "d_model": 8,
}  # fmt: skip
TRAIN = {"epochs": 2, "batch_size": 8, "pixels": 4, "members": 1, "device": "cpu"}
FIRST = Path("results/first")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two seasons of other parcels, and a finished run of the first one."""
    folder = tmp_path_factory.mktemp("transfer")
    make(folder / "2018" / "dataset", 60)
    make(folder / "2019" / "dataset", 63)
    dates = folder / "2019" / "dataset" / "META" / "dates.json"
    later = [day + 10_000 for day in json.loads(dates.read_text()).values()]
    write(dates, dict(enumerate(later)))
    settings = {
        "run": "first",
        "dataset": {"path": "2018/dataset", "bands": BANDS, "classes": {"min_parcels": 5}},
        "split": {"folds": 2},
        "model": MODEL,
        "train": TRAIN,
    }
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    snakemake(folder, "--cores", "2", "models")
    return folder


def write_settings(folder, **changes):
    settings = {**yaml.safe_load((folder / "settings.yaml").read_text()), **changes}
    path = folder / f"{changes['run']}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_a_run_starts_from_the_weights_of_another(folder):
    file = write_settings(
        folder,
        run="tuned",
        dataset={"path": "2019/dataset", "bands": BANDS, "classes": {"min_parcels": 5}},
        model={},
        train={**TRAIN, "from": str(FIRST / "models")},
    )
    snakemake(folder, "--cores", "2", configfile=file)
    about = json.loads((folder / "results/tuned/models/Fold_2/model.json").read_text())
    assert about["started_from"] == str(FIRST / "models" / "Fold_2")
    assert about["hyperparameters"]["mlp1"] == [4, 8]
    assert about["first_date"] == "2019-03-01"
    page = (folder / "results/tuned/report/report.html").read_text()
    assert "Each training started from the weights of results/first/models/Fold_1, " in page
    assert "PSE+L-TAE" in page
    inputs = read_inputs(folder / "results/tuned/inputs.json")
    assert {one.role for one in inputs} == {"pixels", "dataset", "weights"}
    item = json.loads((folder / "results/tuned/models/stac_item.json").read_text())
    assert item["properties"]["mlm:pretrained_source"] == str(FIRST / "models" / "Fold_1")
    assert planned(folder, configfile=file) == {}
    models = folder / FIRST / "models"
    shutil.copy(models / "Fold_2" / "model.pth.tar", models / "Fold_1" / "model.pth.tar")
    assert planned(folder, configfile=file)["train"] == 2


def test_a_run_of_two_seasons_leaves_out_each_in_turn(folder):
    both = ["2018/dataset", "2019/dataset"]
    file = write_settings(
        folder,
        run="both",
        dataset={"paths": both, "bands": BANDS, "classes": {"min_parcels": 5}},
        split={"by": "dataset"},
    )
    snakemake(folder, "--cores", "2", configfile=file)
    root = folder / "results" / "both"
    folds = json.loads((root / "folds.json").read_text())["folds"]
    datasets = json.loads((root / "dataset/META/datasets.json").read_text())
    assert [len(fold["test"]) for fold in folds] == [60, 63]
    assert {name: own["years"] for name, own in datasets.items()} == {"2018": 0, "2019": 1}
    for fold, own in zip(folds, datasets.values(), strict=True):
        assert fold["test"] == own["parcels"]
    page = (root / "report/report.html").read_text()
    assert "the datasets 2018 (60 parcels), 2019 (63 parcels)" in page
    assert planned(folder, configfile=file) == {}
    labels = folder / both[1] / "META" / "labels.json"
    before = labels.read_text()
    labels.write_text(before.replace("wheat", "rye", 1))
    try:
        assert planned(folder, configfile=file)["ingest"] == 1
    finally:
        labels.write_text(before)


def test_weights_are_scored_on_another_season(folder):
    file = write_settings(
        folder,
        run="given",
        dataset={"path": "2019/dataset", "bands": BANDS},
        predict={"weights": str(FIRST / "models")},
        model={},
        train={"device": "cpu"},
    )
    snakemake(folder, "--cores", "2", configfile=file)
    found = json.loads((folder / "results/given/predictions/scores.json").read_text())
    assert found["season"] == ""
    assert found["refit"]["n_parcels"] == 63
