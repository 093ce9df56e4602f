"""Stage train: the models of one fold."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from geo.errors import InputError
from models.checkpoints import WEIGHTS_FILE, member_file, save_checkpoint
from models.fast_cpu.memory_allocator import keep_freed_memory
from models.hyperparameters import Hyperparameters
from models.model_metadata import ModelMetadata, save_metadata
from models.safetensors_file import PORTABLE_FILE, save_safetensors
from models.standardisation import FeatureScaling, Normalisation
from models.training.distributed import joined
from models.training.divergence import DivergedError
from models.training.options import TrainingSettings
from models.training.resume import TrainingState, training_digest
from models.training.train_fold import TrainedFold, train_fold
from pipeline.dataset.folds import read_fold
from pipeline.dataset.normalisation_pickle import read_normalisation
from pipeline.dataset.pixel_set_loading import day_zero, read_pixel_sets
from pipeline.dataset.pixel_set_store import read_classes, read_dates, read_description
from pipeline.workflow.paths import DatasetPaths
from pipeline.workflow.progress import Metrics, TensorBoardLog, each_of, show_progress
from pipeline.workflow.settings import TrainSettings
from pipeline.workflow.writing import finite_or_null, replacing_files, write_json

logger = logging.getLogger(__name__)

TRAINLOG_FILE = "trainlog.json"


def train(
    dataset: Path,
    folds: Path,
    fold: int,
    model: Path,
    settings: TrainSettings,
    state: Path | None = None,
    tensorboard: Path | None = None,
    threads: int = 1,
) -> None:
    """Train the models of one fold; of each, the epoch with the best validation mIoU is kept.

    On several GPUs: torchrun --nproc-per-node 2 -m pipeline train ...

    Parameters
    ----------
    dataset
        Pixel-Set dataset.
    folds
        What split wrote.
    fold
        Number of the fold, from 1.
    model
        Folder Fold_<k>. Written into it: model.pth.tar, the checkpoint in the reference's format,
        and model.json, all that is needed to use it on other data; model.safetensors, both in one
        file; trainlog.json, losses and scores per epoch. Where a fold has several members, the
        second one's files are model_2.pth.tar and so on.
    settings
        model and train.
    state
        Folder of the training's state, from which it goes on after a kill; emptied at the end.
    tensorboard
        Folder for TensorBoard, written where train.tensorboard is set.
    threads
        Of torch, where it runs on the CPU.
    """
    paths = DatasetPaths(dataset)
    device = choose_device(settings.train.device, threads)
    data = read_pixel_sets(
        paths,
        with_features=settings.model.geometric_features,
        season_start=settings.model.season_start,
    )
    parts = read_fold(folds, fold, data.ids)
    normalisation = Normalisation(*read_normalisation(paths.normalisation))
    scaling = None if data.features is None else FeatureScaling.fit(data.features[parts.train])
    hyperparameters = choose_hyperparameters(settings, paths, data.n_features)
    n_pixels = pixels_to_draw(settings, data.sizes_of(parts.train))
    training = replace(choose_training(settings), n_pixels=n_pixels)
    metadata = describe(settings, paths, hyperparameters, normalisation, scaling)
    inputs = (data, parts.train, parts.validation, hyperparameters, normalisation, scaling)

    with joined(device) as processes:
        if processes.first:
            logger.info(
                "fold %d: %d parcels to train on, %d to validate, on %s",
                *(fold, len(parts.train), len(parts.validation), device),
            )
        results, states = [], []
        for member in range(1, metadata.members + 1):
            own = replace(training, seed=member_seed(training.seed, member))
            if state is not None:
                digest = training_digest(*inputs, own, device)
                states.append(TrainingState(state / f"member_{member}.pt", digest))
            logs: list[Callable[[Metrics], None]] = [show_progress(fold, member, own.epochs)]
            if tensorboard is not None and settings.train.tensorboard:
                logs.append(TensorBoardLog(tensorboard / f"member_{member}"))
            with naming(fold, member, training):
                results.append(
                    train_fold(
                        *inputs,
                        own,
                        device,
                        on_epoch=each_of(logs),
                        state=states[-1] if states else None,
                        processes=processes,
                    )
                )
        processes.wait()
        if processes.first:
            write_members(model, results, metadata, data.days[0])
            for kept in states:
                kept.remove()


@contextmanager
def naming(fold: int, member: int, training: TrainingSettings) -> Iterator[None]:
    """Complete the message of a training that diverged: where, and what to do."""
    try:
        yield
    except DivergedError as error:
        raise DivergedError(
            f"The training diverged. Fold {fold}, member {member}, {error}. Lower "
            f"train.learning_rate ({training.learning_rate:g}); if it diverges again, look at the "
            "values of these parcels. An earlier model of this fold is kept as it was."
        ) from error


def write_members(
    model: Path, results: list[TrainedFold], metadata: ModelMetadata, days: NDArray[np.int64]
) -> None:
    """Write the models of a fold, and remove those of an earlier training with more members."""
    with replacing_files(model) as folder:
        save_metadata(folder, metadata)
        for member, result in enumerate(results, 1):
            own = replace(metadata, seed=member_seed(metadata.seed, member))
            save_safetensors(folder / member_file(PORTABLE_FILE, member), result.state_dict, own)
            log = {epoch: finite_or_null(metrics) for epoch, metrics in result.trainlog.items()}
            write_json(folder / member_file(TRAINLOG_FILE, member), log)
            save_checkpoint(
                folder,
                epoch=result.epoch,
                state_dict=result.state_dict,
                optimizer_state=result.optimizer_state,
                hyperparameters=metadata.hyperparameters,
                days=days,
                member=member,
            )
    written = range(1, len(results) + 1)
    for name in (WEIGHTS_FILE, PORTABLE_FILE, TRAINLOG_FILE):
        current = {member_file(name, member) for member in written}
        for path in model.glob(name.replace(".", "_*.", 1)):
            if path.name not in current:
                path.unlink()


def member_seed(seed: int, member: int) -> int:
    """Derive the seed of a fold's member; the first has the seed itself."""
    return seed if member == 1 else int(np.random.SeedSequence([seed, member]).generate_state(1)[0])


