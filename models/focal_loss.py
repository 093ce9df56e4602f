"""The focal loss that the reference trains with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def focal_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma: float,
    class_weights: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Weigh down the cross-entropy of what is already classified well.

    The loss is -(1 - p)^gamma log p (Lin et al., arXiv 1708.02002, eq. 4) with p, the probability
    of the true class, held constant: as in the reference, only log p has a gradient.

    Parameters
    ----------
    logits
        Float tensor (B, n_classes).
    labels
        int64 tensor (B,) of class indices.
    gamma
        Focusing exponent; 0 gives the cross-entropy.
    class_weights
        Float tensor (n_classes,), the factor alpha of each class; None for 1.
    reduction
        "mean" over the batch (not over the weights, as in the reference), "sum" or "none".

    Returns
    -------
    Tensor
        A scalar, or (B,) where nothing is reduced.
    """
    log_p = functional.log_softmax(logits, dim=1).gather(1, labels[:, None]).squeeze(1)
    loss = -((1 - log_p.detach().exp()) ** gamma) * log_p
    if class_weights is not None:
        loss = loss * class_weights.to(loss)[labels]
    if reduction == "none":
        return loss
    return torch.mean(loss) if reduction == "mean" else torch.sum(loss)
