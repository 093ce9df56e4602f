"""Benchmark: how long it takes until nothing is left to do, and until a stage explains itself."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.contest import Contest, Contestant, Goal
from benchmarks.finished_run import make_finished_run, snakemake

OURS = "parcelwise"
_FLOOR = "snakemake -n, a rule without files"
_RUNS = 5


def contests(work: Path, quick: bool) -> list[Contest]:
    """Finish runs of several numbers of acquisitions, and look at them again."""
    numbers = (2, 3) if quick else (25, 50, 100)
    folders = {n: work / f"{n}-acquisitions" for n in numbers}
    commands = {n: snakemake(make_finished_run(f, n), "-n") for n, f in folders.items()}
    most = numbers[-1]
    empty = work / "Snakefile"
    empty.write_text("rule all:\n    default_target: True\n")
    look = Contest(
        f"snakemake -n, a finished run of {most} acquisitions",
        [
            Contestant(OURS, commands[most], folder=folders[most]),
            Contestant(
                _FLOOR,
                [sys.executable, "-m", "snakemake", "--snakefile", str(empty), "-n"],
                folder=work,
            ),
        ],
        [Goal("seconds", OURS, at_most=3)],
        runs=_RUNS,
    )
    explain = Contest(
        "parcelwise --help",
        [
            Contestant(OURS, [sys.executable, "-m", "pipeline", "--help"]),
            Contestant("python alone", [sys.executable, "-c", ""]),
        ],
        [Goal("seconds", OURS, at_most=0.5)],
        runs=_RUNS,
    )
    grown = [
        Contest(
            f"snakemake -n, {n} acquisitions",
            [Contestant(OURS, commands[n], folder=folders[n])],
            runs=_RUNS,
            curve=("acquisitions, in snakemake -n", n),
        )
        for n in numbers
    ]
    return [look, explain, *grown]
