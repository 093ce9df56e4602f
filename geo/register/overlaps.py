"""Parcels that overlap others, and parcels that are drawn twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

# Pairs whose intersections are held at once.
CHUNK = 100_000


@dataclass(frozen=True)
class Overlaps:
    """Area that parcels share.

    Attributes
    ----------
    first, second
        Positions of the two parcels of every pair that shares area, int64 (pairs,), first < second.
    area_m2
        Area that a pair shares, float64 (pairs,).
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    area_m2: NDArray[np.float64]


def find_overlaps(polygons: NDArray[Any], least_m2: float) -> Overlaps:
    """Find the pairs of parcels that share an area.

    Parameters
    ----------
    polygons
        Valid polygons (P,) in metres; None where there is none.
    least_m2
        Smaller overlaps are left out: outlines are drawn no more exactly.
    """
    tree = shapely.STRtree(polygons)
    first, second = tree.query(polygons, predicate="intersects")
    once = first < second
    first, second = first[once], second[once]
    areas = np.empty(len(first))
    for start in range(0, len(first), CHUNK):
        part = slice(start, start + CHUNK)
        areas[part] = shapely.area(
            shapely.intersection(polygons[first[part]], polygons[second[part]])
        )
    shared = areas >= least_m2
    return Overlaps(first[shared], second[shared], areas[shared])


def first_alike(polygons: NDArray[Any]) -> NDArray[np.int64]:
    """Find the first parcel with the very same outline, wherever either starts.

    Returns
    -------
    Position of that parcel, int64 (P,): its own for the first, -1 for None.
    """
    outlines = shapely.to_wkb(shapely.normalize(polygons))
    codes, _ = pd.factorize(pd.Series(outlines, dtype=object))
    present = np.flatnonzero(codes >= 0)
    _, firsts, inverse = np.unique(codes[present], return_index=True, return_inverse=True)
    alike = np.full(len(polygons), -1, np.int64)
    alike[present] = present[firsts][inverse]
    return alike
