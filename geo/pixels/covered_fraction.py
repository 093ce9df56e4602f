"""Which pixels parcels cover by at least a fraction of the pixel's area."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

# Areas are sums of float64: a pixel that is covered by just the fraction may miss it by as much.
TOLERANCE = 1e-9


def covered_pixels(
    shapes: NDArray[Any], height: int, width: int, least: float
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Find the pixels of which polygons cover at least a fraction, exactly (exactextract).

    Parameters
    ----------
    shapes
        Polygons and multipolygons (P,) in pixels: x is the column, y minus the row. Empty ones and
        None have no pixels.
    height, width
        Rows and columns of the grid.
    least
        Fraction of a pixel, above 0 and up to 1.

    Returns
    -------
    parcels
        Position of the polygon, int32 (pixels of all polygons,), ascending.
    pixels
        Flat pixel number, int64, ascending for a polygon.
    """
    from exactextract import exact_extract
    from exactextract.feature import JSONFeatureSource
    from exactextract.raster import NumPyRasterSource

    present = np.flatnonzero(~shapely.is_missing(shapes) & ~shapely.is_empty(shapes))
    geometries = shapely.to_geojson(shapes[present]).tolist()
    features = [
        {"type": "Feature", "properties": {"shape": shape}, "geometry": json.loads(geometry)}
        for shape, geometry in zip(present.tolist(), geometries, strict=True)
    ]
    # No values are wanted: one byte stands for the whole raster.
    nothing = np.broadcast_to(np.uint8(0), (height, width))
    raster = NumPyRasterSource(nothing, 0, -height, width, 0)
    parcels, pixels = [np.empty(0, np.int32)], [np.empty(0, np.int64)]
    for feature in exact_extract(
        raster, JSONFeatureSource(features), ["cell_id", "coverage"], include_cols=["shape"]
    ):
        found = feature["properties"]
        covered = np.asarray(found["coverage"]) >= least - TOLERANCE
        cells = np.sort(np.asarray(found["cell_id"], np.int64)[covered])
        parcels.append(np.full(len(cells), found["shape"], np.int32))
        pixels.append(cells)
    return np.concatenate(parcels), np.concatenate(pixels)
