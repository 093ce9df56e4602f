"""Sampling of a raster at the pixel centres of another grid, at chosen pixels only.

The kernels are those of GDAL's warper, so that a sampled pixel equals the same pixel of the whole
band warped, without warping the whole band.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geo.grid import Grid

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def _bilinear(distance: Floats) -> Floats:
    return np.maximum(0.0, 1.0 - np.abs(distance))


def _cubic(distance: Floats) -> Floats:
    """Cubic convolution with a = -0.5 (Keys, 1981, eq. 15), as in GDAL."""
    d = np.abs(distance)
    near = 1.0 + d * d * (1.5 * d - 2.5)
    far = 2.0 + d * (-4.0 + d * (2.5 - 0.5 * d))
    return np.where(d <= 1.0, near, np.where(d < 2.0, far, 0.0))


# Kernel, and how many source pixels it spans in each direction.
KERNELS: dict[str, tuple[Callable[[Floats], Floats], int]] = {
    "bilinear": (_bilinear, 2),
    "cubic": (_cubic, 4),
}


@dataclass(frozen=True)
class Footprint:
    """Where pixels of a target grid lie on a source grid.

    Parameters
    ----------
    y, x
        float64 (P,): position of each target pixel's centre in rows and columns of the source,
        counted from its outer corner (0.5 is the centre of the first row).
    shape
        Rows and columns of the source.
    """

    y: Floats
    x: Floats
    shape: tuple[int, int]

    @classmethod
    def of(
        cls, rows: NDArray[np.int32], cols: NDArray[np.int32], grid: Grid, source: Grid
    ) -> Footprint:
        """Place pixels (rows, cols), both (P,), of `grid` on `source`, in the same CRS."""
        x = grid.x_min + (cols + 0.5) * grid.pixel_width
        y = grid.y_max - (rows + 0.5) * grid.pixel_height
        below = (source.y_max - y) / source.pixel_height
        right = (x - source.x_min) / source.pixel_width
        return cls(below.astype(np.float64), right.astype(np.float64), source.shape)

    @property
    def nearest(self) -> tuple[Ints, Ints]:
        """Row and column of the source pixel that holds each centre, int64 (P,) each."""
        # A centre on the very edge of the source belongs to its last pixel.
        rows = np.clip(np.floor(self.y).astype(np.int64), 0, self.shape[0] - 1)
        cols = np.clip(np.floor(self.x).astype(np.int64), 0, self.shape[1] - 1)
        return rows, cols

    def __getitem__(self, chosen: Ints) -> Footprint:
        return Footprint(self.y[chosen], self.x[chosen], self.shape)


def window_of(footprint: Footprint, method: str) -> tuple[slice, slice]:
    """Find the rows and columns of the source that a method needs for these pixels."""
    margin = 0 if method == "nearest" else KERNELS[method][1] // 2
    slices = []
    for index, size in zip(footprint.nearest, footprint.shape, strict=True):
        slices.append(
            slice(max(int(index.min()) - margin, 0), min(int(index.max()) + margin + 1, size))
        )
    return slices[0], slices[1]


def sample(
    values: NDArray[np.generic],
    valid: NDArray[np.bool_],
    window: tuple[slice, slice],
    footprint: Footprint,
    method: str,
) -> tuple[Floats, NDArray[np.bool_]]:
    """Sample a window of the source at the pixels of a footprint.

    Source pixels that are not valid, or lie beyond the edge, get no weight and the weights of the
    others are scaled up, as GDAL's warper does.

    Parameters
    ----------
    values, valid
        (rows, columns) of the window.
    window
        Rows and columns of the source that `values` covers, as `window_of` gives them.
    footprint
        P pixels.
    method
        nearest, bilinear or cubic.

    Returns
    -------
    samples
        float64 (P,), 0 where not valid.
    samples_valid
        bool (P,), whether the source pixel that holds the centre is valid.
    """
    top, left = window[0].start, window[1].start
    rows, cols = footprint.nearest
    nearest_valid = valid[rows - top, cols - left]
    if method == "nearest":
        samples = np.where(nearest_valid, values[rows - top, cols - left], 0)
        return samples.astype(np.float64), nearest_valid
    kernel, span = KERNELS[method]
    first_row = np.floor(footprint.y - 0.5).astype(np.int64) - span // 2 + 1
    first_col = np.floor(footprint.x - 0.5).astype(np.int64) - span // 2 + 1
    total, weights = np.zeros(len(rows)), np.zeros(len(rows))
    for row in (first_row + i for i in range(span)):
        for col in (first_col + j for j in range(span)):
            inside = (
                (row >= 0) & (row < footprint.shape[0]) & (col >= 0) & (col < footprint.shape[1])
            )
            r = np.where(inside, row - top, rows - top)
            c = np.where(inside, col - left, cols - left)
            weight = kernel(footprint.y - 0.5 - row) * kernel(footprint.x - 0.5 - col)
            weight *= inside & valid[r, c]
            total += weight * np.where(valid[r, c], values[r, c], 0)
            weights += weight
    known = nearest_valid & (weights != 0)
    samples = np.divide(total, weights, out=np.zeros_like(total), where=known)
    return samples, known
