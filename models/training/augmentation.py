"""Change training parcels at random, so that a model learns what does not matter."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

# A series of fewer dates says too little of a crop to learn from.
_LEAST_DATES = 2

# Jitter takes one of so many values, all equally likely: 16 random bits are drawn faster than a
# normal deviate.
_JITTER_VALUES = 1 << 16


@dataclass(frozen=True)
class Augmentation:
    """Describe the random changes of training parcels; the defaults change nothing.

    Attributes
    ----------
    jitter_sigma, jitter_clip
        Noise on normalised pixels: its standard deviation and its largest absolute value.
    date_dropping
        Probability with which each date of a parcel is left out, as if it had been cloudy.
    shift_days
        A parcel's season is moved by a whole number of days, drawn from -shift_days to shift_days.
    """

    jitter_sigma: float = 0.0
    jitter_clip: float = 0.0
    date_dropping: float = 0.0
    shift_days: int = 0


class Jitter:
    """Noise on normalised pixels, drawn from a table of the quantiles of the clipped normal.

    Parameters
    ----------
    change
        Its deviation and bound.
    device
        Where it is drawn.
    """

    def __init__(self, change: Augmentation, device: torch.device) -> None:
        middles = (torch.arange(_JITTER_VALUES, dtype=torch.float64) + 0.5) / _JITTER_VALUES
        quantiles = torch.special.ndtri(middles) * change.jitter_sigma
        self._quantiles = quantiles.clamp_(-change.jitter_clip, change.jitter_clip).to(
            device, torch.float32
        )

    def add_to(self, pixels: Tensor, noise: Generator) -> None:
        """Add noise to contiguous normalised pixels, in place."""
        n = pixels.numel()
        words = torch.empty(-(-n // 4), dtype=torch.int64, device=pixels.device)
        # Any 64 bits at once: as four numbers of 16 bits, they are as many draws.
        words.random_(-(1 << 63), None, generator=noise)
        draws = words.view(torch.uint16)[:n].to(torch.int32)
        pixels.view(-1).add_(self._quantiles.index_select(0, draws))


def drop_dates(seen: Tensor, probability: float, draws: Generator) -> Tensor:
    """Leave out dates of every parcel, but never more than leaves it two.

    Parameters
    ----------
    seen
        bool (B, T), True for a date on which the parcel has a true pixel.
    probability
        With which a seen date is left out.
    draws
        Draws the dates.

    Returns
    -------
    Tensor
        bool (B, T), the seen dates that are kept: the two with the luckiest draws always.
    """
    luck = torch.rand(seen.shape, generator=draws, device=seen.device)
    luck = luck.masked_fill(~seen, -1.0)
    least = min(_LEAST_DATES, seen.shape[1])
    luckiest = luck.topk(least, dim=1).values[:, -1:]
    return seen & (luck >= luckiest.clamp(max=probability))


def shift_season(days: Tensor, most: int, draws: Generator) -> Tensor:
    """Move every parcel's days (B, T) by a number of days from -most to most."""
    shape = (len(days), 1)
    return days + torch.randint(-most, most + 1, shape, generator=draws, device=days.device)
