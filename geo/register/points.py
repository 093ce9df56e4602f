"""Points as samples: each becomes the outline of the pixel under it, or of a disc around it."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geo.grid import Grid
from geo.register.polygons import PUNCTUAL, is_finite

# Segments of a quarter of a disc: its edge is within 0.03 % of the circle.
SEGMENTS = 32


def is_point(geometries: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which geometries are points or multipoints, bool (P,); False for None."""
    return np.isin(shapely.get_type_id(geometries), PUNCTUAL)


def outline_points(geometries: NDArray[Any], grid: Grid, buffer_m: float) -> NDArray[Any]:
    """Replace points by the polygons whose pixels are their samples; keep other geometries.

    A multipoint becomes the union of the polygons of its points.

    Parameters
    ----------
    geometries
        Geometries (P,) in the coordinate system of the grid; None where a row has none. Points
        with infinite coordinates are kept.
    grid
        The tile's grid.
    buffer_m
        Radius in metres of the disc around a point; 0: the pixel of the grid under the point. A
        point on the border of pixels belongs to the right or lower one, as in rasterio.
    """
    outlines = geometries.copy()
    chosen = np.flatnonzero(is_point(geometries) & is_finite(geometries))
    points = geometries[chosen]
    if buffer_m:
        outlines[chosen] = shapely.buffer(points, buffer_m, quad_segs=SEGMENTS)
    else:
        outlines[chosen] = _pixels(points, grid)
    return outlines


def _pixels(points: NDArray[Any], grid: Grid) -> NDArray[Any]:
    """Return the squares of the pixels under points."""
    corner = np.array([grid.x_min, grid.y_max])
    size = np.array([grid.pixel_width, -grid.pixel_height])
    centres = shapely.transform(points, lambda xy: np.floor((xy - corner) / size) + 0.5)
    squares = shapely.buffer(centres, 0.5, cap_style="square")
    result: NDArray[Any] = shapely.transform(squares, lambda xy: corner + xy * size)
    return result
