"""The coordinates of a stack's variables: the order of the axes, the pixel grid, the times."""

from __future__ import annotations

import datetime
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from pyproj import CRS
from pyproj.exceptions import CRSError

from geo.errors import InputError
from geo.formats.conventions import band_name
from geo.formats.dates import date_in
from geo.grid import Grid
from geo.imagery.array_reading import BLOCK_ERRORS
from geo.imagery.raster_header import crs_text

Kind = Literal["time", "band", "y", "x"]

# Names of axes. If a file has several resolutions, the name ends with it: x_20m, x_r20m, y20.
_NAMES: dict[Kind, re.Pattern[str]] = {
    "time": re.compile(r"t|times?|timestamps?|dates?", re.IGNORECASE),
    "band": re.compile(r"bands?|channels?|variables?", re.IGNORECASE),
    "y": re.compile(r"(y|northing|lat(itude)?)(_?r?\d+m?)?", re.IGNORECASE),
    "x": re.compile(r"(x|easting|lon(gitude)?)(_?r?\d+m?)?", re.IGNORECASE),
}
LONGEST_AXIS = 1_000_000

# The attribute `axis` of the CF conventions.
_AXIS_ATTRIBUTES: dict[str, Kind] = {"T": "time", "Y": "y", "X": "x"}


@dataclass(frozen=True)
class Axes:
    """The axes of a variable.

    Parameters
    ----------
    kinds
        One item for each axis; None is an axis of length 1 without a meaning.
    y, x
        Names of the two axes.
    time
        Name of the time axis, None if there is none.
    bands
        Positions on the band axis, by band; empty if the variable is one band.
    """

    kinds: tuple[Kind | None, ...]
    y: Hashable
    x: Hashable
    time: Hashable | None
    bands: dict[str, int]


def axes_of(path: Path, data: xr.Dataset, variable: xr.DataArray) -> Axes | None:
    """Return the kinds of a variable's axes, None if the variable contains no band.

    The name of a variable names its band (B02), or the labels of its band axis name several.

    Raises
    ------
    InputError
        If a variable with bands has unknown axes.
    """
    kinds = [_kind(data, axis) for axis in variable.dims]
    bands: dict[str, int] = {}
    if band_name(str(variable.name)) is not None:
        # The variable is one band, so a band axis has no meaning for it.
        kinds = [None if kind == "band" else kind for kind in kinds]
    elif {"band", "y", "x"} <= set(kinds):
        bands = _bands(path, data, variable, variable.dims[kinds.index("band")])
    else:
        return None
    _check_axes(path, variable, kinds)
    by_kind = dict(zip(kinds, variable.dims, strict=True))
    return Axes(tuple(kinds), by_kind["y"], by_kind["x"], by_kind.get("time"), bands)


def _check_axes(path: Path, variable: xr.DataArray, kinds: Sequence[Kind | None]) -> None:
    """Check that every axis has a kind or one place only, no kind twice, and y and x are there."""
    axes = ", ".join(map(str, variable.dims))
    for axis, kind in zip(variable.dims, kinds, strict=True):
        is_unknown = kind is None and variable.sizes[axis] != 1
        is_repeated = kind is not None and kinds.count(kind) > 1
        if is_unknown or is_repeated:
            raise InputError(
                f"{path}: {variable.name} has the axes ({axes}), and {axis} is none of time, y "
                "and x, each of which may be there once. Select one place on it "
                f"(`data.isel({axis}=0)`) or name it as what it is."
            )
    if not {"y", "x"} <= set(kinds):
        raise InputError(
            f"{path}: {variable.name} has the axes ({axes}), expected y and x among "
            'them: `data.rename(rows="y", cols="x")`.'
        )


def _kind(data: xr.Dataset, axis: Hashable) -> Kind | None:
    """Return the kind of an axis by its name, else by its coordinate."""
    for kind, pattern in _NAMES.items():
        if pattern.fullmatch(str(axis)):
            return kind
    if axis not in data.coords:
        return None
    coordinate = data.coords[axis]
    if np.issubdtype(coordinate.dtype, np.datetime64):
        return "time"
    return _AXIS_ATTRIBUTES.get(str(coordinate.attrs.get("axis", "")).upper())


def _bands(path: Path, data: xr.Dataset, variable: xr.DataArray, axis: Hashable) -> dict[str, int]:
    """Return the positions of the bands on a band axis; other labels (indices) are left out."""
    # Without coordinates, the places are numbers, of which none is a band.
    in_file = axis in data.coords
    values = _values(path, data, data.coords[axis]) if in_file else range(5)
    texts = [value.decode() if isinstance(value, bytes) else str(value) for value in values]
    # rioxarray numbers the bands of a GeoTIFF, and keeps their descriptions here.
    described = np.ravel(variable.attrs.get("long_name", ()))
    if len(described) == len(texts) > 1 and not any(map(band_name, texts)):
        texts = [str(text) for text in described]
    found: dict[str, int] = {}
    for position, text in enumerate(texts):
        name = band_name(text)
        if name in found:
            raise InputError(
                f"{path}: {name} is twice on the axis {axis} of {variable.name}: keep one."
            )
        if name is not None:
            found[name] = position
    if not found:
        raise InputError(
            f"{path}: none of the labels of the axis {axis} of {variable.name} is B01 to B12, "
            f"B8A, SCL or a common name (red, nir08), found {', '.join(texts[:5])}. Label it: "
            f'`data.assign_coords({axis}=["B02", "B03", ...])`.'
        )
    return found


