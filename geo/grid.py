"""The pixel grid that imagery, label image and pixel index share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from affine import Affine
from pyproj import CRS


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
        return self.crs == crs or bool(CRS(self.crs) == CRS(crs))
