"""NetCDF stacks: variables B02, B03, ... with axes (time, y, x), in one file or several."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geo.acquisitions import (
    BANDS,
    MASKS,
    UNNAMED_TILE,
    Acquisition,
    AcquisitionError,
    Band,
    Plane,
)
from geo.array_reading import NETCDF_LOCK
from geo.readers.conventions import (
    STACK_ENDINGS,
    band_name,
    files_ending,
    scale_and_offset,
    tile_name,
)
from geo.readers.stack_grid import grid_of

logger = logging.getLogger(__name__)

TIME_AXES = ("t", "time", "timestamp", "date")

# Contiguous variables decode row by row: windows of so many rows.
_ROWS_OF_CONTIGUOUS = 512


@dataclass(frozen=True)
class _StackFile:
    """The bands of one file at time 0, and its times (datetime64[s])."""

    path: Path
    bands: Mapping[str, Band]
    times: NDArray[np.datetime64]
    tile: str


def find(
    path: Path, bands: Sequence[str] | None, reflectance_scale: float | None
) -> list[Acquisition]:
    """Find the times of a stack; see `geo.acquisitions.find_acquisitions`."""
    candidates = list(files_ending(path, STACK_ENDINGS))
    read = [_read_file(file, reflectance_scale) for file in candidates]
    files = [file for file in read if file is not None]
    if not files:
        raise AcquisitionError(
            f"There is no stack in {path}: none of {len(candidates)} NetCDF files has a variable "
            f"B01 to B12, B8A or SCL with a time axis ({', '.join(TIME_AXES)})."
        )
    _check_same_times(files)
    layers = _join_bands(files)
    wanted = BANDS if bands is None else bands
    names = [name for name in BANDS if name in layers and name in wanted]
    acquisitions = []
    for index, time in enumerate(files[0].times):
        sensed: datetime.datetime = time.item()
        now = {name: _at(layers[name], index) for name in names}
        acquisitions.append(
            Acquisition(
                id=f"{sensed:%Y%m%d}_{files[0].tile}",
                tile=files[0].tile,
                date=sensed.date(),
                product=path,
                format="stack",
                baseline=None,
                platform=None,
                cloud_fraction=None,
                bands=now,
                masks={name: _at(layers[name], index) for name in MASKS if name in layers},
                sensed=sensed,
            )
        )
    return acquisitions


def _read_file(path: Path, reflectance_scale: float | None) -> _StackFile | None:
    """Read the header of one file; None if it has no band with a time axis."""
    with NETCDF_LOCK, _open(path) as data:
        variables = {
            name: variable
            for key, variable in data.data_vars.items()
            if (name := band_name(str(key))) and _time_axis(variable) is not None
        }
        if not variables:
            logger.info("%s is left out: it has no band with a time axis.", path)
            return None
        bands = {
            name: _band(name, path, data, variable, reflectance_scale)
            for name, variable in variables.items()
        }
        times = _times(path, data, [str(variable.dims[0]) for variable in variables.values()])
        tile = tile_name(str(data.attrs.get("tile", ""))) or tile_name(path.stem)
        return _StackFile(path, bands, times, tile or UNNAMED_TILE)


def _open(path: Path) -> xr.Dataset:
    """Open a file with decoded times and raw values."""
    try:
        return xr.open_dataset(path, engine="netcdf4", mask_and_scale=False, decode_timedelta=False)
    except (OSError, RuntimeError) as error:
        raise AcquisitionError(
            f"{path} cannot be opened as NetCDF ({error}): download or copy it again."
        ) from error
    except ValueError as error:  # times that cannot be decoded
        raise AcquisitionError(f"{path} cannot be read: {error}") from error


def _time_axis(variable: xr.DataArray) -> Hashable | None:
    """Give the time axis of a variable, wherever it stands, or None."""
    return next((axis for axis in variable.dims if str(axis).lower() in TIME_AXES), None)


def _times(path: Path, data: xr.Dataset, axes: Sequence[str]) -> NDArray[np.datetime64]:
    """Read the times of the bands' axis, to the second, ascending."""
    if len(set(axes)) > 1 or axes[0] not in data.coords:
        raise AcquisitionError(
            f"{path}: its bands need one time axis with a coordinate, found "
            f"{', '.join(sorted(set(axes)))}."
        )
    values = data.coords[axes[0]].values
    if not np.issubdtype(values.dtype, np.datetime64) or np.isnat(values).any():
        raise AcquisitionError(
            f"{path}: the time axis {axes[0]} holds {values.dtype}, expected times: give it units "
            '("days since 2018-01-01") and no missing value.'
        )
    return values.astype("datetime64[s]")


def _band(
    name: str,
    path: Path,
    data: xr.Dataset,
    variable: xr.DataArray,
    reflectance_scale: float | None,
) -> Band:
    """Describe one variable at time 0."""
    if variable.ndim != 3 or _time_axis(variable) != variable.dims[0]:
        axes = ", ".join(str(axis) for axis in variable.dims)
        raise AcquisitionError(
            f"{path}: {variable.name} has the axes ({axes}), expected (time, y, x). Transpose it: "
            "`xarray.Dataset.transpose`, or ncpdq."
        )
    grid = grid_of(path, data, variable)
    chunks = variable.encoding.get("chunksizes")
    rows, cols = chunks[1:] if chunks else (_ROWS_OF_CONTIGUOUS, grid.width)
    is_integer = bool(np.issubdtype(variable.dtype, np.integer))
    scale, offset = scale_and_offset(
        float(variable.attrs.get("scale_factor", 1)),
        float(variable.attrs.get("add_offset", 0)),
        is_integer,
        reflectance_scale,
    )
    fill = variable.attrs.get("_FillValue", variable.attrs.get("missing_value"))
    if fill is None:
        fill = 0 if is_integer else float("nan")  # 0 by the custom of Sentinel-2
    is_reflectance = name not in MASKS
    return Band(
        name=name,
        source=str(path),
        layer=Plane(str(variable.name), (0, "y", "x"), grid.height),
        grid=grid,
        block_shape=(min(int(rows), grid.height), min(int(cols), grid.width)),
        scale=scale if is_reflectance else 1.0,
        offset=offset if is_reflectance else 0.0,
        nodata=float(fill),
    )


def _at(band: Band, time_index: int) -> Band:
    """Give a band at another time."""
    assert isinstance(band.layer, Plane)  # noqa: S101 (of this module)
    return replace(band, layer=replace(band.layer, axes=(time_index, *band.layer.axes[1:])))


def _check_same_times(files: Sequence[_StackFile]) -> None:
    """Check that all files of a stack hold the same times."""
    first = files[0]
    for other in files[1:]:
        if not np.array_equal(first.times, other.times):
            differing = np.setxor1d(first.times, other.times)[:5]
            raise AcquisitionError(
                f"The files of a stack must hold the same times: {first.path} has "
                f"{len(first.times)}, {other.path} {len(other.times)}; only in one of them: "
                f"{', '.join(map(str, differing))}. Keep one stack a folder."
            )


def _join_bands(files: Sequence[_StackFile]) -> dict[str, Band]:
    """Join the bands of all files; none may be in two."""
    joined: dict[str, Band] = {}
    for file in files:
        for name, band in file.bands.items():
            if name in joined:
                raise AcquisitionError(
                    f"{name} is in {joined[name].source} and in {file.path}: keep one stack a "
                    "folder."
                )
            joined[name] = band
    return joined
