"""Stacks: NetCDF files and Zarr folders, with times, bands and resolutions in many layouts.

Files (or groups of a file) with the same times are the resolutions of one stack. Files with other
times are other stacks.
"""

from __future__ import annotations

import datetime
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import netCDF4
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geo.errors import InputError
from geo.formats.conventions import (
    Encoding,
    band_name,
    baseline_in,
    decoding,
    finest,
    offset_of_baseline,
    stated_nodata,
    tile_name,
    with_unstated_offset,
)
from geo.formats.stack_coordinates import Axes, Kind, axes_of, grid_of, times_of
from geo.imagery.acquisition import UNNAMED_TILE, Acquisition, Band, Plane, bands_and_masks
from geo.imagery.array_reading import NETCDF_LOCK, is_consolidated
from geo.imagery.file_cache import cached
from geo.imagery.hdf5_files import check_self_contained
from geo.imagery.raster_header import check_block

logger = logging.getLogger(__name__)

# Names of the processing baseline: of STAC properties, and those that programs make from them.
_BASELINE = re.compile(r"(?:s2[:_])?processing[:_ ]?(?:baseline|version)", re.IGNORECASE)

# Variables without chunks are read by blocks of this many rows.
_ROWS_OF_CONTIGUOUS = 512

# Attributes that name missing values, and those that limit the valid ones.
_MISSING = ("_FillValue", "missing_value", "fill_value")
_LIMITS = ("valid_range", "valid_min", "valid_max")


@dataclass(frozen=True)
class StackPart:
    """The bands of a file, or of one of its groups, which have the same times.

    Parameters
    ----------
    path
        The file.
    tile
        Tile in the attributes or the name of the file.
    times
        T times, in the order of the file.
    bands
        Bands and masks at time 0, by name.
    kinds
        Kinds of the axes of a band's array, by band.
    baselines
        Processing baseline of every time, None if not stated. It implies the offset of bands that
        state neither scale nor offset.
    """

    path: Path
    tile: str
    times: tuple[datetime.datetime, ...]
    bands: Mapping[str, Band]
    kinds: Mapping[str, tuple[Kind | None, ...]]
    baselines: tuple[str | None, ...]

    def at(self, index: int) -> Iterator[Band]:
        """Yield the bands and masks at a time."""
        for name, band in self.bands.items():
            plane = band.layer
            assert isinstance(plane, Plane)  # noqa: S101 (all bands of a stack are planes)
            axes = zip(self.kinds[name], plane.axes, strict=True)
            at_index = tuple(index if kind == "time" else axis for kind, axis in axes)
            band_then = replace(band, layer=replace(plane, axes=at_index))
            yield with_unstated_offset(band_then, offset_of_baseline(self.baselines[index]))


def find(
    path: Path, files: Sequence[Path], bands: Sequence[str] | None, reflectance_scale: float | None
) -> list[Acquisition]:
    """Find the times of the stacks at a path; see `geo.imagery.discovery.find_acquisitions`."""
    parts = [part for file in files for part in read_parts(file, reflectance_scale)]
    if not parts:
        raise InputError(
            f"There is no stack in {path}: none of {len(files)} NetCDF files and Zarr folders has "
            "a variable B01 to B12, B8A, SCL or of a common name (red, nir08), nor one with a band "
            "axis labelled so."
        )
    return [item for stack in _join(parts) for item in _acquisitions(path, stack, bands)]


