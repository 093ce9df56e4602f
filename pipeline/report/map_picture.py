"""The picture of the report's map, for paper and for browsers that cannot draw the map itself."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import shapely
from matplotlib.image import imsave
from numpy.typing import NDArray
from rasterio.features import rasterize
from rasterio.transform import from_bounds

from geo.register.points import is_point

# The longer side of the picture, in pixels.
LONGER_SIDE = 1600


class Picture:
    """The parcels as an image; those that were not rejected are on top.

    Parameters
    ----------
    bounds
        Of the view, metres of the web map.
    """

    def __init__(self, bounds: NDArray[np.float64]) -> None:
        sides = bounds[2:] - bounds[:2]
        self._pixel_m = float(sides.max()) / LONGER_SIDE
        width, height = np.maximum(np.ceil(sides / self._pixel_m), 1).astype(int).tolist()
        self.size = (width, height)
        """Width and height in pixels."""
        self._transform = from_bounds(*bounds, width, height)
        self._images = [np.zeros((height, width), np.uint16) for _ in range(2)]

    def add(
        self, outlines: NDArray[Any], numbers: NDArray[np.int32], rejected: pd.Series[bool]
    ) -> None:
        """Draw parcels in their numbers of colour; points are dots."""
        outlines = outlines.copy()
        points = is_point(outlines)
        outlines[points] = shapely.buffer(outlines[points], 3 * self._pixel_m)
        for image, own in zip(self._images, (rejected, ~rejected), strict=True):
            shapes = list(zip(outlines[own], (numbers + 1)[own], strict=True))
            if shapes:
                rasterize(shapes, out=image, transform=self._transform)

    def png(self, colours: Sequence[str]) -> str:
        """Return a PNG, transparent between the parcels, as a data URI."""
        below, above = self._images
        rgba = [(0, 0, 0, 0), *((*bytes.fromhex(colour[1:]), 255) for colour in colours)]
        file = io.BytesIO()
        pixels = np.array(rgba, np.uint8)[np.where(above > 0, above, below)]
        imsave(file, pixels, format="png")
        return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def ruler(bounds: NDArray[np.float64], latitude: float) -> tuple[float, str]:
    """Return a round length of at most a sixth of the map's width, as a share of it and as text."""
    width = float(bounds[2] - bounds[0])
    width_m = width * math.cos(math.radians(latitude))
    power = 10 ** math.floor(math.log10(width_m / 6))
    length = max(m * power for m in (1, 2, 5) if m * power <= width_m / 6)
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    return length / width_m, text
