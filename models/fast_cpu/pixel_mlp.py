"""MLP on pixels and pooling, computed faster on a CPU than by the plain layers.

The rows (pixels at a date) are handled in three unusual ways:

- Order: they are in the order (parcel, pixel, date), so that linear layers read contiguous rows and
  poolings reduce an outer axis.
- Chunks: a few parcels at a time go through a layer or the pooling, within the processor's cache,
  each chunk on one thread. The output of the last layer, the widest, is not kept for the backward
  pass but computed again.
- Folded BatchNorm: a linear layer with batch normalisation is again a linear layer, also in
  training. The batch statistics of W h + b follow from the mean m and the covariance C of its input
  h: the mean is W m + b, and the variance is the diagonal of W C W'. No pass over the pixels is
  spent on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from models.fast_cpu.reductions import (
    BatchStatistics,
    batch_statistics_gradient,
    compute_batch_statistics,
    pool,
    pool_gradient,
)
from models.fast_cpu.thread_pool import in_parallel
from models.masked_statistics import none_if_all_true, update_running_statistics
from models.shared_batches import is_sharing, sum_of_processes

# Rows that a thread takes through a layer at once: 64 float32 channels of them are 2 MiB, of which
# two arrays are needed at a time.
_ROWS_PER_CHUNK = 8192

Affine = tuple[Tensor, Tensor]
"""Weight (out, in) and bias (out,) of a linear layer."""

_Gradients = tuple[Tensor, Tensor, Tensor | None]
"""Gradients of the weight and bias of a linear layer, and of its input rows if they need one."""


def can_pool(pixels: Tensor, training: bool) -> bool:
    """Return whether `pool_pixels` can compute these pixels.

    It runs on a CPU, at full precision. The pixels have no gradient, and the weights have one in
    training mode only.
    """
    needs_gradient = pixels.requires_grad or (torch.is_grad_enabled() and not training)
    return not (pixels.device.type != "cpu" or needs_gradient or torch.is_autocast_enabled("cpu"))


def pool_pixels(
    layers: Sequence[tuple[nn.Linear, nn.BatchNorm1d]],
    pixels: Tensor,
    mask: Tensor,
    poolings: Sequence[str],
    training: bool,
) -> Tensor:
    """Run the MLP on every pixel and pool the pixels of every set.

    Parameters
    ----------
    layers
        Linear layers, each with the batch normalisation after it. A ReLU follows each. In training,
        the running statistics are updated.
    pixels
        Float tensor (B, S, T, C).
    mask
        bool (B, S, T), True for a true pixel.
    poolings
        As for `masked_pooling`.
    training
        Whether to normalise with batch statistics, of all pixels of the sets with a true pixel.

    Returns
    -------
    Tensor
        Float (B, T, D x number of poolings).
    """
    n_parcels = max(_ROWS_PER_CHUNK // max(mask.shape[1] * mask.shape[2], 1), 1)
    masks = mask.split(n_parcels)
    chunks: Sequence[Tensor] = [part.flatten(0, 2) for part in pixels.split(n_parcels)]
    *hidden, last = layers
    if not training:
        affines = [_fold(*layer, None) for layer in layers]

        def pool_chunk(rows: Tensor, part: Tensor) -> Tensor:
            for affine in affines:
                rows = _linear_relu(rows, *affine)
            pooled = pool(rows.view(*part.shape, -1), part, poolings)
            return torch.cat([pooled[name] for name in poolings], dim=2)

        return torch.cat(in_parallel(pool_chunk, chunks, masks))
    included = [_rows_of_observed_sets(part, pixels.dtype) for part in masks]
    statistics = compute_batch_statistics(chunks, included)
    for layer in hidden:
        weight, bias = _fold(*layer, statistics)
        mean, covariance, n_rows, *chunks = _HiddenLayer.apply(weight, bias, included, *chunks)  # type: ignore[no-untyped-call]
        statistics = BatchStatistics(mean, covariance, n_rows)
    weight, bias = _fold(*last, statistics)
    pooled: Tensor = _PooledLayer.apply(weight, bias, masks, poolings, *chunks)  # type: ignore[no-untyped-call]
    return pooled


def _rows_of_observed_sets(mask: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Return 1 for the rows (B x S x T, 1) of sets with a true pixel; None if all have one."""
    observed = none_if_all_true(mask.any(1, keepdim=True))
    return None if observed is None else observed.expand(mask.shape).reshape(-1, 1).to(dtype)


def _fold(linear: nn.Linear, norm: nn.BatchNorm1d, statistics: BatchStatistics | None) -> Affine:
    """Merge a linear layer and the batch normalisation after it into one linear layer.

    Parameters
    ----------
    linear, norm
        The two layers.
    statistics
        Batch statistics of the input rows, to normalise with and to update the running statistics
        with; None to normalise with the running statistics.
    """
    weight, bias = linear.weight.double(), linear.bias.double()
    if statistics is None:
        mean = norm.get_buffer("running_mean").double()
        variance = norm.get_buffer("running_var").double()
    else:
        mean = weight @ statistics.mean + bias
        variance = ((weight @ statistics.covariance) * weight).sum(1)
        update_running_statistics(norm, mean, variance, statistics.n_rows)
    scale = norm.weight.double() * torch.rsqrt(variance + norm.eps)
    folded_bias = norm.bias.double() + (bias - mean) * scale
    dtype = linear.weight.dtype
    return (weight * scale[:, None]).to(dtype), folded_bias.to(dtype)


