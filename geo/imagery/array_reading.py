"""Read windows of the arrays of NetCDF and Zarr stacks; safe to call from several threads."""

from __future__ import annotations

import json
import lzma
import os
import re
import threading
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geo.errors import reading
from geo.imagery.acquisition import Acquisition, Band, Plane

# The HDF5 library that netCDF4 uses is not thread-safe.
NETCDF_LOCK = threading.Lock()

# Errors of the libraries for a damaged block or the damaged metadata of an array. Codecs of Zarr
# raise SystemError if a size in the block is negative, and MemoryError if it is too large.
BLOCK_ERRORS = (
    *(OSError, RuntimeError, ValueError, LookupError, TypeError),
    *(SystemError, MemoryError, EOFError, ZeroDivisionError, zlib.error, lzma.LZMAError),
)


def is_consolidated(path: Path) -> bool:
    """Return whether a Zarr store repeats the metadata of all its arrays in one file."""
    root = path / "zarr.json"
    if root.is_file():
        return bool(json.loads(root.read_bytes()).get("consolidated_metadata"))
    return (path / ".zmetadata").is_file()


class ChunkFiles:
    """The chunk files of Zarr arrays; the files of an array are listed once."""

    def __init__(self) -> None:
        self._arrays: dict[Path, dict[tuple[int, ...], list[Path]]] = {}

    def of(self, store: Path, plane: Plane) -> list[Path]:
        """Return the files of the chunks of a plane.

        A chunk that only contains fill values may have no file.
        """
        array = store / plane.variable
        if array not in self._arrays:
            self._arrays[array] = _chunks_by_place(array, plane)
        return self._arrays[array].get(_place_of(array, plane), [])


def lost_chunks(acquisition: Acquisition, files: ChunkFiles) -> str | None:
    """Return which band of a Zarr stack has lost chunks, None if none certainly has.

    Zarr writes no file for a chunk without data. But a band without any file has lost them if
    another band on its grid has some at that time, and so has a band that lacks a chunk which
    another band has, amid chunks with data. At the edge of the data, a sliver may reach into the
    chunk in one band only.
    """
    layouts: dict[object, dict[Band, set[tuple[int, int]]]] = {}
    for band in acquisition.bands.values():
        store = Path(band.source)
        if isinstance(band.layer, Plane) and store.is_dir():
            array, axes = store / band.layer.variable, band.layer.axes
            places = (_places(array, file) for file in files.of(store, band.layer))
            own = {(place[axes.index("y")], place[axes.index("x")]) for place in places}
            layouts.setdefault((band.grid, band.block_shape), {})[band] = own
    for bands in layouts.values():
        everywhere = set().union(*bands.values())
        for band, own in bands.items():
            lost = {at for at in everywhere - own if not own or _surrounding(*at) <= own}
            if lost:
                assert isinstance(band.layer, Plane)  # noqa: S101 (see above)
                return (
                    f"{Path(band.source) / band.layer.variable} has lost {len(lost)} of the "
                    f"{len(everywhere)} chunks of {acquisition.id}, of which other bands have "
                    "files: download or copy it again."
                )
    return None


def _surrounding(row: int, col: int) -> set[tuple[int, int]]:
    """Return the places of the eight chunks around a chunk."""
    around = {(row + down, col + right) for down in (-1, 0, 1) for right in (-1, 0, 1)}
    return around - {(row, col)}


def _chunks_by_place(array: Path, plane: Plane) -> dict[tuple[int, ...], list[Path]]:
    """Group the chunk files of a Zarr array by their chunk numbers on the axes that a plane fixes.

    `_place_of` returns the chunk numbers of a plane.
    """
    chunks: dict[tuple[int, ...], list[Path]] = {}
    fixed = [axis for axis, place in enumerate(plane.axes) if isinstance(place, int)]
    for folder, _, files in os.walk(array):
        for name in files:
            file = Path(folder, name)
            places = _places(array, file)
            if len(places) == len(plane.axes):
                chunks.setdefault(tuple(places[axis] for axis in fixed), []).append(file)
    return chunks


