"""Batch normalisation and pooling that leave out some rows or pixels, in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.shared_batches import added_up, is_sharing

# Added to a variance before the square root, whose slope is infinite at 0. The value is the
# reference's: the standard deviation of a set of one pixel is about 3e-16.
TINY_VARIANCE = 1e-31


def none_if_all_true(mask: Tensor) -> Tensor | None:
    """Return None if a mask is True everywhere, so that the computation can skip it.

    On a GPU, return the mask unchanged: reading its values would stop the GPU's work, and the
    result with the mask is the same.
    """
    return None if mask.device.type == "cpu" and bool(mask.all()) else mask


class BatchNorm(nn.BatchNorm1d):
    """Normalise rows (N, D); of processes that share a batch, with the statistics of all rows."""

    def forward(self, rows: Tensor) -> Tensor:
        """Return the normalised rows."""
        if self.training and is_sharing():
            return masked_batch_norm(self, rows, None)
        return super().forward(rows)


def masked_batch_norm(norm: nn.BatchNorm1d, rows: Tensor, included: Tensor | None) -> Tensor:
    """Normalise rows; in training, the batch statistics are those of the included rows.

    Parameters
    ----------
    norm
        The layer. In training, its running statistics are updated.
    rows
        Float tensor (N, D), finite. Computed in float32 if it has less precision (autocast).
    included
        bool (N,), False for a row that is left out of the statistics; None to include all rows.
        Its values are never read by the CPU, so a GPU does not have to be waited for.

    Returns
    -------
    Tensor
        Float (N, D), all rows normalised.
    """
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    if not norm.training or (included is None and not is_sharing()):
        normalised: Tensor = norm(rows)
        return normalised
    if included is None:
        included = rows.new_ones(len(rows), dtype=torch.bool)
    weights = included.to(rows.dtype)[:, None]  # (N, 1)
    n = added_up(weights.sum())
    mean = added_up((rows * weights).sum(0)) / n.clamp(min=1)  # (D,)
    variance = added_up(((rows - mean) * weights).square().sum(0)) / n.clamp(min=1)  # (D,)
    update_running_statistics(norm, mean, variance, n)
    return (rows - mean) * torch.rsqrt(variance + norm.eps) * norm.weight + norm.bias


@torch.no_grad()
def update_running_statistics(
    norm: nn.BatchNorm1d, mean: Tensor, variance: Tensor, n_rows: Tensor
) -> None:
    """Move the running statistics towards those of a batch of n_rows (variance with ddof 0)."""
    unbiased = variance * (n_rows / (n_rows - 1).clamp(min=1))
    for name, value in (("running_mean", mean), ("running_var", unbiased)):
        buffer = norm.get_buffer(name)
        buffer.lerp_(value.to(buffer.dtype), norm.momentum or 0.0)
    norm.get_buffer("num_batches_tracked").add_(1)


def masked_pooling(values: Tensor, mask: Tensor, poolings: Sequence[str]) -> Tensor:
    """Reduce pixel sets to statistics of their true pixels.

    Parameters
    ----------
    values
        Float tensor (B, S, T, D): S pixels of B parcels at T dates.
    mask
        bool (B, S, T), True for a true pixel.
    poolings
        Any of "mean", "std" (ddof 1), "max" and "min".

    Returns
    -------
    Tensor
        Float (B, T, D x number of poolings), in the order of the poolings. If a set has no true
        pixel, all are 0 (the standard deviation is about 3e-16).
    """
    weights = mask.to(values.dtype)[..., None]  # (B, S, T, 1)
    n = weights.sum(1)  # (B, T, 1)
    mean = (values * weights).sum(1) / n.clamp(min=1)  # (B, T, D)
    pooled = []
    for pooling in poolings:
        if pooling == "mean":
            pooled.append(mean)
        elif pooling == "std":
            deviations = (values - mean[:, None]) * weights  # (B, S, T, D)
            variance = deviations.square().sum(1) / (n - 1).clamp(min=1)
            pooled.append(torch.sqrt(variance + TINY_VARIANCE))
        elif pooling == "max":
            pooled.append(_masked_maximum(values, mask))
        else:
            pooled.append(-_masked_maximum(-values, mask))
    return torch.cat(pooled, dim=2)


def _masked_maximum(values: Tensor, mask: Tensor) -> Tensor:
    # Where several pixels have the largest value, amax divides the gradient equally among them.
    largest = values.masked_fill(~mask[..., None], torch.finfo(values.dtype).min).amax(1)
    return largest.masked_fill(~mask.any(1)[..., None], 0.0)  # (B, T, D)
