"""Read windows of the arrays of NetCDF and Zarr stacks, from any thread."""

from __future__ import annotations

import json
import os
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geo.imagery.acquisition import Plane

# The HDF5 library below netCDF4 is not safe to use from two threads.
NETCDF_LOCK = threading.Lock()


def is_consolidated(path: Path) -> bool:
    """Tell whether a Zarr store repeats the metadata of all its arrays in one place."""
    root = path / "zarr.json"
    if root.is_file():
        return bool(json.loads(root.read_bytes()).get("consolidated_metadata"))
    return (path / ".zmetadata").is_file()


def chunks_by_place(array: Path, plane: Plane) -> dict[tuple[int, ...], list[Path]]:
    """Group the files of a Zarr array's chunks by their places on the axes that a plane fixes.

    Chunks of nothing but fill values may have no file. `place_of` gives a plane's own place.
    """
    chunks: dict[tuple[int, ...], list[Path]] = {}
    fixed = [axis for axis, place in enumerate(plane.axes) if isinstance(place, int)]
    for folder, _, files in os.walk(array):
        for name in files:
            file = Path(folder, name)
            # 4.0.1 or 4/0/1 in version 2; c/4/0/1 or c.4.0.1 in version 3.
            parts = re.split(r"[./]", file.relative_to(array).as_posix().removeprefix("c"))
            places = [int(part) for part in parts if part.isdecimal()]
            if len(places) == len(plane.axes):
                chunks.setdefault(tuple(places[axis] for axis in fixed), []).append(file)
    return chunks


def place_of(array: Path, plane: Plane) -> tuple[int, ...]:
    """Return the place of a plane among the chunks of its Zarr array, on the axes that it fixes."""
    metadata = array / "zarr.json"
    if metadata.is_file():
        configuration = json.loads(metadata.read_bytes())["chunk_grid"]["configuration"]
        shape = configuration["chunk_shape"]
    else:
        shape = json.loads((array / ".zarray").read_bytes())["chunks"]
    places = zip(plane.axes, shape, strict=True)
    return tuple(place // size for place, size in places if isinstance(place, int))


def read_plane(
    path: Path, plane: Plane, nodata: float | None, rows: slice, cols: slice
) -> NDArray[Any]:
    """Read raw values of a window of a plane, north up.

    Parameters
    ----------
    path
        NetCDF file or Zarr folder.
    plane
        Which array, and where on its axes.
    nodata
        Given in place of values that are missing or out of the valid range.
    rows, cols
        Start and stop of pixels, counted from the north-western corner.

    Returns
    -------
    ndarray of shape (rows, cols)
        In the data type of the file.

    Raises
    ------
    OSError, RuntimeError, ValueError
        If a block is damaged or the file cannot be read.
    """
    if plane.south_up:
        rows = slice(plane.height - rows.stop, plane.height - rows.start)
    window = {"y": rows, "x": cols}
    selection = tuple(item if isinstance(item, int) else window[item] for item in plane.axes)
    values = (_read_zarr if path.is_dir() else _read_netcdf)(path, plane.variable, selection)
    if plane.axes.index("x") < plane.axes.index("y"):
        values = values.T
    if plane.south_up:
        values = values[::-1]
    return _with_one_nodata(values, plane, nodata)


def _read_netcdf(path: Path, variable: str, selection: tuple[int | slice, ...]) -> NDArray[Any]:
    """Read part of a variable as it is stored."""
    import netCDF4

    with NETCDF_LOCK, netCDF4.Dataset(path) as stack:
        stack.set_auto_maskandscale(False)
        return np.asarray(stack[variable][selection])


def _read_zarr(path: Path, variable: str, selection: tuple[int | slice, ...]) -> NDArray[Any]:
    """Read part of an array as it is stored; only the chunks below the selection are decoded."""
    import zarr

    return np.asarray(zarr.open_array(path, path=variable, mode="r")[selection])


def _with_one_nodata(values: NDArray[Any], plane: Plane, nodata: float | None) -> NDArray[Any]:
    """Replace every value that is not data by the one value that says so."""
    unknown = np.isin(values, plane.missing)
    if plane.valid_range is not None:
        least, greatest = plane.valid_range
        unknown |= (values < least) | (values > greatest)
    if nodata is None or not unknown.any():
        return values
    return np.where(unknown, nodata, values).astype(values.dtype)
