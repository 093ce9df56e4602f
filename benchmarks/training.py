"""Benchmark: training on a CPU, beside the reference, and how its cost grows."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.contest import OUT, Contest, Contestant, Goal
from benchmarks.pixel_set_data import make_dataset
from benchmarks.reference import TUNED_MALLOC, missing_reference

OURS, REFERENCE, TUNED = "parcelwise", "reference", "reference, malloc tuned"
RATE, COST = "parcels_per_second", "microseconds_per_parcel"


def contests(work: Path, quick: bool) -> list[Contest]:
    """Make the datasets; race the reference, then vary dates, pixels, parcels and threads alone."""
    n_parcels = 300 if quick else 4000
    dataset = make_dataset(work / "24-dates", n_parcels, 24)
    race = Contest(
        "training, 24 dates x 10 bands, 64 pixels, batches of 128, 2 threads",
        [
            Contestant(OURS, _ours(dataset)),
            Contestant(REFERENCE, _reference(dataset), missing=missing_reference()),
            Contestant(TUNED, _reference(dataset), TUNED_MALLOC, missing=missing_reference()),
        ],
        [
            Goal(RATE, OURS, over=REFERENCE, at_least=7),
            Goal(RATE, OURS, over=TUNED, at_least=3.5),
            Goal("peak_anonymous_mb", OURS, over=REFERENCE, at_most=1),
            Goal("peak_mb", OURS, over=REFERENCE, at_most=1),
        ],
    )
    return [race, *_growth(work, quick)]


def _growth(work: Path, quick: bool) -> list[Contest]:
    """Vary one thing at a time around 2,000 parcels, 24 dates, 64 pixels and 2 threads."""
    n_parcels = 200 if quick else 2000
    grown = []
    for n_dates in (12, 24, 48):
        dataset = make_dataset(work / f"{n_dates}-dates-growth", n_parcels, n_dates)
        grown.append(_alone("dates, in training", n_dates, COST, _ours(dataset)))
    dataset = work / "24-dates-growth"
    for pixels in (16, 32, 64):
        command = _ours(dataset, "--pixels", str(pixels))
        grown.append(_alone("pixels a parcel, in training", pixels, COST, command))
    for threads in (1, 2):
        command = _ours(dataset, "--threads", str(threads))
        grown.append(_alone("threads, in training", threads, RATE, command))
    for factor in (1, 2, 4):
        dataset = make_dataset(work / f"{factor}-fold", factor * n_parcels, 24)
        command = _ours(dataset)
        grown.append(
            _alone("parcels, in training", factor * n_parcels, "peak_anonymous_mb", command)
        )
    return grown


def _alone(axis: str, x: int, figure: str, command: list[str]) -> Contest:
    name = f"{axis}: {x}"
    return Contest(name, [Contestant(OURS, command)], curve=(axis, x), curve_figure=figure)


def _ours(dataset: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.own_models", "training", str(dataset), *options]


def _reference(dataset: Path) -> list[str]:
    # With 1, 2 and 8 loading processes it was no faster: the computation fills both cores.
    words = ["training", str(dataset), "--out", OUT, "--workers", "0"]
    return [sys.executable, "-m", "benchmarks.reference_models", *words]
