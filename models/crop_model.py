"""The crop model of a fold: fit, save, load, predict.

model = CropModel.fit(data, train, validation, about=..., architecture=..., training=..., ...)
model.save(folder)
model = CropModel.load(folder, device)
scores = model.log_probabilities(data, indices, batch_size=256)
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.checkpoints import (
    build_model,
    load_checkpoint,
    load_state_dict,
    save_checkpoint,
    save_safetensors,
)
from models.classifier import ParcelClassifier
from models.errors import InputError
from models.hyperparameters import Hyperparameters
from models.inference import Inference, Kept, batches_of_similar_size
from models.model_description import DataDescription, ModelDescription
from models.model_files import (
    PORTABLE_FILE,
    TRAINLOG_FILE,
    WEIGHTS_FILE,
    member_file,
    read_description,
    replacing_models,
    write_bytes,
    write_description,
)
from models.pixel_sets import PixelSets
from models.standardisation import FeatureScaling
from models.training.batches import Batches
from models.training.distributed import ALONE, Processes
from models.training.divergence import DivergedError
from models.training.options import TrainingSettings
from models.training.resume import TrainingState, training_digest
from models.training.start import Start, shared_rows
from models.training.train_fold import FoldResult, OnEpoch, train_fold


@dataclass(frozen=True, eq=False)
class CropModel:
    """The models of one fold (its members) and all that is needed to use them.

    Attributes
    ----------
    description
        Inputs and classes of the members.
    members
        The models, in evaluation mode, on the device.
    device
        Device to predict on.
    folder
        Folder that they were read from; None if they were fitted.
    results, days
        Set by a fit, for `save`: one result per member, and int64 (T,), the days of the training
        dates.
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
        start: CropModel | None = None,
        processes: Processes = ALONE,
    ) -> CropModel:
        """Train the members of a fold, and keep the last or the best epoch of each.

        Parameters
        ----------
        data
            All parcels.
        train, validation
            int64 indices of the labelled parcels to train on, and of those to choose the epoch by.
            If the last epoch is kept, the validation part may be empty.
        about
            Description of the data.
        architecture
            Arguments of `Hyperparameters.for_data`: the name of the model, and the hyper-parameters
            that differ from its paper; the others follow from the data.
        training
            Settings of the training. The members differ in the seed.
        device
            Device to train on. On a CPU, the result depends only on the seed, bit for bit, with any
            number of threads.
        members
            Number of models to train.
        progress
            Called with the number of each member; returns a function to call after every epoch.
        state
            Folder to which each member's state is written every few epochs. If it contains the
            state of this training, the training continues from it, to the same weights as without
            the interruption. Remove the folder's files once the result is saved.
        start
            Model whose weights the training starts from; None for random ones. Member m starts from
            member m, or from the first if there are fewer. Hyper-parameters and scaling of features
            are those of this model; `architecture` is not used. In the last layer, the rows of the
            class codes that both have are taken over.
        processes
            The processes that train together.

        Raises
        ------
        DivergedError
            If a member cannot be trained; the message names it.
        InputError
            If the data do not fit the settings.
        """
        if start is None:
            hyperparameters = Hyperparameters.for_data(
                n_channels=data.n_channels,
                n_classes=len(about.class_codes),
                n_extra=data.n_features,
                **architecture,
            )
            # Fitted on the training parcels only, so that the other parcels stay independent.
            features = None if data.features is None else data.features[train]
            scaling = None if features is None else FeatureScaling.fit(features)
        else:
            start.check_fits(data)
            hyperparameters = start.description.hyperparameters.with_classes(len(about.class_codes))
            scaling = start.description.feature_scaling
        description = ModelDescription.of(
            *(about, hyperparameters, scaling),
            n_pixels=training.n_pixels,
            seed=training.seed,
            members=members,
            versions=_versions(),
            started_from=None if start is None else start.name,
        )
        results = []
        for member in range(1, members + 1):
            own = replace(training, seed=member_seed(training.seed, member))
            weights = None if start is None else start.weights_of(member, about.class_codes)
            member_state = None
            if state is not None:
                digest = training_digest(data, train, validation, description, own, device, weights)
                member_state = TrainingState(state / f"member_{member}.pt", digest)
            try:
                result = train_fold(
                    *(data, train, validation, description, own, device),
                    on_epoch=None if progress is None else progress(member),
                    state=member_state,
                    start=weights,
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
        """Build the model from the results of its members' trainings."""
        h, made_by = description.hyperparameters, Path("the training")
        members = (build_model(h, result.state_dict, made_by).to(device) for result in results)
        return cls(description, tuple(members), device, results=tuple(results), days=days)

    def save(self, folder: Path) -> None:
        """Write a fitted model to Fold_<k>, and then remove the files of an earlier model.

        The files of each member are model.pth.tar (the checkpoint in the reference's format),
        model.safetensors (weights and description in one file) and trainlog.json. All members share
        model.json.
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
            If a file is missing, or weights and description do not fit.
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
        **others: Any,
    ) -> CropModel:
        """Load Fold_<k>/model.pth.tar of the reference, which saves only weights.

        The widths are read from the shapes of the weights. Everything else is set as in the
        reference's inference script.

        Parameters
        ----------
        folder, device
            As for `load`.
        about, features, **others
            Arguments of `ModelDescription.of_reference`: the dataset to predict, and what does not
            follow from shapes: n_pixels, pooling, T and positions.

        Raises
        ------
        InputError
            If the weights are not those of a PSE+TAE or PSE+L-TAE, or do not fit the dataset.
        """
        path = folder / WEIGHTS_FILE
        weights = load_state_dict(path)
        shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        try:
            description = ModelDescription.of_reference(shapes, about, features, **others)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        model = build_model(description.hyperparameters, weights, path).to(device)
        return cls(description, (model,), device, folder)

    @property
    def name(self) -> str:
        """Name for messages: the folder that the model was read from."""
        return "The model" if self.folder is None else str(self.folder)

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return self.description.hyperparameters.n_classes

    @property
    def uses_features(self) -> bool:
        """Whether the members use parcel features."""
        return self.description.feature_scaling is not None

    def weights_of(self, member: int, codes: Sequence[int | str]) -> Start:
        """Return the weights from which a member of a training on other classes starts.

        Parameters
        ----------
        member
            Its number, from 1. If this model has fewer members, the first is returned.
        codes
            Codes of the classes to train on, in order of the class index.
        """
        own = self.members[member - 1 if member <= len(self.members) else 0]
        return Start(own.state_dict(), shared_rows(codes, self.description.class_codes))

    def check_fits(self, data: PixelSets) -> None:
        """Check that the members can predict the parcels, see `ModelDescription.check_fits`."""
        try:
            self.description.check_fits(data)
        except InputError as error:
            raise InputError(f"{self.name} {error}") from None

    def log_probabilities(
        self, data: PixelSets, indices: NDArray[np.int64], batch_size: int
    ) -> NDArray[np.float32]:
        """Compute the log-probability of every class for every parcel, averaged over the members.

        The result of a parcel depends only on the parcel, not on its batch, a seed or the other
        parcels.

        Parameters
        ----------
        data, indices
            The parcels, and int64 (n,), the ones to predict. Labels are not used.
        batch_size
            Number of parcels in a batch.

        Returns
        -------
        NDArray
            float32 (n, n_classes).

        Raises
        ------
        InputError
            If the model does not fit the data, or a result is not finite.
        """
        return ensemble([scores[:, 0] for scores, _ in self._predict(data, indices, batch_size)])

    def log_probabilities_until(
        self,
        data: PixelSets,
        indices: NDArray[np.int64],
        days: NDArray[np.int64],
        batch_size: int,
    ) -> NDArray[np.float32]:
        """Compute what `log_probabilities` would return if the dates ended on each of some days.

        The pixels of a date are encoded once for all days.

        Parameters
        ----------
        data, indices, batch_size
            As in `log_probabilities`.
        days
            int64 (E,), the last days, counted as in `data.days`. Later dates are not used.

        Returns
        -------
        NDArray
            float32 (n, E, n_classes); NaN where a parcel is not observed up to the day.

        Raises
        ------
        InputError
            As `log_probabilities`.
        """
        ends = torch.from_numpy(days).to(self.device)[:, None]  # (E, 1)
        return self._of_parts(
            *(data, indices, batch_size, len(days)),
            lambda _, positions: positions[:, None] <= ends,
        )

    def log_probabilities_without(
        self,
        data: PixelSets,
        indices: NDArray[np.int64],
        left_out: NDArray[np.bool_],
        batch_size: int,
    ) -> NDArray[np.float32]:
        """Compute what `log_probabilities` would return without some dates (occlusion).

        The pixels of a date are encoded once for all of them.

        Parameters
        ----------
        data, indices, batch_size
            As in `log_probabilities`.
        left_out
            bool (n, E, T): of each of the n parcels, E sets of dates to leave out.

        Returns
        -------
        NDArray
            float32 (n, E, n_classes); NaN where no observed date is left.

        Raises
        ------
        InputError
            As `log_probabilities`.
        """

        def kept(chosen: NDArray[np.int64], _: Tensor) -> Tensor:
            return torch.from_numpy(~left_out[chosen]).to(self.device)

        return self._of_parts(data, indices, batch_size, left_out.shape[1], kept)

    def attention(
        self, data: PixelSets, indices: NDArray[np.int64], batch_size: int
    ) -> NDArray[np.float32]:
        """Compute the attention on every date, averaged over the heads and members.

        The heads of two models do not correspond to each other, so only their mean can be averaged
        over models.

        Parameters
        ----------
        data, indices, batch_size
            As in `log_probabilities`.

        Returns
        -------
        NDArray
            float32 (n, T). Each row adds up to 1. It is 0 on dates that are not observed, and
            everywhere if no date is observed.

        Raises
        ------
        InputError
            If the model does not fit the data.
        """
        inputs = self._inference(data, indices, batch_size)
        by_member = [inputs.attention(member) for member in self.members]
        mean: NDArray[np.float32] = np.mean(by_member, axis=0, dtype=np.float32)
        return mean

    def _of_parts(
        self,
        data: PixelSets,
        indices: NDArray[np.int64],
        batch_size: int,
        n_sets: int,
        kept: Kept,
    ) -> NDArray[np.float32]:
        """Compute the log-probabilities (n, E, n_classes) from E sets of dates, see `Kept`."""
        predicted = self._predict(data, indices, batch_size, n_sets, kept)
        by_member = [np.where(seen[:, :, None], scores, np.nan) for scores, seen in predicted]
        return ensemble(by_member)

    def _inference(self, data: PixelSets, indices: NDArray[np.int64], batch_size: int) -> Inference:
        """Prepare some parcels for the members."""
        self.check_fits(data)
        d = self.description
        batches = Batches(data, d.normalisation, d.feature_scaling, d.n_pixels, self.device)
        sizes = np.minimum(data.sizes_of(indices), d.n_pixels)
        return Inference(batches, indices, batches_of_similar_size(sizes, batch_size), data.n_dates)

    def _predict(
        self,
        data: PixelSets,
        indices: NDArray[np.int64],
        batch_size: int,
        n_sets: int = 1,
        kept: Kept | None = None,
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        """Yield log-probabilities (n, E, n_classes) of every member, and where a date is observed.

        Without `kept`, E is 1 and all dates are used.
        """
        inputs = self._inference(data, indices, batch_size)
        for number, member in enumerate(self.members, 1):
            scores, seen = inputs.log_softmax(member, n_sets, kept)
            wrong = indices[~np.isfinite(scores).all(axis=(1, 2))]
            if len(wrong):
                file = (self.folder or Path()) / member_file(WEIGHTS_FILE, number)
                raise InputError(
                    f"{file} predicts probabilities that are not finite for {len(wrong)} of "
                    f"{len(indices)} parcels, such as "
                    f"{', '.join(data.ids[i] for i in wrong[:5])}. Its weights, or the parcels' "
                    "geometric features, are too large. Use weights of a training that did not "
                    "diverge, or check META/geomfeat.json."
                )
            yield scores, seen


def ensemble(log_probabilities: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Average the log-probabilities (..., n_classes) of several models, as the reference does.

    This ranks the classes by the geometric mean of the models' probabilities. The exponentials of
    the result do not sum to exactly 1.
    """
    if not log_probabilities:
        raise ValueError("ensemble: expected the predictions of at least one model, found none")
    mean: NDArray[np.float64] = np.stack(log_probabilities).mean(axis=0, dtype=np.float64)
    return mean.astype(np.float32)


def member_seed(seed: int, member: int) -> int:
    """Derive the seed of a fold's member. The first member's seed is the seed itself."""
    return seed if member == 1 else int(np.random.SeedSequence([seed, member]).generate_state(1)[0])


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": str(torch.__version__),
    }


def _finite_or_null(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Return the metrics, with None (null in JSON) for those that are not finite."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}
