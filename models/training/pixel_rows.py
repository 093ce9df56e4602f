"""Gather pixels where they lie: in the device's memory, or in that of the machine."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.pixel_sets import PixelSets, StackedRows

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
        self._arrays = (data.pixels, data.valid)
        self._resident: tuple[Tensor, Tensor | None] | None = None
        if self.place.type != "cpu":
            valid = None if data.valid is None else _copied(data.valid, device)
            # Torch gathers few kinds of unsigned integers: the same bits, signed.
            self._resident = _copied(data.pixels, device, view=np.int16), valid

    def beside(self, array: NDArray[np.int64]) -> Tensor:
        """Put indices (or what they are drawn from) where the pixels are."""
        return moved(torch.from_numpy(np.ascontiguousarray(array)), self.place)

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Gather rows (B, S), which lie beside the pixels.

        Returns
        -------
        pixels
            uint16 (B, S, T, C), contiguous, on the device.
        valid
            bool (B, S, T); None where every pixel is valid.
        """
        if self._resident is not None:
            pixels, valid = self._resident
            flat = rows.reshape(-1)
            gathered = pixels.index_select(0, flat).view(*rows.shape, *pixels.shape[1:])
            seen = None if valid is None else valid.index_select(0, flat).view(*rows.shape, -1)
            return gathered.view(torch.uint16), seen
        chosen = rows.numpy()
        pixels_at, valid_at = self._arrays
        return (
            moved(torch.from_numpy(pixels_at[chosen]), self._device),
            None if valid_at is None else moved(torch.from_numpy(valid_at[chosen]), self._device),
        )


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Put a tensor on a device; a GPU goes on with its work meanwhile."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _fits(data: PixelSets, device: torch.device) -> bool:
    """Tell whether a GPU has room for all pixels."""
    needed = data.pixels.nbytes + (0 if data.valid is None else data.valid.nbytes)
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
