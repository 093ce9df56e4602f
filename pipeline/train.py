"""Stage train: the model of one fold."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from models.checkpoints import ModelMetadata, save_checkpoint, save_metadata
from models.hyperparameters import Hyperparameters
from models.memory_allocator import keep_freed_memory
from models.standardisation import FeatureScaling, Normalisation
from models.training import TrainingSettings, train_fold
from pipeline.config import Settings
from pipeline.folds import read_fold
from pipeline.paths import DatasetPaths
from pipeline.pixel_set_store import (
    read_classes,
    read_dates,
    read_description,
    read_normalisation,
    read_pixel_sets,
)
from pipeline.writing import write_json

logger = logging.getLogger(__name__)

N_GEOMETRIC_FEATURES = 4


def train(
    dataset: Path, folds: Path, fold: int, model: Path, settings: Settings, threads: int = 1
) -> None:
    """Train the model of one fold; the epoch with the best validation mIoU is kept.

    Parameters
    ----------
    dataset
        Pixel-Set dataset.
    folds
        What split wrote.
    fold
        Number of the fold, from 1.
    model
        Folder Fold_<k>. Written into it: model.pth.tar, the checkpoint in the reference's format;
        model.json, all that is needed to use it on other data; trainlog.json, losses and scores
        per epoch.
    settings
        model and train.
    threads
        Of torch, where it runs on the CPU.
    """
    paths = DatasetPaths(dataset)
    device = choose_device(settings.train.device, threads)
    data = read_pixel_sets(paths, with_features=settings.model.geometric_features)
    parts = read_fold(folds, fold, data.ids)
    normalisation = Normalisation(*read_normalisation(paths.normalisation))
    scaling = None if data.features is None else FeatureScaling.fit(data.features[parts.train])
    hyperparameters = choose_hyperparameters(settings, paths)
    training = TrainingSettings(
        n_pixels=settings.train.pixels,
        **settings.train.model_dump(exclude={"device", "pixels"}),
    )
    logger.info(
        "fold %d: %d parcels to train on, %d to validate, on %s",
        *(fold, len(parts.train), len(parts.validation), device),
    )
    result = train_fold(
        data,
        parts.train,
        parts.validation,
        hyperparameters,
        normalisation,
        scaling,
        training,
        device,
        on_epoch=_progress(fold, training.epochs),
    )
    classes = read_classes(paths)
    metadata = ModelMetadata(
        hyperparameters=hyperparameters,
        normalisation=normalisation,
        feature_scaling=scaling,
        n_pixels=training.n_pixels,
        bands=read_description(paths)["bands"],
        class_codes=[str(land.code) for land in classes],
        class_names=[land.name for land in classes],
        first_date=read_dates(paths)[0].isoformat(),
        seed=training.seed,
    )
    save_metadata(model, metadata)
    write_json(model / "trainlog.json", result.trainlog)
    save_checkpoint(
        model,
        epoch=result.epoch,
        state_dict=result.state_dict,
        optimizer_state=result.optimizer_state,
        hyperparameters=hyperparameters,
        days=data.days[0],
    )


def choose_device(name: str, threads: int) -> torch.device:
    """Choose the device: the GPU if `auto` and there is one; prepare the CPU otherwise."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        torch.set_num_threads(threads)
        keep_freed_memory()
    elif not torch.cuda.is_available():
        raise ValueError(f"train.device is {name}, but torch finds no GPU. Set it to auto or cpu.")
    return torch.device(name)


def choose_hyperparameters(settings: Settings, dataset: DatasetPaths) -> Hyperparameters:
    """Complete the model's settings by what the dataset fixes: channels, classes, features."""
    chosen = settings.model.model_dump(exclude={"name", "geometric_features"}, exclude_none=True)
    return Hyperparameters.for_data(
        settings.model.name,
        n_channels=len(read_description(dataset)["bands"]),
        n_classes=len(read_classes(dataset)),
        n_extra=N_GEOMETRIC_FEATURES if settings.model.geometric_features else 0,
        **chosen,
    )


def _progress(fold: int, epochs: int) -> Callable[[Mapping[str, float]], None]:
    """Log a line a twentieth of the way, with the time that is left."""
    start = time.monotonic()
    every = max(1, epochs // 20)

    def log(metrics: Mapping[str, float]) -> None:
        epoch = int(metrics["epoch"])
        if epoch % every and epoch not in (1, epochs):
            return
        left = (time.monotonic() - start) / epoch * (epochs - epoch)
        logger.info(
            "fold %d, epoch %3d of %d: loss %.3f, validation accuracy %.1f %%, mIoU %.3f, %s left",
            *(fold, epoch, epochs, metrics["train_loss"], metrics["val_accuracy"]),
            *(metrics["val_IoU"], f"{left // 60:.0f} min {left % 60:02.0f} s"),
        )

    return log
