"""Draw pixels of parcels without replacement, by seed and not by order, and gather their rows."""

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


# Of a GPU's free memory, the share that pixels may take: the rest is for the model's own work.
_LARGEST_SHARE = 0.6

# Pixels that are copied to a GPU at once; a mapped file is never held in memory as a whole.
_COPIED_TOGETHER = 1 << 18


class PixelRows:
    """Gather rows of packed pixels on a device.

    Parameters
    ----------
    data
        Whose pixels, and their validity.
    device
        Where gathered rows go.
    keep
        Whether to hold the pixels in the memory of the device, if they fit.

    Attributes
    ----------
    place
        Device that holds the pixels; where it is the CPU, gathered rows go to a GPU through
        pinned memory.
    """

    def __init__(self, data: PixelSets, device: torch.device, *, keep: bool) -> None:
        self._device = device
        kept = keep and device.type == "cuda" and _fits(data, device)
        self.place = device if kept else torch.device("cpu")
        self._arrays = (data.pixels, data.clear)
        self._resident: tuple[Tensor, Tensor | None] | None = None
        if self.place.type != "cpu":
            clear = None if data.clear is None else _copied(data.clear, device)
            # Torch gathers few kinds of unsigned integers: the same bits, signed.
            self._resident = _copied(data.pixels, device, view=np.int16), clear

    def beside(self, array: NDArray[np.int64]) -> Tensor:
        """Put indices (or what they are drawn from) where the pixels are."""
        return moved(torch.from_numpy(np.ascontiguousarray(array)), self.place)

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Gather rows (B, S), which lie beside the pixels.

        Returns
        -------
        pixels
            uint16 (B, S, T, C), contiguous, on the device.
        clear
            bool (B, S, T); None where every pixel is clear.
        """
        if self._resident is not None:
            pixels, clear = self._resident
            flat = rows.reshape(-1)
            gathered = pixels.index_select(0, flat).view(*rows.shape, *pixels.shape[1:])
            seen = None if clear is None else clear.index_select(0, flat).view(*rows.shape, -1)
            return gathered.view(torch.uint16), seen
        chosen = rows.numpy()
        pixels_at, clear_at = self._arrays
        return (
            moved(torch.from_numpy(pixels_at[chosen]), self._device),
            None if clear_at is None else moved(torch.from_numpy(clear_at[chosen]), self._device),
        )


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Put a tensor on a device; a GPU goes on with its work meanwhile."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _fits(data: PixelSets, device: torch.device) -> bool:
    """Tell whether a GPU has room for all pixels."""
    needed = data.pixels.nbytes + (0 if data.clear is None else data.clear.nbytes)
    return needed <= _LARGEST_SHARE * torch.cuda.mem_get_info(device)[0]


def _copied(
    array: NDArray[Any] | StackedRows[Any], device: torch.device, view: type | None = None
) -> Tensor:
    """Copy an array to a device, piece by piece, its values as those of another type."""
    first = torch.from_numpy(_piece(array, 0, 1, view))
    copy = torch.empty(array.shape, dtype=first.dtype, device=device)
    for start in range(0, len(array), _COPIED_TOGETHER):
        piece = _piece(array, start, start + _COPIED_TOGETHER, view)
        copy[start : start + len(piece)] = torch.from_numpy(piece)
    return copy


def _piece(
    array: NDArray[Any] | StackedRows[Any], start: int, stop: int, view: type | None
) -> NDArray[Any]:
    piece = np.array(array[start:stop])
    return piece if view is None else piece.view(view)
