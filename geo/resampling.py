"""Sampling of a raster at the pixel centres of another grid, at chosen pixels only.

The kernels are those of GDAL's warper, so that a sampled pixel equals the same pixel of the whole
band warped, without warping the whole band.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

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


# GDAL counts a centre on the border of two pixels, to so much of a pixel, to the one to the right
# or below, and one on the right or lower edge of the source as outside.
_BORDER = 1e-10

# Targets with pixels larger than the source's by more than this have kernels widened by GDAL.
_LARGEST_RATIO = 1 / 0.95


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

    @cached_property
    def nearest(self) -> tuple[Ints, Ints]:
        """Row and column of the source pixel that holds each centre, int64 (P,) each."""
        rows = np.floor(self.y + _BORDER).astype(np.int64)
        cols = np.floor(self.x + _BORDER).astype(np.int64)
        return rows, cols

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Whether each centre lies on the source, bool (P,)."""
        rows, cols = self.nearest
        below = (rows >= 0) & (rows < self.shape[0])
        inside: NDArray[np.bool_] = below & (cols >= 0) & (cols < self.shape[1])
        return inside

    def __getitem__(self, chosen: Ints) -> Footprint:
        return Footprint(self.y[chosen], self.x[chosen], self.shape)


def is_too_fine(source: Grid, grid: Grid) -> bool:
    """Tell whether a pixel of `grid` holds so many of `source` that GDAL would average them."""
    ratios = grid.pixel_width / source.pixel_width, grid.pixel_height / source.pixel_height
    return max(ratios) > _LARGEST_RATIO


def window_of(footprint: Footprint, method: str) -> tuple[slice, slice]:
    """Find the rows and columns of the source that a method needs for these pixels inside it."""
    margin = 0 if method == "nearest" else KERNELS[method][1] // 2
    return widened(footprint, (margin, margin))


def widened(footprint: Footprint, margins: tuple[int, int]) -> tuple[slice, slice]:
    """Find the rows and columns of the source that hold these pixels, and some around them."""
    slices = []
    for index, margin, size in zip(footprint.nearest, margins, footprint.shape, strict=True):
        slices.append(
            slice(max(int(index.min()) - margin, 0), min(int(index.max()) + margin + 1, size))
        )
    return slices[0], slices[1]


def take(values: NDArray[Any], window: tuple[slice, slice], footprint: Footprint) -> NDArray[Any]:
    """Take from a window of the source the pixels that hold the centres of a footprint, (P,)."""
    rows, cols = footprint.nearest
    taken: NDArray[Any] = values[rows - window[0].start, cols - window[1].start]
    return taken


def sample(
    values: NDArray[np.generic],
    valid: NDArray[np.bool_],
    window: tuple[slice, slice],
    footprint: Footprint,
    method: str,
) -> tuple[Floats, NDArray[np.bool_]]:
    """Sample a window of the source at the pixels of a footprint, as GDAL's warper does.

    Bilinear: source pixels that are not valid, or lie beyond the edge, get no weight and the
    weights of the others are scaled up. Cubic: where any of the 16 pixels is so, bilinear.

    Parameters
    ----------
    values, valid
        (rows, columns) of the window.
    window
        Rows and columns of the source that `values` covers, as `window_of` gives them.
    footprint
        P pixels, all inside the source.
    method
        nearest, bilinear or cubic.

    Returns
    -------
    samples
        float64 (P,), 0 where not valid.
    samples_valid
        bool (P,), whether the source pixel that holds the centre is valid.
    """
    known = take(valid, window, footprint)
    if method == "nearest":
        return np.where(known, take(values, window, footprint), 0).astype(np.float64), known
    samples, n_used = _convolve(values, valid, window, footprint, method)
    if method == "cubic":
        partial = np.flatnonzero(n_used < 16)
        samples[partial], _ = _convolve(values, valid, window, footprint[partial], "bilinear")
    return np.where(known, samples, 0.0), known


def _convolve(
    values: NDArray[np.generic],
    valid: NDArray[np.bool_],
    window: tuple[slice, slice],
    footprint: Footprint,
    method: str,
) -> tuple[Floats, Ints]:
    """Weight the source pixels around each centre; also give how many of them are valid."""
    kernel, span = KERNELS[method]
    top, left = window[0].start, window[1].start
    first_row = np.floor(footprint.y - 0.5).astype(np.int64) - span // 2 + 1
    first_col = np.floor(footprint.x - 0.5).astype(np.int64) - span // 2 + 1
    total, weights = np.zeros(len(footprint.y)), np.zeros(len(footprint.y))
    n_used = np.zeros(len(footprint.y), np.int64)
    for row in (first_row + i for i in range(span)):
        for col in (first_col + j for j in range(span)):
            r, c = row - top, col - left
            used = (r >= 0) & (r < values.shape[0]) & (c >= 0) & (c < values.shape[1])
            r, c = np.where(used, r, 0), np.where(used, c, 0)
            used &= valid[r, c]
            weight = kernel(footprint.y - 0.5 - row) * kernel(footprint.x - 0.5 - col) * used
            total += weight * np.where(used, values[r, c], 0)
            weights += weight
            n_used += used
    return np.divide(total, weights, out=np.zeros_like(total), where=weights != 0), n_used
