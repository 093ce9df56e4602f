"""Statistics over the true pixels of a set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Added to a variance in front of the square root, whose slope is infinite at 0. The reference's
# value: a set of one pixel has a deviation of about 3e-16.
_TINY_VARIANCE = 1e-31


def pool(values: Tensor, mask: Tensor, poolings: Sequence[str]) -> Tensor:
    """Reduce (B, S, T, D) over the pixels S with every pooling.

    Parameters
    ----------
    values
        Float tensor (B, S, T, D).
    mask
        Tensor (B, S, T), 1 or True for a true pixel.
    poolings
        Any of "mean", "std" (with one degree of freedom less), "max" and "min".

    Returns
    -------
    Tensor
        Float (B, T, D x number of poolings), in the order of the poolings; finite (0, for std
        almost) where a set has no true pixel.
    """
    weights = mask.to(values.dtype)[..., None]
    pooled: dict[str, Tensor] = {}
    if "mean" in poolings or "std" in poolings:
        pooled["mean"], pooled["std"] = _MeanAndDeviation.apply(values, weights)  # type: ignore[no-untyped-call]
    if "max" in poolings:
        pooled["max"] = _maximum(values, weights)
    if "min" in poolings:
        pooled["min"] = -_maximum(-values, weights)
    return torch.cat([pooled[pooling] for pooling in poolings], dim=2)


class _MeanAndDeviation(torch.autograd.Function):
    """Weighted mean and standard deviation over S.

    Automatic differentiation of the same formulas keeps four arrays of the values' size and passes
    over them about twelve times; written out, it is none besides the values, and four times.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        n_true = weights.sum(1)
        mean = (values * weights).sum(1) / n_true.clamp(min=1)
        squares = (values - mean[:, None]).mul_(weights).square_()
        variance = squares.sum(1) / (n_true - 1).clamp(min=1)
        std = torch.sqrt(variance + _TINY_VARIANCE)
        ctx.save_for_backward(values, weights, mean, std, n_true)
        return mean, std

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, mean_grad: Tensor, std_grad: Tensor) -> tuple[Tensor, None]:
        values, weights, mean, std, n_true = ctx.saved_tensors
        slope = std_grad / (std * (n_true - 1).clamp(min=1))
        gradient = (values - mean[:, None]).mul_(slope[:, None])
        gradient.add_((mean_grad / n_true.clamp(min=1))[:, None]).mul_(weights)
        return gradient, None


def _maximum(values: Tensor, weights: Tensor) -> Tensor:
    lowest = torch.finfo(values.dtype).min
    largest = values.masked_fill(weights == 0, lowest).amax(1)
    return largest.masked_fill(weights.sum(1) == 0, 0.0)
