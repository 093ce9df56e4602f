"""The nearest parcels of a parcel, by the distance between their outlines."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

# A parcel is looked for within the first distance, and further away only if there are too few.
DISTANCES_M = (50.0, 150.0, 500.0)
# Parcels whose neighbours are looked for together: bounds the pairs in memory.
BATCH = 1000


def nearest_parcels(outlines: NDArray[Any], of: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return the parcels whose outlines are nearest, within the last of `DISTANCES_M`.

    Among parcels at the same distance, such as those that touch, the one whose centroid is nearest
    comes first.

    Parameters
    ----------
    outlines
        Polygons or points (N,), in metres of one coordinate system.
    of
        int64 (P,): the parcels whose neighbours are wanted, as positions in `outlines`.
    count
        Most neighbours of a parcel.

    Returns
    -------
    int64 (P, count), positions in `outlines`, nearest first; -1 where there are fewer.
    """
    tree, centres = shapely.STRtree(outlines), shapely.centroid(outlines)
    found = np.full((len(of), count), -1, np.int64)
    for start in range(0, len(of), BATCH):
        rows = np.arange(start, min(start + BATCH, len(of)))
        for distance in DISTANCES_M:
            own = of[rows]
            row, other = tree.query(outlines[own], predicate="dwithin", distance=distance)
            row, other = row[own[row] != other], other[own[row] != other]
            gap = shapely.distance(outlines[own[row]], outlines[other])
            between = shapely.distance(centres[own[row]], centres[other])
            order = np.lexsort((other, between, gap, row))
            row, other = row[order], other[order]
            n_found = np.bincount(row, minlength=len(rows))
            place = np.arange(len(row)) - np.repeat(np.cumsum(n_found) - n_found, n_found)
            first = place < count
            found[rows[row[first]], place[first]] = other[first]
            rows = rows[n_found < count]
            if not len(rows):
                break
    return found
