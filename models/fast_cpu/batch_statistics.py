"""Mean and covariance of the rows of a matrix that is held in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.fast_cpu.thread_pool import in_parallel

_BLOCK = 128  # rows that are summed in their own precision


@dataclass(frozen=True, eq=False)
class BatchStatistics:
    """Hold statistics of N rows of D channels.

    Attributes
    ----------
    mean, covariance
        float64 (D,) and (D, D); the covariance is that of the rows at hand (ddof 0).
    n_rows
        float64 scalar N: a tensor, so that a GPU need not be waited for.
    """

    mean: Tensor
    covariance: Tensor
    n_rows: Tensor


def compute_batch_statistics(
    chunks: Sequence[Tensor], counted: Sequence[Tensor | None]
) -> BatchStatistics:
    """Compute the statistics of all rows together.

    Sums over very many float32 rows lose digits (2e-3 of a gradient, measured on 200,000 rows), so
    only short blocks of them are summed in their own precision, around a common point near their
    mean, and added up in float64. It has no gradient: see `batch_statistics_gradient`.

    Parameters
    ----------
    chunks
        Float tensors (N_i, D), N in all.
    counted
        For each chunk a tensor (N_i, 1), 1 for a row that counts and 0 for another; None for all
        rows. Without a row that counts, the statistics are 0.
    """
    # Under autocast, a product of the rows would be rounded to the digits of bfloat16.
    with torch.autocast(chunks[0].device.type, enabled=False):
        centre = _centre(chunks[0], counted[0])
        sums = in_parallel(lambda *chunk: _sums_around(centre, *chunk), chunks, counted)
    n_rows, total, products = (
        torch.stack(of_chunks).sum(0) for of_chunks in zip(*sums, strict=True)
    )
    n = n_rows.clamp(min=1)
    shift = total / n
    return BatchStatistics(
        centre.double() + shift, products / n - torch.outer(shift, shift), n_rows
    )


def batch_statistics_gradient(
    statistics: BatchStatistics, mean: Tensor, covariance: Tensor
) -> tuple[Tensor, Tensor]:
    """Turn gradients of mean and covariance into that of the rows: rows @ slope + offset.

    Returns
    -------
    slope, offset
        float64 (D, D) and (D,).
    """
    n = statistics.n_rows.clamp(min=1)
    slope = (covariance + covariance.T) / n
    return slope, mean / n - statistics.mean @ slope


def _centre(rows: Tensor, counts: Tensor | None) -> Tensor:
    """Return a point (D,) near the mean of the rows that count; 0 where none does."""
    if counts is None:
        return rows.mean(0)
    return (rows * counts).sum(0) / counts.sum().clamp(min=1)


def _sums_around(
    centre: Tensor, rows: Tensor, counts: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Count the rows of a chunk, and sum their distances from a point and the products of these."""
    centred = rows - centre
    n_rows = centre.new_tensor(len(rows), dtype=torch.float64)
    if counts is not None:
        centred.mul_(counts)
        n_rows = counts.sum(dtype=torch.float64)
    return n_rows, *_summed(centred)


def _summed(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Sum rows (N, D) and their products (D, D) in float64, from blocks in their own precision."""
    n_blocked = len(rows) - len(rows) % _BLOCK
    blocks = rows[:n_blocked].view(-1, _BLOCK, rows.shape[1])
    rest = rows[n_blocked:]
    total = blocks.sum(1).double().sum(0) + rest.sum(0).double()
    return total, torch.bmm(blocks.mT, blocks).double().sum(0) + (rest.T @ rest).double()
