"""Layers on pixels, as linear maps of rows in chunks that fit the processor's cache.

Rows are pixels at a date. Each function passes once over them forward and once backward; nothing of
the last layer, the widest, is kept between the two: it is computed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from models.fast_cpu.batch_statistics import (
    BatchStatistics,
    batch_statistics_gradient,
    compute_batch_statistics,
)
from models.fast_cpu.masked_pooling import pool, pool_gradient
from models.fast_cpu.thread_pool import in_parallel

Affine = tuple[Tensor, Tensor]
"""Weight (out, in) and bias (out,) of a linear layer."""


def _relu_gradient(gradient: Tensor, output: Tensor) -> Tensor:
    """Turn the gradient of what a ReLU gave into that of what it was given, in place."""
    backward = torch.ops.aten.threshold_backward.grad_input
    result: Tensor = backward(gradient, output, 0, grad_input=gradient)
    return result


def hidden_layer(
    chunks: Sequence[Tensor], affine: Affine, counted: Sequence[Tensor | None]
) -> tuple[list[Tensor], BatchStatistics]:
    """Apply a linear layer and a ReLU; return the statistics of the result with it.

    Parameters
    ----------
    chunks
        Float tensors (N_i, in).
    affine
        The layer.
    counted
        Which rows the statistics count, see `compute_batch_statistics`.

    Returns
    -------
    chunks
        Float tensors (N_i, out).
    statistics
        Statistics of all output rows.
    """
    mean, covariance, n_rows, *outputs = _HiddenLayer.apply(*affine, counted, *chunks)  # type: ignore[no-untyped-call]
    return outputs, BatchStatistics(mean, covariance, n_rows)


def pooled_layer(
    chunks: Sequence[Tensor], affine: Affine, masks: Sequence[Tensor], poolings: Sequence[str]
) -> Tensor:
    """Apply a linear layer and a ReLU, and pool over the pixels.

    Parameters
    ----------
    chunks
        Float tensors (B_i x S x T, in), the rows in that order.
    affine
        The layer.
    masks
        Tensors (B_i, S, T), 1 or True for a true pixel.
    poolings
        As `pool` takes them.

    Returns
    -------
    Tensor
        Float (sum of B_i, T, out x number of poolings), in the order of the poolings.
    """
    pooled: Tensor = _PooledLayer.apply(*affine, masks, poolings, *chunks)  # type: ignore[no-untyped-call]
    return pooled


class _HiddenLayer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, bias: Tensor, counted: Sequence[Tensor | None], *chunks: Tensor
    ) -> tuple[Tensor, ...]:
        outputs = in_parallel(lambda rows: linear_relu(rows, weight, bias), chunks)
        statistics = compute_batch_statistics(outputs, counted)
        ctx.save_for_backward(weight, *chunks, *outputs)
        ctx.counted, ctx.statistics = counted, statistics
        ctx.mark_non_differentiable(statistics.n_rows)
        return statistics.mean, statistics.covariance, statistics.n_rows, *outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, mean: Tensor, covariance: Tensor, _: None, *gradients: Tensor) -> Any:
        weight, *saved = ctx.saved_tensors
        chunks, outputs = saved[: len(gradients)], saved[len(gradients) :]
        slope, offset = batch_statistics_gradient(ctx.statistics, mean, covariance)
        slope, offset = slope.to(weight.dtype), offset.to(weight.dtype)

        def of_chunk(
            rows: Tensor, output: Tensor, gradient: Tensor, counts: Tensor | None
        ) -> _Gradients:
            total = _linear(output, slope, offset)  # the slope is symmetric
            if counts is not None:
                total.mul_(counts)
            of_output = _relu_gradient(total.add_(gradient), output)
            return _of_linear(rows, weight, of_output, ctx.needs_input_grad[3])

        by_chunk = in_parallel(of_chunk, chunks, outputs, gradients, ctx.counted)
        of_weight, of_bias, of_rows = _added_up(by_chunk, weight.dtype)
        return of_weight, of_bias, None, *of_rows


class _PooledLayer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        bias: Tensor,
        masks: Sequence[Tensor],
        poolings: Sequence[str],
        *chunks: Tensor,
    ) -> Tensor:
        def of_chunk(rows: Tensor, mask: Tensor) -> dict[str, Tensor]:
            values = linear_relu(rows, weight, bias)
            return pool(values.view(*mask.shape, -1), mask, poolings)

        pooled = in_parallel(of_chunk, chunks, masks)
        ctx.save_for_backward(weight, bias, *chunks)
        ctx.masks, ctx.poolings, ctx.pooled = masks, poolings, pooled
        return torch.cat([torch.cat([part[p] for p in poolings], dim=2) for part in pooled])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        weight, bias, *chunks = ctx.saved_tensors

        def of_chunk(
            rows: Tensor, mask: Tensor, pooled: dict[str, Tensor], of_pooled: Tensor
        ) -> _Gradients:
            values = linear_relu(rows, weight, bias)
            by_pooling = of_pooled.chunk(len(ctx.poolings), 2)
            of_values = pool_gradient(
                values.view(*mask.shape, -1),
                mask,
                pooled,
                dict(zip(ctx.poolings, by_pooling, strict=True)),
            )
            of_output = _relu_gradient(of_values.view_as(values), values)
            return _of_linear(rows, weight, of_output, ctx.needs_input_grad[4])

        of_pooled = gradient.split([len(mask) for mask in ctx.masks])
        by_chunk = in_parallel(of_chunk, chunks, ctx.masks, ctx.pooled, of_pooled)
        of_weight, of_bias, of_rows = _added_up(by_chunk, weight.dtype)
        return of_weight, of_bias, None, None, *of_rows


_Gradients = tuple[Tensor, Tensor, Tensor | None]
"""Gradients of the weight and the bias of a linear layer, and of its rows if they need it."""


def _of_linear(rows: Tensor, weight: Tensor, of_output: Tensor, rows_need_it: bool) -> _Gradients:
    of_rows = _linear(of_output, weight.T, None) if rows_need_it else None
    return of_output.T @ rows, of_output.sum(0), of_rows


def _added_up(
    by_chunk: Sequence[_Gradients], dtype: torch.dtype
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """Add up the gradients of weight and bias over chunks, in float64; list those of rows."""
    of_weights, of_biases, of_rows = zip(*by_chunk, strict=True)
    of_weight, of_bias = (torch.stack(g).double().sum(0).to(dtype) for g in (of_weights, of_biases))
    return of_weight, of_bias, list(of_rows)


def linear_relu(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply a linear layer and a ReLU to rows (N, in)."""
    if _suits_onednn(rows):
        return _onednn(rows, weight, bias, "relu")
    # Autocast multiplies in bfloat16; sums over many pixels need the digits of float32.
    values = functional.linear(rows, weight, bias).relu_()
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _linear(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if _suits_onednn(rows):
        return _onednn(rows, weight.contiguous(), bias, "none")
    return functional.linear(rows, weight, bias)


def _suits_onednn(rows: Tensor) -> bool:
    """Tell whether oneDNN can apply a linear layer: it gives no gradient."""
    here = rows.device.type == "cpu" and rows.dtype == torch.float32
    return here and torch.backends.mkldnn.is_available() and not torch.is_grad_enabled()


def _onednn(rows: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """Apply a linear layer by oneDNN, to which torch gives one only when it compiles a model.

    For layers as narrow as these it is twice as fast as MKL on a processor with AVX-512 that is not
    Intel's.
    """
    output: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, activation, [], "")
    return output