def _places(array: Path, chunk: Path) -> list[int]:
    """Return the numbers of a chunk on the axes of its array."""
    # Zarr version 2 names a chunk 4.0.1 or 4/0/1, version 3 names it c/4/0/1 or c.4.0.1.
    parts = re.split(r"[./]", chunk.relative_to(array).as_posix().removeprefix("c"))
    return [int(part) for part in parts if part.isdecimal()]


def _place_of(array: Path, plane: Plane) -> tuple[int, ...]:
    """Return the chunk numbers of a plane on the axes that it fixes."""
    metadata = array / "zarr.json"
    with reading(array, "an array of Zarr", "Download or copy it again."):
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
    """Read the raw values of a window of a plane, north up.

    Parameters
    ----------
    path
        NetCDF file or Zarr folder.
    plane
        The array and the position on its axes.
    nodata
        Replaces values that are missing or outside the valid range; None: they stay.
    rows, cols
        Start and stop of the window, in pixels from the north-western corner.

    Returns
    -------
    ndarray of shape (rows, cols)
        Values in the data type of the file, or in that of the plane, in the order of bytes of this
        machine.

    Raises
    ------
    one of BLOCK_ERRORS
        If a block is damaged or the file cannot be read.
    """
    if plane.south_up:
        rows = slice(plane.height - rows.stop, plane.height - rows.start)
    window = {"y": rows, "x": cols}
    selection = tuple(item if isinstance(item, int) else window[item] for item in plane.axes)
    values = (_read_zarr if path.is_dir() else _read_netcdf)(path, plane.variable, selection)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if plane.read_as is not None:
        values = values.view(plane.read_as)
    if plane.axes.index("x") < plane.axes.index("y"):
        values = values.T
    if plane.south_up:
        values = values[::-1]
    return _replace_nodata(values, plane, nodata)


def _read_netcdf(path: Path, variable: str, selection: tuple[int | slice, ...]) -> NDArray[Any]:
    """Read part of a variable without decoding its scale, offset and fill value."""
    import netCDF4

    with NETCDF_LOCK, netCDF4.Dataset(path) as stack:
        stack.set_auto_maskandscale(False)
        return np.asarray(stack[variable][selection])


def _read_zarr(path: Path, variable: str, selection: tuple[int | slice, ...]) -> NDArray[Any]:
    """Read part of an array without decoding its scale, offset and fill value."""
    import zarr

    store = _whole_chunks()(path, read_only=True)
    array = zarr.open_array(store, path=variable, mode="r")
    store.is_blosc = "blosc" in str(array.compressors[-1:]).lower()
    return np.asarray(array[selection])


@lru_cache(maxsize=1)
def _whole_chunks() -> Any:
    """Return a store of Zarr that refuses chunks of Blosc that were cut.

    Blosc itself does not compare the length in the header of a chunk with its content. It then
    decodes whatever is in the memory behind it.
    """
    from zarr.storage import LocalStore

    class WholeChunks(LocalStore):
        is_blosc = False

        async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
            found = await super().get(key, prototype, byte_range)
            if self.is_blosc and byte_range is None and found is not None:
                # The last of the four numbers of a header is the length of the chunk.
                length = int.from_bytes(found[12:16].to_bytes(), "little")
                if length > len(found):
                    raise ValueError(f"chunk {key} has {len(found)} bytes instead of {length}")
            return found

    return WholeChunks


def _replace_nodata(values: NDArray[Any], plane: Plane, nodata: float | None) -> NDArray[Any]:
    """Replace all values that mean nodata by the band's nodata value."""
    is_nodata = np.isin(values, plane.missing)
    if plane.valid_range is not None:
        least, greatest = plane.valid_range
        is_nodata |= (values < least) | (values > greatest)
    if nodata is None or not is_nodata.any():
        return values
    return np.where(is_nodata, nodata, values).astype(values.dtype)
