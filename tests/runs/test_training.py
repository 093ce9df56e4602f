"""A training that fails or is killed keeps the earlier model, and runs again."""

import os
import re
import signal
import time
from pathlib import Path

import pytest
import yaml

from tests.builders.pixel_sets import BANDS, make
from tests.builders.runs import planned, snakemake, started

pytestmark = pytest.mark.slow

RUN = Path("results") / "small"
MODEL = {"mlp1": [2, 8], "mlp2": [16, 8], "mlp3": [8, 8], "mlp4": [8, 8, 3], "n_head": 2, "d_k": 4}
TRAIN = {"epochs": 2, "batch_size": 8, "pixels": 4, "members": 2, "device": "cpu"}
# With this rate, the weights exceed float32 after the first step.
DIVERGING = {**TRAIN, "learning_rate": 1e30}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder of a finished run of three folds from an existing dataset."""
    folder = tmp_path_factory.mktemp("workflow")
    make(folder / "existing")
    settings = {
        "run": "small",
        "dataset": {"path": "existing", "bands": BANDS, "classes": {"min_parcels": 5}},
        "split": {"folds": 3},
        "model": MODEL,
        "train": TRAIN,
    }
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    snakemake(folder, "--cores", "2")
    return folder


def results(folder):
    """Return content and time of the files of models, predictions and report."""
    return {
        path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns)
        for part in ("models", "predictions", "report")
        for path in sorted((folder / RUN / part).rglob("*"))
        if path.is_file() and path.name != ".trained"
    }


def test_a_training_that_diverges_keeps_the_models_and_runs_again(folder):
    before = results(folder)
    names = {path.name for path in before if path.parent.name == "Fold_1"}
    assert {"model.pth.tar", "model_2.safetensors", "model.json", "trainlog.json"} <= names
    # Every fold fails, so that no output of train shows the change.
    result = snakemake(folder, "--cores", "2", "--keep-going", check=False, train=DIVERGING)
    assert result.returncode != 0
    output = result.stdout + result.stderr
    for fold in (1, 2, 3):
        where = rf"Fold {fold}, member 1, epoch 1, batch \d of \d: the \w+ is not finite"
        assert re.search(where, output)
    assert "Lower train.learning_rate" in output
    assert "Traceback" not in output
    assert results(folder) == before
    for target in ("all", "report"):
        assert planned(folder, target, train=DIVERGING)["train"] == 3, target


def test_a_training_that_is_killed_keeps_the_models(folder):
    before = results(folder)
    long = {**TRAIN, "epochs": 100000}
    train = f"train={yaml.safe_dump(long, default_flow_style=True)}"
    run = started(folder, "--cores", "2", "--config", train, start_new_session=True)
    states = folder / RUN / "training_state"
    try:
        while run.poll() is None and not list(states.glob("Fold_*/member_1.pt")):
            time.sleep(0.05)
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    assert run.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    assert results(folder) == before
    snakemake(folder, "--unlock")
    assert planned(folder, train=long)["train"] == 3


def test_the_season_is_asked_for_once_and_then_stays_up_to_date(folder):
    snakemake(folder, "--cores", "2")  # an earlier test may have killed a training
    before = results(folder)
    assert "train_season" not in planned(folder)
    jobs = planned(folder, "season")
    assert (jobs["train_season"], jobs["evaluate_season"], jobs["report"]) == (3, 1, 1)
    assert not jobs.keys() & {"train", "evaluate", "predict"}
    snakemake(folder, "season", "--cores", "2")
    season = folder / RUN / "season"
    files = {path.name for path in season.iterdir() if path.is_file()}
    assert files == {
        "accuracy.parquet", "accuracy.csv", "parcels.parquet", "parcels.csv", "season.json"
    }  # fmt: skip
    assert (season / "models" / "Fold_3" / "model_2.safetensors").is_file()
    report = RUN / "report" / "report.html"
    assert "How early" in (folder / report).read_text()
    after = results(folder)
    changed = {path for path in after if after[path] != before.get(path)}
    assert {path for path in changed if "figures" not in path.parts} == {report}
    for target in ("all", "season"):
        assert planned(folder, target) == {}, target
    # As a job leaves it that is killed while it trains again.
    (season / "models" / "Fold_2" / ".trained").unlink()
    for target in ("all", "season"):
        assert planned(folder, target)["train_season"] == 1, target
    assert planned(folder, split={"folds": 3, "seed": 2})["train_season"] == 3
