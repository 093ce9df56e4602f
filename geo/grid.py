"""The pixel grid that imagery, label image and pixel index share; those of the tiles of a run.

Only the standard library is imported at once: the Snakefile reaches this module.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geo.errors import reading

if TYPE_CHECKING:
    from affine import Affine


@dataclass(frozen=True)
class Grid:
    """A north-up grid of rectangular pixels in a projected coordinate system.

    Pixels need not be square nor exactly 10 m: clips of Sentinel-2 in circulation often have
    pixels of 9.99 m.

    Parameters
    ----------
    crs
        Coordinate system, as anything that pyproj reads ("EPSG:32631", WKT).
    x_min, y_max
        Outer corner of the first pixel, in units of `crs`.
    pixel_width, pixel_height
        Size of a pixel, both positive, in units of `crs`.
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
        if min(self.pixel_width, self.pixel_height) <= 0 or min(self.height, self.width) <= 0:
            raise ValueError(
                f"A grid needs pixels of positive size and at least one of them, found "
                f"{self.pixel_width} x {self.pixel_height} and {self.height} rows x {self.width} "
                "columns. Rotated and south-up rasters are not read: warp them first."
            )

    @classmethod
    def from_transform(cls, crs: str, transform: Affine, height: int, width: int) -> Grid:
        """Make the grid of a raster from its affine transform; rotation is refused."""
        if transform.b or transform.d:
            raise ValueError("Rotated rasters are not read: warp them to a north-up grid first.")
        return cls(crs, transform.c, transform.f, transform.a, -transform.e, height, width)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Grid:
        """Make a grid from what `dataclasses.asdict` gives."""
        return cls(**values)

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
        """Tell whether both grids have the same pixels, to a share `tolerance` of a pixel."""
        slack = tolerance * self.pixel_width
        corners = zip(self.bounds, other.bounds, strict=True)
        return (
            self.shape == other.shape
            and all(abs(a - b) <= slack for a, b in corners)
            and self.has_crs(other.crs)
        )

    def has_crs(self, crs: str) -> bool:
        """Tell whether the grid is in a coordinate system, however that is written."""
        if self.crs == crs:
            return True
        from pyproj import CRS  # takes a while, and is seldom needed

        return bool(CRS(self.crs) == CRS(crs))

    def is_aligned(self, other: Grid, tolerance: float = 0.01) -> bool:
        """Tell whether both grids are cut from one: the same pixels, of another extent perhaps.

        Parameters
        ----------
        other
            Grid to compare with.
        tolerance
            Share of a pixel by which its corners may lie beside corners of these pixels.
        """
        places = _corners(self, other)
        left, top, right, bottom = (round(place) for place in places)
        same_size = (right - left, bottom - top) == (other.width, other.height)
        distance = max(abs(place - round(place)) for place in places)
        return same_size and distance <= tolerance and self.has_crs(other.crs)

    def union(self, others: Iterable[Grid]) -> Grid:
        """Widen this grid to hold aligned ones, too; one that it holds already changes nothing."""
        corners = [(0.0, 0.0, self.width, self.height), *(_corners(self, o) for o in others)]
        lefts, tops, rights, bottoms = zip(*corners, strict=True)
        left, top = round(min(lefts)), round(min(tops))
        right, bottom = round(max(rights)), round(max(bottoms))
        return replace(
            self,
            x_min=self.x_min + left * self.pixel_width,
            y_max=self.y_max - top * self.pixel_height,
            height=bottom - top,
            width=right - left,
        )


def _corners(grid: Grid, other: Grid) -> tuple[float, float, float, float]:
    """Give left, top, right and bottom of another grid, counted in pixels of a grid."""
    x_min, y_min, x_max, y_max = other.bounds
    return (
        (x_min - grid.x_min) / grid.pixel_width,
        (grid.y_max - y_max) / grid.pixel_height,
        (x_max - grid.x_min) / grid.pixel_width,
        (grid.y_max - y_min) / grid.pixel_height,
    )


def read_grids(grids: Path) -> dict[str, Grid]:
    """Read the grid of every tile from grids.json, in the order in which they are preferred."""
    with reading(grids, "the grids of tiles", "Make it anew: snakemake -R index."):
        table = json.loads(grids.read_text(encoding="utf-8"))
        return {tile: Grid.from_dict(values) for tile, values in table.items()}


def main_crs(parcels: Iterable[tuple[str, int]]) -> str:
    """Return the coordinate system with most parcels, among equals the first by name.

    Parameters
    ----------
    parcels
        Coordinate system of every tile, and its number of parcels.
    """
    counts: Counter[str] = Counter()
    for crs, count in parcels:
        counts[crs] += count
    return max(sorted(counts), key=lambda crs: counts[crs])
