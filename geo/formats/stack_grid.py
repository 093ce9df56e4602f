"""The pixel grid of a variable of a stack."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from pyproj import CRS
from pyproj.exceptions import CRSError

from geo.errors import InputError
from geo.grid import Grid
from geo.imagery.raster_reading import crs_text

# Of grid mappings, of the projection extension of STAC (as EOPF writes it), and common ones.
_CRS_KEYS = (
    *("crs_wkt", "spatial_ref", "proj:epsg", "proj:code", "proj:wkt2"),
    *("epsg", "crs", "horizontal_CRS_code"),
)


def grid_of(
    path: Path,
    data: xr.Dataset,
    variable: xr.DataArray,
    axes: tuple[Hashable, Hashable],
    outer: Mapping[str, Any],
) -> tuple[Grid, bool]:
    """Make the grid of a variable from its coordinates, the centres of the pixels.

    Parameters
    ----------
    path
        For messages.
    data, variable
        The variable, and the dataset (or group) that it lies in.
    axes
        Its y and x axis.
    outer
        Attributes of the file, which hold for its groups, too.

    Returns
    -------
    grid
        North up.
    south_up
        Whether y ascends, so that the first row is the southernmost.

    Raises
    ------
    InputError
        If the coordinates are missing, uneven or not pixel centres, or their system is not known.
    """
    y_axis, x_axis = axes
    width, x_first = _spacing(path, data, x_axis)
    y_step, y_first = _spacing(path, data, y_axis)
    if width < 0:
        raise InputError(f'{path}: {x_axis} must ascend. Sort it: `data.sortby("{x_axis}")`.')
    height, n_rows = abs(y_step), variable.sizes[y_axis]
    y_top = y_first if y_step < 0 else y_first + (n_rows - 1) * height
    mapping = _mapping(data, variable)
    _check_centres(path, mapping, (x_first, y_top), (width, height))
    grid = Grid(
        crs=_crs(path, data, [mapping, variable.attrs, data.attrs, outer]),
        x_min=x_first - width / 2,
        y_max=y_top + height / 2,
        pixel_width=width,
        pixel_height=height,
        height=n_rows,
        width=variable.sizes[x_axis],
    )
    return grid, y_step > 0


def _spacing(path: Path, data: xr.Dataset, axis: Hashable) -> tuple[float, float]:
    """Give the signed distance of an axis' coordinates, and the first of them."""
    if axis not in data.coords or data.sizes[axis] < 2:
        raise InputError(f"{path}: the axis {axis} needs coordinates of at least 2 pixels.")
    values = data.coords[axis].values.astype(np.float64)
    step = (values[-1] - values[0]) / (len(values) - 1)
    if not np.allclose(np.diff(values), step, rtol=1e-3, atol=0):
        raise InputError(f"{path}: the coordinates of {axis} are not evenly spaced.")
    return float(step), float(values[0])


def _mapping(data: xr.Dataset, variable: xr.DataArray) -> Mapping[str, Any]:
    """Give the attributes of a variable's grid mapping (CF conventions, 5.6), or none."""
    named = variable.attrs.get("grid_mapping", variable.encoding.get("grid_mapping", ""))
    # In its long form, "name: coordinate coordinate".
    for name in (str(named).split(":")[0], "spatial_ref", "crs"):
        if name in data.variables:
            return data[name].attrs
    return {}


def _check_centres(
    path: Path,
    mapping: Mapping[str, Any],
    first: tuple[float, float],
    size: tuple[float, float],
) -> None:
    """Check that coordinates are pixel centres, where GDAL's GeoTransform tells the corners.

    Cut-outs may carry the GeoTransform of the whole: only fractions of pixels are compared.
    """
    numbers = [float(text) for text in str(mapping.get("GeoTransform", "")).split()]
    if len(numbers) != 6 or not np.allclose((numbers[1], -numbers[5]), size, rtol=1e-3):
        return
    offsets = (first[0] - numbers[0]) / size[0], (numbers[3] - first[1]) / size[1]
    if any(abs(offset - round(offset)) < 0.1 for offset in offsets):
        raise InputError(
            f"{path}: by its GeoTransform, x and y are corners of pixels, expected their centres. "
            "Add half a pixel to x, and subtract it from y."
        )


def _crs(path: Path, data: xr.Dataset, places: Sequence[Mapping[str, Any]]) -> str:
    """Find the coordinate system, as attribute or scalar coordinate, else by CF parameters."""
    for attributes in places:
        for key in _CRS_KEYS:
            if key in attributes:
                return _parse_crs(path, str(attributes[key]))
    for key in _CRS_KEYS:
        if key in data.coords and data.coords[key].ndim == 0 and key != "spatial_ref":
            return _parse_crs(path, str(data.coords[key].item()))
    if "grid_mapping_name" in places[0]:
        try:
            return crs_text(CRS.from_cf(dict(places[0])))
        except (CRSError, KeyError) as error:
            raise InputError(
                f"{path}: its grid mapping is no coordinate system ({error}): give it crs_wkt."
            ) from error
    raise InputError(
        f"{path} has no coordinate system: neither a grid mapping (spatial_ref with crs_wkt) nor "
        "an attribute crs or epsg. Write it with `rioxarray`: `data.rio.write_crs(32631)`."
    )


def _parse_crs(path: Path, text: str) -> str:
    """Read a coordinate system from WKT, "EPSG:32631", "32631" or "+init=epsg:32631"."""
    code = re.fullmatch(r"(?:(?:\+init=)?epsg:)?(\d+)", text.strip(), re.IGNORECASE)
    try:
        return crs_text(CRS.from_epsg(code[1]) if code else CRS(text))
    except CRSError as error:
        raise InputError(f"{path}: {text!r} is no coordinate system ({error}).") from error
