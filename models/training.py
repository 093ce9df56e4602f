"""Train a parcel classifier on one fold."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.batches import Batch, Batches, Jitter, training_batch_starts
from models.classifier import ParcelClassifier
from models.focal_loss import focal_loss
from models.hyperparameters import Hyperparameters
from models.inference import evaluation_mode
from models.memory_allocator import keep_freed_memory
from models.metrics import Tally, balanced_weights
from models.pixel_sets import PixelSets
from models.standardisation import FeatureScaling, Normalisation

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingSettings:
    """Say how to train; the defaults are the PSE+TAE paper's.

    Attributes
    ----------
    epochs, batch_size
        Passes over the training parcels, and parcels in a batch.
    n_pixels
        Pixels drawn of every parcel.
    learning_rate, weight_decay, optimizer
        Of "adam" or "adamw".
    schedule
        "constant" learning rate, or "onecycle" up to it and down again.
    gamma
        Exponent of the focal loss.
    class_weighting
        "none", or "balanced": by the inverse of the classes' frequencies.
    jitter_sigma, jitter_clip
        Noise on normalised pixels: its deviation and largest absolute value.
    seed
        Of initial weights, order, pixel draws, jitter and dropout.
    """

    epochs: int = 100
    batch_size: int = 128
    n_pixels: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    optimizer: str = "adam"
    schedule: str = "constant"
    gamma: float = 1.0
    class_weighting: str = "none"
    jitter_sigma: float = 0.01
    jitter_clip: float = 0.05
    seed: int = 1

    def __post_init__(self) -> None:
        for name, allowed in (
            ("optimizer", ("adam", "adamw")),
            ("schedule", ("constant", "onecycle")),
            ("class_weighting", ("none", "balanced")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name}: expected one of {allowed}, found {getattr(self, name)!r}"
                )
        for name, least in (("epochs", 1), ("batch_size", 2), ("n_pixels", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected {least} or more, found {getattr(self, name)}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate: expected above 0, found {self.learning_rate}")
        for name in ("weight_decay", "gamma", "jitter_sigma", "jitter_clip"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected 0 or more, found {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class TrainedFold:
    """Hold the epoch of the best validation mIoU.

    Attributes
    ----------
    epoch
        1 for the first.
    state_dict, optimizer_state
        Of model and optimizer after that epoch.
    trainlog
        By epoch: train_loss, train_accuracy (percent), train_IoU, val_loss, val_accuracy, val_IoU.
    """

    epoch: int
    state_dict: dict[str, Tensor]
    optimizer_state: dict[str, Any]
    trainlog: dict[int, dict[str, float]]


def train_fold(
    data: PixelSets,
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    hyperparameters: Hyperparameters,
    normalisation: Normalisation,
    feature_scaling: FeatureScaling | None,
    settings: TrainingSettings,
    device: torch.device,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> TrainedFold:
    """Train a model and keep its best epoch.

    Parameters
    ----------
    data
        All parcels.
    train, validation
        int64 indices of the labelled parcels to learn from and to choose the epoch by.
    hyperparameters
        The model.
    normalisation, feature_scaling
        Of pixels and of parcel features (fitted on training parcels only; None for no features).
    settings
        How to train.
    device
        Where to train. On a CPU, one seed gives the same result bit for bit, with the same number
        of threads.
    on_epoch
        Called after every epoch with its number ("epoch") and the trainlog's metrics.

    Returns
    -------
    TrainedFold
        Of the epoch with the highest validation mIoU, the latest of equals.

    Raises
    ------
    ValueError
        If a parcel has no label or one that the model has no class for, if a parcel is in both
        parts, or if either part is too small.
    """
    _check_parts(data, train, validation, hyperparameters)
    keep_freed_memory()
    batches = Batches(data, normalisation, feature_scaling, settings.n_pixels, device)
    class_weights = None
    if settings.class_weighting == "balanced":
        weights = balanced_weights(data.labels[train], hyperparameters.n_classes)
        class_weights = torch.from_numpy(weights).float().to(device)
    loss_of = partial(focal_loss, gamma=settings.gamma, class_weights=class_weights)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(settings.seed)  # dropout draws from the global generator only
        rng = np.random.default_rng(settings.seed)
        noise = torch.Generator(device).manual_seed(settings.seed)
        initial = torch.Generator().manual_seed(settings.seed)
        model = ParcelClassifier(hyperparameters, initial).to(device)
        optimizer = _optimizer(model, settings)
        scheduler = _scheduler(optimizer, settings, len(train))
        jitter = Jitter(settings.jitter_sigma, settings.jitter_clip)

        trainlog: dict[int, dict[str, float]] = {}
        best = TrainedFold(0, {}, {}, trainlog)
        for epoch in range(1, settings.epochs + 1):
            training = batches.training(train, settings.batch_size, jitter, rng, noise)
            metrics = _train_epoch(model, training, loss_of, optimizer, scheduler)
            metrics |= _validate(
                model, batches.evaluation(validation, settings.batch_size), loss_of
            )
            trainlog[epoch] = metrics
            if best.epoch == 0 or metrics["val_IoU"] >= trainlog[best.epoch]["val_IoU"]:
                states = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
                best = TrainedFold(epoch, *states, trainlog)
            if on_epoch is not None:
                on_epoch({"epoch": epoch, **metrics})
    _logger.info("best of %d epochs: %d, %s", settings.epochs, best.epoch, trainlog[best.epoch])
    return best


def _train_epoch(
    model: ParcelClassifier,
    batches: Iterable[Batch],
    loss_of: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None,
) -> dict[str, float]:
    tally = Tally("train", model.hyperparameters.n_classes)
    model.train()
    for batch in batches:
        logits = model(*batch.inputs)
        loss = loss_of(logits, batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        tally.add(loss.item(), *_classes(batch, logits))
    return tally.metrics()


@torch.inference_mode()
def _validate(
    model: ParcelClassifier,
    batches: Iterable[Batch],
    loss_of: Callable[[Tensor, Tensor], Tensor],
) -> dict[str, float]:
    tally = Tally("val", model.hyperparameters.n_classes)
    with evaluation_mode(model):
        for batch in batches:
            logits = model(*batch.inputs)
            tally.add(loss_of(logits, batch.labels).item(), *_classes(batch, logits))
    return tally.metrics()


def _classes(batch: Batch, logits: Tensor) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give reference and predicted class indices."""
    return batch.labels.cpu().numpy(), logits.argmax(1).cpu().numpy()