def _join(parts: Sequence[StackPart]) -> list[list[StackPart]]:
    """Join the parts with the same times; a time of a tile must not be in two stacks."""
    named = {part.tile for part in parts} - {UNNAMED_TILE}
    only = named.pop() if len(named) == 1 else UNNAMED_TILE
    stacks: dict[tuple[str, tuple[datetime.datetime, ...]], list[StackPart]] = {}
    owners: dict[tuple[str, datetime.datetime], StackPart] = {}
    for part in parts:
        tile = only if part.tile == UNNAMED_TILE else part.tile
        stacks.setdefault((tile, part.times), []).append(replace(part, tile=tile))
        for time in part.times:
            other = owners.setdefault((tile, time), part)
            if part.times != other.times:
                differing = sorted(set(part.times) ^ set(other.times))[:5]
                raise InputError(
                    f"The files of a stack must hold the same times: {other.path} has "
                    f"{len(other.times)}, {part.path} {len(part.times)}; only in one of them: "
                    f"{', '.join(time.isoformat() for time in differing)}. Keep one stack a folder."
                )
    return list(stacks.values())


def _acquisitions(
    path: Path, stack: list[StackPart], wanted: Sequence[str] | None
) -> Iterator[Acquisition]:
    """Yield the acquisition of every time of a stack."""
    paths = {part.path for part in stack}
    product = stack[0].path if len(paths) == 1 else path
    for index, sensing_start in enumerate(stack[0].times):
        layers = finest(band for part in stack for band in part.at(index))
        bands, masks = bands_and_masks(layers, wanted)
        baselines = [part.baselines[index] for part in stack]
        yield Acquisition(
            id=f"{sensing_start:%Y%m%d}_{stack[0].tile}",
            tile=stack[0].tile,
            date=sensing_start.date(),
            product=product,
            format="stack",
            bands=bands,
            masks=masks,
            sensing_start=sensing_start,
            baseline=next(filter(None, baselines), None),
        )


def read_parts(path: Path, reflectance_scale: float | None) -> list[StackPart]:
    """Read the headers of a file; groups without a band are left out.

    Raises
    ------
    InputError
        If the file is damaged or lacks information.
    """
    return cached(
        *(("stack", path, reflectance_scale), [path], list[StackPart]),
        lambda: _read_parts(path, reflectance_scale),
    )


def _read_parts(path: Path, reflectance_scale: float | None) -> list[StackPart]:
    with nullcontext() if path.is_dir() else NETCDF_LOCK:
        groups = _open(path)
        try:
            outer = groups["/"].attrs
            parts = [
                _read_part(path, group, data, outer, reflectance_scale)
                for group, data in groups.items()
            ]
        finally:
            for data in groups.values():
                data.close()
    found = [part for part in parts if part is not None]
    if not found:
        logger.info("%s is left out: it has no band.", path)
    return found


def describe(
    path: Path,
    group: str,
    data: xr.Dataset,
    variable: xr.DataArray,
    outer: Mapping[str, Any],
    reflectance_scale: float | None,
) -> Iterator[tuple[Band, Axes]]:
    """Yield every band of a variable at the first time, with the axes of the variable.

    Parameters
    ----------
    path, group
        File, and the group in it ("/" or "/measurements/...").
    data, variable
        The opened group, with raw values and decoded times, and its variable.
    outer
        Attributes of the file.
    reflectance_scale
        Reflectance of one raw unit, in place of what the file states.
    """
    axes = axes_of(path, data, variable)
    if axes is None:
        return
    grid, south_up = grid_of(path, data, variable, (axes.y, axes.x), outer)
    block = _block_shape(path, variable, axes, grid.shape)
    single = band_name(str(variable.name))
    for name, place in {single: 0}.items() if single else axes.bands.items():
        try:
            encoding, missing, valid_range = _encoding(variable, is_netcdf=path.is_file())
            scale, offset, nodata = decoding(name, encoding, reflectance_scale)
        # Attributes may contain anything, such as a scale_factor of 0 or a text.
        except (ValueError, TypeError, ZeroDivisionError, OverflowError) as error:
            raise InputError(f"{path}: {variable.name}: {error}.") from error
        where: dict[Kind | None, int | Literal["y", "x"]]
        where = {"y": "y", "x": "x", "band": place, "time": 0, None: 0}
        plane = Plane(
            variable=f"{group.strip('/')}/{variable.name}".lstrip("/"),
            axes=tuple(where[kind] for kind in axes.kinds),
            height=grid.height,
            south_up=south_up,
            missing=tuple(value for value in missing if value != nodata),
            valid_range=valid_range,
            read_as=None if encoding.dtype == variable.dtype else encoding.dtype.name,
        )
        yield Band(name, str(path), plane, grid, block, scale, offset, nodata), axes


