"""Batches of normalised pixels, drawn from packed pixel sets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.augmentation import Augmentation, drop_dates, jitter, shift_season
from models.pixel_draws import draw_pixels, parcel_seeds
from models.pixel_sets import PixelSets
from models.processes import ALONE, Processes
from models.standardisation import FeatureScaling, Normalisation


@dataclass(frozen=True, eq=False)
class Batch:
    """Hold B parcels as a model takes them, all on one device.

    Attributes
    ----------
    pixels
        float32 (B, T, C, S), normalised: a view of (B, S, T, C) memory.
    pixel_mask
        bool (B, T, S), True for a pixel that is drawn and valid.
    positions
        int64 (B, T), days.
    extra
        float32 (B, F), scaled; None where the model uses no features.
    observed
        bool (B, T); None where every parcel has every date.
    labels
        int64 (B,), -1 for no label.
    """

    pixels: Tensor
    pixel_mask: Tensor
    positions: Tensor
    extra: Tensor | None
    observed: Tensor | None
    labels: Tensor

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
        """The arguments of `ParcelClassifier.forward`."""
        return self.pixels, self.pixel_mask, self.positions, self.extra, self.observed


class Batches:
    """Make batches of parcels, normalised and on the device.

    Parameters
    ----------
    data
        The parcels.
    normalisation
        Of the pixels.
    feature_scaling
        Of the parcel features, fitted on training parcels only; None to leave features out.
    n_pixels
        Number S of pixels drawn of every parcel.
    device
        Where the tensors go.
    """

    def __init__(
        self,
        data: PixelSets,
        normalisation: Normalisation,
        feature_scaling: FeatureScaling | None,
        n_pixels: int,
        device: torch.device,
    ) -> None:
        normalisation.check_fits(data.n_dates, data.n_channels)
        if n_pixels < 1:
            raise ValueError(f"n_pixels: expected 1 or more, found {n_pixels}")
        if feature_scaling is not None and data.features is None:
            raise ValueError("the model uses parcel features, but the data have none")
        self._data = data
        self._n_pixels = n_pixels
        self._device = device
        self._means = torch.from_numpy(normalisation.means).float().to(device)
        self._scale = torch.from_numpy(normalisation.scale()).float().to(device)
        self._features = None
        if feature_scaling is not None and data.features is not None:
            self._features = feature_scaling.apply(data.features)

    def training(
        self,
        indices: NDArray[np.int64],
        batch_size: int,
        augmentation: Augmentation,
        rng: np.random.Generator,
        noise: torch.Generator,
        processes: Processes = ALONE,
    ) -> Iterator[Batch]:
        """Shuffle parcels and yield them with new pixel draws, changed at random.

        A batch of one parcel has no batch statistics: a last parcel that would be alone joins the
        batch before, which is then one larger. Several processes share every batch.

        Parameters
        ----------
        indices
            int64, the parcels to train on.
        batch_size
            Parcels in a batch of all processes together, 2 or more for each.
        augmentation
            The random changes.
        rng
            Draws the order of the parcels, their pixels, and dates and days of the augmentation;
            the same in every process.
        noise
            Draws the jitter, on the device; another one in every process.
        processes
            That share the batches.

        Raises
        ------
        ValueError
            If a process had fewer than two parcels.
        """
        least = 2 * processes.count
        if len(indices) < least or batch_size < least:
            raise ValueError(
                "training needs batches of two or more parcels for each process, found "
                f"{len(indices)} parcels, a batch size of {batch_size} and {processes.count} "
                "processes"
            )
        order = rng.permutation(indices)
        starts = training_batch_starts(len(order), batch_size, least)
        for chosen in np.split(order, starts[1:]):
            seeds = rng.integers(2**64, size=len(chosen), dtype=np.uint64)
            yield self._batch(chosen[processes.share], seeds[processes.share], augmentation, noise)

    def evaluation(self, indices: NDArray[np.int64], batch_size: int) -> Iterator[Batch]:
        """Yield parcels in the given order, unchanged.

        The pixel draw of a parcel depends on its id alone: not on the batch, the order or the other
        parcels.
        """
        for start in range(0, len(indices), batch_size):
            chosen = indices[start : start + batch_size]
            seeds = parcel_seeds([self._data.ids[i] for i in chosen])
            yield self._batch(chosen, seeds, None, None)

    def _batch(
        self,
        chosen: NDArray[np.int64],
        seeds: NDArray[np.uint64],
        augmentation: Augmentation | None,
        noise: torch.Generator | None,
    ) -> Batch:
        data, device = self._data, self._device
        starts, sizes = data.offsets[chosen], data.offsets[chosen + 1] - data.offsets[chosen]
        drawn, mask = draw_pixels(sizes, self._n_pixels, seeds)
        rows = starts[:, None] + drawn
        # An empty parcel has no pixel 0: it shows another parcel's, masked.
        rows = np.minimum(rows, max(len(data.pixels) - 1, 0))

        pixels = torch.from_numpy(data.pixels[rows]).to(device).float()
        pixels.sub_(self._means).mul_(self._scale)
        if augmentation is not None:
            jitter(pixels, augmentation, noise)
        pixel_mask = np.broadcast_to(mask[:, :, None], (*rows.shape, data.n_dates))
        if data.valid is not None:
            pixel_mask = pixel_mask & data.valid[rows]
        days = data.days[chosen]
        observed = None if data.observed is None else data.observed[chosen]
        if augmentation is not None:
            rng = np.random.default_rng(seeds)
            if augmentation.date_dropping > 0:
                seen: NDArray[np.bool_] = np.any(pixel_mask, axis=1)
                seen = seen if observed is None else seen & observed
                observed = drop_dates(seen, augmentation.date_dropping, rng)
            if augmentation.shift_days > 0:
                days = shift_season(days, augmentation.shift_days, rng)
        extra = None if self._features is None else self._features[chosen]
        return Batch(
            pixels=pixels.permute(0, 2, 3, 1),
            pixel_mask=_tensor(pixel_mask, device).permute(0, 2, 1),
            positions=_tensor(days, device),
            extra=None if extra is None else _tensor(extra, device),
            observed=None if observed is None else _tensor(observed, device),
            labels=_tensor(data.labels[chosen], device),
        )


def training_batch_starts(n_parcels: int, batch_size: int, least: int = 2) -> list[int]:
    """Give the first position of every training batch, none of which holds fewer than `least`."""
    starts = list(range(0, n_parcels, batch_size))
    if 0 < n_parcels % batch_size < least:
        starts.pop()
    return starts


def _tensor(array: NDArray[np.generic], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)
