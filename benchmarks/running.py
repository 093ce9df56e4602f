"""Contestants in turn, each in a fresh folder, with the time that is left."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.contest import Contest, Contestant
from benchmarks.measuring import ROOT, ContestantError, measure
from benchmarks.outcome import Outcome, judge

Say = Callable[[str], None]


def run_contest(module: str, contest: Contest, work: Path, runs: int, say: Say) -> Outcome:
    """Run the contestants in turn (A B C A B C ...), check their outputs once, judge the goals.

    In turn, so that what the machine does meanwhile befalls all of them. A contestant that fails
    is not run again.

    Parameters
    ----------
    module
        Name of the benchmark.
    contest
        The contest.
    work
        Where the contestants' folders are made; they are removed again.
    runs
        How often, unless the contest says it itself.
    say
        Takes a line of progress.
    """
    runs = contest.runs or runs
    measured: dict[str, list[dict[str, float]]] = {}
    failed: dict[str, str] = {}
    present = [c for c in contest.contestants if c.missing is None]
    for contestant in contest.contestants:
        if contestant.missing is not None:
            say(f"  left out: {contestant.name}: {contestant.missing}")
    for run in range(runs):
        keep = run == 0 and contest.check is not None
        folders: dict[str, Path] = {}
        for contestant in present:
            if contestant.name in failed:
                continue
            folder = folders[contestant.name] = Path(tempfile.mkdtemp(dir=work, prefix="out-"))
            try:
                figures = _measure_in_quiet(contestant, folder)
                measured.setdefault(contestant.name, []).append(figures)
                left = _time_left(present, measured, failed, runs)
                say(f"  {run + 1}/{runs} {contestant.name}: {figures['seconds']:.1f} s{left}")
            except ContestantError as error:
                failed[contestant.name] = str(error)
                say(f"  {run + 1}/{runs} {contestant.name} FAILED: {error}")
            if not keep:
                shutil.rmtree(folder)
        if keep:
            try:
                _check(contest, folders, work)
            except ContestantError as error:
                failed["check"] = str(error)
                say(f"  the check FAILED: {error}")
            for folder in folders.values():
                shutil.rmtree(folder)
    complete = {name: found for name, found in measured.items() if name not in failed}
    return judge(module, contest, complete, failed)


def _measure_in_quiet(contestant: Contestant, folder: Path) -> dict[str, float]:
    # What others have written is on its way to the disk before the clock starts.
    os.sync()
    time.sleep(0.2)
    return measure(contestant, folder)


def _check(contest: Contest, folders: Mapping[str, Path], work: Path) -> None:
    """Run the check of a contest on the folders of its contestants.

    Raises
    ------
    ContestantError
        If it fails.
    """
    empty = work / "left-out"
    empty.mkdir(exist_ok=True)
    words = [str(word) for word in contest.check or ()]
    for contestant in contest.contestants:
        folder = str(folders.get(contestant.name, empty))
        words = [word.replace(f"{{out:{contestant.name}}}", folder) for word in words]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise ContestantError(f"{' '.join(words)}:\n{last}")


def _time_left(
    present: Sequence[Contestant],
    measured: Mapping[str, Sequence[Mapping[str, float]]],
    failed: Mapping[str, str],
    runs: int,
) -> str:
    """Say how long the contest still takes; nothing before everyone has run once."""
    seconds = 0.0
    for contestant in present:
        if contestant.name in failed:
            continue
        if contestant.name not in measured:
            return ""
        done = [figures["seconds"] for figures in measured[contestant.name]]
        seconds += statistics.median(done) * (runs - len(done))
    return f", {seconds:.0f} s left of this contest" if seconds else ""
