"""Resample a raster at selected pixels of another grid.

The kernels are those of GDAL's warper: a sampled pixel equals the same pixel of the warped band,
but only the selected pixels are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geo.grid import Grid

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# The n source pixels that a kernel weights for each of P pixels, arrays (n, P): their positions,
# their weights (0 beyond the edges of the source), and whether they exist (False beyond the edges).
Taps = tuple[Ints, Floats, Bools]


def _bilinear(distance: Floats) -> Floats:
    return np.maximum(0.0, 1.0 - np.abs(distance))


def _cubic(distance: Floats) -> Floats:
    """Cubic convolution with a = -0.5 (Keys, 1981, eq. 15), as in GDAL."""
    d = np.abs(distance)
    near = 1.0 + d * d * (1.5 * d - 2.5)
    far = 2.0 + d * (-4.0 + d * (2.5 - 0.5 * d))
    return np.where(d <= 1.0, near, np.where(d < 2.0, far, 0.0))


# Each kernel, and the number of source pixels that it spans along each axis.
KERNELS: dict[str, tuple[Callable[[Floats], Floats], int]] = {
    "bilinear": (_bilinear, 2),
    "cubic": (_cubic, 4),
}


# GDAL assigns a centre within this distance (in pixels) of the border of two pixels to the right or
# lower one. A centre on the right or lower edge of the source is outside.
_BORDER = 1e-10

# If the pixels of the target are larger than the source's by more than this, GDAL widens the kernel
# in order to average.
_LARGEST_RATIO = 1 / 0.95


@dataclass(frozen=True)
class Axis:
    """Positions of the rows of a target grid in a source, or of its columns.

    Grids are not rotated: the source rows of a pixel depend on its row only, not on its column.

    Parameters
    ----------
    places
        float64 (n,): position of each row's centre, in rows of the source from its outer edge (0.5
        is the centre of the first row).
    size
        Number of rows of the source.
    """

    places: Floats
    size: int

    @cached_property
    def nearest(self) -> Ints:
        """The source row that contains each centre, int64 (n,); negative or >= size outside."""
        return np.floor(self.places + _BORDER).astype(np.int64)

    @property
    def inside(self) -> Bools:
        """Whether each centre is inside the source, bool (n,)."""
        return (self.nearest >= 0) & (self.nearest < self.size)

    def taps(self, method: str) -> Taps:
        """Return the source rows that a kernel weights for each row.

        Returns
        -------
        taps
            int64 (span, n), ascending; rows beyond the edges are replaced by the row at the edge.
        weights
            float64 (span, n), 0 beyond the edges.
        exist
            bool (span, n), False beyond the edges.
        """
        kernel, span = KERNELS[method]
        first = np.floor(self.places - 0.5).astype(np.int64) - span // 2 + 1
        taps = first + np.arange(span)[:, np.newaxis]
        weights = kernel(self.places - 0.5 - taps)
        exist = (taps >= 0) & (taps < self.size)
        return np.clip(taps, 0, self.size - 1), weights * exist, exist


def axes(grid: Grid, source: Grid) -> tuple[Axis, Axis]:
    """Compute the positions of a grid's rows and columns in a source of the same CRS."""
    x = grid.x_min + (np.arange(grid.width) + 0.5) * grid.pixel_width
    y = grid.y_max - (np.arange(grid.height) + 0.5) * grid.pixel_height
    below = (source.y_max - y) / source.pixel_height
    right = (x - source.x_min) / source.pixel_width
    return (
        Axis(below.astype(np.float64), source.height),
        Axis(right.astype(np.float64), source.width),
    )


def is_too_fine(source: Grid, grid: Grid) -> bool:
    """Return whether the pixels of `grid` are so much larger that GDAL would average `source`."""
    ratios = grid.pixel_width / source.pixel_width, grid.pixel_height / source.pixel_height
    return max(ratios) > _LARGEST_RATIO


# A function from source rows and columns to positions in a flat array of source pixels.
Flatten = Callable[[Ints, Ints], Ints]


