"""Stage mlflow: add the trainings and scores of a run to a database of MLflow."""

from __future__ import annotations

import time
from pathlib import Path

from pipeline.provenance.mlflow_runs import log_run
from pipeline.provenance.trained_models import read_models
from pipeline.workflow.paths import RunPaths
from pipeline.workflow.writing import write_json


def mlflow(run: Path, records: list[Path], database: Path, account: Path) -> None:
    """Add the trainings and scores of a run to a database of MLflow.

    Parameters
    ----------
    run
        Folder of the run, results/<run>, with trained and evaluated models.
    records
        Settings of the stages, which their jobs wrote.
    database
        SQLite database, which contains all runs: those that are there stay.
    account
        Written: JSON of the database, the experiment, and the id of MLflow's run.
    """
    paths = RunPaths(run)
    models = read_models(paths, records)
    write_json(account, log_run(database, paths, models, time.time_ns() // 1_000_000))
