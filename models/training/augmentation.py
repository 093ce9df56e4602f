"""Random changes of training parcels, to which the classes should be insensitive."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from models.shared_batches import Share
from models.training.batches import Batch

# Fewer dates are too few to learn a crop's course from.
_LEAST_DATES = 2

# Jitter takes one of this many values, all equally likely: drawing 16 random bits is faster than
# drawing from a normal distribution.
_JITTER_VALUES = 1 << 16


@dataclass(frozen=True)
class Augmentation:
    """Describe the random changes of training parcels; the defaults make none.

    Attributes
    ----------
    jitter_sigma, jitter_clip
        Standard deviation and largest absolute value of the noise on normalised pixels.
    date_dropping
        Probability of leaving out each date of a parcel, as if it had been cloudy.
    shift_days
        Each parcel's dates are shifted together by -shift_days to shift_days whole days.
    random_end
        Whether each parcel's dates after a random one are left out, see `end_early`.
    """

    jitter_sigma: float = 0.0
    jitter_clip: float = 0.0
    date_dropping: float = 0.0
    shift_days: int = 0
    random_end: bool = False


class Augmenter:
    """Change training batches at random.

    Parameters
    ----------
    augmentation
        The random changes.
    noise
        Draws them for all parcels of a batch, on the device of the batches; with the same seed in
        every process.
    """

    def __init__(self, augmentation: Augmentation, noise: Generator) -> None:
        self._augmentation = augmentation
        self._noise = noise
        self._jitter = Jitter(augmentation, noise.device) if augmentation.jitter_sigma > 0 else None

    def __call__(self, batch: Batch, share: Share | None = None) -> Batch:
        """Add noise to the pixels of a batch, in place, drop dates and shift seasons.

        If the batch is a share of a larger one, `share` says which, see `drop_dates`.
        """
        changes, noise = self._augmentation, self._noise
        if self._jitter is not None:
            self._jitter.add_to(batch.pixels.permute(0, 3, 1, 2), noise, share)  # order of memory
        if changes.date_dropping > 0:
            observed = drop_dates(_observed(batch), changes.date_dropping, noise, share)
            batch = replace(batch, observed=observed)
        if changes.random_end:
            batch = replace(batch, observed=end_early(_observed(batch), noise, share))
        if changes.shift_days > 0:
            positions = shift_season(batch.positions, changes.shift_days, noise, share)
            batch = replace(batch, positions=positions)
        return batch


class Jitter:
    """Noise on normalised pixels, drawn from a table of quantiles of the clipped normal.

    Parameters
    ----------
    augmentation
        Its standard deviation and bound.
    device
        Device of the pixels.
    """

    def __init__(self, augmentation: Augmentation, device: torch.device) -> None:
        middles = (torch.arange(_JITTER_VALUES, dtype=torch.float64) + 0.5) / _JITTER_VALUES
        quantiles = torch.special.ndtri(middles) * augmentation.jitter_sigma
        self._quantiles = quantiles.clamp_(-augmentation.jitter_clip, augmentation.jitter_clip).to(
            device, torch.float32
        )

    def add_to(self, pixels: Tensor, noise: Generator, share: Share | None = None) -> None:
        """Add noise to contiguous normalised pixels (B, ...), in place."""
        share = share or _all_of(pixels)
        n = share.n_parcels * pixels[0].numel()
        words = torch.empty(-(-n // 4), dtype=torch.int64, device=pixels.device)
        # 64 random bits are drawn at once and read as four draws of 16 bits.
        words.random_(-(1 << 63), None, generator=noise)
        draws = words.view(torch.uint16)[:n].view(share.n_parcels, -1)[share.rows].to(torch.int32)
        pixels.view(-1).add_(self._quantiles.index_select(0, draws.view(-1)))


def drop_dates(
    observed: Tensor, probability: float, draws: Generator, share: Share | None = None
) -> Tensor:
    """Leave out dates of every parcel at random, but keep at least two.

    Parameters
    ----------
    observed
        bool (B, T), True for a date on which the parcel has a true pixel.
    probability
        Probability of leaving out an observed date.
    draws
        Draws the dates.
    share
        Place of the B parcels in the batch that is drawn for; None if they are the batch.

    Returns
    -------
    Tensor
        bool (B, T), True for the observed dates that remain. The two with the highest draws always
        remain.
    """
    share = share or _all_of(observed)
    shape = (share.n_parcels, observed.shape[1])
    scores = torch.rand(shape, generator=draws, device=observed.device)[share.rows]
    scores = scores.masked_fill(~observed, -1.0)
    least = min(_LEAST_DATES, observed.shape[1])
    second_highest = scores.topk(least, dim=1).values[:, -1:]  # (B, 1)
    return observed & (scores >= second_highest.clamp(max=probability))


def end_early(observed: Tensor, draws: Generator, share: Share | None = None) -> Tensor:
    """Leave out each parcel's dates after a random one, as if the season were not over.

    A model that is trained in this way classifies series of any length.

    Parameters
    ----------
    observed
        bool (B, T), True for a date on which the parcel has a true pixel; dates in order of time.
    draws
        Draws the number of dates that remain: from two to all, each equally likely.
    share
        As in `drop_dates`.

    Returns
    -------
    Tensor
        bool (B, T), True for the observed dates that remain.
    """
    rank = observed.cumsum(1)  # 1 at the first observed date
    choices = (rank[:, -1:] - _LEAST_DATES + 1).clamp(min=1)
    share = share or _all_of(observed)
    shape = (share.n_parcels, 1)
    uniform = torch.rand(shape, generator=draws, device=observed.device)[share.rows]
    return observed & (rank <= _LEAST_DATES + (uniform * choices).long())


def _observed(batch: Batch) -> Tensor:
    """Return the dates on which a parcel has a true pixel, bool (B, T)."""
    observed = batch.pixel_mask.any(2)
    return observed if batch.observed is None else observed & batch.observed


def shift_season(days: Tensor, most: int, draws: Generator, share: Share | None = None) -> Tensor:
    """Shift the days (B, T) of every parcel by -most to most days; share as in `drop_dates`."""
    share = share or _all_of(days)
    shape = (share.n_parcels, 1)
    shifts = torch.randint(-most, most + 1, shape, generator=draws, device=days.device)
    return days + shifts[share.rows]


def _all_of(values: Tensor) -> Share:
    """Return the share of a process that has the whole batch."""
    return Share(slice(None), len(values))
