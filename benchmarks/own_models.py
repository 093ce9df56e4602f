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
    from models.training.train_fold import train_fold
    from pipeline.stages.train import choose_training
    from pipeline.workflow.settings import TrainSettings, part_of

    setting = _Setting(options)
    ends: list[float] = []
    losses: list[float] = []

    def note(metrics: Mapping[str, float]) -> None:
        ends.append(time.perf_counter())
        losses.append(metrics["train_loss"])

    # One parcel is the least that can be validated on: what is timed is training.
    n = len(setting.data) - 1
    train_fold(
        setting.data,
        setting.parcels[:n],
        setting.parcels[n:],
        setting.hyperparameters,
        setting.normalisation,
        setting.scaling,
        choose_training(part_of(setting.settings, TrainSettings)),
        setting.device,
        on_epoch=note,
    )
    print_figures(n * (len(ends) - 1), ends[-1] - ends[0], loss=losses[-1])


def inference(options: argparse.Namespace) -> None:
    """Predict every parcel; keep the scores of the first small ones, to compare them."""
    import numpy as np

    from models.checkpoints import load_model
    from models.inference import log_probabilities

    setting = _Setting(options)
    model = load_model(options.folder / WEIGHTS / "Fold_1", setting.hyperparameters, setting.device)
    batch_size = setting.settings.predict.batch_size

    def predict(which: np.ndarray) -> np.ndarray:
        return log_probabilities(
            model,
            setting.data,
            which,
            setting.normalisation,
            setting.scaling,
            n_pixels=options.pixels,
            batch_size=batch_size,
            device=setting.device,
        )

    predict(setting.parcels[:batch_size])
    start = time.perf_counter()
    scores = predict(setting.parcels)
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

    setting = _Setting(options)
    model = ParcelClassifier(setting.hyperparameters, torch.Generator().manual_seed(1), "torch")
    save_checkpoint(
        options.folder / WEIGHTS / "Fold_1",
        epoch=1,
        state_dict=model.state_dict(),
        optimizer_state={},
        hyperparameters=setting.hyperparameters,
        days=setting.data.days[0],
    )


class _Setting:
    """What the stages train and predict read before they start."""

    def __init__(self, options: argparse.Namespace) -> None:
        import numpy as np

        from models.standardisation import FeatureScaling, Normalisation
        from pipeline.dataset.normalisation_pickle import read_normalisation
        from pipeline.dataset.pixel_set_loading import read_pixel_sets
        from pipeline.stages.train import choose_device, choose_hyperparameters
        from pipeline.workflow.config import load
        from pipeline.workflow.paths import DatasetPaths
        from pipeline.workflow.settings import TrainSettings, part_of

        train = {"recipe": "paper", "epochs": options.epochs, "pixels": options.pixels}
        self.settings = load({"train": {**train, "device": options.device}})
        self.device = choose_device(options.device, options.threads)
        paths = DatasetPaths(ingested(options.folder))
        self.data = read_pixel_sets(paths, with_features=True)
        self.parcels = np.arange(len(self.data))
        self.normalisation = Normalisation(*read_normalisation(paths.normalisation))
        self.scaling = None
        if self.data.features is not None:
            self.scaling = FeatureScaling.fit(self.data.features)
        self.hyperparameters = choose_hyperparameters(
            part_of(self.settings, TrainSettings), paths, self.data.n_features
        )


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
