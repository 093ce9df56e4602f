"""Batches of normalised pixels, drawn from packed pixel sets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from models.errors import InputError
from models.pixel_sets import PixelSets
from models.standardisation import FeatureScaling, Normalisation
from models.training.augmentation import Augmentation, Jitter, drop_dates, shift_season
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


# Parcels whose pixels are drawn together: many, because a draw takes one step per pixel, but few
# enough for a step to fit in the processor's cache.
_DRAWN_TOGETHER = 4096


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
        if n_pixels < 1:
            raise InputError(f"n_pixels: expected 1 or more, found {n_pixels}")
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
        indices: NDArray[np.int64],
        batch_size: int,
        augmentation: Augmentation,
        rng: np.random.Generator,
        noise: Generator,
        processes: Processes = ALONE,
    ) -> Iterator[Batch]:
        """Yield the parcels in random order, with newly drawn pixels and random changes.

        A batch of one parcel has no batch statistics. Therefore, a last parcel that would be alone
        joins the batch before it. Several processes share every batch.

        Parameters
        ----------
        indices
            int64, the parcels to train on.
        batch_size
            Parcels in a batch of all processes together, at least 2 for each process.
        augmentation
            The random changes.
        rng
            Draws the order of the parcels and their pixels; with the same seed in every process.
        noise
            Draws the random changes, on the device; with a different seed in every process.
        processes
            The processes that share the batches.

        Raises
        ------
        InputError
            If a process would have fewer than two parcels.
        """
        least = 2 * processes.count
        if len(indices) < least or batch_size < least:
            raise InputError(
                "training needs batches of two or more parcels for each process, found "
                f"{len(indices)} parcels, a batch size of {batch_size} and {processes.count} "
                "processes"
            )
        jitter = Jitter(augmentation, self.device) if augmentation.jitter_sigma > 0 else None
        order = rng.permutation(indices)
        starts = training_batch_starts(len(order), batch_size, least)
        together = max(_DRAWN_TOGETHER // batch_size, 1)
        for first in range(0, len(starts), together):
            stops = [*starts[first + 1 : first + together + 1], len(order)][:together]
            chosen = order[starts[first] : stops[-1]]
            seeds = rng.integers(-(2**63), 2**63, size=len(chosen))
            rows, mask = self._draw(chosen, seeds, self._n_pixels)
            for start, stop in zip(starts[first : first + together], stops, strict=True):
                start, stop = start - starts[first], stop - starts[first]
                own = slice(start + processes.rank, stop, processes.count)
                batch = self._batch(rows[own], mask[own], chosen[own])
                batch = replace(batch, parcels=chosen[start:stop])
                if jitter is not None:
                    jitter.add_to(batch.pixels.permute(0, 3, 1, 2), noise)
                yield _augmented(batch, augmentation, noise)

    def evaluation(self, indices: NDArray[np.int64], batch_size: int) -> Iterator[Batch]:
        """Yield parcels in the given order and without random changes, see `of`."""
        for start in range(0, len(indices), batch_size):
            yield self.of(indices[start : start + batch_size])

    def of(self, indices: NDArray[np.int64]) -> Batch:
        """Return parcels as one batch, padded to the largest of them, at most to n_pixels.

        The drawn pixels of a parcel depend only on its id and size, not on the batch or its order.
        """
        seeds = parcel_seeds([self._data.ids[i] for i in indices])
        largest = int(self._data.sizes_of(indices).max(initial=1))
        n_pixels = min(self._n_pixels, max(largest, 1))
        return self._batch(*self._draw(indices, seeds, n_pixels), indices)

    def _draw(
        self, indices: NDArray[np.int64], seeds: NDArray[np.int64], n_pixels: int
    ) -> tuple[Tensor, Tensor]:
        """Draw pixels on the device that stores them: row numbers and mask, both (B, S)."""
        starts = self._rows.beside(self._data.offsets[indices])
        sizes = self._rows.beside(self._data.sizes_of(indices))
        drawn, mask = draw_pixels(sizes, n_pixels, self._rows.beside(seeds))
        # An empty parcel has no pixel 0: it gets another parcel's pixel, which is masked.
        rows = (starts[:, None] + drawn).clamp(max=max(len(self._data.pixels) - 1, 0))
        return rows, mask

    def _batch(self, rows: Tensor, mask: Tensor, indices: NDArray[np.int64]) -> Batch:
        data = self._data
        pixels, clear = self._rows.gather(rows)
        pixels = pixels.float().sub_(self._means).mul_(self._scale)
        pixel_mask = moved(mask, self.device)[:, :, None]
        pixel_mask = pixel_mask.expand(pixels.shape[:3]) if clear is None else pixel_mask & clear
        return Batch(
            pixels=pixels.permute(0, 2, 3, 1),
            pixel_mask=pixel_mask.permute(0, 2, 1),
            positions=self._put(data.days[indices]),
            extra=None if self._features is None else self._put(self._features[indices]),
            observed=None if data.observed is None else self._put(data.observed[indices]),
            labels=self._put(data.labels[indices]),
            parcels=indices,
        )

    def _put(self, array: NDArray[np.generic]) -> Tensor:
        return moved(torch.from_numpy(array), self.device)


def _augmented(batch: Batch, augmentation: Augmentation, draws: Generator) -> Batch:
    """Drop dates and shift seasons."""
    changes: dict[str, Any] = {}
    if augmentation.date_dropping > 0:
        observed = batch.pixel_mask.any(2)
        observed = observed if batch.observed is None else observed & batch.observed
        changes["observed"] = drop_dates(observed, augmentation.date_dropping, draws)
    if augmentation.shift_days > 0:
        changes["positions"] = shift_season(batch.positions, augmentation.shift_days, draws)
    return replace(batch, **changes)


def training_batch_starts(n_parcels: int, batch_size: int, least: int = 2) -> list[int]:
    """Return the start of every training batch, so that none has fewer than `least` parcels."""
    starts = list(range(0, n_parcels, batch_size))
    if 0 < n_parcels % batch_size < least:
        starts.pop()
    return starts