def _open(path: Path) -> dict[str, xr.Dataset]:
    """Open every group of a file, with raw values and decoded times."""
    # Without indexes, no coordinates are read before their length is checked.
    options: dict[str, Any] = {"mask_and_scale": False, "decode_timedelta": False, "chunks": None}
    options["create_default_indexes"] = False
    try:
        if path.is_dir():
            return xr.open_groups(
                path, engine="zarr", consolidated=is_consolidated(path), **options
            )
        check_self_contained(path)
        return xr.open_groups(path, engine="netcdf4", **options)
    # LookupError, TypeError and others: the metadata of a Zarr store are damaged.
    # ZeroDivisionError: its chunks have the length 0.
    except (
        *(OSError, RuntimeError, LookupError, TypeError, AttributeError),
        ZeroDivisionError,
    ) as error:
        kind = "Zarr" if path.is_dir() else "NetCDF"
        raise InputError(
            f"{path} cannot be opened as {kind} ({error}): download or copy it again."
        ) from error
    except ValueError as error:  # times that cannot be decoded
        raise InputError(f"{path} cannot be read: {error}") from error


def _read_part(
    path: Path,
    group: str,
    data: xr.Dataset,
    outer: Mapping[str, Any],
    reflectance_scale: float | None,
) -> StackPart | None:
    """Read the bands of one group, None if it has no band."""
    described = [
        item
        for variable in data.data_vars.values()
        for item in describe(path, group, data, variable, outer, reflectance_scale)
    ]
    if not described:
        return None
    bands = finest(band for band, _ in described)
    axes = {band.name: axes for band, axes in described if band is bands[band.name]}
    tile = tile_name(str(data.attrs.get("tile", outer.get("tile", "")))) or tile_name(path.stem)
    times = times_of(path, data, {item.time for item in axes.values()})
    kinds = {name: item.kinds for name, item in axes.items()}
    # reflectance_scale replaces all that the file states.
    stated = None if reflectance_scale is not None else _baselines(path, data, outer, len(times))
    baselines = stated or [None] * len(times)
    return StackPart(
        *(path, tile or UNNAMED_TILE, tuple(times.tolist()), bands, kinds, tuple(baselines))
    )


def _baselines(
    path: Path, data: xr.Dataset, outer: Mapping[str, Any], n_times: int
) -> list[str | None]:
    """Return the processing baseline of every time, by the file's variables, attributes or name.

    Programs that stack STAC items (stackstac, odc-stac) keep properties of the items as variables
    along the time axis.
    """
    for name in map(str, data.variables):
        if _BASELINE.fullmatch(name) and data[name].size in (1, n_times):
            texts = [_baseline(value) for value in data[name].values.ravel().tolist()]
            return texts if len(texts) == n_times else texts * n_times
    for attributes in (data.attrs, outer):
        for name, value in attributes.items():
            if _BASELINE.fullmatch(name):
                return [_baseline(value)] * n_times
    return [baseline_in(path.stem)] * n_times


