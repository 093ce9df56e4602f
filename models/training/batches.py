"""Batches of normalised pixels, drawn from packed pixel sets.

A batch contains B parcels: S drawn pixels of each, on its T dates and in C channels. A training
draws other pixels of a parcel in every epoch; a prediction always draws the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.errors import InputError, expect
from models.pixel_sets import PixelSets
from models.shared_batches import Share
from models.standardisation import FeatureScaling, Normalisation
from models.training.distributed import ALONE, Processes
from models.training.sampling import PixelRows, draw_pixels, moved, parcel_seeds


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs of a model for B parcels, on one device.

    Attributes
    ----------
    pixels
        float32 (B, T, C, S), normalised; a view of (B, S, T, C) memory.
    pixel_mask
        bool (B, T, S), True for a drawn pixel (not padding) that is clear on the date.
    positions
        int64 (B, T), days.
    extra
        float32 (B, F), scaled; None if the model uses no features.
    observed
        bool (B, T); None if every parcel has every date.
    labels
        int64 (B,), -1 for no label.
    parcels
        int64, indices of the parcels of the whole batch, including the shares of other processes.
    """

    pixels: Tensor
    pixel_mask: Tensor
    positions: Tensor
    extra: Tensor | None
    observed: Tensor | None
    labels: Tensor
    parcels: NDArray[np.int64]

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
        """The arguments of `ParcelClassifier.forward`."""
        return self.pixels, self.pixel_mask, self.positions, self.extra, self.observed

    def split(self, sizes: Sequence[int], wholes: Sequence[NDArray[np.int64]]) -> Iterator[Batch]:
        """Divide the batch into batches of these sizes, in order, without a copy.

        Parameters
        ----------
        sizes
            Number of parcels of each.
        wholes
            `parcels` of each.
        """
        tensors = (*self.inputs, self.labels)
        parts = [[None] * len(sizes) if t is None else t.split(list(sizes)) for t in tensors]
        for pixels, mask, positions, extra, observed, labels, parcels in zip(
            *parts, wholes, strict=True
        ):
            yield Batch(pixels, mask, positions, extra, observed, labels, parcels)


# Parcels whose pixels are drawn together: many, because a draw takes one step per pixel, but few
# enough for a step to fit in the processor's cache.
_DRAWN_TOGETHER = 4096

# Values that a GPU reads and normalises together: 0.3 GB as float32.
_READ_TOGETHER = 1 << 26


