"""An acquisition as an array of xarray whose pixels are read when they are computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geo.errors import InputError, did_you_mean
from geo.grid import Grid
from geo.imagery.cloud_masks import CloudRules
from geo.pixels.parcel_pixels import read_clear_mask, read_parcel_pixels
from geo.pixels.pixel_index import PixelIndex

if TYPE_CHECKING:
    import xarray

    from geo.imagery.acquisition import Acquisition


def to_xarray(
    acquisition: Acquisition,
    bands: Sequence[str] | None,
    *,
    resampling: str,
    clear: bool,
    chunk_pixels: int,
) -> xarray.DataArray:
    """Return the reflectance of an acquisition; see `Acquisition.to_xarray`."""
    import dask.array
    import xarray
    from pyproj import CRS

    names = _known_bands(acquisition, bands)
    if chunk_pixels < 1:
        raise InputError(f"chunk_pixels: expected at least 1, found {chunk_pixels}")
    grids = [acquisition.bands[name].grid for name in names]
    grid = min(grids, key=lambda own: own.pixel_width * own.pixel_height)
    rows, cols = (_lengths(length, chunk_pixels) for length in grid.shape)
    values = dask.array.map_blocks(
        _read_block,
        acquisition=acquisition,
        names=names,
        grid=grid,
        resampling=resampling,
        rules=CloudRules() if clear else None,
        chunks=((1,) * len(names), rows, cols),
        dtype=np.float32,
        meta=np.empty((0, 0, 0), np.float32),
    )
    crs = CRS(grid.crs)
    x, y = (
        corner + sign * (np.arange(length) + 0.5) * size
        for corner, sign, length, size in (
            (grid.x_min, 1, grid.width, grid.pixel_width),
            (grid.y_max, -1, grid.height, grid.pixel_height),
        )
    )
    cf_x, cf_y = crs.cs_to_cf()
    # The variable of the CF conventions that GDAL and rioxarray read the coordinate system from.
    transform = " ".join(f"{number:.17g}" for number in grid.transform.to_gdal())
    system = xarray.Variable((), 0, {**crs.to_cf(), "GeoTransform": transform})
    time = acquisition.sensing_start or acquisition.date
    array = xarray.DataArray(
        values,
        dims=("band", "y", "x"),
        coords={
            "band": names,
            "y": ("y", y, cf_y),
            "x": ("x", x, cf_x),
            "time": np.datetime64(time, "ns"),
            "spatial_ref": system,
        },
        name="reflectance",
        attrs={"acquisition": acquisition.id, "tile": acquisition.tile, "units": "1"},
    )
    array.encoding["grid_mapping"] = "spatial_ref"
    return array


def _known_bands(acquisition: Acquisition, bands: Sequence[str] | None) -> list[str]:
    """Return the names of the bands to read; refuse unknown ones."""
    names = list(acquisition.bands) if bands is None else list(bands)
    for name in names:
        if name not in acquisition.bands:
            raise InputError(
                f"{acquisition.id} has no band {name!r}; it has {', '.join(acquisition.bands)}."
                f"{did_you_mean(str(name), acquisition.bands)}"
            )
    if not names:
        raise InputError(f"bands is empty; {acquisition.id} has {', '.join(acquisition.bands)}.")
    return names


def _lengths(length: int, chunk: int) -> tuple[int, ...]:
    """Return the lengths of the chunks along an axis."""
    return tuple(min(chunk, length - start) for start in range(0, length, chunk))


def _read_block(
    acquisition: Acquisition,
    names: Sequence[str],
    grid: Grid,
    resampling: str,
    rules: CloudRules | None,
    block_info: Mapping[Any, Any],
) -> NDArray[np.float32]:
    """Read one chunk of one band, as the parcels' pixels are read: float32 (1, rows, columns)."""
    (band, _), (top, bottom), (left, right) = block_info[None]["array-location"]
    shape = bottom - top, right - left
    rows, cols = np.indices(shape, np.int32).reshape(2, -1)
    offsets = np.array([0, rows.size], np.int64)
    index = PixelIndex(["block"], offsets, rows + top, cols + left, acquisition.tile, grid)
    (values,), seen = read_parcel_pixels(acquisition, index, [names[band]], resampling=resampling)
    if rules is not None:
        seen &= read_clear_mask(acquisition, index, rules)
    reflectance = np.where(seen, values / np.float32(10_000), np.float32(np.nan))
    return reflectance.reshape(1, *shape).astype(np.float32, copy=False)
