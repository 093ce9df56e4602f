"""Run the command of a rule in a worker of a Dask cluster, without a new process."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

from geo.cluster import worker_name
from pipeline.logs import log_all, log_to
from pipeline.run_function import run_function
from pipeline.workflow.software import version


@cache
def loaded_version() -> str:
    """Return the version that this process has loaded: a later update does not change it.

    Whether files of the checkout were edited does not count: settings files are among them.
    """
    return version().replace("-dirty", "")


@dataclass(frozen=True)
class Job:
    """A job of the workflow, as it is sent to a worker.

    Parameters
    ----------
    command
        The words of its command: parcelwise STAGE --option value ...
    folder
        The folder of the run, to which paths are relative.
    inputs
        Files that the worker must see.
    version
        Version of Parcelwise that sends the job.
    """

    command: Sequence[str]
    folder: Path
    inputs: Sequence[Path]
    version: str


@dataclass(frozen=True)
class Done:
    """How a job ended.

    Parameters
    ----------
    code
        Exit code of the command.
    refusal
        Why the worker cannot run any job, None if it ran it.
    seconds, cpu_seconds
        Duration, and CPU time of the thread that ran it.
    """

    code: int
    refusal: str | None = None
    seconds: float = 0
    cpu_seconds: float = 0


def run_job(job: Job) -> Done:
    """Run a job in this worker. Its log file gets what the same command would write there."""
    if (message := _refusal(job)) is not None:
        return Done(1, f"The Dask worker {worker_name()} {message}")
    # Stages start their threads themselves.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    stage, options = job.command[1], list(job.command[2:])
    start, cpu_start = time.monotonic(), time.thread_time()
    with _logging_to(job.folder / options[options.index("--log") + 1]):
        code = run_function(
            getattr(import_module(f"pipeline.stages.{stage}"), stage),
            options,
            program=f"parcelwise {stage}",
            logger=f"pipeline.{stage}",
            folder=job.folder,
        )
    seconds, cpu_seconds = time.monotonic() - start, time.thread_time() - cpu_start
    return Done(code, None, seconds, cpu_seconds)


def _refusal(job: Job) -> str | None:
    """Return why this worker cannot run a job, None if it can."""
    if loaded_version() != job.version:
        return (
            f"runs {loaded_version()}, the workflow is {job.version}: install the same on all "
            "machines, and start the workers again."
        )
    missing = [path for path in job.inputs if not path.exists()]
    if missing:
        return (
            f"does not see {missing[0]}: all workers need the folder {job.folder} under the same "
            "path as this machine."
        )
    return None


@contextmanager
def _logging_to(log: Path) -> Iterator[None]:
    """Log what this thread says to a file: other threads of a worker run other jobs."""
    thread = threading.get_ident()
    handler = log_to(log)
    handler.addFilter(lambda record: record.thread == thread)
    log_all()
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