class Batches:
    """Make batches of parcels: drawn pixels, normalised, on the device.

    Parameters
    ----------
    data
        The parcels.
    normalisation
        Normalisation of the pixels.
    feature_scaling
        Scaling of the parcel features, fitted on training parcels only; None to leave them out.
    n_pixels
        Number S of pixels to draw from every parcel.
    device
        Device of the batches.
    keep
        Whether pixels are drawn more than once. A GPU then keeps all pixels in its memory, if they
        fit.
    """

    def __init__(
        self,
        data: PixelSets,
        normalisation: Normalisation,
        feature_scaling: FeatureScaling | None,
        n_pixels: int,
        device: torch.device,
        *,
        keep: bool = False,
    ) -> None:
        normalisation.check_fits(data.n_dates, data.n_channels)
        expect(n_pixels >= 1, "n_pixels", "1 or more", n_pixels)
        if feature_scaling is not None and data.features is None:
            raise InputError("the model uses parcel features, but the data have none")
        self._data = data
        self._n_pixels = n_pixels
        self.device = device
        self._rows = PixelRows(data, device, keep=keep)
        shape = (data.n_dates, data.n_channels)
        means, scale = (
            torch.from_numpy(np.broadcast_to(values, shape).astype(np.float32)).to(device)
            for values in (normalisation.means, normalisation.scale())
        )
        self._means, self._scale = means, scale
        self._features = None
        if feature_scaling is not None and data.features is not None:
            self._features = feature_scaling.apply(data.features)

    def training(
        self,
        parcels: NDArray[np.int64],
        batch_size: int,
        rng: np.random.Generator,
        processes: Processes = ALONE,
        change: Callable[[Batch, Share], Batch] = lambda batch, _: batch,
    ) -> Iterator[Batch]:
        """Yield the parcels in random order, with newly drawn pixels. Processes share every batch.

        Parameters
        ----------
        parcels
            int64, indices of the parcels to train on.
        batch_size
            Parcels in a batch of all processes together, at least 2, and 1 for each process.
        rng
            Draws the order of the parcels and their pixels; with the same seed in every process.
        processes
            The processes that share the batches.
        change
            Changes the share of a batch at random. A GPU changes many batches as one.

        Raises
        ------
        InputError
            If a process would have no parcel, or a batch fewer than two.
        """
        least = processes.least
        if len(parcels) < least or batch_size < least:
            raise InputError(
                "training needs batches of two or more parcels, and one for each process, found "
                f"{len(parcels)} parcels, a batch size of {batch_size} and {processes.count} "
                "processes"
            )
        batches = divide(rng.permutation(parcels), batch_size, least)
        own = processes.share
        for group in self._groups(batches):
            drawn = np.concatenate(group)
            seeds = rng.integers(-(2**63), 2**63, size=len(drawn))
            rows, mask = self._draw(drawn, seeds, self._n_pixels)  # (parcels of the group, S)
            sizes = [len(whole) for whole in group]
            if self.device.type == "cuda":
                # One large read, instead of many small ones that a GPU would wait for.
                by_batch = np.split(np.arange(len(drawn)), np.cumsum(sizes)[:-1])
                shares = [rows_of[own] for rows_of in by_batch]
                chosen = np.concatenate(shares)
                at = self._rows.beside(chosen)
                batch = self._batch(rows[at], mask[at], drawn[chosen])
                alone = processes.count == 1
                places = slice(None) if alone else moved(torch.from_numpy(chosen), self.device)
                batch = change(batch, Share(places, len(drawn)))
                yield from batch.split([len(share) for share in shares], group)
                continue
            for whole, own_rows, own_mask in zip(
                group, rows.split(sizes), mask.split(sizes), strict=True
            ):
                batch = self._batch(own_rows[own], own_mask[own], whole[own])
                batch = change(batch, Share(own, len(whole)))
                yield replace(batch, parcels=whole)

    def _groups(
        self, batches: Sequence[NDArray[np.int64]]
    ) -> Iterator[Sequence[NDArray[np.int64]]]:
        """Yield the batches whose pixels are drawn together."""
        most = _DRAWN_TOGETHER
        if self.device.type == "cuda":
            values = self._n_pixels * self._data.n_dates * self._data.n_channels
            most = min(most, max(_READ_TOGETHER // values, 1))
        together = max(most // len(batches[0]), 1)
        for first in range(0, len(batches), together):
            yield batches[first : first + together]

    def of(self, parcels: NDArray[np.int64]) -> Batch:
        """Return parcels as one batch, padded to the largest of them, at most to n_pixels.

        The drawn pixels of a parcel depend only on its id and size, not on the batch or its order.
        """
        seeds = parcel_seeds([self._data.ids[i] for i in parcels])
        largest = int(self._data.sizes_of(parcels).max(initial=1))
        rows, mask = self._draw(parcels, seeds, min(self._n_pixels, largest))
        return self._batch(rows, mask, parcels)

    def _draw(
        self, parcels: NDArray[np.int64], seeds: NDArray[np.int64], n_pixels: int
    ) -> tuple[Tensor, Tensor]:
        """Draw S pixels of B parcels, on the device that stores the pixels.

        Returns
        -------
        rows
            int64 (B, S), rows in the array of all pixels.
        mask
            bool (B, S), True for a drawn pixel, False for padding.
        """
        starts = self._rows.beside(self._data.offsets[parcels])
        sizes = self._rows.beside(self._data.sizes_of(parcels))
        drawn, mask = draw_pixels(sizes, n_pixels, self._rows.beside(seeds))
        # An empty parcel has no pixel 0: it gets another parcel's pixel, which is masked.
        rows = (starts[:, None] + drawn).clamp(max=max(len(self._data.pixels) - 1, 0))
        return rows, mask

    def _batch(self, rows: Tensor, mask: Tensor, parcels: NDArray[np.int64]) -> Batch:
        """Read and normalise the drawn pixels of B parcels: rows and mask are (B, S)."""
        data = self._data
        pixels, clear = self._rows.gather(rows)  # uint16 (B, S, T, C), bool (B, S, T) or None
        pixels = pixels.float().sub_(self._means).mul_(self._scale)  # float32 (B, S, T, C)
        pixel_mask = moved(mask, self.device)[:, :, None]  # (B, S, 1)
        pixel_mask = pixel_mask.expand(pixels.shape[:3]) if clear is None else pixel_mask & clear
        return Batch(
            pixels=pixels.permute(0, 2, 3, 1),  # (B, T, C, S)
            pixel_mask=pixel_mask.permute(0, 2, 1),  # (B, T, S)
            positions=self._put(data.days[parcels]),
            extra=None if self._features is None else self._put(self._features[parcels]),
            observed=None if data.observed is None else self._put(data.observed[parcels]),
            labels=self._put(data.labels[parcels]),
            parcels=parcels,
        )

    def _put(self, array: NDArray[np.generic]) -> Tensor:
        return moved(torch.from_numpy(array), self.device)


def divide(parcels: NDArray[np.int64], batch_size: int, least: int = 2) -> list[NDArray[np.int64]]:
    """Divide parcels into training batches, in order; the last ones may join the batch before.

    They do if they are fewer than `least`: a batch of one parcel has no batch statistics.
    """
    starts = range(batch_size, len(parcels) - least + 1, batch_size)
    return np.split(parcels, starts)
