"""The pixel grid that imagery, label image and pixel index share, and the grids of a run's tiles.

At import, this module needs only the standard library, because the Snakefile imports it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from geo.errors import reading

if TYPE_CHECKING:
    from affine import Affine


@dataclass(frozen=True)
class Grid:
    """A north-up grid of rectangular pixels in a projected coordinate system.

    Pixels need not be square or exactly 10 m wide: clips of Sentinel-2 often have pixels of 9.99 m.

    Parameters
    ----------
    crs
        Coordinate system in any form that pyproj reads ("EPSG:32631", WKT).
    x_min, y_max
        Outer corner of the first pixel, in units of `crs`.
    pixel_width, pixel_height
        Size of a pixel in units of `crs`; both are positive.
    height, width
        Number of rows and columns.

    Raises
    ------
    ValueError
        If a size is not positive.
    """

    crs: str
    x_min: float
    y_max: float
    pixel_width: float
    pixel_height: float
    height: int
    width: int

    def __post_init__(self) -> None:
        sides = self.x_min, self.y_max, self.pixel_width, self.pixel_height
        if not all(map(isfinite, sides)):
            raise ValueError(f"A grid needs a corner and pixels of finite numbers, found {sides}.")
        if min(self.pixel_width, self.pixel_height) <= 0 or min(self.height, self.width) <= 0:
            raise ValueError(
                "A grid needs at least one pixel, and pixels of positive size. Found "
                f"{self.height} rows x {self.width} columns of {self.pixel_width} x "
                f"{self.pixel_height}. Rotated and south-up rasters are not read: warp them first."
            )

    @classmethod
    def from_transform(cls, crs: str, transform: Affine, height: int, width: int) -> Grid:
        """Return the grid of a raster with an affine transform; refuse rotation.

        Rounded numbers can rotate a raster by less than a hundredth of a pixel over its whole size.
        """
        turned = abs(transform.b) * height, abs(transform.d) * width
        if not max(turned) <= 0.01 * abs(transform.a):
            raise ValueError("Rotated rasters are not read: warp them to a north-up grid first.")
        return cls(crs, transform.c, transform.f, transform.a, -transform.e, height, width)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.height, self.width

    @cached_property
    def transform(self) -> Affine:
        """Affine transform from (column, row) to (x, y)."""
        from affine import Affine

        return Affine(self.pixel_width, 0.0, self.x_min, 0.0, -self.pixel_height, self.y_max)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """x_min, y_min, x_max, y_max in units of the coordinate system."""
        return (
            self.x_min,
            self.y_max - self.height * self.pixel_height,
            self.x_min + self.width * self.pixel_width,
            self.y_max,
        )

    def matches(self, other: Grid, tolerance: float = 0.01) -> bool:
        """Return whether both grids have the same pixels, within `tolerance` of a pixel's width."""
        distance = tolerance * self.pixel_width
        edges = zip(self.bounds, other.bounds, strict=True)
        return (
            self.shape == other.shape
            and all(abs(a - b) <= distance for a, b in edges)
            and self.has_crs(other.crs)
        )

    def has_crs(self, crs: str) -> bool:
        """Return whether the grid has a coordinate system, in whatever form that is written."""
        if self.crs == crs:
            return True
        from pyproj import CRS  # slow to import, and rarely needed

        return bool(CRS(self.crs) == CRS(crs))

    def overlaps(self, other: Grid) -> bool:
        """Return whether both grids have a coordinate system and an area in common."""
        (left, low, right, high), (left_2, low_2, right_2, high_2) = self.bounds, other.bounds
        is_near = left < right_2 and left_2 < right and low < high_2 and low_2 < high
        return is_near and self.has_crs(other.crs)

    def is_aligned(self, other: Grid, tolerance: float = 0.01) -> bool:
        """Return whether both grids are clips of one larger grid: same pixels, any extent.

        Parameters
        ----------
        other
            Grid to compare with.
        tolerance
            Fraction of a pixel by which the corners may differ.
        """
        edges = self._edges_of(other)
        left, top, right, bottom = (round(edge) for edge in edges)
        same_size = (right - left, bottom - top) == (other.width, other.height)
        distance = max(abs(edge - round(edge)) for edge in edges)
        return same_size and distance <= tolerance and self.has_crs(other.crs)

    def contains(self, other: Grid) -> bool:
        """Return whether another grid, which is aligned with this one, lies within it."""
        left, top, right, bottom = (round(edge) for edge in self._edges_of(other))
        return left >= 0 and top >= 0 and right <= self.width and bottom <= self.height

    def union(self, others: Iterable[Grid]) -> Grid:
        """Return this grid, extended to contain others that are aligned with it."""
        edges = [self._edges_of(grid) for grid in (self, *others)]
        lefts, tops, rights, bottoms = zip(*edges, strict=True)
        left, top = round(min(lefts)), round(min(tops))
        right, bottom = round(max(rights)), round(max(bottoms))
        return replace(
            self,
            x_min=self.x_min + left * self.pixel_width,
            y_max=self.y_max - top * self.pixel_height,
            height=bottom - top,
            width=right - left,
        )

    def _edges_of(self, other: Grid) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom of another grid in pixels of this grid."""
        x_min, y_min, x_max, y_max = other.bounds
        return (
            (x_min - self.x_min) / self.pixel_width,
            (self.y_max - y_max) / self.pixel_height,
            (x_max - self.x_min) / self.pixel_width,
            (self.y_max - y_min) / self.pixel_height,
        )


def read_grids(grids: Path) -> dict[str, Grid]:
    """Read the grid of every tile from grids.json, the most preferred tile first."""
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    with reading(grids, "the grids of tiles", "Write it again: snakemake -R index."):
        table = json.loads(grids.read_text(encoding="utf-8"))
        found = {tile: Grid(**values) for tile, values in table.items()}
        try:
            for crs in {grid.crs for grid in found.values()}:
                CRS(crs)
        except CRSError as error:
            raise ValueError(str(error)) from error
        return found


def main_crs(parcels: Iterable[tuple[str, int]]) -> str:
    """Return the coordinate system with most parcels; ties are resolved by name.

    Parameters
    ----------
    parcels
        Coordinate system and number of parcels of every tile.
    """
    counts: Counter[str] = Counter()
    for crs, count in parcels:
        counts[crs] += count
    return max(sorted(counts), key=lambda crs: counts[crs])