@dataclass(frozen=True)
class Stencil:
    """The source pixels that a method needs for each pixel of a grid.

    Parameters
    ----------
    down, right
        Positions of the grid's rows and columns in the source.
    method
        nearest, bilinear or cubic.
    """

    down: Axis
    right: Axis
    method: str

    @classmethod
    def of(cls, grid: Grid, source: Grid, method: str) -> Stencil:
        """Make the stencil of a grid and a source in the same CRS."""
        return cls(*axes(grid, source), method)

    @property
    def kernels(self) -> tuple[str, ...]:
        """The kernels to try in this order, until all source pixels of one have a value."""
        return {"nearest": (), "bilinear": ("bilinear",), "cubic": ("cubic", "bilinear")}[
            self.method
        ]

    @cached_property
    def _axis_taps(self) -> dict[str, tuple[Taps, Taps]]:
        return {name: (self.down.taps(name), self.right.taps(name)) for name in self.kernels}

    @cached_property
    def extents(self) -> tuple[Ints, Ints]:
        """First and last source row of each row of the grid, and columns likewise, int64 (2, n)."""
        if not self.kernels:
            return np.stack([self.down.nearest] * 2), np.stack([self.right.nearest] * 2)
        down, right = self._axis_taps[self.kernels[0]]
        return down[0][[0, -1]], right[0][[0, -1]]

    def centres(self, rows: NDArray[Any], cols: NDArray[Any], flatten: Flatten) -> Ints:
        """Return the position of the source pixel that contains each centre, int64 (P,)."""
        return flatten(self.down.nearest[rows], self.right.nearest[cols])

    def sources(self, rows: NDArray[Any], cols: NDArray[Any], flatten: Flatten) -> Ints:
        """Return the positions of all source pixels of pixels of the grid, int64 (n, P)."""
        if not self.kernels:
            return self.centres(rows, cols, flatten)[np.newaxis]
        # The first kernel is the widest.
        down, right = self._axis_taps[self.kernels[0]]
        return _outer(flatten, down[0][:, rows], right[0][:, cols])

    def taps(self, rows: NDArray[Any], cols: NDArray[Any], flatten: Flatten) -> list[Taps]:
        """Return the source pixels that each of the kernels weights for pixels of the grid.

        Parameters
        ----------
        rows, cols
            int (P,): pixels of the grid, inside the source.
        flatten
            Returns positions in the array that is sampled.
        """
        # Along each axis: source rows, weights and whether they exist, as `Axis.taps` returns them.
        return [
            (
                _outer(flatten, down[0][:, rows], right[0][:, cols]),
                _outer(np.multiply, down[1][:, rows], right[1][:, cols]),
                _outer(np.logical_and, down[2][:, rows], right[2][:, cols]),
            )
            for down, right in self._axis_taps.values()
        ]


def _outer(function: Callable[..., Any], down: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
    """Combine the rows of (n, P) with those of (m, P): (n x m, P), the first varies slowest."""
    both: NDArray[Any] = function(down[:, np.newaxis], right[np.newaxis])
    return both.reshape(len(down) * len(right), down.shape[1])


def sample(
    values: NDArray[Any],
    has_data: Callable[[NDArray[Any]], Bools],
    centres: Ints,
    kernels: Sequence[Taps],
) -> tuple[NDArray[Any], Bools]:
    """Sample source pixels as GDAL's warper does.

    Bilinear: source pixels that are nodata or beyond the edge have no weight, and the weights of
    the others are scaled up. Cubic: if any of the 16 source pixels is nodata or beyond the edge,
    the pixel is sampled bilinearly.

    Parameters
    ----------
    values
        Source pixels, in any shape.
    has_data
        Returns which of some values are data, not nodata.
    centres, kernels
        Source pixels of P pixels, as `Stencil` returns them.

    Returns
    -------
    samples
        (P,), 0 for nodata: float64; with nearest, the type of the source.
    found
        bool (P,), False where the source pixel that contains the centre is nodata.
    """
    samples = values.take(centres)
    found = has_data(samples)
    unfinished = np.arange(len(centres) if kernels else 0)
    for number, taps in enumerate(kernels):
        of_unfinished: list[NDArray[Any]] = [
            array[:, unfinished] if number else array for array in taps
        ]
        means, complete = _convolve(values, has_data, *of_unfinished)
        samples = samples.astype(np.float64)
        samples[unfinished] = means
        # The next kernel is for the pixels that miss some of their source pixels.
        unfinished = unfinished[~complete]
    if not found.all():
        samples[~found] = 0
    return samples, found


def _convolve(
    values: NDArray[Any],
    has_data: Callable[[NDArray[Any]], Bools],
    places: Ints,
    weights: Floats,
    exist: Bools,
) -> tuple[Floats, Bools]:
    """Return the weighted mean around each centre, and whether all source pixels have data."""
    n = places.shape[1]
    total, total_weight, complete = np.zeros(n), np.zeros(n), np.ones(n, bool)
    for place, weight, exists in zip(places, weights, exist, strict=True):
        sources = values.take(place)
        has_value = has_data(sources)
        own_weight = weight * has_value
        total += own_weight * np.where(has_value, sources, 0)
        total_weight += own_weight
        complete &= has_value & exists
    return np.divide(total, total_weight, out=np.zeros(n), where=total_weight != 0), complete
