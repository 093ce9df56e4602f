"""Positional encoding of dates."""

from __future__ import annotations

import torch
from torch import Tensor


def sinusoid_encoding(positions: Tensor, dim: int, period: float) -> Tensor:
    """Encode positions in time as sines and cosines (Vaswani et al., arXiv 1706.03762, 3.5).

    Parameters
    ----------
    positions
        Tensor of any shape, in days or ranks.
    dim
        Width of the encoding.
    period
        T, the longest wavelength over 2 pi.

    Returns
    -------
    Tensor
        float64 (*positions.shape, dim): the sine and the cosine of positions / T^(2i / dim) at
        2i and 2i + 1.
    """
    if positions.device.type == "cpu":
        # Parcels share most of their dates, and sines are slow there: each is computed once.
        distinct, where = torch.unique(positions, return_inverse=True)
        return _encode(distinct, dim, period)[where]
    return _encode(positions, dim, period)


def _encode(positions: Tensor, dim: int, period: float) -> Tensor:
    index = torch.arange(dim, device=positions.device)
    wavelength = period ** ((2 * (index // 2)).double() / dim)
    angles = positions.double()[..., None] / wavelength
    return torch.where(index % 2 == 0, angles.sin(), angles.cos())
