"""Candidate: this project's training and inference, by the code of the stages train and predict.

python -m benchmarks.own_models training FOLDER [--pixels 64] [--threads 2] [--epochs 2] [--plain]
python -m benchmarks.own_models compare SCORES.npz SCORES.npz
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.pixel_set_data import ingested

WEIGHTS = Path("weights")
N_COMPARED = 256
TOLERANCE = 1e-4  # of a log-probability


def main() -> None:
    """Do one of the works and print its figures."""
    parser = argparse.ArgumentParser()
    works = {"training": training, "inference": inference, "weights": weights, "compare": compare}
    parser.add_argument("work", choices=works)
    parser.add_argument("paths", type=Path, nargs="+", help="of the dataset, or of the scores")
    parser.add_argument("--out", type=Path, help="where scores are written")
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=2, help="the first warms up")
    parser.add_argument("--plain", action="store_true", help="without the encoder's fast path")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    options.folder = options.paths[0]
    if options.plain:
        _use_plain_encoder()
    works[options.work](options)


def _use_plain_encoder() -> None:
    """Take the plain layers, with torch's threads, which are the fastest for them in training."""
    from models.fast_cpu.memory_allocator import keep_freed_memory
    from models.pixel_set_encoder import PixelSetEncoder

    PixelSetEncoder.fast = False
    module: Any = importlib.import_module("models.training.train_fold")
    module.thread_pool = lambda _: contextlib.nullcontext()
    keep_freed_memory()


def training(options: argparse.Namespace) -> None:
    """Train by the paper's recipe and time the epochs after the first."""
    from models.crop_model import CropModel
    from pipeline.dataset.model_inputs import describe_data
    from pipeline.stages.train import architecture, training_settings

    setting = _Setting(options)
    ends: list[float] = []
    losses: list[float] = []

    def note(metrics: Mapping[str, float]) -> None:
        ends.append(time.perf_counter())
        losses.append(metrics["train_loss"])

    # One validation parcel, the least that is allowed: only training is to be timed.
    n = len(setting.data) - 1
    CropModel.fit(
        setting.data,
        setting.parcels[:n],
        setting.parcels[n:],
        about=describe_data(setting.opened),
        architecture=architecture(setting.training),
        training=training_settings(setting.training),
        device=setting.device,
        progress=lambda _: note,
    )
    print_figures(n * (len(ends) - 1), ends[-1] - ends[0], loss=losses[-1])


def inference(options: argparse.Namespace) -> None:
    """Predict every parcel; write the scores of the first small ones, to compare them."""
    import numpy as np

    from models.crop_model import CropModel

    setting = _Setting(options)
    model = CropModel.load_reference(
        options.folder / WEIGHTS / "Fold_1", setting.device, **setting.reference_arguments
    )
    batch_size = setting.settings.predict.batch_size
    model.log_probabilities(setting.data, setting.parcels[:batch_size], batch_size)
    start = time.perf_counter()
    scores = model.log_probabilities(setting.data, setting.parcels, batch_size)
    seconds = time.perf_counter() - start
    if options.out is not None:
        small = setting.parcels[setting.data.sizes <= options.pixels][:N_COMPARED]
        ids = [setting.data.ids[i] for i in small]
        np.savez(options.out / "scores.npz", ids=ids, scores=scores[small])
    print_figures(len(scores), seconds)


def weights(options: argparse.Namespace) -> None:
    """Write a checkpoint with initial weights, in the reference's format."""
    import torch

    from models.checkpoints import save_checkpoint
    from models.classifier import ParcelClassifier
    from models.hyperparameters import Hyperparameters
    from models.model_files import WEIGHTS_FILE
    from pipeline.dataset.model_inputs import describe_data
    from pipeline.stages.train import architecture

    setting = _Setting(options)
    hyperparameters = Hyperparameters.for_data(
        n_channels=setting.data.n_channels,
        n_classes=len(describe_data(setting.opened).class_codes),
        n_extra=setting.data.n_features,
        **architecture(setting.training),
    )
    model = ParcelClassifier(hyperparameters, torch.Generator().manual_seed(1), "torch")
    save_checkpoint(
        options.folder / WEIGHTS / "Fold_1" / WEIGHTS_FILE,
        epoch=1,
        state_dict=model.state_dict(),
        optimizer_state={},
        hyperparameters=hyperparameters,
        days=setting.data.days[0],
    )


def compare(options: argparse.Namespace) -> None:
    """Exit with a message if two candidates' ids or log-probabilities differ."""
    import numpy as np

    ours, other = (np.load(path) for path in options.paths)
    if not np.array_equal(ours["ids"], other["ids"]):
        sys.exit(f"other parcels: {ours['ids'][:5]} and {other['ids'][:5]}")
    largest = np.abs(ours["scores"] - other["scores"]).max()
    if not largest <= TOLERANCE:
        sys.exit(f"log-probabilities differ by up to {largest:.2g}, more than {TOLERANCE}")


class _Setting:
    """The data and settings that the stages train and predict read before they start."""

    def __init__(self, options: argparse.Namespace) -> None:
        import numpy as np

        from models.training.distributed import choose_device
        from pipeline.dataset.pixel_set_dataset import PixelSetDataset
        from pipeline.workflow.config import load
        from pipeline.workflow.settings import TrainSettings, part_of

        train = {"recipe": "paper", "epochs": options.epochs, "pixels": options.pixels}
        self.settings = load({"train": {**train, "device": options.device}})
        self.training = part_of(self.settings, TrainSettings)
        self.device = choose_device(options.device, options.threads)
        self.opened = PixelSetDataset.open(ingested(options.folder))
        self.data = self.opened.pixel_sets(with_features=True)
        self.parcels = np.arange(len(self.data))

    @property
    def reference_arguments(self) -> dict[str, Any]:
        """What `load_reference` cannot read from the weights."""
        from pipeline.dataset.model_inputs import describe_data

        model = self.settings.model
        return {
            "about": describe_data(self.opened),
            "features": self.data.features,
            "n_pixels": self.settings.train.pixels,
            "pooling": model.pooling,
            "T": model.T,
            "positions": model.positions,
        }


def print_figures(parcels: int, seconds: float, **others: float) -> None:
    """Print the figures that a benchmark compares."""
    figures = {
        "parcels_per_second": parcels / seconds,
        "microseconds_per_parcel": seconds / parcels * 1e6,
        **others,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    # As in the stages: torch's threads are set explicitly, and other libraries start none.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
