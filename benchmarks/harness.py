"""Candidates that do the same work, run in turn, and the ratios between what they cost."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
OUT = "{out}"
"""In a command, stands for the candidate's fresh, empty folder."""

_LAUNCHER = [sys.executable, "-I", "-S", str(Path(__file__).with_name("launcher.py"))]


class CandidateError(RuntimeError):
    """A command that failed; the message ends with what it printed."""


@dataclass(frozen=True)
class Candidate:
    """One way to do the work: a command, run as a separate process.

    Attributes
    ----------
    name
        As the tables name it.
    command
        Its words; OUT stands for a fresh folder. If the last line that it prints is JSON,
        {figure: number}, these are figures that it measured itself.
    environment
        Environment variables that it needs.
    folder
        Working directory; None for the root of the repository.
    missing
        What it needs that is not installed, and how to get it: the candidate is then left out with
        this line. None to run it. See `missing_package`.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    missing: str | None = None


@dataclass(frozen=True)
class Threshold:
    """A bound of a figure, or of the ratio of two candidates' figures.

    Attributes
    ----------
    figure
        "seconds" (of the whole process), "peak_mb", or a figure that the candidates print.
    of
        Name of the candidate.
    over
        Name of the candidate to divide by; None to bound the figure itself.
    at_most, at_least
        The bound; one of the two.
    """

    figure: str
    of: str
    over: str | None = None
    at_most: float | None = None
    at_least: float | None = None

    def __post_init__(self) -> None:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError(f"threshold of {self.of}: set one of at_most and at_least")

    def met(self, value: float) -> bool:
        """Return whether a figure, or a ratio, is within the bound."""
        if self.at_most is not None:
            return value <= self.at_most
        return self.at_least is not None and value >= self.at_least


@dataclass(frozen=True)
class Benchmark:
    """Candidates that do the same work on the same input.

    Attributes
    ----------
    name
        What is done, on what: "extraction, 6 dates x 10 bands x 2745 px".
    candidates
        Ours first.
    thresholds
        The bounds that are aimed at.
    check
        Command that fails if the candidates' outputs differ, run once: "{out:NAME}" stands for the
        folder of the candidate NAME, which is empty if the candidate was left out.
    runs
        Number of runs, if it is not that of the other benchmarks.
    """

    name: str
    candidates: Sequence[Candidate]
    thresholds: Sequence[Threshold] = ()
    check: Sequence[str] | None = None
    runs: int | None = None

    def __post_init__(self) -> None:
        names = [candidate.name for candidate in self.candidates]
        if len(set(names)) < len(names):
            raise ValueError(f"{self.name}: two candidates have the same name: {names}")
        named = {name for t in self.thresholds for name in (t.of, t.over) if name is not None}
        if unknown := sorted(named - set(names)):
            raise ValueError(f"{self.name}: a threshold names no candidate: {unknown}, of {names}")


class Spread(NamedTuple):
    """A figure, or a ratio of two, over several runs."""

    median: float
    least: float
    most: float


@dataclass(frozen=True)
class Result:
    """The figures of a benchmark.

    Attributes
    ----------
    name, thresholds
        As in `Benchmark`.
    figures
        {candidate: {figure: its value in each run}}, of the candidates that ran.
    left_out
        {candidate: what it lacks}.
    failed
        {candidate, or "check": what it printed}.
    """

    name: str
    thresholds: list[Threshold]
    figures: dict[str, dict[str, list[float]]]
    left_out: dict[str, str]
    failed: dict[str, str]

    def spread(self, figure: str, of: str, over: str | None = None) -> Spread | None:
        """Return a figure, or the ratio to another candidate's; None if it was not measured.

        The ratio is that of the medians; its least and most are over runs that followed each other.
        """
        values = self.figures.get(of, {}).get(figure)
        if values is None:
            return None
        if over is None:
            return Spread(statistics.median(values), min(values), max(values))
        others = self.figures.get(over, {}).get(figure)
        if others is None:
            return None
        ratios = [a / b for a, b in zip(values, others, strict=False)]
        median = statistics.median(values) / statistics.median(others)
        return Spread(median, min(ratios), max(ratios))


def missing_package(name: str) -> str | None:
    """Return how to get a package that a candidate needs; None if it is installed."""
    if importlib.util.find_spec(name) is not None:
        return None
    return f"{name} is not installed: pip install -r benchmarks/requirements.txt"


def run_benchmark(
    benchmark: Benchmark, work: Path, runs: int, say: Callable[[str], None]
) -> Result:
    """Run the candidates in turn (A B C A B C ...) and check their outputs once.

    They run in turn so that whatever else the machine does affects all of them. A candidate that
    fails is not run again.

    Parameters
    ----------
    benchmark
        The benchmark.
    work
        Where the candidates' folders are made; they are removed again.
    runs
        Number of runs, unless the benchmark sets it.
    say
        Takes a line of progress.
    """
    runs = benchmark.runs or runs
    measured: dict[str, list[dict[str, float]]] = {}
    left_out = {c.name: c.missing for c in benchmark.candidates if c.missing is not None}
    failed: dict[str, str] = {}
    for name, reason in left_out.items():
        say(f"  left out: {name}: {reason}")
    for run in range(runs):
        folders: dict[str, Path] = {}
        for candidate in benchmark.candidates:
            if candidate.name in failed or candidate.name in left_out:
                continue
            folder = folders[candidate.name] = Path(tempfile.mkdtemp(dir=work, prefix="out-"))
            # What other processes have written must not go to the disk while the clock runs.
            os.sync()
            time.sleep(0.2)
            try:
                figures = measure(candidate, folder)
                measured.setdefault(candidate.name, []).append(figures)
                say(f"  {run + 1}/{runs} {candidate.name}: {figures['seconds']:.1f} s")
            except CandidateError as error:
                failed[candidate.name] = str(error)
                say(f"  {run + 1}/{runs} {candidate.name} FAILED: {error}")
            if run > 0 or benchmark.check is None:
                shutil.rmtree(folder)
        if run == 0 and benchmark.check is not None:
            try:
                _check(benchmark, folders, work)
            except CandidateError as error:
                failed["check"] = str(error)
                say(f"  the check FAILED: {error}")
            for folder in folders.values():
                shutil.rmtree(folder)
    figures_of = {
        name: {figure: [run[figure] for run in values] for figure in values[0]}
        for name, values in measured.items()
        if name not in failed
    }
    return Result(benchmark.name, list(benchmark.thresholds), figures_of, left_out, failed)


def _check(benchmark: Benchmark, folders: Mapping[str, Path], work: Path) -> None:
    empty = work / "left-out"
    empty.mkdir(exist_ok=True)
    words = [str(word) for word in benchmark.check or ()]
    for candidate in benchmark.candidates:
        folder = str(folders.get(candidate.name, empty))
        words = [word.replace(f"{{out:{candidate.name}}}", folder) for word in words]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise CandidateError(f"{' '.join(words)}:\n{last}")


def measure(candidate: Candidate, out: Path) -> dict[str, float]:
    """Run a candidate once in a fresh process.

    Returns
    -------
    dict
        seconds, of the whole process; peak_mb, its largest resident memory as the kernel counts it,
        mapped files included (if it starts other processes, the largest of them);
        peak_anonymous_mb, without mapped files, sampled every 20 ms; and the figures that the
        command printed.

    Raises
    ------
    CandidateError
        If it fails.
    """
    command = [str(word).replace(OUT, str(out)) for word in candidate.command]
    with tempfile.NamedTemporaryFile("w+") as printed, tempfile.NamedTemporaryFile("r") as measured:
        subprocess.run(
            [*_LAUNCHER, measured.name, *command],
            stdout=printed,
            stderr=subprocess.STDOUT,
            cwd=candidate.folder or ROOT,
            env={**os.environ, **candidate.environment},
            check=False,
        )
        printed.seek(0)
        lines = printed.read().splitlines()
        ended = json.loads(measured.read() or '{"returncode": null}')
    if ended["returncode"] != 0:
        last = "\n".join(lines[-20:])
        raise CandidateError(f"{candidate.name}: {' '.join(command)} failed:\n{last}")
    return {**ended["figures"], **_printed_figures(lines)}


def _printed_figures(lines: list[str]) -> dict[str, float]:
    # Not always the last line: a library may print a warning when the process ends.
    written = [line for line in lines if line.startswith("{")]
    try:
        figures = json.loads(written[-1]) if written else {}
    except ValueError:
        return {}
    return {name: float(value) for name, value in figures.items()}
