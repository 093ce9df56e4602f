"""The crop model of a fold: fitted, saved, loaded, and used to predict.

model = CropModel.fit(data, train, validation, about=..., architecture=..., training=..., ...)
model.save(folder)
model = CropModel.load(folder, device)
scores = model.log_probabilities(data, indices, batch_size=256)
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.checkpoints import (
    build_model,
    load_checkpoint,
    load_state_dict,
    save_checkpoint,
    save_safetensors,
)
from models.classifier import ParcelClassifier, evaluation_mode
from models.errors import InputError
from models.fast_cpu.thread_pool import in_parallel, thread_pool
from models.hyperparameters import Hyperparameters
from models.model_files import (
    PORTABLE_FILE,
    TRAINLOG_FILE,
    WEIGHTS_FILE,
    ModelDescription,
    member_file,
    read_description,
    replacing_models,
    write_bytes,
    write_description,
)
from models.pixel_sets import PixelSets
from models.standardisation import FeatureScaling, Normalisation
from models.training.batches import Batches
from models.training.distributed import ALONE, Processes
from models.training.divergence import DivergedError
from models.training.options import TrainingSettings
from models.training.resume import TrainingState, training_digest
from models.training.train_fold import FoldResult, OnEpoch, train_fold

# Parcels among which a batch is chosen.
_NEIGHBOURS = 4096


@dataclass(frozen=True, eq=False)
class DataDescription:
    """Say what the numbers of a dataset mean, for a model that is to be used on other data.

    Attributes
    ----------
    bands
        Names of the channels, in order.
    class_codes, class_names
        Of the class indices, in order.
    first_date
        Day 0.
    normalisation
        Of the pixels.
    """

    bands: list[str]
    class_codes: list[str]
    class_names: list[str]
    first_date: date
    normalisation: Normalisation


@dataclass(frozen=True, eq=False)
class CropModel:
    """Hold the models of one fold (its members) and all that is needed to use them.

    Attributes
    ----------
    description
        What the members expect and predict.
    members
        In evaluation mode, on the device.
    device
        Where they compute.
    folder
        Where they were read from; None where they were fitted.
    results, days
        Of a fit, which `save` writes: one result a member, and int64 (T,), the days of the dates
        that they were trained on.
    """

    description: ModelDescription
    members: tuple[ParcelClassifier, ...]
    device: torch.device
    folder: Path | None = None
    results: tuple[FoldResult, ...] = ()
    days: NDArray[np.int64] | None = None

    @classmethod
    def fit(
        cls,
        data: PixelSets,
        train: NDArray[np.int64],
        validation: NDArray[np.int64],
        *,
        about: DataDescription,
        architecture: Mapping[str, Any],
        training: TrainingSettings,
        device: torch.device,
        members: int = 1,
        progress: Callable[[int], OnEpoch] | None = None,
        state: Path | None = None,
        processes: Processes = ALONE,
    ) -> CropModel:
        """Train the members of a fold; of each, the epoch with the best validation mIoU is kept.

        Parameters
        ----------
        data
            All parcels.
        train, validation
            int64 indices of the labelled parcels to learn from and to choose the epoch by.
        about
            What the data are.
        architecture
            Arguments of `Hyperparameters.for_data`: the name of the model, and whatever differs
            from its paper; the rest follows from the data.
        training
            How to train; the members differ in the seed.
        device
            Where to train. On a CPU, one seed gives the same result bit for bit, with any number of
            threads.
        members
            How many models to train.
        progress
            Called with the number of each member; what it returns is called after every epoch.
        state
            Folder that keeps each member's state every few epochs. A training that finds its state
            there goes on from it, to the same weights as if it had never been interrupted. Remove
            the folder's files once the result is saved.
        processes
            That train together.

        Raises
        ------
        DivergedError
            If a member cannot be trained; the message names it.
        InputError
            If the data cannot be trained on.
        """
        description = _describe(data, train, about, architecture, training, members)
        drawn = replace(training, n_pixels=pixels_to_draw(training, data.sizes_of(train)))
        results = []
        for member in range(1, members + 1):
            own = replace(drawn, seed=member_seed(training.seed, member))
            kept = None
            if state is not None:
                digest = training_digest(data, train, validation, description, own, device)
                kept = TrainingState(state / f"member_{member}.pt", digest)
            try:
                result = train_fold(
                    *(data, train, validation, description, own, device),
                    on_epoch=None if progress is None else progress(member),
                    state=kept,
                    processes=processes,
                )
            except DivergedError as error:
                raise DivergedError(f"member {member}, {error}") from error
            results.append(result)
        processes.wait()
        return cls.of_results(description, results, data.days[0], device)

    @classmethod
    def of_results(
        cls,
        description: ModelDescription,
        results: Sequence[FoldResult],
        days: NDArray[np.int64],
        device: torch.device,
    ) -> CropModel:
        """Make the model of what was trained: one result a member."""
        h, made_by = description.hyperparameters, Path("the training")
        members = (build_model(h, result.state_dict, made_by).to(device) for result in results)
        return cls(description, tuple(members), device, results=tuple(results), days=days)

    def save(self, folder: Path) -> None:
        """Write a fitted model to Fold_<k>; the files of an earlier one go once all is written.

        Of each member: model.pth.tar, the checkpoint in the reference's format; model.safetensors,
        weights and description in one file; trainlog.json. For all of them: model.json.
        """
        if not self.results or self.days is None:
            raise ValueError("only a model that was fitted has an optimizer and a log to save")
        description = self.description
        with replacing_models(folder) as new:
            write_description(new, description)
            for member, result in enumerate(self.results, 1):
                own = replace(description, seed=member_seed(description.seed, member))
                save_safetensors(new / member_file(PORTABLE_FILE, member), result.state_dict, own)
                log = {e: _finite_or_null(metrics) for e, metrics in result.trainlog.items()}
                text = json.dumps(log, ensure_ascii=False, allow_nan=False)
                write_bytes(new / member_file(TRAINLOG_FILE, member), text.encode())
                save_checkpoint(
                    new / member_file(WEIGHTS_FILE, member),
                    epoch=result.epoch,
                    state_dict=result.state_dict,
                    optimizer_state=result.optimizer_state,
                    hyperparameters=description.hyperparameters,
                    days=self.days,
                )

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> CropModel:
        """Load Fold_<k>/model.json and the members beside it: model.pth.tar, model_2.pth.tar, ...

        Raises
        ------
        InputError
            If a file is missing or does not fit the other.
        """
        description = read_description(folder)
        files = (folder / member_file(WEIGHTS_FILE, n + 1) for n in range(description.members))
        members = (load_checkpoint(f, description.hyperparameters, device) for f in files)
        return cls(description, tuple(members), device, folder)

    @classmethod
    def load_reference(
        cls,
        folder: Path,
        device: torch.device,
        *,
        about: DataDescription,
        features: NDArray[np.float64] | None,
        n_pixels: int,
        pooling: str,
        T: int,  # noqa: N803 - the papers' name
        positions: str,
    ) -> CropModel:
        """Load Fold_<k>/model.pth.tar of the reference, which keeps nothing beside its weights.

        The widths come from the shapes of the weights, and everything else is as the reference's
        own inference has it.

        Parameters
        ----------
        folder, device
            As for `load`.
        about
            What the model is taken to have been trained on: that of the dataset that it is to
            predict.
        features
            float64 (N, F), of all parcels, by which features are standardised (ddof 1); None where
            the dataset has none.
        n_pixels
            Pixels to draw of a parcel, at most.
        pooling, T, positions
            Hyper-parameters that no shape tells.

        Raises
        ------
        InputError
            If the weights are not of PSE+TAE or PSE+L-TAE, or do not fit the dataset.
        """
        path = folder / WEIGHTS_FILE
        weights = load_state_dict(path)
        shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        try:
            h = Hyperparameters.of_weights(shapes, pooling=pooling, T=T, positions=positions)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        if h.n_classes != len(about.class_codes):
            raise InputError(
                f"{path} tells {h.n_classes} classes apart, the settings name "
                f"{len(about.class_codes)}. List their codes in dataset.classes, in the order of "
                "its training."
            )
        if h.input_dim != len(about.bands):
            raise InputError(
                f"{path} takes {h.input_dim} channels, the dataset has {len(about.bands)}: "
                f"{', '.join(about.bands)}."
            )
        scaling = None
        if h.extra_size:
            if features is None or features.shape[1] != h.extra_size:
                found = "none" if features is None else features.shape[1]
                raise InputError(
                    f"{path} takes {h.extra_size} geometric features, META/geomfeat.json of the "
                    f"dataset has {found} for each parcel."
                )
            scaling = FeatureScaling.fit(features)
        description = ModelDescription(
            hyperparameters=h,
            normalisation=about.normalisation,
            feature_scaling=scaling,
            n_pixels=n_pixels,
            bands=about.bands,
            class_codes=about.class_codes,
            class_names=about.class_names,
            first_date=about.first_date.isoformat(),
            seed=0,
            members=1,
            versions=_versions(),
        )
        return cls(description, (build_model(h, weights, path).to(device),), device, folder)

    @property
    def name(self) -> str:
        """The folder that the model was read from, for messages."""
        return "The model" if self.folder is None else str(self.folder)

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return self.description.hyperparameters.n_classes

    @property
    def uses_features(self) -> bool:
        """Whether the members take features of the parcels."""
        return self.description.feature_scaling is not None

    def check_fits(self, data: PixelSets) -> None:
        """Check that the parcels can be predicted.

        Raises
        ------
        InputError
            If they have other channels or features than the model takes, or other dates where it
            takes a fixed number of them.
        """
        h, name = self.description.hyperparameters, self.name
        if data.n_channels != h.input_dim:
            raise InputError(
                f"{name} takes {h.input_dim} channels, the dataset has {data.n_channels}."
            )
        if self.uses_features and data.n_features != h.extra_size:
            raise InputError(
                f"{name} was trained with {h.extra_size} geometric features of each parcel, the "
                f"dataset has {data.n_features}."
            )
        try:
            self.description.normalisation.check_fits(data.n_dates, data.n_channels)
        except InputError as error:
            raise InputError(f"{name} does not fit the dataset: {error}.") from None
        if h.n_dates is not None and (h.n_dates != data.n_dates or data.observed is not None):
            raise InputError(
                f"{name} normalises {h.n_dates} dates together, as the reference's L-TAE does, so "
                "it takes no other number of dates than that, the same for all parcels. The "
                f"dataset has {data.n_dates}."
            )

    def log_probabilities(
        self, data: PixelSets, indices: NDArray[np.int64], batch_size: int
    ) -> NDArray[np.float32]:
        """Compute the log-probability of every class for every parcel; the mean over the members.

        A parcel's result depends on nothing but the parcel: not on its batch, a seed or the other
        parcels.

        Parameters
        ----------
        data, indices
            The parcels, and int64 (n,) which of them to predict; labels are not needed.
        batch_size
            Parcels at a time.

        Returns
        -------
        NDArray
            float32 (n, n_classes).

        Raises
        ------
        InputError
            If the model does not fit the data, or a number is not finite.
        """
        self.check_fits(data)
        d = self.description
        batches = Batches(data, d.normalisation, d.feature_scaling, d.n_pixels, self.device)
        parts = batches_of_like_size(np.minimum(data.sizes_of(indices), d.n_pixels), batch_size)
        by_member = []
        for number, member in enumerate(self.members, 1):
            scores = _log_softmax(member, batches, indices, parts)
            wrong = indices[~np.isfinite(scores).all(axis=1)]
            if len(wrong):
                file = (self.folder or Path()) / member_file(WEIGHTS_FILE, number)
                raise InputError(
                    f"{file} gives probabilities that are not finite to {len(wrong)} of "
                    f"{len(indices)} parcels, such as "
                    f"{', '.join(data.ids[i] for i in wrong[:5])}. Its weights, or the parcels' "
                    "geometric features, are too large. Take weights of a training that did not "
                    "diverge, or check META/geomfeat.json."
                )
            by_member.append(scores)
        return ensemble(by_member)


def ensemble(log_probabilities: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Average the log-probabilities (n, n_classes) of several models, as the reference does.

    The result ranks classes by the geometric mean of the models' probabilities; its exponentials
    need not sum to 1.
    """
    if not log_probabilities:
        raise ValueError("ensemble: expected the predictions of one model or more, found none")
    mean: NDArray[np.float64] = np.stack(log_probabilities).mean(axis=0, dtype=np.float64)
    return mean.astype(np.float32)