def _baseline(value: object) -> str | None:
    """Return a baseline as "04.00"; programs also write 4.0, N0400 and b'04.00'."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    match = re.fullmatch(r"N?(\d\d?)\.?(\d\d?)", text.strip())
    return f"{int(match[1]):02}.{match[2]:0<2}" if match else None


def _block_shape(
    path: Path, variable: xr.DataArray, axes: Axes, shape: tuple[int, int]
) -> tuple[int, int]:
    """Return rows and columns of the blocks that are decoded as a whole."""
    chunks = variable.encoding.get("chunksizes") or variable.encoding.get("chunks")
    check_block(path, chunks or ())
    if not chunks:
        return min(_ROWS_OF_CONTIGUOUS, shape[0]), shape[1]
    rows, cols = (int(chunks[axes.kinds.index(kind)]) for kind in ("y", "x"))
    return min(rows, shape[0]), min(cols, shape[1])


def _encoding(
    variable: xr.DataArray, *, is_netcdf: bool
) -> tuple[Encoding, tuple[float, ...], tuple[float, float] | None]:
    """Return the encoding, the missing values and the valid range from a variable's attributes.

    `fill_value` is an attribute of EOPF; the others are in the CF conventions, 2.5.1 and 8.1, and
    `_Unsigned` in the NetCDF User's Guide, appendix B.
    """
    dtype = _meant_type(variable)
    numbers = {key: _numbers(variable, key, dtype) for key in (*_MISSING, *_LIMITS)}
    missing = [value for key in _MISSING for value in numbers[key]]
    stated = (stated_nodata(value, dtype) for value in missing)
    scale = float(variable.attrs.get("scale_factor", 1))
    offset = float(variable.attrs.get("add_offset", 0))
    encoding = Encoding(
        dtype=dtype,
        scale=scale,
        offset=offset,
        nodata=next((value for value in stated if value is not None), None),
        units=str(variable.attrs.get("units", "")),
    )
    # A NetCDF file has this value wherever nothing was written, if it names no other.
    default = netCDF4.default_fillvals.get(variable.dtype.str[1:])
    if is_netcdf and not numbers["_FillValue"] and default and dtype.itemsize > 1:
        missing.append(_as_meant(np.array(default), variable.dtype, dtype))
    # If the limits have another type than the raw values, they refer to decoded values (CF, 8.1).
    is_decoded = dtype.kind in "iu" and any(
        np.asarray(variable.attrs[key]).dtype.kind == "f"
        for key in _LIMITS
        if key in variable.attrs
    )
    limits = numbers["valid_range"] or [
        *(numbers["valid_min"] or [-np.inf]),
        *(numbers["valid_max"] or [np.inf]),
    ]
    if is_decoded:
        limits = [round((limit - offset) / scale, 6) for limit in limits]
    if len(limits) == 2 and limits[0] > limits[1]:
        raise ValueError(f"its valid range begins at {limits[0]:g} and ends at {limits[1]:g}")
    if len(limits) != 2:
        raise ValueError(f"its valid range has {len(limits)} limits, expected 2")
    valid_range = None if np.isinf(limits).all() else (limits[0], limits[1])
    return encoding, tuple(missing), valid_range


def _meant_type(variable: xr.DataArray) -> np.dtype[Any]:
    """Return the type of a variable's numbers: `_Unsigned` tells that they are stored as others."""
    dtype, unsigned = variable.dtype, str(variable.attrs.get("_Unsigned", "")).lower()
    kind = {"true": "u", "false": "i"}.get(unsigned)
    return np.dtype(f"{kind}{dtype.itemsize}") if kind and dtype.kind in "iu" else dtype


def _numbers(variable: xr.DataArray, key: str, dtype: np.dtype[Any]) -> list[float]:
    """Return the numbers of an attribute, empty if the variable has no such attribute."""
    values = np.ravel(variable.attrs.get(key, ()))
    try:
        return [_as_meant(value, variable.dtype, dtype) for value in values]
    except ValueError as error:
        raise ValueError(f"{key} is {variable.attrs[key]!r}, expected a number") from error


def _as_meant(value: NDArray[Any], stored: np.dtype[Any], dtype: np.dtype[Any]) -> float:
    """Return a raw value, which may be written in the type that is stored, as the type meant."""
    if value.dtype.kind == stored.kind != dtype.kind:
        value = value.astype(stored.newbyteorder("=")).view(dtype)
    return float(value)
