"""Predict classes of parcels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.classifier import ParcelClassifier
from models.fast_cpu.memory_allocator import keep_freed_memory
from models.fast_cpu.thread_pool import in_parallel, workers
from models.pixel_sets import PixelSets
from models.standardisation import FeatureScaling, Normalisation
from models.training.batches import Batches

# Parcels among which a batch is chosen.
_NEIGHBOURS = 4096


def log_probabilities(
    model: ParcelClassifier,
    data: PixelSets,
    indices: NDArray[np.int64],
    normalisation: Normalisation,
    feature_scaling: FeatureScaling | None,
    *,
    n_pixels: int,
    batch_size: int,
    device: torch.device,
) -> NDArray[np.float32]:
    """Compute the log-probability of every class for every parcel.

    The model is in evaluation mode while it predicts, and back in its own afterwards. A parcel's
    result depends on nothing but the parcel: not on its batch, a seed or the other parcels.

    Parameters
    ----------
    model
        On the device.
    data, indices
        The parcels, and int64 (n,) which of them to predict; labels are not needed.
    normalisation, feature_scaling
        Those that the model was trained with.
    n_pixels, batch_size
        Pixels of a parcel, parcels at a time.
    device
        Where to compute.

    Returns
    -------
    NDArray
        float32 (n, n_classes): the log-softmax of the model's logits.
    """
    keep_freed_memory()
    batches = Batches(data, normalisation, feature_scaling, n_pixels, device)

    @torch.inference_mode()
    def predict(chosen: NDArray[np.int64]) -> Tensor:
        return functional.log_softmax(model(*batches.of(indices[chosen]).inputs), 1)

    result = np.empty((len(indices), model.hyperparameters.n_classes), dtype=np.float32)
    parts = alike(np.minimum(data.sizes_of(indices), n_pixels), batch_size)
    with evaluation_mode(model), workers(device):
        # On a GPU nothing is waited for before the last batch is on its way.
        for chosen, scores in zip(parts, in_parallel(predict, parts), strict=True):
            result[chosen] = scores.cpu().numpy()
    return result


def alike(sizes: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
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


def ensemble(log_probabilities: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Average the log-probabilities (n, n_classes) of several models, as the reference does.

    The result ranks classes by the geometric mean of the models' probabilities; its exponentials
    need not sum to 1.
    """
    if not log_probabilities:
        raise ValueError("ensemble: expected the predictions of one model or more, found none")
    mean: NDArray[np.float64] = np.stack(log_probabilities).mean(axis=0, dtype=np.float64)
    return mean.astype(np.float32)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode, and back in the mode that it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
