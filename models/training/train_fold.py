"""Train a parcel classifier on one fold."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.classifier import ParcelClassifier, evaluation_mode
from models.errors import InputError, expect
from models.fast_cpu.thread_pool import in_parallel, prefetched, thread_pool
from models.metrics import balanced_weights, mean_iou
from models.model_description import ModelDescription
from models.pixel_sets import PixelSets
from models.training.augmentation import Augmenter
from models.training.batches import Batch, Batches, divide
from models.training.distributed import ALONE, Processes
from models.training.divergence import DivergedError, StepWatch
from models.training.learner import Learner, Loss, can_compile, focal_loss
from models.training.memory import check_memory, training_memory
from models.training.options import TrainingSettings
from models.training.resume import TrainingState
from models.training.start import Start

_logger = logging.getLogger(__name__)

# Parcels in a batch of the validation.
_VALIDATED_TOGETHER = 128

# Pixels, over dates and steps, from which compiling the model takes less time than it saves.
_WORTH_COMPILING = 4e9

OnEpoch = Callable[[Mapping[str, float]], None]


@dataclass(frozen=True, eq=False)
class FoldResult:
    """Result of the training on a fold: the epoch that is kept.

    Attributes
    ----------
    epoch
        Number of that epoch, from 1.
    state_dict, optimizer_state
        States of model and optimizer after that epoch.
    trainlog
        By epoch: train_loss, train_accuracy (percent), train_IoU; with a validation part also
        val_loss, val_accuracy, val_IoU.
    """

    epoch: int
    state_dict: dict[str, Tensor]
    optimizer_state: dict[str, Any]
    trainlog: dict[int, dict[str, float]]


def train_fold(
    data: PixelSets,
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    description: ModelDescription,
    settings: TrainingSettings,
    device: torch.device,
    *,
    on_epoch: OnEpoch | None = None,
    state: TrainingState | None = None,
    start: Start | None = None,
    processes: Processes = ALONE,
) -> FoldResult:
    """Train a model and return its best or last epoch.

    Parameters
    ----------
    data
        All parcels.
    train, validation
        int64 indices of the labelled parcels to train on, and of those to choose the epoch by. If
        the last epoch is kept, the validation part may be empty.
    description
        The model, and the scaling of pixels and features (fitted on the training parcels only).
    settings
        Settings of the training.
    device
        Device to train on. On a CPU, the result depends only on the seed, bit for bit, with any
        number of threads.
    on_epoch
        Called after every epoch with its number ("epoch") and the trainlog's metrics.
    state
        File to which the state is written every few epochs. If it exists, the training continues
        from it, to the same weights as without the interruption.
    start
        Weights to start from; None for random ones.
    processes
        The processes that train this model together. Each batch is divided among them. The result
        is that of one process within rounding: batch statistics are those of all shares, and random
        changes are drawn for the whole batch.

    Returns
    -------
    FoldResult
        The last epoch; or that with the highest validation mIoU, the latest if several are equal.
        An epoch whose validation loss is not finite is logged and skipped, because its model cannot
        classify some parcels.

    Raises
    ------
    DivergedError
        If the loss, a gradient or a weight is not finite, or the validation loss is not finite in
        any epoch. A single process on a CPU stops at that step; a GPU, or several processes, at the
        end of that epoch.
    InputError
        If a parcel has no label or a label outside the model's classes, if a parcel is in both
        parts, if a part is too small, or if a limit of memory is too low.
    """
    hyperparameters = description.hyperparameters
    _check_parts(data, train, validation, hyperparameters.n_classes, settings.keep)
    n_pixels = pixels_to_draw(settings, data.sizes_of(train))
    if device.type == "cpu":
        n_parcels = min(-(-settings.batch_size // processes.count), len(train))
        check_memory(
            training_memory(hyperparameters, n_parcels, n_pixels, data.n_dates),
            f"batches of {n_parcels:,} parcels, {n_pixels:,} pixels and {data.n_dates:,} dates",
        )
    batches = Batches(
        *(data, description.normalisation, description.feature_scaling, n_pixels, device),
        keep=True,
    )
    loss_of = _loss(settings, data.labels[train], hyperparameters.n_classes, device)
    n_batches = len(divide(train, settings.batch_size, processes.least))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        initial = torch.Generator().manual_seed(settings.seed)
        model = ParcelClassifier(hyperparameters, initial, settings.initialisation).to(device)
        if start is not None:
            start.load_into(model)
        n_epochs = settings.epochs_of(n_batches)
        n_steps = n_batches * n_epochs
        n_values = n_steps * settings.batch_size * data.n_dates * n_pixels
        compiled = n_values > _WORTH_COMPILING and can_compile(device, processes)
        learner = Learner(model, settings, loss_of, n_steps, processes, compiled=compiled)
        epoch, best = _resume(state, learner)
        while not _has_ended(epoch, best, n_epochs, settings.patience):
            epoch += 1
            rng, noise = _seed_epoch(settings.seed, epoch, device)
            watch = StepWatch(data.ids, epoch, n_batches, device, processes)
            with thread_pool(device):
                change = Augmenter(settings.augmentation, noise)
                drawn = batches.training(train, settings.batch_size, rng, processes, change)
                learnt = _learn(learner, prefetched(drawn), watch)
                metrics = learnt.metrics(processes)
                watch.end(learner.state_dict())
                if len(validation):
                    own = validation[processes.share]
                    validated = _validate(learner.averaged_model, batches, own, loss_of)
                    metrics |= validated.metrics(processes)
            best = _better(best, epoch, metrics, learner, settings.keep)
            ended = _has_ended(epoch, best, n_epochs, settings.patience)
            if ended and best.epoch == 0:
                raise DivergedError(f"the validation loss is not finite in any of {epoch} epochs")
            if not processes.first:
                continue
            if not _can_classify(metrics):
                _logger.warning("epoch %d: the validation loss is not finite", epoch)
            if state is not None and (ended or epoch % max(state.every, n_epochs // 50) == 0):
                _write_state(state, epoch, best, learner)
            if on_epoch is not None:
                on_epoch({"epoch": epoch, **metrics})
    _logger.info("kept epoch %d of %d: %s", best.epoch, epoch, best.trainlog[best.epoch])
    return best


def pixels_to_draw(training: TrainingSettings, sizes: NDArray[np.int64]) -> int:
    """Return how many pixels a training draws from every parcel, padding included.

    It is n_pixels, or the size of the largest parcel if that is smaller: the rest would be padding
    in every parcel. With `always_pad` it is n_pixels, as in the reference, whose batch statistics
    include the padding.

    Parameters
    ----------
    training
        Settings of the training.
    sizes
        int64 (n,), numbers of pixels of the training parcels.
    """
    if training.always_pad:
        return training.n_pixels
    return min(training.n_pixels, max(int(sizes.max(initial=0)), 1))


def _learn(learner: Learner, batches: Iterable[Batch], watch: StepWatch) -> EpochMetrics:
    """Take one step for every batch."""
    model = learner.model
    totals = EpochMetrics("train", model.hyperparameters.n_classes, learner.device)
    model.train()
    for batch in batches:
        loss, logits, norm = learner.learn(batch.inputs, batch.labels, len(batch.parcels))
        watch.add(loss, norm, batch.parcels)
        totals.add(loss, logits, batch.labels)
    return totals


def _validate(
    model: ParcelClassifier, batches: Batches, parcels: NDArray[np.int64], loss_of: Loss
) -> EpochMetrics:
    """Compute the metrics of a model on parcels, without changing it."""

    @torch.inference_mode()
    def predict(chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
        batch = batches.of(chosen)
        logits = model(*batch.inputs)
        return loss_of(logits, batch.labels), logits, batch.labels

    totals = EpochMetrics("val", model.hyperparameters.n_classes, batches.device)
    starts = range(0, len(parcels), _VALIDATED_TOGETHER)
    parts = [parcels[start : start + _VALIDATED_TOGETHER] for start in starts]
    with evaluation_mode(model):
        for loss, logits, labels in in_parallel(predict, parts):
            totals.add(loss, logits, labels)
    return totals


def _loss(
    settings: TrainingSettings,
    labels: NDArray[np.int64],
    n_classes: int,
    device: torch.device,
) -> Loss:
    """Return the focal loss, with weights of the classes by their frequency if that is set."""
    class_weights = None
    if settings.class_weighting == "balanced":
        class_weights = torch.from_numpy(balanced_weights(labels, n_classes)).float().to(device)
    return partial(focal_loss, gamma=settings.gamma, class_weights=class_weights)


def _seed_epoch(
    seed: int, epoch: int, device: torch.device
) -> tuple[np.random.Generator, torch.Generator]:
    """Seed all random generators of an epoch, so that a training can continue from any epoch.

    Every process draws the same for the whole batch, and uses its share.

    Returns
    -------
    rng
        Draws the order of parcels, and pixels.
    noise
        On the device.
    """
    own = np.random.SeedSequence([seed, epoch, 0]).generate_state(2)
    torch.manual_seed(int(own[0]))  # dropout draws from the global generator only
    return np.random.default_rng([seed, epoch]), torch.Generator(device).manual_seed(int(own[1]))


def _has_ended(epoch: int, best: FoldResult, n_epochs: int, patience: int | None) -> bool:
    if epoch >= n_epochs:
        return True
    return patience is not None and 0 < best.epoch <= epoch - patience


def _better(
    best: FoldResult, epoch: int, metrics: dict[str, float], learner: Learner, keep: str
) -> FoldResult:
    """Add an epoch to the log; return it if it is to be kept instead of the best so far."""
    trainlog = best.trainlog | {epoch: metrics}
    is_better = keep == "last" or best.epoch == 0
    is_better = is_better or metrics["val_IoU"] >= trainlog[best.epoch]["val_IoU"]
    if is_better and _can_classify(metrics):
        states = learner.averaged_model.state_dict(), learner.optimizer.state_dict()
        return FoldResult(epoch, *copy.deepcopy(states), trainlog)
    return replace(best, trainlog=trainlog)


def _can_classify(metrics: Mapping[str, float]) -> bool:
    """Return whether the model of an epoch classified all validation parcels, if there are any."""
    return math.isfinite(metrics.get("val_loss", 0.0))


def _write_state(state: TrainingState, epoch: int, best: FoldResult, learner: Learner) -> None:
    """Write the state that `_resume` reads."""
    result = {name: getattr(best, name) for name in ("epoch", "state_dict", "optimizer_state")}
    state.write(epoch=epoch, trainlog=best.trainlog, best=result, learner=learner.state_dict())


def _resume(state: TrainingState | None, learner: Learner) -> tuple[int, FoldResult]:
    """Return the last epoch and the best result of an interrupted training; 0 if there is none."""
    saved = None if state is None else state.read()
    if state is None or saved is None:
        return 0, FoldResult(0, {}, {}, {})
    learner.load_state_dict(saved["learner"])
    _logger.info("continuing after epoch %d, from %s", saved["epoch"], state.path)
    return saved["epoch"], FoldResult(**saved["best"], trainlog=saved["trainlog"])


def _check_parts(
    data: PixelSets,
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    n_classes: int,
    keep: str,
) -> None:
    least_validated = 1 if keep == "best" else 0
    for name, part, least in (("training", train, 2), ("validation", validation, least_validated)):
        expect(len(part) >= least, name, f"at least {least} parcels", len(part))
        labels = data.labels[part]
        if (wrong := part[(labels < 0) | (labels >= n_classes)]).size:
            first = ", ".join(f"{data.ids[i]} ({data.labels[i]})" for i in wrong[:5])
            raise InputError(
                f"{name}: {len(wrong)} parcels have no label in 0 .. "
                f"{n_classes - 1}, such as {first}"
            )
    if (shared := np.intersect1d(train, validation)).size:
        first = ", ".join(data.ids[i] for i in shared[:5])
        raise InputError(f"{len(shared)} parcels are in training and validation, such as {first}")


class EpochMetrics:
    """Sum of the loss, and confusion matrix, over the batches of an epoch.

    They stay on the device until `metrics` is called, so that a GPU is not waited for.

    Parameters
    ----------
    prefix
        "train" or "val", the first part of the metrics' names.
    n_classes
        Number of classes.
    device
        Device of the batches.
    """

    def __init__(self, prefix: str, n_classes: int, device: torch.device) -> None:
        self._prefix = prefix
        self._n_classes = n_classes
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._matrix = torch.zeros(n_classes**2, dtype=torch.int64, device=device)

    def add(self, mean_loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: its mean loss, its logits (B, n_classes), its class indices (B,)."""
        self._loss += mean_loss.detach().double() * len(labels)
        cells = labels * self._n_classes + logits.detach().argmax(1)
        self._matrix.index_add_(0, cells, torch.ones_like(cells))

    def metrics(self, processes: Processes = ALONE) -> dict[str, float]:
        """Return mean loss, accuracy in percent and mean IoU over the batches of all processes.

        The names are those of the reference's trainlog.
        """
        processes.add_up(self._loss)
        processes.add_up(self._matrix)
        matrix = self._matrix.view(self._n_classes, self._n_classes).cpu().numpy()
        total = int(matrix.sum())
        return {
            f"{self._prefix}_loss": self._loss.item() / total,
            f"{self._prefix}_accuracy": 100.0 * float(np.trace(matrix)) / total,
            f"{self._prefix}_IoU": mean_iou(matrix),
        }
