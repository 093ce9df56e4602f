"""Draw pixels of parcels without replacement, and read their values.

The draw of a parcel depends only on its own seed, so it is the same in every batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.pixel_sets import PixelSets, StackedRows


def parcel_seeds(ids: Sequence[str]) -> NDArray[np.int64]:
    """Derive a seed from every parcel id, the same on every machine and in every subset."""
    digests = b"".join(hashlib.blake2b(i.encode(), digest_size=8).digest() for i in ids)
    return np.frombuffer(digests, dtype="<i8").astype(np.int64)


def draw_pixels(sizes: Tensor, n_pixels: int, seeds: Tensor) -> tuple[Tensor, Tensor]:
    """Draw n_pixels different pixels of every parcel, on the device of the sizes.

    Robert Floyd's algorithm (Bentley and Floyd, CACM 30(9), 1987), with each step done for all
    parcels at once. Its cost does not depend on the parcels' sizes, and a GPU is not waited for.

    Parameters
    ----------
    sizes
        int64 (B,), the number of pixels of every parcel.
    n_pixels
        Number of pixels to draw.
    seeds
        int64 (B,). The draw of a parcel depends only on its size and its seed.

    Returns
    -------
    drawn
        int64 (B, n_pixels), pixel numbers within the parcel. If the parcel has at most n_pixels,
        they are all its pixels in order, followed by pixel 0 as padding.
    mask
        bool (B, n_pixels), True for a drawn pixel, False for padding.
    """
    slots = torch.arange(n_pixels, device=sizes.device)
    mask = slots < sizes[:, None]
    # (n_pixels, B): each step writes and compares contiguous rows.
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
    """Return n outputs of the generator SplitMix64 (Steele et al., OOPSLA 2014) for every seed.

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
    """Shift 64 bits right and fill with zeros (the shift of int64 repeats the sign bit)."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _signed(constant: int) -> int:
    """Return the int64 with the same 64 bits as an unsigned constant."""
    return constant - (1 << 64) if constant >> 63 else constant


# Share of a GPU's free memory that the pixels may take; the model needs the rest.
_LARGEST_SHARE = 0.6

# Pixels that are copied to a GPU at once, so that a mapped file is never read as a whole.
_COPIED_TOGETHER = 1 << 18


class PixelRows:
    """Read rows of packed pixels to a device.

    Parameters
    ----------
    data
        The parcels, with their pixels and clear masks.
    device
        Device of the result.
    keep
        Whether to store all pixels in the memory of a GPU, if they fit.

    Attributes
    ----------
    place
        Device that stores the pixels. If it is the CPU, rows are copied to a GPU through pinned
        memory.
    """

    def __init__(self, data: PixelSets, device: torch.device, *, keep: bool) -> None:
        self._device = device
        resident = keep and device.type == "cuda" and _fits(data, device)
        self.place = device if resident else torch.device("cpu")
        self._arrays = (data.pixels, data.clear)
        self._resident: tuple[Tensor, Tensor | None] | None = None
        if self.place.type != "cpu":
            clear = None if data.clear is None else _copied(data.clear, device, torch.bool)
            # torch indexes few unsigned types: the bits are read as signed integers.
            self._resident = _copied(data.pixels, device, torch.int16), clear

    def beside(self, array: NDArray[np.int64]) -> Tensor:
        """Copy an array to the device that stores the pixels."""
        return moved(torch.from_numpy(np.ascontiguousarray(array)), self.place)

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Read rows (B, S), given on the device that stores the pixels.

        Returns
        -------
        pixels
            uint16 (B, S, T, C), contiguous, on the device.
        clear
            bool (B, S, T); None if every pixel is clear.
        """
        if self._resident is not None:
            pixels, clear = self._resident
            flat = rows.reshape(-1)
            gathered = pixels.index_select(0, flat).view(*rows.shape, *pixels.shape[1:])
            chosen = None if clear is None else clear.index_select(0, flat).view(*rows.shape, -1)
            return gathered.view(torch.uint16), chosen
        pixels_array, clear_array = self._arrays
        pixels = moved(torch.from_numpy(pixels_array[rows.numpy()]), self._device)
        if clear_array is None:
            return pixels, None
        return pixels, moved(torch.from_numpy(clear_array[rows.numpy()]), self._device)


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device, without waiting for a GPU."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _fits(data: PixelSets, device: torch.device) -> bool:
    """Return whether all pixels fit in a GPU's memory."""
    needed = data.pixels.nbytes + (0 if data.clear is None else data.clear.nbytes)
    return needed <= _LARGEST_SHARE * torch.cuda.mem_get_info(device)[0]


def _copied(
    array: NDArray[Any] | StackedRows[Any], device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Copy an array to a device chunk by chunk, its bits read as another type of the same size."""
    copy = torch.empty(array.shape, dtype=dtype, device=device)
    for start in range(0, len(array), _COPIED_TOGETHER):
        chunk = np.array(array[start : start + _COPIED_TOGETHER])
        copy[start : start + len(chunk)] = torch.from_numpy(chunk).view(dtype)
    return copy
