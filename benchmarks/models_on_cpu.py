"""Benchmarks: training and inference on a CPU, beside the reference and our plain encoder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import OUT, ROOT, Benchmark, Candidate, Threshold
from benchmarks.pixel_set_data import make_dataset
from benchmarks.reference_models import TUNED_MALLOC, missing_reference

OURS, PLAIN = "parcelwise", "parcelwise, plain encoder"
REFERENCE, TUNED = "reference", "reference, malloc tuned"
LOADING = "reference, 2 loading processes"
RATE = "parcels_per_second"

Ours = Callable[..., list[str]]
"""(dataset, *options) -> the command of our candidate."""


def training(work: Path, quick: bool) -> list[Benchmark]:
    """Train beside the reference, then vary dates, pixels, threads and parcels alone."""
    dataset = make_dataset(work / "24-dates", 300 if quick else 4000, 24)
    missing = missing_reference()
    # With 1, 2 and 8 loading processes it was no faster: the computation fills both cores.
    reference = _reference("training", dataset, workers=0)

    def ours(folder: Path, *options: str) -> list[str]:
        return _ours("training", folder, *options)

    return [
        Benchmark(
            "training, 24 dates x 10 bands, 64 pixels, batches of 128, 2 threads",
            [
                Candidate(OURS, ours(dataset)),
                Candidate(PLAIN, ours(dataset, "--plain")),
                Candidate(REFERENCE, reference, missing=missing),
                Candidate(TUNED, reference, TUNED_MALLOC, missing=missing),
            ],
            [
                Threshold(RATE, OURS, over=PLAIN, at_least=1.2),
                Threshold(RATE, OURS, over=REFERENCE, at_least=7),
                Threshold(RATE, OURS, over=TUNED, at_least=3.5),
                Threshold("peak_anonymous_mb", OURS, over=REFERENCE, at_most=1),
                Threshold("peak_mb", OURS, over=REFERENCE, at_most=1),
            ],
        ),
        _on_one_thread("training", ours, dataset, at_least=1.2),
        *_growth("training", ours, work, 200 if quick else 2000),
    ]


def inference(work: Path, quick: bool) -> list[Benchmark]:
    """Predict beside the reference, then vary dates, pixels, threads and parcels alone."""
    dataset = _with_weights(make_dataset(work / "24-dates", 300 if quick else 4000, 24))
    missing = missing_reference()

    def ours(folder: Path, *options: str) -> list[str]:
        return _ours("inference", _with_weights(folder), *options)

    # 0 and 2 loading processes were equally fast, with tuned malloc 0 was: the computation fills
    # both cores.
    alone, loading = (_reference("inference", dataset, workers=n) for n in (0, 2))
    # Only parcels whose pixels are all taken: no pixel is drawn at random.
    scores = [f"{{out:{name}}}/scores.npz" for name in (OURS, REFERENCE)]
    return [
        Benchmark(
            "inference, 24 dates x 10 bands, 64 pixels, 2 threads",
            [
                Candidate(OURS, ours(dataset, "--out", OUT)),
                Candidate(PLAIN, ours(dataset, "--plain")),
                Candidate(REFERENCE, alone, missing=missing),
                Candidate(LOADING, loading, missing=missing),
                Candidate(TUNED, alone, TUNED_MALLOC, missing=missing),
            ],
            [
                Threshold(RATE, OURS, over=PLAIN, at_least=1.7),
                Threshold(RATE, OURS, over=REFERENCE, at_least=12),
                Threshold(RATE, OURS, over=LOADING, at_least=12),
                Threshold(RATE, OURS, over=TUNED, at_least=4),
                Threshold("peak_anonymous_mb", OURS, over=REFERENCE, at_most=1),
                Threshold("peak_mb", OURS, over=REFERENCE, at_most=1),
            ],
            check=None
            if missing
            else [sys.executable, "-m", "benchmarks.own_models", "compare", *scores],
        ),
        _on_one_thread("inference", ours, dataset, at_least=1.7),
        *_growth("inference", ours, work, 200 if quick else 2000),
    ]


def _on_one_thread(work: str, ours: Ours, dataset: Path, at_least: float) -> Benchmark:
    one = ("--threads", "1")
    return Benchmark(
        f"{work}, 24 dates x 10 bands, 64 pixels, 1 thread",
        [
            Candidate(OURS, ours(dataset, *one)),
            Candidate(PLAIN, ours(dataset, *one, "--plain")),
        ],
        [Threshold(RATE, OURS, over=PLAIN, at_least=at_least)],
    )


def _growth(work: str, ours: Ours, folder: Path, n_parcels: int) -> list[Benchmark]:
    """Vary one thing at a time around n_parcels, 24 dates, 64 pixels and 2 threads."""
    by_dates = {n: make_dataset(folder / f"{n}-dates-growth", n_parcels, n) for n in (12, 24, 48)}
    by_parcels = {
        n: make_dataset(folder / f"{n}-parcels", n, 24) for n in (2 * n_parcels, 4 * n_parcels)
    }
    middle = by_dates[24]
    grown = {
        "dates": {n: ours(dataset) for n, dataset in by_dates.items()},
        "pixels": {n: ours(middle, "--pixels", str(n)) for n in (16, 32, 64)},
        "threads": {n: ours(middle, "--threads", str(n)) for n in (1, 2)},
        "parcels": {n: ours(d) for n, d in {n_parcels: middle, **by_parcels}.items()},
    }
    return [
        Benchmark(
            f"{work}, growth with {axis}",
            [Candidate(f"{n} {axis}", command) for n, command in commands.items()],
        )
        for axis, commands in grown.items()
    ]


def _with_weights(dataset: Path) -> Path:
    """Write initial weights beside a dataset, in the reference's format, which both can read."""
    command = [sys.executable, "-m", "benchmarks.own_models", "weights", str(dataset)]
    subprocess.run(command, check=True, cwd=ROOT)
    return dataset


def _ours(work: str, dataset: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.own_models", work, str(dataset), *options]


def _reference(work: str, dataset: Path, workers: int) -> list[str]:
    words = [work, str(dataset), "--out", OUT, "--workers", str(workers)]
    return [sys.executable, "-m", "benchmarks.reference_models", *words]
