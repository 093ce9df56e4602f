"""Draw pixels of parcels without replacement, many parcels at once, by seed and not by order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def parcel_seeds(ids: Sequence[str]) -> NDArray[np.uint64]:
    """Derive a seed from every parcel id, the same on every machine and in every subset."""
    digests = b"".join(hashlib.blake2b(i.encode(), digest_size=8).digest() for i in ids)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def draw_pixels(
    sizes: NDArray[np.int64], n_pixels: int, seeds: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Draw n_pixels different pixels of every parcel.

    Robert Floyd's sampling (Bentley and Floyd, CACM 30(9), 1987), one step for all parcels at a
    time: its cost does not depend on the parcels' sizes.

    Parameters
    ----------
    sizes
        int64 (B,), the number of pixels of every parcel.
    n_pixels
        Number of pixels to draw.
    seeds
        uint64 (B,): the draw of a parcel depends on its size and its seed alone.

    Returns
    -------
    drawn
        int64 (B, n_pixels), pixels within the parcel. A parcel of n_pixels or fewer gives all in
        order, then pixel 0.
    mask
        bool (B, n_pixels), True for a drawn pixel, False for the padding behind.
    """
    slots = np.arange(n_pixels)
    mask = slots < sizes[:, None]
    drawn = np.where(mask, slots, 0)
    large = np.flatnonzero(sizes > n_pixels)
    if len(large):
        drawn[large] = _floyd(sizes[large], n_pixels, seeds[large])
    return drawn, mask


def _floyd(sizes: NDArray[np.int64], n_pixels: int, seeds: NDArray[np.uint64]) -> NDArray[np.int64]:
    randoms = _splitmix64(seeds[:, None], n_pixels)
    drawn = np.empty((len(sizes), n_pixels), dtype=np.int64)
    for slot in range(n_pixels):
        last = sizes - n_pixels + slot
        candidate = (randoms[:, slot] % (last + 1).astype(np.uint64)).astype(np.int64)
        taken = (drawn[:, :slot] == candidate[:, None]).any(1)
        drawn[:, slot] = np.where(taken, last, candidate)
    return drawn


def _splitmix64(seeds: NDArray[np.uint64], n: int) -> NDArray[np.uint64]:
    """Give n outputs of the generator SplitMix64 (Steele et al., OOPSLA 2014) for every seed."""
    z: NDArray[np.uint64] = seeds + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(
        0x9E3779B97F4A7C15
    )
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
