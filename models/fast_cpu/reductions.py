"""Reductions of pixel rows and their gradients: batch statistics, and pooling of pixel sets.

Automatic differentiation of the pooling would keep four arrays of the values' size and pass over
them about twelve times. Written by hand, it keeps none and makes four passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.fast_cpu.thread_pool import in_parallel
from models.masked_statistics import TINY_VARIANCE, none_if_all_true
from models.shared_batches import added_up

_BLOCK = 128  # rows that are summed in their own precision


@dataclass(frozen=True, eq=False)
class BatchStatistics:
    """Statistics of N rows of D channels.

    Attributes
    ----------
    mean, covariance
        float64 (D,) and (D, D), with ddof 0.
    n_rows
        float64 scalar N.
    """

    mean: Tensor
    covariance: Tensor
    n_rows: Tensor


def compute_batch_statistics(
    chunks: Sequence[Tensor], included: Sequence[Tensor | None]
) -> BatchStatistics:
    """Compute the statistics of all rows together, of all processes, without a gradient.

    Sums over very many float32 rows lose digits (2e-3 of a gradient, measured on 200,000 rows).
    Therefore, only short blocks of rows are summed in float32, after a point near the mean is
    subtracted, and the blocks' sums are added in float64.

    Parameters
    ----------
    chunks
        Float tensors (N_i, D), N rows in all.
    included
        For each chunk a tensor (N_i, 1), 1 for a row to include and 0 for a row to leave out; None
        to include all. If no row is included, the statistics are 0.
    """
    centre = _approximate_mean(chunks[0], included[0])
    # Processes that share a batch subtract the same point: the mean of their points.
    centre = added_up(centre) / added_up(torch.ones_like(centre))
    sums = in_parallel(lambda *chunk: _sums_around(centre, *chunk), chunks, included)
    n_rows, total, products = (
        added_up(torch.stack(parts).sum(0)) for parts in zip(*sums, strict=True)
    )
    n = n_rows.clamp(min=1)
    shift = total / n
    return BatchStatistics(
        centre.double() + shift, products / n - torch.outer(shift, shift), n_rows
    )


def batch_statistics_gradient(
    statistics: BatchStatistics, mean: Tensor, covariance: Tensor
) -> tuple[Tensor, Tensor]:
    """Convert gradients of mean and covariance to the gradient of the rows: rows @ slope + offset.

    Returns
    -------
    slope, offset
        float64 (D, D), symmetric, and (D,).
    """
    n = statistics.n_rows.clamp(min=1)
    slope = (covariance + covariance.T) / n
    return slope, mean / n - statistics.mean @ slope


def _approximate_mean(rows: Tensor, included: Tensor | None) -> Tensor:
    if included is None:
        return rows.mean(0)
    return (rows * included).sum(0) / included.sum().clamp(min=1)


def _sums_around(
    centre: Tensor, rows: Tensor, included: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a chunk's number of rows, and the sums of (rows - centre) and of their products."""
    centred = rows - centre
    n_rows = centre.new_tensor(len(rows), dtype=torch.float64)
    if included is not None:
        centred.mul_(included)
        n_rows = included.sum(dtype=torch.float64)
    n_blocked = len(rows) - len(rows) % _BLOCK
    blocks = centred[:n_blocked].view(-1, _BLOCK, rows.shape[1])
    rest = centred[n_blocked:]
    total = blocks.sum(1).double().sum(0) + rest.sum(0).double()
    products = torch.bmm(blocks.mT, blocks).double().sum(0) + (rest.T @ rest).double()
    return n_rows, total, products


def pool(values: Tensor, mask: Tensor, poolings: Sequence[str]) -> dict[str, Tensor]:
    """Pool (B, S, T, D) over the pixels S, as `masked_pooling` does.

    Parameters
    ----------
    values, mask, poolings
        As for `masked_pooling`.

    Returns
    -------
    dict
        Float (B, T, D) for each pooling, and "mean" with "std", whose gradient needs it.
    """
    weights = _weights(mask, values.dtype)
    pooled: dict[str, Tensor] = {}
    if "mean" in poolings or "std" in poolings:
        n = _n_true(values, weights)
        mean = (values if weights is None else values * weights).sum(1) / n.clamp(min=1)
        pooled["mean"] = mean
    if "std" in poolings:
        deviations = values - mean[:, None]
        if weights is not None:
            deviations.mul_(weights)
        variance = deviations.square_().sum(1) / (n - 1).clamp(min=1)
        pooled["std"] = torch.sqrt_(variance + TINY_VARIANCE)
    if "max" in poolings:
        pooled["max"] = _masked_maximum(values, mask)
    if "min" in poolings:
        pooled["min"] = -_masked_maximum(-values, mask)
    return pooled


def pool_gradient(
    values: Tensor, mask: Tensor, pooled: dict[str, Tensor], gradients: dict[str, Tensor]
) -> Tensor:
    """Compute the gradient of the values from the gradients of the pooled values.

    Where several pixels have the largest or the smallest value, each gets an equal share.

    Parameters
    ----------
    values, mask
        As for `pool`.
    pooled
        The result of `pool`.
    gradients
        Float (B, T, D) for each of the poolings.

    Returns
    -------
    Tensor
        Float (B, S, T, D).
    """
    weights = _weights(mask, values.dtype)
    n = _n_true(values, weights)
    offset = values.new_zeros(1, 1, 1, 1)
    if "mean" in gradients:
        offset = (gradients["mean"] / n.clamp(min=1))[:, None]
    if "std" in gradients:
        slope = gradients["std"] / (pooled["std"] * (n - 1).clamp(min=1))
        # The deviation of a set of one pixel is exactly 0, which cancels the huge slope.
        deviations = values - pooled["mean"][:, None]
        gradient = torch.addcmul(offset, deviations, slope[:, None], out=deviations)
    else:
        gradient = offset.expand_as(values).contiguous()
    for name in ("max", "min"):
        if name in gradients:
            largest = (values == pooled[name][:, None]) & mask[..., None]
            gradient += largest * (gradients[name] / largest.sum(1).clamp(min=1))[:, None]
    return gradient if weights is None else gradient.mul_(weights)


def _weights(mask: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Return 1 for a true pixel and 0 for another, (B, S, T, 1); None if all are true."""
    weights = none_if_all_true(mask)
    return None if weights is None else weights.to(dtype)[..., None]


def _n_true(values: Tensor, weights: Tensor | None) -> Tensor:
    """Return the number of true pixels of every set, (B, T, 1) or a scalar."""
    return values.new_tensor(values.shape[1]) if weights is None else weights.sum(1)


def _masked_maximum(values: Tensor, mask: Tensor) -> Tensor:
    true = mask[..., None]
    largest = values.masked_fill(~true, torch.finfo(values.dtype).min).amax(1)
    return largest.masked_fill(~true.any(1), 0.0)