def describe(
    settings: TrainSettings,
    dataset: DatasetPaths,
    hyperparameters: Hyperparameters,
    normalisation: Normalisation,
    scaling: FeatureScaling | None,
) -> ModelMetadata:
    """Gather what the models of a fold expect and predict."""
    classes = read_classes(dataset)
    return ModelMetadata(
        hyperparameters=hyperparameters,
        normalisation=normalisation,
        feature_scaling=scaling,
        n_pixels=settings.train.pixels,
        members=settings.train.members,
        bands=read_description(dataset)["bands"],
        class_codes=[str(land.code) for land in classes],
        class_names=[land.name for land in classes],
        first_date=day_zero(read_dates(dataset)[0], settings.model.season_start).isoformat(),
        seed=settings.train.seed,
    )


def choose_device(name: str, threads: int) -> torch.device:
    """Choose the device: the GPU if `auto` and there is one; prepare the CPU otherwise."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        # torchrun gives every process a GPU of its own.
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    if name == "cpu":
        torch.set_num_threads(threads)
        keep_freed_memory()
    elif not torch.cuda.is_available():
        raise InputError(f"train.device is {name}, but torch finds no GPU. Set it to auto or cpu.")
    return torch.device(name)


def choose_training(settings: TrainSettings) -> TrainingSettings:
    """Give the settings of the training itself."""
    others = {"recipe", "members", "tensorboard", "device", "pixels"}
    values = settings.train.model_dump(exclude=others)
    return TrainingSettings(n_pixels=settings.train.pixels, **values)


def pixels_to_draw(settings: TrainSettings, sizes: NDArray[np.int64]) -> int:
    """Return how many pixels a training draws of every parcel, padding included.

    Parameters
    ----------
    settings
        train.
    sizes
        int64 (n,), number of pixels of the parcels that are trained on.

    Returns
    -------
    int
        train.pixels, or the size of the largest parcel where none has so many: the rest would be
        padding in every parcel. The recipe `paper` keeps it: the reference pads to train.pixels
        whatever the parcels' sizes, and its batch statistics count padding.
    """
    pixels = settings.train.pixels
    if settings.train.recipe == "paper":
        return pixels
    return min(pixels, max(int(sizes.max(initial=0)), 1))


def choose_hyperparameters(
    settings: TrainSettings, dataset: DatasetPaths, n_features: int
) -> Hyperparameters:
    """Complete the model's settings by what the dataset fixes: channels, classes, features."""
    chosen = settings.model.model_dump(
        exclude={"name", "geometric_features", "season_start"}, exclude_none=True
    )
    return Hyperparameters.for_data(
        settings.model.name,
        n_channels=len(read_description(dataset)["bands"]),
        n_classes=len(read_classes(dataset)),
        n_extra=n_features,
        **chosen,
    )
