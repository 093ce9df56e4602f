"""Sampling of a raster at the pixel centres of another grid, at chosen pixels only.

The kernels are those of GDAL's warper, so that a sampled pixel equals the same pixel of the whole
band warped, without warping the whole band.
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
class Axis:
    """Where rows of a target grid lie among the rows of a source, or columns among columns.

    Grids are not rotated, so that a pixel's row tells the source's rows, whatever its column.

    Parameters
    ----------
    places
        float64 (n,): position of each row's centre in rows of the source, counted from its outer
        edge (0.5 is the centre of the first row).
    size
        Rows of the source.
    """

    places: Floats
    size: int

    @cached_property
    def nearest(self) -> Ints:
        """The source row that holds each centre, int64 (n,); outside it counts on."""
        return np.floor(self.places + _BORDER).astype(np.int64)

    @property
    def inside(self) -> Bools:
        """Whether each centre lies on the source, bool (n,)."""
        return (self.nearest >= 0) & (self.nearest < self.size)

    def taps(self, method: str) -> tuple[Ints, Floats, Bools]:
        """Return the source rows that a kernel weights for each row.

        Returns
        -------
        taps
            int64 (span, n), ascending; for rows beyond the edges stands the one at the edge.
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
    """Place the rows and the columns of a grid on a source in the same CRS."""
    x = grid.x_min + (np.arange(grid.width) + 0.5) * grid.pixel_width
    y = grid.y_max - (np.arange(grid.height) + 0.5) * grid.pixel_height
    below = (source.y_max - y) / source.pixel_height
    right = (x - source.x_min) / source.pixel_width
    return (
        Axis(below.astype(np.float64), source.height),
        Axis(right.astype(np.float64), source.width),
    )


def is_too_fine(source: Grid, grid: Grid) -> bool:
    """Tell whether a pixel of `grid` holds so many of `source` that GDAL would average them."""
    ratios = grid.pixel_width / source.pixel_width, grid.pixel_height / source.pixel_height
    return max(ratios) > _LARGEST_RATIO


# Gives the places of source rows and columns in a flat array of source pixels.
Flatten = Callable[[Ints, Ints], Ints]


@dataclass(frozen=True)
class Taps:
    """Source pixels that a kernel weights for each of P pixels.

    Parameters
    ----------
    places
        int64 (n, P): their places in a flat array of source pixels.
    weights
        float64 (n, P), 0 of those beyond the edges.
    exist
        bool (n, P), False of those beyond the edges.
    """

    places: Ints
    weights: Floats
    exist: Bools

    def __getitem__(self, chosen: Ints) -> Taps:
        return Taps(self.places[:, chosen], self.weights[:, chosen], self.exist[:, chosen])


@dataclass(frozen=True)
class Stencil:
    """What a method takes of a source for each pixel of a grid.

    Parameters
    ----------
    down, right
        Rows and columns of the grid on the source.
    method
        nearest, bilinear or cubic.
    """

    down: Axis
    right: Axis
    method: str

    @classmethod
    def of(cls, grid: Grid, source: Grid, method: str) -> Stencil:
        """Lay a grid on a source in the same CRS."""
        return cls(*axes(grid, source), method)

    @property
    def kernels(self) -> tuple[str, ...]:
        """The kernels to try, until one finds all of its source pixels."""
        return {"nearest": (), "bilinear": ("bilinear",), "cubic": ("cubic", "bilinear")}[
            self.method
        ]

    @cached_property
    def _axis_taps(self) -> dict[str, tuple[tuple[Ints, Floats, Bools], ...]]:
        return {name: (self.down.taps(name), self.right.taps(name)) for name in self.kernels}

    @cached_property
    def extents(self) -> tuple[Ints, Ints]:
        """First and last source row by row of the grid, and columns by column, int64 (2, n)."""
        if not self.kernels:
            return np.stack([self.down.nearest] * 2), np.stack([self.right.nearest] * 2)
        down, right = self._axis_taps[self.kernels[0]]
        return down[0][[0, -1]], right[0][[0, -1]]

    def centres(self, rows: NDArray[Any], cols: NDArray[Any], flatten: Flatten) -> Ints:
        """Return the place of the source pixel that holds each centre, int64 (P,)."""
        return flatten(self.down.nearest[rows], self.right.nearest[cols])

    def taps(self, rows: NDArray[Any], cols: NDArray[Any], flatten: Flatten) -> list[Taps]:
        """Return the source pixels that each of the kernels weights for pixels of the grid.

        Parameters
        ----------
        rows, cols
            int (P,): pixels of the grid, on the source.
        flatten
            Gives places in the array that is sampled.
        """
        found = []
        for down, right in self._axis_taps.values():
            found.append(
                Taps(
                    _outer(flatten, down[0][:, rows], right[0][:, cols]),
                    _outer(np.multiply, down[1][:, rows], right[1][:, cols]),
                    _outer(np.logical_and, down[2][:, rows], right[2][:, cols]),
                )
            )
        return found


def _outer(function: Callable[..., Any], down: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
    """Combine each of (n, P) with each of (m, P): (n x m, P), the first one slowest."""
    both: NDArray[Any] = function(down[:, np.newaxis], right[np.newaxis])
    return both.reshape(len(down) * len(right), down.shape[1])


def sample(
    values: NDArray[Any],
    has_data: Callable[[NDArray[Any]], Bools],
    centres: Ints,
    kernels: Sequence[Taps],
) -> tuple[NDArray[Any], Bools]:
    """Sample source pixels as GDAL's warper does.

    Bilinear: source pixels without data, or beyond the edge, get no weight and the weights of the
    others are scaled up. Cubic: where any of the 16 pixels is so, bilinear.

    Parameters
    ----------
    values
        Source pixels, in any shape.
    has_data
        Tells which of some of them are data.
    centres, kernels
        Of P pixels, as `Stencil` gives them.

    Returns
    -------
    samples
        (P,), 0 where there is no data: float64, but nearest ones as they are.
    known
        bool (P,), whether the source pixel that holds the centre has data.
    """
    samples = values.take(centres)
    known = has_data(samples)
    unfinished = np.arange(len(centres) if kernels else 0)
    for number, taps in enumerate(kernels):
        found, complete = _convolve(values, has_data, taps[unfinished] if number else taps)
        samples = samples.astype(np.float64)
        samples[unfinished] = found
        unfinished = unfinished[~complete]
    if not known.all():
        samples[~known] = 0
    return samples, known


def _convolve(
    values: NDArray[Any], has_data: Callable[[NDArray[Any]], Bools], taps: Taps
) -> tuple[Floats, Bools]:
    """Weight the source pixels around each centre; also tell where all of them have data."""
    n = taps.places.shape[1]
    total, weights, complete = np.zeros(n), np.zeros(n), np.ones(n, bool)
    for place, weight, exists in zip(taps.places, taps.weights, taps.exist, strict=True):
        taken = values.take(place)
        used = has_data(taken)
        used_weight = weight * used
        total += used_weight * np.where(used, taken, 0)
        weights += used_weight
        complete &= used & exists
    return np.divide(total, weights, out=np.zeros(n), where=weights != 0), complete
