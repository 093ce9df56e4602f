"""Time and memory of a command, as a whole process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.contest import OUT, Contestant

ROOT = Path(__file__).parents[1]
_LAUNCHER = [sys.executable, "-I", "-S", str(Path(__file__).with_name("launcher.py"))]


class ContestantError(RuntimeError):
    """A command that failed; the message ends with what it printed."""


def measure(contestant: Contestant, out: Path) -> dict[str, float]:
    """Run a contestant once in a fresh process.

    Returns
    -------
    dict
        seconds, of the whole process; peak_mb, its largest resident memory, as the kernel counts
        it, files that are mapped included (of a command that starts others, the largest of them);
        peak_anonymous_mb, without these, as seen every 20 ms; and what the command printed itself,
        as the last line, in JSON.

    Raises
    ------
    ContestantError
        If it fails.
    """
    command = [str(word).replace(OUT, str(out)) for word in contestant.command]
    with tempfile.NamedTemporaryFile("w+") as printed, tempfile.NamedTemporaryFile("r") as measured:
        subprocess.run(
            [*_LAUNCHER, measured.name, *command],
            stdout=printed,
            stderr=subprocess.STDOUT,
            cwd=contestant.folder or ROOT,
            env={**os.environ, **contestant.environment},
            check=False,
        )
        printed.seek(0)
        lines = printed.read().splitlines()
        ended = json.loads(measured.read() or '{"returncode": null}')
    if ended["returncode"] != 0:
        last = "\n".join(lines[-20:])
        raise ContestantError(f"{contestant.name}: {' '.join(command)} failed:\n{last}")
    return {**ended["figures"], **_printed_figures(lines)}


def _printed_figures(lines: list[str]) -> dict[str, float]:
    """Read the last line of JSON; a library may warn behind it, at the end of the process."""
    written = [line for line in lines if line.startswith("{")]
    try:
        figures = json.loads(written[-1]) if written else {}
    except ValueError:
        return {}
    return {name: float(value) for name, value in figures.items()}
