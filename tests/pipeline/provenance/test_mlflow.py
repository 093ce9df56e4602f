"""The optional database of MLflow."""

import importlib.util
import json

import pytest

from geo.errors import InputError
from pipeline.provenance import mlflow_runs
from pipeline.stages.mlflow import mlflow as log_to_mlflow
from pipeline.workflow import inputs
from pipeline.workflow.config import load
from pipeline.workflow.inputs import MLFLOW, check_inputs
from tests.builders.finished import LOG, make_finished, read

needs_mlflow = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in MLFLOW), reason="MLflow is optional"
)


@needs_mlflow
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of libraries that only MLflow uses
def test_settings_metrics_of_every_epoch_and_scores_are_runs_of_mlflow(tmp_path):
    from mlflow.tracking import MlflowClient

    run, records = make_finished(tmp_path, also="block", members=2)
    for _ in range(2):  # a second training of the run stands beside the first
        log_to_mlflow(run.root, records, run.mlflow_database, run.mlflow)
    client = MlflowClient(tracking_uri=f"sqlite:///{run.mlflow_database}")
    account = read(run.mlflow)
    experiment = client.get_experiment_by_name(account["experiment"])
    found = client.search_runs([experiment.experiment_id])
    scored = client.get_run(account["run_id"])
    assert len([one for one in found if one.info.run_name == "hand"]) == 2
    assert scored.data.params["train.epochs"] == "3"
    assert json.loads(scored.data.params["run"]) == "hand"
    assert scored.data.tags["simulated"] == "true"
    overall = read(run.overall)
    assert scored.data.metrics["Accuracy"] == overall["Accuracy"]
    assert scored.data.metrics["majority/Accuracy"] == read(run.baselines)["majority"]["Accuracy"]
    assert scored.data.metrics["block/Accuracy"] == overall["Accuracy"]
    parent = account["run_id"]
    nested = {
        one.info.run_name: one.info.run_id
        for one in found
        if one.data.tags.get("mlflow.parentRunId") == parent
    }
    names = ["fold 1", "fold 1, model 2", "fold 2", "fold 2, model 2"]
    assert sorted(nested) == sorted(names + [f"block, {name}" for name in names])
    history = client.get_metric_history(nested["fold 2"], "train_loss")
    expected = {int(epoch): own["train_loss"] for epoch, own in LOG.items()}
    assert {point.step: point.value for point in history} == expected


@needs_mlflow
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_a_killed_job_had_begun_to_write_does_not_stay_running(tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    def killed(*_):
        raise SystemExit

    run, records = make_finished(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(mlflow_runs, "_log_metrics", killed)
        log_to_mlflow(run.root, records, run.mlflow_database, run.mlflow)
    assert not run.mlflow.exists()
    log_to_mlflow(run.root, records, run.mlflow_database, run.mlflow)
    client = MlflowClient(tracking_uri=f"sqlite:///{run.mlflow_database}")
    number = client.get_experiment_by_name(read(run.mlflow)["experiment"]).experiment_id
    found = [one.info.status for one in client.search_runs([number])]
    assert sorted(found) == ["FINISHED"] * (len(found) - 1) + ["KILLED"]


@needs_mlflow
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_file_that_is_no_database_is_named(tmp_path):
    run, records = make_finished(tmp_path)
    run.mlflow_database.write_text("another file")
    with pytest.raises(InputError, match=r"MLflow cannot use .*mlflow\.db: .* Rename the file"):
        log_to_mlflow(run.root, records, run.mlflow_database, run.mlflow)
    assert run.mlflow_database.read_text() == "another file"


def test_a_run_that_lacks_mlflow_is_refused_before_it_starts(monkeypatch):
    monkeypatch.setattr(inputs, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="mlflow, sqlalchemy, alembic is not installed"):
        check_inputs(load({"report": {"mlflow": True}, "simulate": {}}))


def test_mlflow_is_refused_where_nothing_is_trained():
    with pytest.raises(InputError, match=r"report\.mlflow: without effect if predict\.weights"):
        load({"report": {"mlflow": True}, "predict": {"weights": "models"}})