# Attributes of grid mappings, of the projection extension of STAC (in EOPF), and common others.
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
    """Return the grid of a variable from its coordinates, which are pixel centres.

    Parameters
    ----------
    path
        Path of the file for messages.
    data, variable
        The opened file or group, and its variable.
    axes
        Names of the y and x axis.
    outer
        Attributes of the file, which apply to its groups, too.

    Returns
    -------
    grid
        Grid of the pixels, north-up.
    south_up
        Whether y ascends: the first row is the southernmost.

    Raises
    ------
    InputError
        If coordinates are missing, uneven or not pixel centres, or their system is unknown.
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
    """Return the signed step between an axis' coordinates, and the first coordinate."""
    if axis not in data.coords or data.sizes[axis] < 2 or data.coords[axis].ndim != 1:
        raise InputError(f"{path}: the axis {axis} needs coordinates of at least 2 pixels.")
    values = _values(path, data, data.coords[axis]).astype(np.float64)
    step = (values[-1] - values[0]) / (len(values) - 1)
    if step == 0 or not np.allclose(np.diff(values), step, rtol=1e-3, atol=0):
        raise InputError(f"{path}: the coordinates of {axis} are not evenly spaced.")
    return float(step), float(values[0])


def _values(path: Path, data: xr.Dataset, coordinate: xr.DataArray) -> NDArray[Any]:
    """Read coordinates, which must fit into memory: a small file can state any length."""
    for axis in coordinate.dims:
        if data.sizes[axis] > LONGEST_AXIS:
            raise InputError(
                f"{path}: the axis {axis} has {data.sizes[axis]:,} places, at most "
                f"{LONGEST_AXIS:,} are read. The file is damaged, or no stack of imagery."
            )
    try:
        return np.asarray(coordinate.values)
    except BLOCK_ERRORS as error:
        raise InputError(
            f"{path}: the coordinates {coordinate.name} cannot be read ({error}): download or copy "
            "the file again."
        ) from error


def _mapping(data: xr.Dataset, variable: xr.DataArray) -> Mapping[str, Any]:
    """Return the attributes of a variable's grid mapping (CF conventions, 5.6); may be empty."""
    named = variable.attrs.get("grid_mapping", variable.encoding.get("grid_mapping", ""))
    # The long form is "name: coordinate coordinate".
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
    """Check that coordinates are pixel centres, if there is a GeoTransform, with the corner.

    Only fractions of pixels are compared, because clips may keep the GeoTransform of the original.
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
    """Return the coordinate system from attributes, a scalar coordinate, or CF parameters."""
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
                f"{path}: its grid mapping is not a coordinate system ({error}): add the attribute "
                "crs_wkt."
            ) from error
    raise InputError(
        f"{path} has no coordinate system: neither a grid mapping (spatial_ref with crs_wkt) nor "
        "an attribute crs or epsg. Write it with `rioxarray`: `data.rio.write_crs(32631)`."
    )


def _parse_crs(path: Path, text: str) -> str:
    """Return the coordinate system of WKT, "EPSG:32631", "32631" or "+init=epsg:32631"."""
    code = re.fullmatch(r"(?:(?:\+init=)?epsg:)?(\d+)", text.strip(), re.IGNORECASE)
    try:
        return crs_text(CRS.from_epsg(code[1]) if code else CRS(text))
    except CRSError as error:
        raise InputError(f"{path}: {text!r} is not a coordinate system ({error}).") from error


def times_of(path: Path, data: xr.Dataset, axes: set[Hashable | None]) -> NDArray[np.datetime64]:
    """Return the times of the bands in seconds, in the order of the file."""
    if len(axes) > 1:
        names = ", ".join(sorted(str(axis or "none") for axis in axes))
        raise InputError(
            f"{path}: its bands have different time axes ({names}): use one axis, or separate "
            "files."
        )
    axis = axes.pop()
    coordinate = _time_coordinate(data, axis)
    if coordinate is None and axis is None:
        return np.array([_date_of_name(path)], "datetime64[s]")
    if coordinate is None:
        raise InputError(
            f"{path}: the time axis {axis} has no coordinate: add one "
            f"(`data.assign_coords({axis}=times)`)."
        )
    values = np.atleast_1d(_values(path, data, coordinate))
    if not np.issubdtype(values.dtype, np.datetime64) or np.isnat(values).any():
        raise InputError(
            f"{path}: {coordinate.name} holds {values.dtype}, expected times. Add units "
            '("days since 2018-01-01"), a standard calendar and no missing value.'
        )
    return values.astype("datetime64[s]")


def _time_coordinate(data: xr.Dataset, axis: Hashable | None) -> xr.DataArray | None:
    """Return the times along an axis, or the single time of a file without a time axis."""
    if axis in data.coords:
        return data.coords[axis]
    dims = () if axis is None else (axis,)
    candidates = [
        variable
        for variable in data.variables.values()
        if variable.dims == dims and np.issubdtype(variable.dtype, np.datetime64)
    ]
    return xr.DataArray(candidates[0]) if len(candidates) == 1 else None


def _date_of_name(path: Path) -> datetime.date:
    """Return the date in the name of a file without times."""
    try:
        found = date_in(path.stem)
    except ValueError as error:
        raise InputError(f"{path}: its name contains no date ({error}). Rename it.") from error
    if found is None:
        raise InputError(
            f"{path}: its bands have no time. Add a time axis (`data.expand_dims(time=[...])`), a "
            "scalar coordinate time, or the date (YYYYMMDD or YYYY-MM-DD) to the file's name."
        )
    return found
