"""Contestant: this project's training and inference, by the code of the stages train and predict.

python -m benchmarks.own_models training FOLDER [--pixels 64] [--threads 2] [--epochs 2]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.pixel_set_data import ingested

WEIGHTS = Path("weights")
N_COMPARED = 256


def main() -> None:
    """Do one of the works and print its figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=("training", "inference", "weights"))
    parser.add_argument("folder", type=Path, help="of the dataset")
    parser.add_argument("--out", type=Path, help="where scores are written")
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=2, help="the first warms up")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    work = {"training": training, "inference": inference, "weights": weights}[options.work]
    work(options)


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

    # One parcel is the least that can be validated on: what is timed is training.
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
    """Predict every parcel; keep the scores of the first small ones, to compare them."""
    import numpy as np

    from models.crop_model import CropModel

    setting = _Setting(options)
    model = CropModel.load_reference(
        options.folder / WEIGHTS / "Fold_1", setting.device, **setting.of_reference
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


class _Setting:
    """What the stages train and predict read before they start."""

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
    def of_reference(self) -> dict[str, Any]:
        """What the weights of the reference do not tell."""
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
    """Print what a contest compares."""
    figures = {
        "parcels_per_second": parcels / seconds,
        "microseconds_per_parcel": seconds / parcels * 1e6,
        **others,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    # As the stages do: torch is told its threads, and other libraries start none of their own.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
