"""What a run was made with is what its stages used, and where they differ it is said."""

import os

import yaml

from pipeline.workflow.config import load, read_record
from pipeline.workflow.paths import RunPaths
from tests.builders.runs import recorded, write_record

OWN = {"run": "mine", "clouds": {"dilation_m": 20}, "train": {"epochs": 7}, "split": {"folds": 3}}


def test_the_record_of_all_stages_gives_the_settings_again(tmp_path):
    settings = load({**OWN, "simulate": {"parcels": 60}})
    record = read_record(recorded(settings, RunPaths(tmp_path)))
    assert record.notes == []
    again = load(yaml.safe_load(record.text))
    # What only the report uses makes no run: nothing of it is asked for here.
    assert again == settings
    assert record.completed() == settings.model_dump(mode="json")


def test_only_what_a_stage_used_is_told(tmp_path):
    run = RunPaths(tmp_path)
    write_record(run.record("split"), load(OWN), "split")
    record = read_record([run.record("split")])
    assert list(record.values) == ["split"]
    assert record.values["split"]["folds"] == 3
    assert record.completed()["train"]["epochs"] == load({}).train.epochs


def test_jobs_that_differ_are_named_and_the_last_to_finish_is_told(tmp_path):
    run = RunPaths(tmp_path)
    jobs = [run.record(f"train/Fold_{fold}") for fold in (1, 2, 3)]
    for fold, (job, epochs) in enumerate(zip(jobs, (7, 2, 7), strict=True), 1):
        write_record(job, load({"train": {"epochs": epochs}}), "train")
        finished = {1: 10, 3: 20, 2: 30}[fold]
        os.utime(job, (finished, finished))
    record = read_record([*jobs, run.record("evaluate")])
    assert record.notes == [
        "evaluate left no record of its settings",
        "train.epochs was not the same everywhere: 2 in Fold_2; 7 in Fold_1, Fold_3",
    ]
    assert record.values["train"]["epochs"] == 2
    assert record.text.startswith("# evaluate left")
    assert load(yaml.safe_load(record.text)).train.epochs == 2
