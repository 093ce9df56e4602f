"""Geometric features of parcels, as the Pixel-Set encoder takes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geo.pixels.pixel_index import PixelIndex


def shape_features(geometries: NDArray[Any], index: PixelIndex) -> NDArray[np.float64]:
    """Compute the four geometric features of Sainte Fare Garnot et al. (CVPR 2020, section 3.2).

    Parameters
    ----------
    geometries
        Polygons of the parcels (P,) in metres, in the order of the index; not buffered.
    index
        Their pixels, at least one a parcel.

    Returns
    -------
    NDArray
        float64 (P, 4): perimeter in metres (holes included), number of pixels, cover ratio (pixels
        over the pixels of their bounding box), perimeter over surface in 1/m.
    """
    if not len(geometries):
        return np.empty((0, 4))
    starts = index.offsets[:-1]
    extents = [
        np.maximum.reduceat(places, starts) - np.minimum.reduceat(places, starts) + 1
        for places in (index.rows.astype(np.int64), index.cols.astype(np.int64))
    ]
    perimeter_m = shapely.length(geometries)
    return np.column_stack(
        [
            perimeter_m,
            index.sizes,
            index.sizes / (extents[0] * extents[1]),
            perimeter_m / shapely.area(geometries),
        ]
    )