def batches_of_like_size(sizes: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """Divide parcels into batches of like size, in which little is padded.

    Parcels change places with near neighbours only, so that files are read nearly in order.

    Parameters
    ----------
    sizes
        int64 (n,).
    batch_size
        Parcels in a batch.

    Returns
    -------
    list
        Positions in `sizes`, int64, up to batch_size in each.
    """
    batches = []
    for start in range(0, len(sizes), _NEIGHBOURS):
        order = start + np.argsort(sizes[start : start + _NEIGHBOURS], kind="stable")
        batches += np.split(order, range(batch_size, len(order), batch_size))
    return batches


def choose_device(name: str, threads: int) -> torch.device:
    """Choose the device: the GPU if `auto` and there is one; set torch's threads on a CPU.

    Raises
    ------
    InputError
        If a GPU is named and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        # torchrun gives every process a GPU of its own.
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    if name == "cpu":
        torch.set_num_threads(threads)
    elif not torch.cuda.is_available():
        raise InputError(f"train.device is {name}, but torch finds no GPU. Set it to auto or cpu.")
    return torch.device(name)


def member_seed(seed: int, member: int) -> int:
    """Derive the seed of a fold's member; the first has the seed itself."""
    return seed if member == 1 else int(np.random.SeedSequence([seed, member]).generate_state(1)[0])


def pixels_to_draw(training: TrainingSettings, sizes: NDArray[np.int64]) -> int:
    """Return how many pixels a training draws of every parcel, padding included.

    It is the size of the largest parcel where none has n_pixels: the rest would be padding in every
    parcel. `always_pad` keeps it: the reference pads to n_pixels whatever the parcels' sizes, and
    its batch statistics count padding.

    Parameters
    ----------
    training
        How to train.
    sizes
        int64 (n,), number of pixels of the parcels that are trained on.
    """
    if training.always_pad:
        return training.n_pixels
    return min(training.n_pixels, max(int(sizes.max(initial=0)), 1))


def _describe(
    data: PixelSets,
    train: NDArray[np.int64],
    about: DataDescription,
    architecture: Mapping[str, Any],
    training: TrainingSettings,
    members: int,
) -> ModelDescription:
    """Complete the architecture by what the data fix, and say what the models will expect."""
    hyperparameters = Hyperparameters.for_data(
        n_channels=data.n_channels,
        n_classes=len(about.class_codes),
        n_extra=data.n_features,
        **architecture,
    )
    return ModelDescription(
        hyperparameters=hyperparameters,
        normalisation=about.normalisation,
        # Of the training parcels alone: the others are not known when a model is used.
        feature_scaling=(
            None if data.features is None else FeatureScaling.fit(data.features[train])
        ),
        n_pixels=training.n_pixels,
        bands=about.bands,
        class_codes=about.class_codes,
        class_names=about.class_names,
        first_date=about.first_date.isoformat(),
        seed=training.seed,
        members=members,
        versions=_versions(),
    )


def _log_softmax(
    model: ParcelClassifier,
    batches: Batches,
    indices: NDArray[np.int64],
    parts: Sequence[NDArray[np.int64]],
) -> NDArray[np.float32]:
    """Compute the log-softmax (n, n_classes) of a model's logits, batch by batch.

    Parameters
    ----------
    model, batches
        On one device.
    indices
        int64 (n,), parcels.
    parts
        The batches: each the positions in `indices` of its parcels.
    """

    @torch.inference_mode()
    def predict(chosen: NDArray[np.int64]) -> Tensor:
        return functional.log_softmax(model(*batches.of(indices[chosen]).inputs), 1)

    result = np.empty((len(indices), model.hyperparameters.n_classes), dtype=np.float32)
    with evaluation_mode(model), thread_pool(batches.device):
        # On a GPU nothing is waited for before the last batch is on its way.
        for chosen, scores in zip(parts, in_parallel(predict, parts), strict=True):
            result[chosen] = scores.cpu().numpy()
    return result


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": str(torch.__version__),
    }


def _finite_or_null(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Return the metrics with None, JSON's null, for those that are not finite."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}
