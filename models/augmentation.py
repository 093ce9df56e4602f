"""Change training parcels at random, so that a model learns what does not matter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# A series of fewer dates says too little of a crop to learn from.
_LEAST_DATES = 2


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


def jitter(pixels: Tensor, change: Augmentation, generator: torch.Generator | None) -> None:
    """Add noise to normalised pixels, in place."""
    if change.jitter_sigma > 0:
        noise = torch.empty_like(pixels).normal_(0, change.jitter_sigma, generator=generator)
        pixels += noise.clamp_(-change.jitter_clip, change.jitter_clip)


def drop_dates(
    seen: NDArray[np.bool_], probability: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Leave out dates of every parcel, but never more than leaves it two.

    Parameters
    ----------
    seen
        bool (B, T), True for a date on which the parcel has a true pixel.
    probability
        With which a seen date is left out.
    rng
        Draws the dates.

    Returns
    -------
    NDArray
        bool (B, T), the seen dates that are kept: the two with the luckiest draws always.
    """
    draws = np.where(seen, rng.random(seen.shape), -1.0)
    least = min(_LEAST_DATES, seen.shape[1])
    luckiest = np.partition(draws, -least, axis=1)[:, -least, None]
    kept: NDArray[np.bool_] = seen & (draws >= np.minimum(luckiest, probability))
    return kept


def shift_season(days: NDArray[np.int64], most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Move every parcel's days (B, T) by a number of days from -most to most."""
    return days + rng.integers(-most, most + 1, size=(len(days), 1))
