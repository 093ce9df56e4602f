"""Apply a model to batches of parcels: log-probabilities, also of some dates, and attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.classifier import ParcelClassifier, evaluation_mode
from models.fast_cpu.thread_pool import in_parallel, thread_pool
from models.training.batches import Batches

# Number of consecutive parcels that are sorted by size to form batches.
_NEIGHBOURS = 4096
# Returns which dates of B parcels to use, bool (B or 1, E, T), in each of E sets of dates. Its
# arguments are the positions of the parcels among those to predict, and their days (B, T).
Kept = Callable[[NDArray[np.int64], Tensor], Tensor]


def batches_of_similar_size(sizes: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """Divide parcels into batches of similar size, so that there is little padding.

    Only parcels that are near each other in the file are reordered, so that it is read nearly in
    order.

    Parameters
    ----------
    sizes
        int64 (n,).
    batch_size
        Parcels in a batch.

    Returns
    -------
    list
        Positions in `sizes`, int64, at most batch_size in each batch.
    """
    batches = []
    for start in range(0, len(sizes), _NEIGHBOURS):
        order = start + np.argsort(sizes[start : start + _NEIGHBOURS], kind="stable")
        batches += np.split(order, range(batch_size, len(order), batch_size))
    return batches


@dataclass(frozen=True, eq=False)
class Inference:
    """n parcels, as the models of one device take them.

    Attributes
    ----------
    batches
        Makes their batches.
    indices
        int64 (n,), the parcels.
    parts
        For each batch, the positions of its parcels in `indices`.
    n_dates
        Number of dates T.
    """

    batches: Batches
    indices: NDArray[np.int64]
    parts: Sequence[NDArray[np.int64]]
    n_dates: int

    def log_softmax(
        self, model: ParcelClassifier, n_sets: int = 1, kept: Kept | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Compute the log-softmax of a model's logits.

        Parameters
        ----------
        model
            On the device of the batches.
        n_sets, kept
            E, and the dates to use; 1 and None to use all dates.

        Returns
        -------
        scores
            float32 (n, E, n_classes).
        seen
            bool (n, E), False where no observed date is used.
        """

        @torch.inference_mode()
        def predict(chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
            batch = self.batches.of(self.indices[chosen])
            if kept is None:
                logits = model(*batch.inputs)[:, None]
                return functional.log_softmax(logits, 2), torch.ones(logits.shape[:2]).bool()
            pixels, pixel_mask, positions, extra, observed = batch.inputs
            embeddings, observed = model.embed_dates(pixels, pixel_mask, extra, observed)
            used = observed[:, None] & kept(chosen, positions)  # (B, E, T)
            logits = torch.stack(
                [model.classify_series(embeddings, positions, own) for own in used.unbind(1)], 1
            )
            return functional.log_softmax(logits, 2), used.any(2)

        n = len(self.indices)
        result = np.empty((n, n_sets, model.hyperparameters.n_classes), np.float32)
        seen = np.empty((n, n_sets), np.bool_)
        with evaluation_mode(model), thread_pool(self.batches.device):
            # A GPU is not waited for until all batches are started.
            found = in_parallel(predict, self.parts)
            for chosen, (scores, with_date) in zip(self.parts, found, strict=True):
                result[chosen] = scores.cpu().numpy()
                seen[chosen] = with_date.cpu().numpy()
        return result, seen

    def attention(self, model: ParcelClassifier) -> NDArray[np.float32]:
        """Compute the attention on every date, averaged over the heads, float32 (n, T)."""

        @torch.inference_mode()
        def attend(chosen: NDArray[np.int64]) -> Tensor:
            batch = self.batches.of(self.indices[chosen])
            pixels, pixel_mask, positions, extra, observed = batch.inputs
            embeddings, observed = model.embed_dates(pixels, pixel_mask, extra, observed)
            return model.attention(embeddings, positions, observed).mean(1)

        result = np.empty((len(self.indices), self.n_dates), np.float32)
        with evaluation_mode(model), thread_pool(self.batches.device):
            found = in_parallel(attend, self.parts)
            for chosen, attention in zip(self.parts, found, strict=True):
                result[chosen] = attention.cpu().numpy()
        return result
