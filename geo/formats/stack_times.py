"""The times of a stack."""

from __future__ import annotations

import datetime
from collections.abc import Hashable
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geo.errors import InputError
from geo.formats.conventions import date_in


def times_of(path: Path, data: xr.Dataset, axes: set[Hashable | None]) -> NDArray[np.datetime64]:
    """Read the times of the bands, to the second, in the order of the file."""
    if len(axes) > 1:
        names = ", ".join(sorted(str(axis or "none") for axis in axes))
        raise InputError(
            f"{path}: its bands have different time axes ({names}): put them on one, or into "
            "files of their own."
        )
    axis = axes.pop()
    coordinate = _time_coordinate(data, axis)
    if coordinate is None and axis is None:
        return np.array([_date_of_name(path)], "datetime64[s]")
    if coordinate is None:
        raise InputError(
            f"{path}: the time axis {axis} has no coordinate: give it one "
            f"(`data.assign_coords({axis}=times)`)."
        )
    values = np.atleast_1d(coordinate.values)
    if not np.issubdtype(values.dtype, np.datetime64) or np.isnat(values).any():
        raise InputError(
            f"{path}: {coordinate.name} holds {values.dtype}, expected times: give it units "
            '("days since 2018-01-01"), a standard calendar and no missing value.'
        )
    return values.astype("datetime64[s]")


def _time_coordinate(data: xr.Dataset, axis: Hashable | None) -> xr.DataArray | None:
    """Find the times along an axis, or the one time of a file without a time axis."""
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
    """Give the date in a file's name, the last resort of a file without a time."""
    try:
        found = date_in(path.stem)
    except ValueError as error:
        raise InputError(f"{path}: its name holds no date ({error}). Rename it.") from error
    if found is None:
        raise InputError(
            f"{path}: its bands have no time. Add a time axis (`data.expand_dims(time=[...])`), a "
            "scalar coordinate time, or the date (YYYYMMDD or YYYY-MM-DD) to the file's name."
        )
    return found
