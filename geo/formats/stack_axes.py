"""Which axis of a stack's variable is which: time, band, y and x, in any order."""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import xarray as xr

from geo.errors import InputError
from geo.formats.conventions import band_name

Kind = Literal["time", "band", "y", "x"]

# By name, with the resolution behind it where several lie side by side: x, x_20m, x_r20m, y20.
_NAMES: dict[Kind, re.Pattern[str]] = {
    "time": re.compile(r"t|times?|timestamps?|dates?", re.IGNORECASE),
    "band": re.compile(r"bands?|channels?|variables?", re.IGNORECASE),
    "y": re.compile(r"(y|northing|lat(itude)?)(_?r?\d+m?)?", re.IGNORECASE),
    "x": re.compile(r"(x|easting|lon(gitude)?)(_?r?\d+m?)?", re.IGNORECASE),
}
# By attributes of the CF conventions.
_AXIS_ATTRIBUTES: dict[str, Kind] = {"T": "time", "Y": "y", "X": "x"}


@dataclass(frozen=True)
class Axes:
    """The axes of a variable.

    Parameters
    ----------
    kinds
        One item an axis; None is an axis of one place that means nothing.
    y, x
        Names of the two axes.
    time
        Name of the time axis, None where there is none.
    bands
        By name, the places on the band axis; empty where the variable is one band.
    """

    kinds: tuple[Kind | None, ...]
    y: Hashable
    x: Hashable
    time: Hashable | None
    bands: dict[str, int]


def axes_of(path: Path, data: xr.Dataset, variable: xr.DataArray) -> Axes | None:
    """Tell which axis of a variable is which; None where it holds no band.

    A variable holds a band by its own name (B02), or several by the labels of its band axis.

    Raises
    ------
    InputError
        If it holds bands, but on axes that are not understood.
    """
    kinds = [_kind(data, axis) for axis in variable.dims]
    is_band = band_name(str(variable.name)) is not None
    labels: dict[str, int] = {}
    if not is_band:
        if not {"band", "y", "x"} <= set(kinds):
            return None
        labels = _labels(path, data, variable, variable.dims[kinds.index("band")])
    for at, (axis, kind) in enumerate(zip(variable.dims, kinds, strict=True)):
        if variable.sizes[axis] == 1 and (kind is None or (kind == "band" and is_band)):
            kinds[at] = None
        elif kind is None or (kind == "band" and is_band) or kinds.count(kind) > 1:
            raise InputError(
                f"{path}: {variable.name} has the axes ({_listed(variable)}), and {axis} is none "
                "of time, y and x, each of which may be there once. Select one place on it "
                f"(`data.isel({axis}=0)`) or name it as what it is."
            )
    if not {"y", "x"} <= set(kinds):
        raise InputError(
            f"{path}: {variable.name} has the axes ({_listed(variable)}), expected y and x among "
            'them: `data.rename(rows="y", cols="x")`.'
        )
    by_kind = dict(zip(kinds, variable.dims, strict=True))
    return Axes(tuple(kinds), by_kind["y"], by_kind["x"], by_kind.get("time"), labels)


def _kind(data: xr.Dataset, axis: Hashable) -> Kind | None:
    """Tell what an axis is, by its name, else by what its coordinate says of itself."""
    for kind, pattern in _NAMES.items():
        if pattern.fullmatch(str(axis)):
            return kind
    if axis not in data.coords:
        return None
    coordinate = data.coords[axis]
    if np.issubdtype(coordinate.dtype, np.datetime64):
        return "time"
    return _AXIS_ATTRIBUTES.get(str(coordinate.attrs.get("axis", "")).upper())


def _labels(path: Path, data: xr.Dataset, variable: xr.DataArray, axis: Hashable) -> dict[str, int]:
    """Find the bands on a band axis; labels of anything else (indices, masks) are left out."""
    values = data.coords[axis].values if axis in data.coords else np.arange(variable.sizes[axis])
    texts = [value.decode() if isinstance(value, bytes) else str(value) for value in values]
    found: dict[str, int] = {}
    for place, text in enumerate(texts):
        name = band_name(text)
        if name in found:
            raise InputError(
                f"{path}: {name} is twice on the axis {axis} of {variable.name}: keep one."
            )
        if name is not None:
            found[name] = place
    if not found:
        raise InputError(
            f"{path}: none of the labels of the axis {axis} of {variable.name} is B01 to B12, B8A "
            f"or SCL, found {', '.join(texts[:5])}. Label it: "
            f'`data.assign_coords({axis}=["B02", "B03", ...])`.'
        )
    return found


def _listed(variable: xr.DataArray) -> str:
    """List the axes of a variable."""
    return ", ".join(str(axis) for axis in variable.dims)
