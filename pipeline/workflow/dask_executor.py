"""An executor of Snakemake that runs extractions on the workers of a Dask cluster.

All other jobs run on this machine, as usual. Snakemake itself decides what is outstanding and
records what is done, so that a later run without Dask finds the extractions done, and repeats them
after the same changes.
"""

from __future__ import annotations

import os
import shlex
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from snakemake.benchmark import BenchmarkRecord, write_benchmark_records
from snakemake.exceptions import SpawnedJobError, WorkflowError
from snakemake.executors.local import Executor as LocalExecutor
from snakemake.executors.local import common_settings
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

from geo.cluster import MEMORY, SCHEDULER, Cluster, connect, died, lost
from geo.errors import InputError
from models.whole_files import temporary_of
from pipeline.worker import Done, Job, loaded_version, run_job
from pipeline.workflow.progress import ProgressLog

__all__ = ["Executor", "common_settings", "register"]

NAME = "dask"
# The rules whose jobs run on workers. They write only what they declare as output.
RULES = ("extract",)


def register() -> None:
    """Make the executor known to Snakemake, as `--executor dask`."""
    ExecutorPluginRegistry().register_plugin(NAME, sys.modules[__name__])


class Executor(LocalExecutor):  # type: ignore[misc]
    """Snakemake's executor for this machine, which sends jobs of `RULES` to a cluster."""

    def __post_init__(self) -> None:
        """Prepare; the cluster is connected when its first job starts."""
        super().__post_init__()
        self._address = os.environ[SCHEDULER]
        self._cluster: Cluster | None = None
        self._progress: ProgressLog | None = None
        self._version = loaded_version()
        self._is_ending = False
        self._lock = threading.Lock()

    def run_single_job(self, job: Any) -> Future[None]:
        """Start a job, and return its future."""
        if job.rule.name not in RULES:
            future: Future[None] = super().run_single_job(job)
            return future
        if self._cluster is None:
            self._cluster = self._connect()
            self._progress = ProgressLog(
                "extracted", self._outstanding(), "acquisitions", log=self.logger
            )
        self.workflow.async_run(job.prepare())
        done: Future[None] = Future()
        outputs = {Path(name): temporary_of(Path(name)) for name in map(str, job.output)}
        sent = self._cluster.client.submit(
            run_job,
            Job(
                _command(job.shellcmd, outputs), Path.cwd(), [Path.cwd() / f for f in job.input],
                self._version,
            ),
            key=f"{job.rule.name}-{job.wildcards}-{os.urandom(8).hex()}",
            pure=False,
        )  # fmt: skip
        sent.add_done_callback(lambda task: self._finish(job, task, outputs, done))
        return done

    def _connect(self) -> Cluster:
        try:
            return connect(self._address)
        except InputError as error:
            raise WorkflowError(str(error)) from None

    def _outstanding(self) -> int:
        return sum(job.rule.name in RULES for job in self.dag.needrun_jobs())

    def _finish(self, job: Any, task: Any, outputs: dict[Path, Path], done: Future[None]) -> None:
        """Take over the files of a job that has ended, and report it to Snakemake."""
        from distributed import KilledWorker

        if self._is_ending:
            return
        try:
            ended: Done = task.result()
        except KilledWorker as error:
            self._say(job, f"{died(error)} while they read {job.wildcards}. {MEMORY}")
            ended = Done(1)
        except BaseException:  # noqa: BLE001 (of the cluster: those of the stage are in its log)
            self._end(lost(self._address))
            return
        if ended.refusal is not None:
            self._end(ended.refusal)
        elif ended.code != 0:
            done.set_exception(SpawnedJobError())
        else:
            for path, temporary in outputs.items():
                temporary.replace(path)
            _write_benchmark(job, ended)
            if self._progress is not None:
                self._progress.add(1)
            done.set_result(None)

    def _say(self, job: Any, message: str) -> None:
        """Write what happened to a job into its log, which Snakemake shows."""
        Path(str(job.log)).write_text(f"pipeline.{job.rule.name}: {message}\n")

    def _end(self, message: str) -> None:
        """End the run with one message, because of the cluster."""
        with self._lock:
            is_first, self._is_ending = not self._is_ending, True
        if is_first:
            self.workflow.scheduler.executor_error_callback(WorkflowError(message))

    def cancel(self) -> None:
        """End after Ctrl-C. Workers end what they have begun, but nothing takes it over."""
        self.shutdown()

    def shutdown(self) -> None:
        """End the connection and the jobs of this machine."""
        self._is_ending = True
        if self._cluster is not None:
            self._cluster.client.close()
        super().shutdown()


def _command(text: str, outputs: dict[Path, Path]) -> list[str]:
    """Return the words of a rule's command for a worker.

    It writes temporary files. This process renames them if it still waits for them: after Ctrl-C, a
    worker that is still busy could otherwise overwrite what a later run has written.
    """
    words = shlex.split(text)
    names = {str(path): str(temporary) for path, temporary in outputs.items()}
    words = [names.get(word, word) for word in words]
    for option, value in (("--scheduler", "threads"), ("--threads", "1")):
        words[words.index(option) + 1] = value
    return words


def _write_benchmark(job: Any, done: Done) -> None:
    """Write what Snakemake would have measured, as far as it is known."""
    record = BenchmarkRecord(running_time=done.seconds, cpu_time=done.cpu_seconds)
    record.data_collected = True
    write_benchmark_records([record], str(job.benchmark), False)