def _check_parts(
    data: PixelSets,
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    hyperparameters: Hyperparameters,
) -> None:
    for name, part, least in (("training", train, 2), ("validation", validation, 1)):
        if len(part) < least:
            raise ValueError(f"{name}: expected {least} parcels or more, found {len(part)}")
        labels = data.labels[part]
        if (wrong := part[(labels < 0) | (labels >= hyperparameters.n_classes)]).size:
            first = ", ".join(f"{data.ids[i]} ({data.labels[i]})" for i in wrong[:5])
            raise ValueError(
                f"{name}: {len(wrong)} parcels have no label in 0 .. "
                f"{hyperparameters.n_classes - 1}, such as {first}"
            )
    if (shared := np.intersect1d(train, validation)).size:
        first = ", ".join(data.ids[i] for i in shared[:5])
        raise ValueError(f"{len(shared)} parcels are in training and validation, such as {first}")


def _optimizer(model: ParcelClassifier, settings: TrainingSettings) -> torch.optim.Optimizer:
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)


def _scheduler(
    optimizer: torch.optim.Optimizer, settings: TrainingSettings, n_parcels: int
) -> torch.optim.lr_scheduler.LRScheduler | None:
    if settings.schedule == "constant":
        return None
    steps = settings.epochs * len(training_batch_starts(n_parcels, settings.batch_size))
    # One more than are used: the rate is set once more behind the last step, and ends there.
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=settings.learning_rate, total_steps=steps + 1
    )
