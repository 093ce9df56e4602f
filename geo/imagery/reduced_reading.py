"""Read a band at reduced resolution or at points, decoding as little as possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window

from geo.errors import InputError
from geo.imagery.acquisition import Band, Plane
from geo.imagery.open_rasters import DAMAGED, OpenRasters, is_jp2
from geo.imagery.raster_reading import read_layers, read_window

# Larger bands are read at reduced resolution, at about this number of pixels along each axis.
_REDUCED = 700
# Windows along each axis by which a band is represented that cannot be read at reduced resolution.
_WINDOWS = 5
# Pixels at most this far from one that cannot be used are left out: see `read_points`.
_EDGE = 3
# Points that are further apart, in pixels, are read in separate windows.
_WINDOW_GAP = 50


def is_read_in_windows(band: Band) -> bool:
    """Return whether a band cannot be read at reduced resolution without reading all of it.

    A stack has no coarser levels, a large tiled GeoTIFF may have no overviews, and a remote
    JPEG 2000 would be downloaded as a whole.
    """
    if isinstance(band.layer, Plane) or (band.is_remote and is_jp2(band.source)):
        return True
    if max(band.grid.shape) <= _REDUCED or band.is_remote or is_jp2(band.source):
        return False
    try:
        with OpenRasters() as rasters, rasters.use(band.source) as raster:
            # Only the strips that contain points are decoded, so strips need no windows.
            is_tiled = raster.block_shapes[band.layer - 1][1] < raster.width
            return is_tiled and not raster.overviews(band.layer)
    except (RasterioError, OSError):
        return False  # what is wrong is said when the pixels are read


def read_coarse(band: Band, side: int) -> NDArray[Any]:
    """Read the raw values of about `side` x `side` pixels that represent the whole band.

    A raster is read at reduced resolution, so that little is decoded: JPEG 2000 contains coarser
    levels, and a Cloud Optimized GeoTIFF contains overviews. Bands without them, and remote
    JPEG 2000, are read in windows that are spread evenly over the band.

    Returns
    -------
    ndarray of shape (windows, rows, cols)
        In the data type of the file; a raster and a small band have one window.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    height, width = band.grid.shape
    if max(height, width) <= side:
        return read_window(band, slice(None), slice(None))[np.newaxis]
    if is_read_in_windows(band):
        rows, cols = (_spread(length, side // _WINDOWS) for length in (height, width))
        return np.stack([read_window(band, row, col) for row in rows for col in cols])
    return _read_reduced(band, slice(0, height), slice(0, width), side)[np.newaxis]


def _spread(length: int, size: int) -> list[slice]:
    """Return slices of one size that are spread evenly over a length."""
    size = min(size, length)
    starts = np.linspace(0, length - size, _WINDOWS).astype(int)
    return [slice(start, start + size) for start in starts.tolist()]


def read_points(
    band: Band,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    usable: Callable[[NDArray[Any]], NDArray[np.bool_]],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Read the raw values of a band at the points of a lattice, decoding as little as possible.

    A large raster is read at reduced resolution: JPEG 2000 contains coarser levels, and a Cloud
    Optimized GeoTIFF contains overviews. Other bands are read in windows around points that are
    near each other.

    Parameters
    ----------
    band
        Band or mask.
    x, y
        Coordinates of the lattice, (N,) from west to east and (M,) from north to south.
    usable
        Function that returns which raw values of a window can be used.

    Returns
    -------
    tuple of ndarray (M x N,)
        Raw values, and which of them are usable. Pixels within `_EDGE` pixels of others that are
        not usable are not, either: at reduced resolution they are mixed with them, and beside
        clouds they are hazy. Points outside the band are not usable.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    grid = band.grid
    rows = np.floor((grid.y_max - y) / grid.pixel_height).astype(int)
    cols = np.floor((x - grid.x_min) / grid.pixel_width).astype(int)
    values = np.zeros((len(y), len(x)))
    is_usable = np.zeros(values.shape, bool)
    max_gap = _WINDOW_GAP if is_read_in_windows(band) else max(grid.shape)
    for down in _runs(rows, grid.height, max_gap):
        for right in _runs(cols, grid.width, max_gap):
            window = (
                slice(rows[down[0]], rows[down[-1]] + 1),
                slice(cols[right[0]], cols[right[-1]] + 1),
            )
            raw = _read_reduced(band, *window, _REDUCED)
            good = _inside(usable(raw))
            at = np.ix_(
                _scaled(rows[down], window[0], raw.shape[0]),
                _scaled(cols[right], window[1], raw.shape[1]),
            )
            place = np.ix_(down, right)
            values[place], is_usable[place] = raw[at], good[at]
    return values.ravel(), is_usable.ravel()


def _runs(at: NDArray[np.int_], size: int, max_gap: int) -> list[NDArray[np.int_]]:
    """Return the positions of sorted pixel numbers in runs without a gap, those outside apart."""
    inside = np.flatnonzero((at >= 0) & (at < size))
    if not inside.size:
        return []
    return np.split(inside, np.flatnonzero(np.diff(at[inside]) > max_gap) + 1)


def _scaled(at: NDArray[np.int_], window: slice, size: int) -> NDArray[np.int_]:
    """Return pixel numbers of a band as those of its window that was reduced to a size."""
    return np.asarray((at - window.start) * size // (window.stop - window.start))


def _read_reduced(band: Band, rows: slice, cols: slice, side: int) -> NDArray[Any]:
    """Read a window, at reduced resolution if it is large."""
    shape = rows.stop - rows.start, cols.stop - cols.start
    if max(shape) <= side or is_read_in_windows(band):
        return read_window(band, rows, cols)
    try:
        with OpenRasters() as rasters, rasters.use(band.source) as raster:
            (values,) = read_layers(
                raster,
                [band],
                [band.layer],  # type: ignore[list-item]  # a stack is read in windows
                window=Window.from_slices(rows, cols),
                out_shape=tuple(min(size, side) for size in shape),
            )
            return values
    except (RasterioError, OSError) as error:
        raise InputError(
            f"Band {band.name} of {band.source} cannot be read ({error}). {DAMAGED}"
        ) from error


def _inside(good: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels around which all pixels within `_EDGE` are good."""
    if good.all():
        return good
    from scipy import ndimage  # slow to import, and rarely needed

    around = np.ones((2 * _EDGE + 1, 2 * _EDGE + 1), bool)
    inner: NDArray[np.bool_] = ndimage.binary_erosion(good, around, border_value=1)
    return inner
