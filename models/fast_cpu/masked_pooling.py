"""Statistics over the true pixels of a set, and their gradient.

Automatic differentiation of the same formulas would keep four arrays of the values' size and pass
over them about twelve times; written out, it keeps none, and four passes do.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Added to a variance in front of the square root, whose slope is infinite at 0. The reference's
# value: a set of one pixel has a deviation of about 3e-16.
_TINY_VARIANCE = 1e-31


def pool(values: Tensor, mask: Tensor, poolings: Sequence[str]) -> dict[str, Tensor]:
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
    dict
        Float (B, T, D) for each of the poolings; finite (0, for std almost) where a set has no true
        pixel. With "std" comes "mean", asked for or not: its gradient needs it.
    """
    weights = _weights(mask, values.dtype)
    pooled: dict[str, Tensor] = {}
    if "mean" in poolings or "std" in poolings:
        n_true = _n_true(values, weights)
        mean = _masked(values, weights).sum(1) / n_true.clamp(min=1)
        pooled["mean"] = mean
    if "std" in poolings:
        deviations = values - mean[:, None]
        if weights is not None:
            deviations.mul_(weights)
        variance = deviations.square_().sum(1) / (n_true - 1).clamp(min=1)
        pooled["std"] = torch.sqrt_(variance + _TINY_VARIANCE)
    if "max" in poolings:
        pooled["max"] = _maximum(values, mask)
    if "min" in poolings:
        pooled["min"] = -_maximum(-values, mask)
    return pooled


def pool_gradient(
    values: Tensor, mask: Tensor, pooled: dict[str, Tensor], gradients: dict[str, Tensor]
) -> Tensor:
    """Compute the gradient of the values from those of what `pool` gave.

    Where several pixels are the largest, or the smallest, each takes an equal share.

    Parameters
    ----------
    values, mask
        As for `pool`.
    pooled
        What it returned.
    gradients
        Float (B, T, D) for each of the poolings.

    Returns
    -------
    Tensor
        Float (B, S, T, D).
    """
    weights = _weights(mask, values.dtype)
    n_true = _n_true(values, weights)
    offset = values.new_zeros(1, 1, 1, 1)
    if "mean" in gradients:
        offset = (gradients["mean"] / n_true.clamp(min=1))[:, None]
    if "std" in gradients:
        slope = gradients["std"] / (pooled["std"] * (n_true - 1).clamp(min=1))
        # From the deviation, which is exactly 0 where a set is one pixel and the slope is huge.
        deviations = values - pooled["mean"][:, None]
        gradient = torch.addcmul(offset, deviations, slope[:, None], out=deviations)
    else:
        gradient = offset.expand_as(values).contiguous()
    for name in ("max", "min"):
        if name in gradients:
            largest = (values == pooled[name][:, None]) & mask.bool()[..., None]
            gradient += largest * (gradients[name] / largest.sum(1).clamp(min=1))[:, None]
    return gradient if weights is None else gradient.mul_(weights)


def _weights(mask: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Return 1 for a true pixel and 0 for another, (B, S, T, 1); None where all are true."""
    return None if all_true(mask) else mask.to(dtype)[..., None]


def _n_true(values: Tensor, weights: Tensor | None) -> Tensor:
    """Count the true pixels of every set, (B, T, 1) or a scalar."""
    return values.new_tensor(values.shape[1]) if weights is None else weights.sum(1)


def _masked(values: Tensor, weights: Tensor | None) -> Tensor:
    return values if weights is None else values * weights


def _maximum(values: Tensor, mask: Tensor) -> Tensor:
    true = mask.bool()[..., None]
    largest = values.masked_fill(~true, torch.finfo(values.dtype).min).amax(1)
    return largest.masked_fill(~true.any(1), 0.0)


def all_true(mask: Tensor) -> bool:
    """Tell whether a mask is known to be True everywhere, so that it can be done without.

    On a GPU it is not known before the GPU has come to it, and the computation goes on with the
    mask, to the same result.
    """
    return mask.device.type == "cpu" and bool(mask.all())
