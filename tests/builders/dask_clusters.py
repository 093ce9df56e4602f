"""A Dask cluster of processes on this machine, whose scheduler and workers can be killed."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from tests.builders.paths import ROOT

# Wait so long for a scheduler that does not answer.
TIMEOUT = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "3s"}

# Runs in each worker at its start: every window takes 0.2 s longer. Dask may run it twice.
SLOW = """
import time
import geo.pixels.block_reading as module
if not hasattr(module, "read_at_once"):
    module.read_at_once = module.read_windows
def slowly(*arguments):
    time.sleep(0.2)
    return module.read_at_once(*arguments)
module.read_windows = slowly
"""

# Runs in each worker at its start: a window of an image whose path contains NAME takes more and
# more memory, at most 3 GB.
HUNGRY = """
import time
import geo.pixels.block_reading as module
if not hasattr(module, "read_modestly"):
    module.read_modestly = module.read_windows
def greedily(bands, *arguments):
    taken = []
    while "NAME" in bands[0].source:
        taken.append(b"x" * 30_000_000)
        assert len(taken) < 100, "the worker was not killed"
        time.sleep(0.05)
    return module.read_modestly(bands, *arguments)
module.read_windows = greedily
"""


@dataclass
class DaskCluster:
    """The processes of a cluster; every worker has one thread."""

    address: str
    scheduler: subprocess.Popen
    workers: list[subprocess.Popen]


@contextmanager
def dask_cluster(folder, n_workers=2, preload="", memory=None):
    """Start a scheduler and workers in a folder; end them by their process ids.

    Parameters
    ----------
    preload
        Code that every worker runs first.
    memory
        Workers that take more are killed and started again; None: nobody watches over them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file, code = folder / "scheduler.json", folder / "preload.py"
    code.write_text(preload)
    started = [start(folder, "scheduler", "--port", "0", "--scheduler-file", file)]
    try:
        wait_for(file.exists)
        address = f"{file.read_text()}".partition('"address": "')[2].partition('"')[0]
        watch = ["--memory-limit", memory, "--nanny"] if memory else ["--no-nanny"]
        started += [
            start(folder, "worker", address, "--nthreads", "1", *watch, "--preload", code)
            for _ in range(n_workers)
        ]
        yield DaskCluster(address, started[0], started[1:])
    finally:
        for process in reversed(started):
            process.kill()
            process.wait()


def start(folder, kind, *options):
    command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *map(str, options)]
    command += ["--host", "127.0.0.1", "--no-dashboard"]
    environment = {**os.environ, **TIMEOUT, "PYTHONPATH": str(ROOT)}
    with (folder / f"{kind}.log").open("a") as log:
        return subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, env=environment
        )


def wait_for(condition, seconds=300):
    """Wait until a condition is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def kill(process):
    """Kill a process, as the system does when the memory is full."""
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
