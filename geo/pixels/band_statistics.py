"""Means and standard deviations of reflectances, exact for any number of pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Pixels to process together: their intermediate values fit into the processor's cache.
CHUNK = 512


class RunningStatistics:
    """Sums over pixel sets, per date and channel.

    The sums are 64-bit integers and therefore exact, for up to 4 x 10^9 observations of the largest
    value. (In float32, the error of a mean grows to 2e-4.)

    Parameters
    ----------
    n_dates, n_channels
        T and C.
    """

    def __init__(self, n_dates: int, n_channels: int) -> None:
        self.count = np.zeros((n_dates, n_channels), np.uint64)
        self.total = np.zeros((n_dates, n_channels), np.uint64)
        self.squares = np.zeros((n_dates, n_channels), np.uint64)

    def add(self, pixels: NDArray[np.uint16], clear: NDArray[np.bool_] | None = None) -> None:
        """Add pixels.

        Parameters
        ----------
        pixels
            uint16 (P, T, C).
        clear
            bool (P, T): only clear observations are added; None adds all.
        """
        for start in range(0, len(pixels), CHUNK):
            part = slice(start, start + CHUNK)
            # The sums of a chunk are integers below 2^53: exact in float64, which adds faster.
            values = pixels[part].astype(np.float64)
            if clear is None:
                self.count += np.uint64(len(values))
            else:
                values *= clear[part, :, None]
                self.count += clear[part].sum(axis=0, dtype=np.uint64)[:, None]
            self.total += values.sum(axis=0).astype(np.uint64)
            self.squares += np.einsum("ptc,ptc->tc", values, values).astype(np.uint64)

    def over(self, pooled: tuple[int, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Compute mean and standard deviation (ddof 0), pooled over axes of (T, C).

        Returns
        -------
        means, stds
            float64, in the shape of the remaining axes. Without any observation the mean is 0 and
            the standard deviation 1, so that normalising changes nothing.
        """
        count, total, squares = (
            np.asarray(a.sum(axis=pooled, dtype=np.uint64))
            for a in (self.count, self.total, self.squares)
        )
        n = np.maximum(count, 1).astype(np.float64)
        means = total / n
        # n * squares - total^2 would overflow 64 bits; long double keeps the difference accurate.
        variance = squares.astype(np.longdouble) / n - (total.astype(np.longdouble) / n) ** 2
        stds = np.sqrt(np.maximum(variance, 0)).astype(np.float64)
        return means, np.where(count == 0, 1.0, stds)
