"""One run divides its parcels in two ways, and shares everything up to the folds."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.builders.pixel_sets import BANDS, make, write
from tests.builders.runs import planned, snakemake

pytestmark = pytest.mark.slow

RUN = Path("results") / "small"
MODEL = {"mlp1": [2, 8], "mlp2": [16, 8], "mlp3": [8, 8], "mlp4": [8, 8, 3], "n_head": 2, "d_k": 4}
SPLIT = {"folds": 2, "also": "block", "block_m": "auto"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder of a finished run of two divisions."""
    folder = tmp_path_factory.mktemp("workflow")
    ids = list(make(folder / "existing", 30))
    meta = folder / "existing" / "META"
    places = np.random.default_rng(1).uniform(0, 3000, (len(ids), 2))
    write(meta / "positions.json", dict(zip(ids, places.tolist(), strict=True)))
    write(meta / "groups.json", {"FARM": {i: number % 9 for number, i in enumerate(ids)}})
    settings = {
        "run": "small",
        "dataset": {"path": "existing", "bands": BANDS, "classes": {"min_parcels": 5}},
        "split": SPLIT,
        "model": MODEL,
        "train": {"epochs": 1, "batch_size": 8, "pixels": 4, "members": 1, "device": "cpu"},
    }
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    snakemake(folder, "--cores", "2")
    return folder


def test_both_divisions_are_trained_and_scored_and_shown(folder):
    run = folder / RUN
    for also, by in (("", "random"), ("_block", "block")):
        assert json.loads((run / f"folds{also}.json").read_text())["by"] == by
        names = {path.name for path in (run / f"models{also}").iterdir()}
        assert {"overall.json", "spread.json", "out_of_fold.parquet", "Fold_2"} <= names
    assert yaml.safe_load((run / "config.yaml").read_text())["split"] == {
        **{"by": "random", "seed": 1},
        **SPLIT,
    }
    assert "was not the same everywhere" not in (run / "config.yaml").read_text()
    assert 'id="divisions"' in (run / "report" / "report.html").read_text()


def test_each_division_runs_again_only_for_its_own_settings(folder):
    """Nothing runs without a change, and the first division never for one of the second."""
    assert planned(folder) == {}
    first = {"folds": 2}
    shown = {"model_card": 1, "report": 1, "provenance": 1, "all": 1}
    second = {"split": 1, "train": 2, "calibrate": 1, "evaluate": 1, **shown}
    cases = [
        (first, shown),
        ({**first, "block_m": 700}, shown),
        ({**SPLIT, "block_m": 700}, second),
        ({**first, "also": "group", "column": "FARM"}, second),
        ({**first, "also": "stratified"}, second),
    ]
    settings = yaml.safe_load((folder / "settings.yaml").read_text())
    for split, expected in cases:
        (folder / "other.yaml").write_text(yaml.safe_dump({**settings, "split": split}))
        found = planned(folder, configfile=folder / "other.yaml")
        assert {rule: n for rule, n in found.items() if rule != "total"} == expected, split


def test_targets_and_stages_to_run_again_are_those_of_both(folder):
    forced = planned(folder, "models", "--forcerun", "calibrate")
    assert (forced["calibrate"], forced["evaluate"]) == (2, 2)
    assert planned(folder, "models", "--forcerun", "split")["train"] == 4
    assert "variogram" in planned(folder, "variogram", "--forcerun", "variogram")
