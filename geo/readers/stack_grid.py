"""The pixel grid of a variable of a NetCDF stack."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from pyproj import CRS
from pyproj.exceptions import CRSError

from geo.acquisitions import AcquisitionError
from geo.grid import Grid
from geo.reading import crs_text


def grid_of(path: Path, data: xr.Dataset, variable: xr.DataArray) -> Grid:
    """Make the grid of a variable with axes (time, y, x) from its coordinates, the pixel centres.

    Raises
    ------
    AcquisitionError
        If the coordinates are missing, uneven or not north up, or their system is not known.
    """
    y_axis, x_axis = variable.dims[1:]
    width, x_first = _spacing(path, data, x_axis)
    height, y_first = _spacing(path, data, y_axis)
    if width < 0 or height > 0:
        raise AcquisitionError(
            f"{path}: {x_axis} must ascend and {y_axis} descend (north up). Sort them: "
            f'`data.sortby("{y_axis}", ascending=False)`.'
        )
    return Grid(
        crs=_crs(path, data, variable),
        x_min=x_first - width / 2,
        y_max=y_first - height / 2,
        pixel_width=width,
        pixel_height=-height,
        height=variable.shape[1],
        width=variable.shape[2],
    )


def _spacing(path: Path, data: xr.Dataset, axis: Hashable) -> tuple[float, float]:
    """Give the signed distance of an axis' coordinates, and the first of them."""
    if axis not in data.coords or data.sizes[axis] < 2:
        raise AcquisitionError(f"{path}: the axis {axis} needs coordinates of at least 2 pixels.")
    values = data.coords[axis].values.astype(np.float64)
    step = (values[-1] - values[0]) / (len(values) - 1)
    if not np.allclose(np.diff(values), step, rtol=1e-3, atol=0):
        raise AcquisitionError(f"{path}: the coordinates of {axis} are not evenly spaced.")
    return float(step), float(values[0])


def _crs(path: Path, data: xr.Dataset, variable: xr.DataArray) -> str:
    """Find the coordinate system: CF grid mapping, else attributes crs_wkt, crs or epsg."""
    mapping = variable.attrs.get("grid_mapping", variable.encoding.get("grid_mapping"))
    places: list[Mapping[Any, Any]] = [
        data[name].attrs for name in (mapping, "spatial_ref", "crs") if name in data.variables
    ]
    for attributes in (*places, variable.attrs, data.attrs):
        for key in ("crs_wkt", "spatial_ref", "epsg", "crs"):
            if key in attributes:
                return _parse_crs(path, str(attributes[key]))
    raise AcquisitionError(
        f"{path} has no coordinate system: neither a grid mapping (spatial_ref with crs_wkt) nor "
        "an attribute crs or epsg. Write it with `rioxarray`: `data.rio.write_crs(32631)`."
    )


def _parse_crs(path: Path, text: str) -> str:
    """Read a coordinate system from WKT, "EPSG:32631", "32631" or "+init=epsg:32631"."""
    code = re.fullmatch(r"(?:(?:\+init=)?epsg:)?(\d+)", text.strip(), re.IGNORECASE)
    try:
        return crs_text(CRS.from_epsg(code[1]) if code else CRS(text))
    except CRSError as error:
        raise AcquisitionError(f"{path}: {text!r} is no coordinate system ({error}).") from error
