"""Stage train: train the models of one fold."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geo.errors import InputError
from models.crop_model import CropModel
from models.model_description import DataDescription
from models.pixel_sets import PixelSets
from models.training.batches import divide
from models.training.distributed import choose_device, joined
from models.training.divergence import DivergedError
from models.training.options import TrainingSettings
from models.training.train_fold import OnEpoch
from pipeline.dataset.model_inputs import describe_data, describe_start, load_start
from pipeline.dataset.pixel_set_dataset import Fold, PixelSetDataset
from pipeline.dataset.trained_on import (
    digests_of,
    read_trained_on,
    refuse_trained_on,
    write_trained_on,
)
from pipeline.workflow.progress import TensorBoardLog, each_of, show_progress
from pipeline.workflow.settings import TrainSettings

logger = logging.getLogger(__name__)

ENDS = ("last", "random")


def train(
    dataset: Path,
    folds: Path,
    fold: int,
    model: Path,
    settings: TrainSettings,
    state: Path | None = None,
    tensorboard: Path | None = None,
    threads: int = 1,
    ends: str = "last",
) -> None:
    """Train the models of one fold, and keep the last or the best epoch of each.

    To train on several GPUs: torchrun --nproc-per-node 2 -m pipeline train ...

    Parameters
    ----------
    dataset
        Pixel-Set dataset.
    folds
        Folds that stage split wrote.
    fold
        Number of the fold, from 1.
    model
        Folder Fold_<k> to write. It will contain model.pth.tar, the checkpoint in the reference's
        format; model.json, all that is needed to use it on other data; model.safetensors, both in
        one file; trainlog.json, losses and scores by epoch; and trained_on.npy, digests of the
        parcels that it was trained on, if all are known. If a fold has several members, the files
        of the second one are model_2.pth.tar and so on.
    settings
        Sections model and train.
    state
        Folder of the training's state, from which an interrupted training continues; its files are
        removed at the end.
    tensorboard
        Folder for TensorBoard, written if train.tensorboard is set.
    threads
        Number of threads on a CPU.
    ends
        "last": each series is used up to its last date. "random": in every step, each parcel's
        dates after a random one are left out, so that the models can classify before the end of the
        season; and cloudy observations that were interpolated, partly from later dates, are masked.

    Raises
    ------
    InputError
        If `ends` is neither; or if the weights to start from do not fit, or were trained on test
        parcels of the fold.
    DivergedError
        If the training diverged; an earlier model is unchanged.
    """
    if ends not in ENDS:
        raise InputError(f"--ends: expected {' or '.join(ENDS)}, found {ends!r}.")
    device = choose_device(settings.train.device, threads)
    inputs = _read_inputs(PixelSetDataset.open(dataset), folds, fold, settings, ends)
    training = training_settings(settings, ends)
    with joined(device) as processes, name_fold(fold, settings):
        batches = divide(inputs.train, training.batch_size, processes.least)
        n_epochs = training.epochs_of(len(batches))
        if processes.first:
            n = len(inputs.validation)
            logger.info(
                "fold %d: %d parcels to train on%s, %d epochs, on %s",
                *(fold, len(inputs.train), f", {n} to validate" if n else "", n_epochs, device),
            )
        fitted = CropModel.fit(
            inputs.data,
            inputs.train,
            inputs.validation,
            about=inputs.about,
            architecture=architecture(settings),
            training=training,
            device=device,
            members=settings.train.members,
            progress=_progress(fold, n_epochs, settings, tensorboard),
            state=state,
            start=inputs.start,
            processes=processes,
        )
        if processes.first:
            fitted.save(model)
            write_trained_on(model, inputs.trained_on)
            # Only now: a training that is killed before continues from its state.
            for file in [] if state is None else state.glob("member_*.pt"):
                file.unlink()


@dataclass(frozen=True, eq=False)
class _Inputs:
    """What a fold is trained on.

    Attributes
    ----------
    data, train, validation, about, start
        Arguments of `CropModel.fit`.
    trained_on
        Digests of all parcels that the models will have been trained on; None if those of the
        weights to start from are not known.
    """

    data: PixelSets
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    about: DataDescription
    start: CropModel | None
    trained_on: NDArray[np.uint64] | None


def _read_inputs(
    dataset: PixelSetDataset, folds: Path, fold: int, settings: TrainSettings, ends: str
) -> _Inputs:
    """Read what a fold is trained on; the arguments are those of `train`."""
    parts = dataset.fold(folds, fold)
    start, with_features = None, settings.model.geometric_features
    about = describe_data(dataset, settings.model.season_start)
    if settings.train.start is not None:
        start = load_start(settings.train.start, dataset, parts, fold, settings)
        with_features = start.uses_features
        about = describe_start(start, dataset)
    data = dataset.pixel_sets(
        with_features=with_features,
        season_start=about.first_date,
        only_clear=ends == "random",
    )
    learnt, validated = training_parts(parts, settings)
    own = digests_of(data, np.concatenate([learnt, validated]))
    trained_on: NDArray[np.uint64] | None = own
    if start is not None and start.folder is not None:
        earlier = read_trained_on(start.folder)
        refuse_trained_on(start.folder, earlier, data, parts.test)
        trained_on = None if earlier is None else np.concatenate([own, earlier])
    return _Inputs(data, learnt, validated, about, start, trained_on)


def training_parts(
    fold: Fold, settings: TrainSettings
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the parcels to train on, and those to choose the epoch by.

    If the last epoch is kept, nothing is chosen: the validation part is trained on, too.
    """
    if settings.train.keep == "best":
        return fold.train, fold.validation
    return np.sort(np.concatenate([fold.train, fold.validation])), fold.validation[:0]


def training_settings(settings: TrainSettings, ends: str = "last") -> TrainingSettings:
    """Return the settings of the training in the form that the models take; ends as in `train`."""
    others = {"from", "recipe", "members", "tensorboard", "device", "pixels"}
    return TrainingSettings(
        n_pixels=settings.train.pixels,
        always_pad=settings.train.recipe == "paper",
        random_end=ends == "random",
        **settings.train.model_dump(exclude=others),
    )


def architecture(settings: TrainSettings) -> dict[str, Any]:
    """Return the model's name and the hyper-parameters that differ from its paper."""
    others = {"geometric_features", "season_start"}
    return settings.model.model_dump(exclude=others, exclude_none=True)


@contextmanager
def name_fold(fold: int, settings: TrainSettings) -> Iterator[None]:
    """Add the fold and the remedy to the message of a training that diverged."""
    try:
        yield
    except DivergedError as error:
        raise DivergedError(
            f"The training diverged. Fold {fold}, {error}. Lower train.learning_rate "
            f"({settings.train.learning_rate:g}); if it diverges again, look at the values of "
            "these parcels. An earlier model of this fold is unchanged."
        ) from error


def _progress(
    fold: int, n_epochs: int, settings: TrainSettings, tensorboard: Path | None
) -> Callable[[int], OnEpoch]:
    """Return a function that shows the progress of a member, on the terminal and in TensorBoard."""

    def of_member(member: int) -> OnEpoch:
        logs: list[OnEpoch] = [show_progress(fold, member, n_epochs)]
        if tensorboard is not None and settings.train.tensorboard:
            logs.append(TensorBoardLog(tensorboard / f"member_{member}"))
        return each_of(logs)

    return of_member