class _HiddenLayer(torch.autograd.Function):
    """Linear layer and ReLU on chunks (N_i, in), and the batch statistics of the output.

    The statistics are those of all processes that share the batch, and so are their gradients.
    """

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, bias: Tensor, included: Sequence[Tensor | None], *chunks: Tensor
    ) -> tuple[Tensor, ...]:
        outputs = in_parallel(lambda rows: _linear_relu(rows, weight, bias), chunks)
        statistics = compute_batch_statistics(outputs, included)
        returned = (statistics.mean, statistics.covariance, statistics.n_rows, *outputs)
        # An output that is kept as an attribute refers to itself, and is never freed.
        ctx.save_for_backward(weight, *chunks, *returned)
        ctx.included, ctx.is_sharing = included, is_sharing()
        ctx.mark_non_differentiable(statistics.n_rows)
        return returned

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, mean: Tensor, covariance: Tensor, _: None, *gradients: Tensor) -> Any:
        weight, *saved = ctx.saved_tensors
        chunks, saved = saved[: len(gradients)], saved[len(gradients) :]
        statistics, outputs = BatchStatistics(*saved[:3]), saved[3:]
        if ctx.is_sharing:
            mean, covariance = sum_of_processes(mean), sum_of_processes(covariance)
        slope, offset = batch_statistics_gradient(statistics, mean, covariance)
        slope, offset = slope.to(weight.dtype), offset.to(weight.dtype)

        def chunk_gradients(
            rows: Tensor, output: Tensor, gradient: Tensor, included: Tensor | None
        ) -> _Gradients:
            total = _linear(output, slope, offset)  # slope is symmetric
            if included is not None:
                total.mul_(included)
            total = _relu_gradient(total.add_(gradient), output)
            return _linear_gradients(rows, weight, total, ctx.needs_input_grad[3])

        by_chunk = in_parallel(chunk_gradients, chunks, outputs, gradients, ctx.included)
        of_weight, of_bias, of_rows = _sum_gradients(by_chunk, weight.dtype)
        return of_weight, of_bias, None, *of_rows


class _PooledLayer(torch.autograd.Function):
    """Linear layer and ReLU on chunks (B_i x S x T, in), and the pooling of the output."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        bias: Tensor,
        masks: Sequence[Tensor],
        poolings: Sequence[str],
        *chunks: Tensor,
    ) -> Tensor:
        def pool_chunk(rows: Tensor, mask: Tensor) -> dict[str, Tensor]:
            values = _linear_relu(rows, weight, bias)
            return pool(values.view(*mask.shape, -1), mask, poolings)

        pooled = in_parallel(pool_chunk, chunks, masks)
        ctx.save_for_backward(weight, bias, *chunks)
        ctx.masks, ctx.poolings, ctx.pooled = masks, poolings, pooled
        return torch.cat([torch.cat([part[p] for p in poolings], dim=2) for part in pooled])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        weight, bias, *chunks = ctx.saved_tensors

        def chunk_gradients(
            rows: Tensor, mask: Tensor, pooled: dict[str, Tensor], of_pooled: Tensor
        ) -> _Gradients:
            values = _linear_relu(rows, weight, bias)
            by_pooling = dict(zip(ctx.poolings, of_pooled.chunk(len(ctx.poolings), 2), strict=True))
            of_values = pool_gradient(values.view(*mask.shape, -1), mask, pooled, by_pooling)
            total = _relu_gradient(of_values.view_as(values), values)
            return _linear_gradients(rows, weight, total, ctx.needs_input_grad[4])

        of_pooled = gradient.split([len(mask) for mask in ctx.masks])
        by_chunk = in_parallel(chunk_gradients, chunks, ctx.masks, ctx.pooled, of_pooled)
        of_weight, of_bias, of_rows = _sum_gradients(by_chunk, weight.dtype)
        return of_weight, of_bias, None, None, *of_rows


def _relu_gradient(gradient: Tensor, output: Tensor) -> Tensor:
    """Convert the gradient of a ReLU's output to that of its input, in place."""
    backward = torch.ops.aten.threshold_backward.grad_input
    result: Tensor = backward(gradient, output, 0, grad_input=gradient)
    return result


def _linear_gradients(
    rows: Tensor, weight: Tensor, of_output: Tensor, rows_need_gradient: bool
) -> _Gradients:
    of_rows = _linear(of_output, weight.T, None) if rows_need_gradient else None
    return of_output.T @ rows, of_output.sum(0), of_rows


def _sum_gradients(
    by_chunk: Sequence[_Gradients], dtype: torch.dtype
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """Sum the gradients of weight and bias over the chunks, in float64; list those of the rows."""
    of_weights, of_biases, of_rows = zip(*by_chunk, strict=True)
    of_weight, of_bias = (torch.stack(g).double().sum(0).to(dtype) for g in (of_weights, of_biases))
    return of_weight, of_bias, list(of_rows)


def _linear_relu(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if _has_onednn(rows):
        return _onednn(rows, weight, bias, "relu")
    return functional.linear(rows, weight, bias).relu_()


def _linear(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if _has_onednn(rows):
        return _onednn(rows, weight.contiguous(), bias, "none")
    return functional.linear(rows, weight, bias)


def _has_onednn(rows: Tensor) -> bool:
    return rows.dtype == torch.float32 and torch.backends.mkldnn.is_available()


def _onednn(rows: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """Apply a linear layer by oneDNN, which torch itself uses only in compiled models.

    For layers as narrow as these it is twice as fast as MKL on a processor with AVX-512 that was
    not made by Intel. It has no gradient.
    """
    output: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, activation, [], "")
    return output
