"""Draw pixels of parcels without replacement, many parcels at once, by seed and not by order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def parcel_seeds(ids: Sequence[str]) -> NDArray[np.int64]:
    """Derive a seed from every parcel id, the same on every machine and in every subset."""
    digests = b"".join(hashlib.blake2b(i.encode(), digest_size=8).digest() for i in ids)
    return np.frombuffer(digests, dtype="<i8").astype(np.int64)


def draw_pixels(sizes: Tensor, n_pixels: int, seeds: Tensor) -> tuple[Tensor, Tensor]:
    """Draw n_pixels different pixels of every parcel, on the device of the sizes.

    Robert Floyd's sampling (Bentley and Floyd, CACM 30(9), 1987), one step for all parcels at a
    time: its cost does not depend on the parcels' sizes, and a device need not be waited for.

    Parameters
    ----------
    sizes
        int64 (B,), the number of pixels of every parcel.
    n_pixels
        Number of pixels to draw.
    seeds
        int64 (B,): the draw of a parcel depends on its size and its seed alone.

    Returns
    -------
    drawn
        int64 (B, n_pixels), pixels within the parcel. A parcel of n_pixels or fewer gives all in
        order, then pixel 0.
    mask
        bool (B, n_pixels), True for a drawn pixel, False for the padding behind.
    """
    slots = torch.arange(n_pixels, device=sizes.device)
    mask = slots < sizes[:, None]
    # By slot first, so that a step writes and compares whole rows.
    randoms = _splitmix64(seeds, n_pixels)
    drawn = torch.empty_like(randoms)
    for slot in range(n_pixels):
        last = (sizes - n_pixels + slot).clamp(min=0)
        candidate = randoms[slot] % (last + 1)
        taken = (drawn[:slot] == candidate).any(0)
        drawn[slot] = torch.where(taken, last, candidate)
    in_order = torch.where(mask, slots, 0)
    return torch.where(sizes[:, None] > n_pixels, drawn.T, in_order), mask


def _splitmix64(seeds: Tensor, n: int) -> Tensor:
    """Give n outputs of the generator SplitMix64 (Steele et al., OOPSLA 2014) for every seed.

    Returns
    -------
    Tensor
        int64 (n, B): the upper 63 of the 64 bits.
    """
    steps = torch.arange(1, n + 1, device=seeds.device)[:, None]
    z = seeds + steps * _signed(0x9E3779B97F4A7C15)
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    return _shifted(z ^ _shifted(z, 31), 1)


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Shift 64 bits right, zeros coming in from the left: int64's own shift repeats the sign."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _signed(constant: int) -> int:
    """Give the int64 of the same 64 bits."""
    return constant - (1 << 64) if constant >> 63 else constant
