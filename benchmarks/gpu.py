"""Benchmark: training on a GPU: an epoch of the paper's shape, and the accuracy on real points.

Each candidate is a process of this module:

    python -m benchmarks.gpu epoch|accuracy --device cuda --precision bfloat16 --mode compiled
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.harness import ROOT, Benchmark, Candidate, Threshold
from benchmarks.model_choice import Task, divided, read_canada
from benchmarks.pixel_set_data import BANDS, CODES, MEDIAN_PIXELS
from models.classifier import ParcelClassifier
from models.fast_cpu.thread_pool import prefetched
from models.hyperparameters import Hyperparameters
from models.pixel_sets import PixelSets
from models.standardisation import FeatureScaling, Normalisation
from models.training.augmentation import Augmenter
from models.training.batches import Batches
from models.training.learner import Learner, focal_loss
from models.training.options import TrainingSettings
from pipeline.stages.train import training_settings
from pipeline.workflow.config import load
from pipeline.workflow.settings import TrainSettings, part_of

DEVICE = "BENCHMARKS_DEVICE"
"""Environment variable: cpu, to test this module where there is no GPU."""

POINTS = ROOT.parent / "shared" / "data" / "canada-2017" / "points.parquet"
PRECISIONS = ("float32", "bfloat16")
MODES = ("eager", "compiled", "CUDA graph", "compiled, CUDA graph")
ON_CPU = "float32, eager, on the CPU"

# The shape of the paper's dataset: 64 pixels of each of 115,000 parcels, in batches of 128.
FULL = {"parcels": 115_000, "dates": 24, "pixels": 64, "batch": 128, "folds": 5, "epochs": 20}
QUICK = {"parcels": 200, "dates": 3, "pixels": 8, "batch": 16, "folds": 1, "epochs": 1}
# Steps before the clock starts: compiling, capturing graphs, choosing kernels.
WARM_UP_STEPS = 10
# Parcels with different pixels; they are repeated.
DIFFERENT = 2000


def gpu(_: Path, quick: bool) -> list[Benchmark]:
    """Train in each precision and mode; without a GPU, say so and return nothing."""
    device = os.environ.get(DEVICE) or ("cuda" if torch.cuda.is_available() else None)
    if device is None:
        print("gpu: torch finds no GPU, so nothing is measured")
        return []
    sizes = QUICK if quick else FULL
    modes = MODES if device == "cuda" else MODES[:2]  # a CPU records no graphs
    ways = {f"{p}, {mode}": (p, mode) for p, mode in itertools.product(PRECISIONS, modes)}
    first, *others = ways
    missing = None if POINTS.is_file() else f"{POINTS.relative_to(ROOT.parent)} is not there"
    on_cpu = _command("accuracy", "cpu", "float32", "eager", sizes)
    return [
        Benchmark(
            f"an epoch of {sizes['parcels']:,} parcels, {sizes['dates']} dates x {BANDS} bands, "
            f"{sizes['pixels']} pixels, batches of {sizes['batch']}",
            [Candidate(n, _command("epoch", device, *way, sizes)) for n, way in ways.items()],
            [Threshold("parcels_per_second", n, over=first, at_least=1) for n in others],
        ),
        Benchmark(
            f"accuracy on the points of Canada, {sizes['folds']} folds, {sizes['epochs']} epochs",
            [
                Candidate(ON_CPU, on_cpu, missing=missing),
                *(
                    Candidate(n, _command("accuracy", device, *way, sizes), missing=missing)
                    for n, way in ways.items()
                ),
            ],
            [Threshold("accuracy_percent", n, over=ON_CPU, at_least=0.99) for n in ways],
        ),
    ]


def _command(work: str, device: str, precision: str, mode: str, sizes: dict[str, int]) -> list[str]:
    words = ["--device", device, "--precision", precision, "--mode", mode]
    for name, value in sizes.items():
        words += [f"--{name}", str(value)]
    return [sys.executable, "-m", "benchmarks.gpu", work, *words]


class _Trainer:
    """Training steps by the code of `train_fold`, in one of the modes."""

    def __init__(
        self,
        name: str,
        data: PixelSets,
        normalisation: Normalisation,
        settings: TrainingSettings,
        n_parcels: int,
        options: argparse.Namespace,
    ) -> None:
        self.device = torch.device(options.device)
        self.settings = replace(settings, precision=options.precision)
        scaling = None if data.features is None else FeatureScaling.fit(data.features)
        n_pixels = settings.n_pixels
        self.batches = Batches(data, normalisation, scaling, n_pixels, self.device, keep=True)
        hyperparameters = Hyperparameters.for_data(
            name,
            n_channels=data.n_channels,
            n_classes=int(data.labels.max()) + 1,
            n_extra=data.n_features,
        )
        initial = torch.Generator().manual_seed(1)
        model = ParcelClassifier(hyperparameters, initial, settings.initialisation)
        compiled = options.mode.startswith("compiled")
        # The fast path of a CPU cannot be compiled; a GPU always takes the plain layers.
        model.spatial_encoder.fast = not compiled
        self.learner = Learner(
            model.to(self.device),
            self.settings,
            partial(focal_loss, gamma=settings.gamma),
            WARM_UP_STEPS + settings.epochs * (n_parcels // settings.batch_size),
            compiled=compiled,
            recorded="CUDA graph" in options.mode,
        )

    def epoch(self, parcels: NDArray[np.int64], number: int, most: int | None = None) -> int:
        """Train on every parcel once, at most so many steps; return the number of steps."""
        size = self.settings.batch_size
        rng, noise = np.random.default_rng(number), torch.Generator(self.device).manual_seed(number)
        torch.manual_seed(number)  # dropout
        change = Augmenter(self.settings.augmentation, noise)
        drawn = self.batches.training(parcels, size, rng, change=change)
        self.learner.model.train()
        steps = 0
        for batch in itertools.islice(prefetched(drawn), most):
            if len(batch.labels) != size:  # the last one; a compiled model has a fixed size
                continue
            self.learner.learn(batch.inputs, batch.labels)
            steps += 1
        return steps

    @torch.no_grad()
    def predict(self, parcels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the class index of each parcel, int64 (n,)."""
        self.learner.model.eval()
        batch = self.batches.of(parcels)
        with self.learner.autocast():
            # Not compiled: the batch size is another one.
            logits = self.learner.model.forward(*batch.inputs)
        return np.asarray(logits.argmax(1).cpu().numpy(), np.int64)

    def wait(self) -> None:
        """Wait until the GPU has done everything."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def epoch(options: argparse.Namespace) -> dict[str, float]:
    """Time an epoch on made parcels, with the recipe `paper`."""
    rng = np.random.default_rng(1)
    n, n_dates = options.parcels, options.dates
    n_different = min(DIFFERENT, n) * MEDIAN_PIXELS
    different = rng.integers(0, 10_000, (n_different, n_dates, BANDS), np.uint16)
    data = PixelSets(
        ids=[str(i) for i in range(n)],
        pixels=np.resize(different, (n * MEDIAN_PIXELS, n_dates, BANDS)),
        offsets=np.arange(n + 1) * MEDIAN_PIXELS,
        days=np.tile(np.arange(n_dates) * 11, (n, 1)),
        labels=np.arange(n) % len(CODES),
        features=rng.random((n, 4)),
    )
    train = {"pixels": options.pixels, "batch_size": options.batch, "epochs": 1}
    run = load({"train": {"recipe": "paper", **train}})
    settings = training_settings(part_of(run, TrainSettings))
    normalisation = Normalisation(np.array(5000.0), np.array(2900.0))
    trainer = _Trainer("psetae", data, normalisation, settings, n, options)
    parcels = np.arange(n)
    trainer.epoch(parcels, 0, most=WARM_UP_STEPS)
    trainer.wait()
    start = time.perf_counter()
    steps = trainer.epoch(parcels, 1)
    trainer.wait()
    seconds = time.perf_counter() - start
    n_trained = steps * settings.batch_size
    figures = {
        "ms_per_step": 1000 * seconds / steps,
        "parcels_per_second": n_trained / seconds,
        "epoch_seconds": seconds * n / n_trained,
    }
    if options.device == "cuda":
        figures["gpu_peak_mb"] = torch.cuda.max_memory_allocated() / 1e6
    return figures


def accuracy(options: argparse.Namespace) -> dict[str, float]:
    """Cross-validate on the points of Canada, with the recipe `default`."""
    points, _ = read_canada(POINTS)
    train = {"epochs": options.epochs, "batch_size": options.batch}
    task = Task("Canada", points, divided(points), train)
    settings = training_settings(part_of(task.settings, TrainSettings))
    correct = total = 0
    for fold in task.folds[: options.folds]:
        normalisation = task.about.normalisation
        trainer = _Trainer("pseltae", points, normalisation, settings, len(fold.train), options)
        for number in range(settings.epochs):
            trainer.epoch(fold.train, number)
        correct += int((trainer.predict(fold.test) == points.labels[fold.test]).sum())
        total += len(fold.test)
    return {"accuracy_percent": 100 * correct / total}


def main() -> None:
    """Run one candidate and print its figures."""
    parser = argparse.ArgumentParser()
    works: dict[str, Any] = {"epoch": epoch, "accuracy": accuracy}
    parser.add_argument("work", choices=works)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--mode", choices=MODES, default="eager")
    for name, value in FULL.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    print(json.dumps(works[options.work](options)))


if __name__ == "__main__":
    main()
