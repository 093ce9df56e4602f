"""Time and memory of a command, as a whole process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.contest import OUT, Contestant

ROOT = Path(__file__).parents[1]
_SECONDS_BETWEEN_LOOKS = 0.02


class ContestantError(RuntimeError):
    """A command that failed; the message ends with what it printed."""


def measure(contestant: Contestant, out: Path) -> dict[str, float]:
    """Run a contestant once in a fresh process.

    Returns
    -------
    dict
        seconds, of the whole process; peak_mb, its largest resident memory, as the kernel counts
        it, files that are mapped included; peak_anonymous_mb, without these, as seen every 20 ms;
        and what the command printed itself, as the last line, in JSON.

    Raises
    ------
    ContestantError
        If it fails.
    """
    command = [str(word).replace(OUT, str(out)) for word in contestant.command]
    with tempfile.TemporaryFile("w+") as printed:
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdout=printed,
            stderr=subprocess.STDOUT,
            cwd=contestant.folder or ROOT,
            env={**os.environ, **contestant.environment},
        )
        anonymous = [0.0]
        watch = threading.Thread(target=_watch, args=(process.pid, anonymous))
        watch.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        watch.join()
        printed.seek(0)
        lines = printed.read().splitlines()
    if process.returncode != 0:
        last = "\n".join(lines[-20:])
        raise ContestantError(f"{contestant.name}: {' '.join(command)} failed:\n{last}")
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    figures = {
        "seconds": seconds,
        "peak_mb": usage.ru_maxrss * unit / 1e6,
        "peak_anonymous_mb": anonymous[0],
    }
    return {**figures, **_printed_figures(lines)}


def _watch(pid: int, anonymous: list[float]) -> None:
    """Note the largest anonymous memory of a process until it ends."""
    status = Path(f"/proc/{pid}/status")
    while True:
        try:
            text = status.read_text()
        except OSError:
            return
        found = [line for line in text.splitlines() if line.startswith("RssAnon")]
        if not found:  # it has ended, or this is no Linux
            return
        anonymous[0] = max(anonymous[0], int(found[0].split()[1]) * 1024 / 1e6)
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _printed_figures(lines: list[str]) -> dict[str, float]:
    """Read the last line of JSON; a library may warn behind it, at the end of the process."""
    written = [line for line in lines if line.startswith("{")]
    try:
        figures = json.loads(written[-1]) if written else {}
    except ValueError:
        return {}
    return {name: float(value) for name, value in figures.items()}
