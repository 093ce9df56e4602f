"""Read headers and windows of raster bands; windows from any thread."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioError
from rasterio.windows import Window

from geo.errors import InputError
from geo.imagery.acquisition import Band, Plane
from geo.imagery.array_reading import BLOCK_ERRORS, read_plane
from geo.imagery.jpeg2000 import read_needed
from geo.imagery.mask_classes import as_classes
from geo.imagery.open_rasters import DAMAGED, OpenRasters, is_jp2
from geo.imagery.raster_header import alpha_layers


def read_window(band: Band, rows: slice, cols: slice) -> NDArray[Any]:
    """Read the raw values of a window of one band; see `read_windows`."""
    with OpenRasters() as rasters:
        (values,) = read_windows([band], rows, cols, rasters)
    return values


def read_windows(
    bands: Sequence[Band],
    rows: slice,
    cols: slice,
    rasters: OpenRasters,
    needed: NDArray[np.int64] | None = None,
) -> list[NDArray[Any]]:
    """Read the raw values of a window of several bands; can be called from several threads.

    Successive bands of one file are read in one call: if the file stores them interleaved, GDAL
    decodes each block once.

    Parameters
    ----------
    bands
        Bands on one grid.
    rows, cols
        Slices of the bands' grid, with step 1.
    rasters
        Files that stay open from one window to the next.
    needed
        int64 (n,): positions in the window of the pixels that are needed, row x width + column.
        Others may not be decoded, and have any value. None: all are needed.

    Returns
    -------
    list of ndarray of shape (rows, cols)
        One array for each band, in the data type of its file, without scale and offset; masks with
        `Band.classes` as these classes.

    Raises
    ------
    InputError
        If a file cannot be read.
    """
    top, bottom, _ = rows.indices(bands[0].grid.height)
    left, right, _ = cols.indices(bands[0].grid.width)
    window = slice(top, bottom), slice(left, right)
    found: list[NDArray[Any]] = []
    for source, group in groupby(bands, key=lambda band: band.source):
        in_source = list(group)
        names = " ".join(band.name for band in in_source)
        try:
            found += _read(source, in_source, window, rasters, needed)
        except InputError as error:  # of a remote file, with its own remedy
            raise type(error)(f"Band {names}: {error}") from error
        except (RasterioError, *BLOCK_ERRORS) as error:
            raise InputError(
                f"Band {names} of {source} cannot be read at rows {top}-{bottom}, columns "
                f"{left}-{right} ({error}). {DAMAGED}"
            ) from error
    return found


def _read(
    source: str,
    bands: Sequence[Band],
    window: tuple[slice, slice],
    rasters: OpenRasters,
    needed: NDArray[np.int64] | None,
) -> list[NDArray[Any]]:
    """Read a window of bands of one file."""
    layers = [band.layer for band in bands if isinstance(band.layer, int)]
    if needed is not None and layers == [1] and is_jp2(source):
        values = read_needed(Path(source), bands[0].grid.shape, *window, needed)
        if values is not None:
            return [as_classes(values, bands[0].classes) if bands[0].classes else values]
    if not layers:
        return [
            read_plane(Path(source), band.layer, band.nodata, *window)
            for band in bands
            if isinstance(band.layer, Plane)
        ]
    with rasters.use(source) as raster:
        return read_layers(raster, bands, layers, window=Window.from_slices(*window))


def read_layers(
    raster: Any, bands: Sequence[Band], layers: Sequence[int], **how: Any
) -> list[NDArray[Any]]:
    """Read layers of an open raster; pixels that the file itself masks get the nodata value.

    Parameters
    ----------
    raster, bands, layers
        The raster, and its bands with the number of each one's layer.
    how
        Options of rasterio's `read`: window or out_shape.
    """
    values = [
        as_classes(raw, band.classes) if band.classes else raw
        for band, raw in zip(bands, raster.read(layers, **how), strict=True)
    ]
    visible = _visible(raster, layers[0], **how)
    if visible is None or visible.all():
        return values
    return [
        raw
        if band.nodata is None
        else np.where(visible, raw, raw.dtype.type(band.nodata)).astype(raw.dtype)
        for band, raw in zip(bands, values, strict=True)
    ]


def _visible(raster: Any, layer: int, **how: Any) -> NDArray[np.bool_] | None:
    """Return where the own masks of a GeoTIFF show pixels, None if it has none.

    These are an internal mask or a .msk file, and alpha bands. GDAL applies an alpha band only if
    there is no nodata value, so it is read here. JPEG 2000 of Sentinel-2 has no such masks.
    """
    if raster.driver != "GTiff":
        return None
    masks = [raster.read(i, **how) for i in alpha_layers(raster) if i != layer]
    flags = raster.mask_flag_enums[layer - 1]
    if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
        masks.append(raster.read_masks(layer, **how))
    return np.all([mask != 0 for mask in masks], axis=0) if masks else None
