"""Benchmark: the acquisitions become the Pixel-Set dataset, and this one file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.contest import OUT, Contest, Contestant, Goal
from benchmarks.extracted_data import TILE, make_extracted
from benchmarks.measuring import ROOT
from pipeline.workflow.paths import RunPaths

OURS, COPY = "parcelwise", "copy of the packed file"
N_DATES = 24
ARRAYS = "24 dates x 10 bands x 83 pixels"


def contests(work: Path, quick: bool) -> list[Contest]:
    """Race the writing of files, the packing, and see whether memory stays flat."""
    few, many = (200, 400) if quick else (5000, 20_000)
    runs = {n: make_extracted(work / f"{n}-parcels", n, N_DATES) for n in (few, many)}
    for run in runs.values():
        _complete(run)
    return [_files(few), _packing(runs[few]), _growth(runs, few, many)]


def _files(n_parcels: int) -> Contest:
    words = [sys.executable, "-m", "benchmarks.parcel_arrays", "files"]
    ways = {
        OURS: "ours",
        "numpy.save": "numpy",
        "open, write, close (pixels only)": "bare",
        "numpy.save once a date (pixels only)": "rewritten",
    }
    cost = "microseconds_per_parcel"
    return Contest(
        f"files of {n_parcels} parcels of {ARRAYS}, in memory",
        [Contestant(name, [*words, way, str(n_parcels)]) for name, way in ways.items()],
        [
            Goal(cost, OURS, at_most=80),
            Goal(cost, OURS, over="numpy.save", at_most=1),
            Goal(cost, OURS, over="numpy.save once a date (pixels only)", at_most=0.1),
        ],
    )


def _packing(run: RunPaths) -> Contest:
    words = [sys.executable, "-m", "benchmarks.parcel_arrays"]
    dataset = str(run.dataset.root)
    return Contest(
        f"packing of files of {ARRAYS}, 2 threads",
        [
            Contestant(OURS, [*words, "pack", dataset, OUT]),
            Contestant(COPY, [*words, "copy", dataset, OUT]),
        ],
        # More than inference reads; the copy shows what is the most.
        [Goal("mb_per_second", OURS, at_least=300)],
        check=["cmp", f"{{out:{OURS}}}/pixels.npy", f"{{out:{COPY}}}/pixels.npy"],
    )


def _growth(runs: dict[int, RunPaths], few: int, many: int) -> Contest:
    """Assemble by the stage, 200 MB of pixels at once."""
    names = {n: f"{n} parcels" for n in (many, few)}
    peak = Goal("peak_anonymous_mb", names[many], over=names[few], at_most=1.3)
    return Contest(
        f"assemble, {ARRAYS}, 2 threads, assemble.memory_mb: 200",
        [Contestant(name, _assemble(runs[n], OUT)) for n, name in names.items()],
        [peak],
    )


def _assemble(run: RunPaths, dataset: str) -> list[str]:
    return [
        *(sys.executable, "-m", "pipeline", "assemble", "--config", str(run.config)),
        *("--acquisitions", str(run.acquisitions), "--extracted", str(run.extractions)),
        *("--pixel-index", str(run.pixel_index(TILE)), "--dataset", dataset, "--threads", "2"),
    ]


def _complete(run: RunPaths) -> None:
    """Assemble and pack once, for the contest of packing."""
    if run.dataset.packed_pixels.is_file():
        return
    dataset = str(run.dataset.root)
    pack = ["pack", "--config", str(run.config), "--dataset", dataset]
    for command in (_assemble(run, dataset), [sys.executable, "-m", "pipeline", *pack]):
        subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
