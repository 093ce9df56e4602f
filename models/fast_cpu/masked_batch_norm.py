"""Batch normalisation of rows of which some do not count."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def masked_batch_norm(norm: nn.BatchNorm1d, x: Tensor, counted: Tensor | None) -> Tensor:
    """Normalise rows (N, D); the statistics are of those that count.

    Parameters
    ----------
    norm
        Whose weights are used, and whose running statistics are used or updated.
    x
        Float tensor (N, D), finite.
    counted
        bool (N,), False for a row that changes no statistic; None where all count. Nothing need be
        known of it, so that a GPU is not waited for.
    """
    if counted is None or not norm.training:
        normed: Tensor = norm(x)
        return normed
    weights = counted.to(x.dtype)[:, None]
    n = weights.sum()
    mean = (x * weights).sum(0) / n.clamp(min=1)
    variance = ((x - mean) * weights).square().sum(0) / n.clamp(min=1)
    update_running_statistics(norm, mean, variance, n)
    return (x - mean) * torch.rsqrt(variance + norm.eps) * norm.weight + norm.bias


@torch.no_grad()
def update_running_statistics(
    norm: nn.BatchNorm1d, mean: Tensor, variance: Tensor, n_rows: Tensor
) -> None:
    """Move the running statistics towards those of a batch of n_rows; its variance has ddof 0."""
    unbiased = variance * (n_rows / (n_rows - 1).clamp(min=1))
    for name, value in (("running_mean", mean), ("running_var", unbiased)):
        buffer = norm.get_buffer(name)
        buffer.lerp_(value.to(buffer.dtype), norm.momentum or 0.0)
    norm.get_buffer("num_batches_tracked").add_(1)
