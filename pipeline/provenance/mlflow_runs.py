"""The trainings of a run in a database of MLflow: parameters, metrics of every epoch, scores."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geo.errors import InputError
from models.model_files import TRAINLOG_FILE, fold_folders, member_file
from pipeline.provenance.trained_models import TrainedModels
from pipeline.workflow.artefacts import read_json
from pipeline.workflow.config import flat
from pipeline.workflow.paths import RunPaths
from pipeline.workflow.software import software

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

# Limits of MLflow: characters of a value, and metrics and parameters of one call.
_LONGEST, _METRICS, _PARAMETERS = 6000, 1000, 100
# Scores that are written for the models and every baseline.
_SCORES = ("Accuracy", "MACRO_IoU", "MACRO_F1-score")


def log_run(database: Path, paths: RunPaths, models: TrainedModels, now_ms: int) -> dict[str, str]:
    """Add a run to a database of MLflow, with a nested run for the training of every model.

    Parameters
    ----------
    database
        SQLite file, which can contain several runs. It is made if it does not exist.
    paths, models
        The run and its models. The experiment has the name of the run, so that trainings with other
        settings stand beside each other.
    now_ms
        Time of the scores, in ms since 1970.

    Returns
    -------
    dict
        "database", "experiment", and "run_id" of the run with the scores.

    Raises
    ------
    InputError
        If MLflow cannot use the database.
    """
    # MLflow would send statistics on its use to its makers.
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    # Imported here, because these are optional packages.
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from sqlalchemy.exc import SQLAlchemyError

    database.parent.mkdir(parents=True, exist_ok=True)
    try:
        client = MlflowClient(tracking_uri=f"sqlite:///{database.absolute()}")
        run = _log_run(client, paths, models, now_ms)
    except (MlflowException, SQLAlchemyError) as error:
        first = str(error).splitlines()[0].rstrip(".")
        raise InputError(
            f"MLflow cannot use {database}: {first}. Rename the file, so that a new one is made, "
            "or remove report.mlflow."
        ) from error
    return {"database": str(database), "experiment": models.run, "run_id": run}


def _log_run(client: MlflowClient, paths: RunPaths, models: TrainedModels, now_ms: int) -> str:
    """Add a run; return the id of the run with the scores."""
    number = _experiment(client, models.run)
    # The experiment is that of this run, to which no other job writes: its job was killed.
    for one in client.search_runs([number], filter_string="attributes.status = 'RUNNING'"):
        client.set_terminated(one.info.run_id, status="KILLED")
    used = software()
    tags = {
        "parcelwise": used["parcelwise"],
        "commit": f"{used['commit'] or 'unknown'}{' (modified)' * used['modified']}",
        "simulated": str(models.is_simulated).lower(),
    }
    scored = client.create_run(number, run_name=models.run, tags=tags).info.run_id
    _log_parameters(client, scored, models.settings)
    _log_metrics(client, scored, [_metrics(_scores(models), 0, now_ms)])
    for name, log in _trainings(paths, models.settings["split"]["also"]):
        nested = tags | {"mlflow.parentRunId": scored}
        one = client.create_run(number, run_name=name, tags=nested).info.run_id
        _log_metrics(client, one, [_metrics(own, epoch, now_ms) for epoch, own in log.items()])
        client.set_terminated(one)
    client.set_terminated(scored)
    return str(scored)


def _experiment(client: MlflowClient, name: str) -> str:
    """Return the number of the experiment of this name; make or restore it if necessary."""
    known = client.get_experiment_by_name(name)
    if known is None:
        return str(client.create_experiment(name))
    if known.lifecycle_stage == "deleted":
        client.restore_experiment(known.experiment_id)
    return str(known.experiment_id)


def _log_parameters(client: MlflowClient, run: str, settings: Mapping[str, Any]) -> None:
    """Write all settings as parameters."""
    from mlflow.entities import Param

    texts = ((key, json.dumps(value, ensure_ascii=False)) for key, value in flat(settings))
    parameters = [Param(key, text[:_LONGEST]) for key, text in texts]
    for first in range(0, len(parameters), _PARAMETERS):
        client.log_batch(run, params=parameters[first : first + _PARAMETERS])


def _log_metrics(client: MlflowClient, run: str, epochs: Sequence[Sequence[Metric]]) -> None:
    """Write the metrics of epochs."""
    metrics = [metric for own in epochs for metric in own]
    for first in range(0, len(metrics), _METRICS):
        client.log_batch(run, metrics=metrics[first : first + _METRICS])


def _metrics(values: Mapping[str, float | None], step: int, now_ms: int) -> list[Metric]:
    """Return the values that are finite as metrics of MLflow."""
    from mlflow.entities import Metric

    return [
        Metric(re.sub(r"[^\w./ -]", "_", name, flags=re.ASCII), value, now_ms, step)
        for name, value in values.items()
        if value is not None and math.isfinite(value)
    ]


def _scores(models: TrainedModels) -> dict[str, float]:
    """Return the scores out of fold: those of the models have no prefix, of a baseline its name."""
    found: dict[str, float] = {}
    for one in models.scored:
        prefix = "" if one is models.scored[0] else f"{one.way}/"
        for method, scores in one.overall.items():
            own = prefix + ("" if method == "model" else f"{method}/")
            found |= {f"{own}{metric}": scores[metric] for metric in _SCORES}
    for when, errors in models.calibration.items():
        found |= {f"{key}_{when}": errors[key] for key in ("ece", "log_loss")}
    return found | {"coverage": models.sets["coverage"]}


def _trainings(
    paths: RunPaths, also: str | None
) -> Iterator[tuple[str, dict[int, dict[str, float | None]]]]:
    """Yield name and training log of every model, of both divisions into folds."""
    for prefix, own in (("", paths), *([(f"{also}, ", paths.divided_by(also))] if also else [])):
        for fold, folder in fold_folders(own.models).items():
            member = 1
            while (file := folder / member_file(TRAINLOG_FILE, member)).is_file():
                log = read_json(file, lambda values: {int(e): dict(v) for e, v in values.items()})
                yield f"{prefix}fold {fold}" + (f", model {member}" * (member > 1)), log
                member += 1
