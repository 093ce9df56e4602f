"""Which observations are clear, from the scene classification of Level-2A products."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def is_clear(
    classification: NDArray[np.integer], masked_classes: Sequence[int]
) -> NDArray[np.bool_]:
    """Tell which pixels belong to none of the masked SCL classes.

    The classes are those of the Sentinel-2 Level-2A product definition: 0 no data, 1 saturated,
    2 dark area, 3 cloud shadow, 4 vegetation, 5 bare soil, 6 water, 7 unclassified, 8 and 9 cloud
    of medium and high probability, 10 thin cirrus, 11 snow.

    Parameters
    ----------
    classification
        SCL classes, of any shape.
    masked_classes
        Classes that count as not observed.
    """
    lookup = np.ones(256, bool)
    lookup[list(masked_classes)] = False
    clear: NDArray[np.bool_] = lookup[classification]
    return clear
