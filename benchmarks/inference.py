"""Benchmark: inference on a CPU, beside the reference, and how its cost grows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.contest import OUT, Contest, Contestant, Goal
from benchmarks.measuring import ROOT
from benchmarks.pixel_set_data import make_dataset
from benchmarks.reference import TUNED_MALLOC, missing_reference

OURS, REFERENCE, TUNED = "parcelwise", "reference", "reference, malloc tuned"
LOADING = "reference, 2 loading processes"
RATE, COST = "parcels_per_second", "microseconds_per_parcel"


def contests(work: Path, quick: bool) -> list[Contest]:
    """Make the datasets; race the reference, then vary dates, pixels and threads alone."""
    dataset = _with_weights(make_dataset(work / "24-dates", 300 if quick else 4000, 24))
    missing = missing_reference()
    race = Contest(
        "inference, 24 dates x 10 bands, 64 pixels, 2 threads",
        [
            Contestant(OURS, _ours(dataset, "--out", OUT)),
            Contestant(REFERENCE, _reference(dataset), missing=missing),
            Contestant(LOADING, _reference(dataset, workers=2), missing=missing),
            Contestant(TUNED, _reference(dataset), TUNED_MALLOC, missing=missing),
        ],
        [
            Goal(RATE, OURS, over=REFERENCE, at_least=12),
            Goal(RATE, OURS, over=LOADING, at_least=12),
            Goal(RATE, OURS, over=TUNED, at_least=4),
            Goal("peak_anonymous_mb", OURS, over=REFERENCE, at_most=1),
            Goal("peak_mb", OURS, over=REFERENCE, at_most=1),
        ],
        check=None if missing else _same_scores(),
    )
    return [race, *_growth(work, quick)]


def _growth(work: Path, quick: bool) -> list[Contest]:
    """Vary one thing at a time around 2,000 parcels, 24 dates, 64 pixels and 2 threads."""
    grown = []
    for n_dates in (12, 24, 48):
        dataset = make_dataset(work / f"{n_dates}-dates-growth", 200 if quick else 2000, n_dates)
        command = _ours(_with_weights(dataset))
        grown.append(_alone("dates, in inference", n_dates, COST, command))
    dataset = work / "24-dates-growth"
    for pixels in (16, 32, 64):
        command = _ours(dataset, "--pixels", str(pixels))
        grown.append(_alone("pixels a parcel, in inference", pixels, COST, command))
    for threads in (1, 2):
        command = _ours(dataset, "--threads", str(threads))
        grown.append(_alone("threads, in inference", threads, RATE, command))
    return grown


def _alone(axis: str, x: int, figure: str, command: list[str]) -> Contest:
    name = f"{axis}: {x}"
    return Contest(name, [Contestant(OURS, command)], curve=(axis, x), curve_figure=figure)


def _with_weights(dataset: Path) -> Path:
    """Lay initial weights beside a dataset, in the reference's format, which both can read."""
    command = [sys.executable, "-m", "benchmarks.own_models", "weights", str(dataset)]
    subprocess.run(command, check=True, cwd=ROOT)
    return dataset


def _ours(dataset: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.own_models", "inference", str(dataset), *options]


def _reference(dataset: Path, workers: int = 0) -> list[str]:
    # None and 2 loading processes took turns in being the faster: both compete. With tuned malloc
    # none was the faster, as the computation fills both cores.
    words = ["inference", str(dataset), "--out", OUT, "--workers", str(workers)]
    return [sys.executable, "-m", "benchmarks.reference_models", *words]


def _same_scores() -> list[str]:
    """Compare the scores of parcels of which every pixel is taken: only these leave no choice."""
    outs = [f"{{out:{name}}}/scores.npz" for name in (OURS, REFERENCE)]
    return [sys.executable, "-m", "benchmarks.same_scores", *outs]
