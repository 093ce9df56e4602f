"""Jobs that a killed run left on a Slurm cluster: they are waited for, and not started twice."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from geo.errors import InputError, first_five
from pipeline.workflow.paths import RunPaths
from pipeline.workflow.settings import Settings
from pipeline.workflow.writing import write_text

# Seconds between two looks at the queue.
PAUSE = 10.0


def note_cluster_run(paths: RunPaths, executor: Any) -> None:
    """Write down by which name Slurm knows the jobs of a run that starts.

    Parameters
    ----------
    paths
        The run.
    executor
        That of Snakemake. The one for Slurm calls all its jobs by its `run_uuid`; others have none.
    """
    if name := getattr(executor, "run_uuid", None):
        write_text(paths.cluster_run, name)


def wait_for_jobs(paths: RunPaths, settings: Settings) -> None:
    """Wait until the jobs that a killed run left on the cluster have ended.

    What they write is complete, and is used. Two jobs never write the same file.

    Raises
    ------
    InputError
        If the jobs have other settings, or if it cannot be found out whether there are any.
    """
    if not paths.cluster_run.is_file():
        return
    name = paths.cluster_run.read_text(encoding="utf-8")
    if not (jobs := _queued(name, paths)):
        return
    text = f"Jobs of {paths.root} are still on the cluster ({first_five(jobs)})"
    if not _has_settings(paths, settings):
        raise InputError(
            f"{text}, and the settings have changed since they were started. End them by "
            f"`scancel --name {name}`, or wait for them, and repeat the command."
        )
    sys.stderr.write(
        f"{text}: waiting for them, to use their results. To start anew instead, end them by "
        f"`scancel --name {name}`.\n"
    )
    while _queued(name, paths):
        time.sleep(PAUSE)


def settle_results(paths: RunPaths, settings: Settings, workflow: Any) -> None:
    """Let Snakemake record what the jobs of a killed run wrote, or refuse it.

    Snakemake records the parameters of a job when it learns that the job has ended, which a killed
    Snakemake does not. It uses results without such a record, and never notices that a setting of
    theirs has changed.

    Parameters
    ----------
    paths, settings
        The run that starts.
    workflow
        Snakemake's, with its graph of jobs.

    Raises
    ------
    InputError
        If there are such results, and the settings have changed since.
    """
    if not paths.cluster_run.is_file():
        return
    start = paths.cluster_run.stat().st_mtime
    jobs = [
        job
        for job in workflow.dag.jobs
        if not workflow.dag.needrun(job)
        and not workflow.persistence.has_metadata(job)
        and any(Path(file).stat().st_mtime > start for file in job.output)
    ]
    if _has_settings(paths, settings):
        for job in jobs:
            workflow.async_run(workflow.persistence.finished(job))
    elif jobs:
        rules = sorted({job.rule.name for job in jobs})
        raise InputError(
            f"Jobs of {paths.root} ended on the cluster after the run was interrupted, "
            f"and the settings have changed since ({first_five(rules)}). Run them again: "
            f"parcelwise run FILE -- --forcerun {' '.join(rules)}"
        )


def _has_settings(paths: RunPaths, settings: Settings) -> bool:
    """Return whether the last run that started had the same settings."""
    started = paths.started.read_text(encoding="utf-8") if paths.started.is_file() else ""
    return started == settings.model_dump_json()


def _queued(name: str, paths: RunPaths) -> list[str]:
    """Return the ids of the jobs of this name that wait or run."""
    command = ["squeue", "--noheader", "--format=%i", "--name", name]
    if shutil.which(command[0]) is None:
        why = "the command squeue is not here"
    else:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode == 0:
            return done.stdout.split()
        why = f"squeue fails: {done.stderr.strip()}"
    raise InputError(
        f"{paths.root} was run on a cluster and interrupted. Whether its jobs still run cannot be "
        f"found out: {why}. Continue the run on the cluster. If its jobs have ended, delete "
        f"{paths.cluster_run}."
    )
