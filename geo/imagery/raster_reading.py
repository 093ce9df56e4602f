"""Read headers and windows of raster bands; windows from any thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window

from geo.errors import InputError
from geo.grid import Grid
from geo.imagery.acquisition import Band, Plane, is_address
from geo.imagery.array_reading import read_plane

# Every block is read once, so GDAL's cache needs to hold only the blocks of the current windows.
# GDAL's default is 5 % of the memory. GDAL reads this variable at its first read; a value that the
# user has set is kept.
os.environ.setdefault("GDAL_CACHEMAX", "64")  # MB

# The caller starts the threads, so GDAL is to start none.
_GDAL = {"GDAL_NUM_THREADS": "1"}
# JPEG 2000 has no side-car files. To look for them, GDAL would list the folder at every opening.
_NO_SIDECARS = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}


class OpenRasters:
    """Open files that are kept from one window to the next; all are closed at the end.

    To open a file for every window would cost as much as to decode a small window. In GDAL, only
    one thread at a time may use an open file, so every thread gets a separate one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[str, list[Any]] = {}

    def __enter__(self) -> OpenRasters:
        return self

    def __exit__(self, *_: object) -> None:
        for rasters in self._idle.values():
            for raster in rasters:
                raster.close()

    @contextmanager
    def use(self, source: str) -> Iterator[Any]:
        """Yield an open raster to this thread; it stays open for others, unless reading fails."""
        if is_address(source):
            from geo.imagery.remote import open_raster  # not needed for local files

            # Closing it checks that everything that was read is complete.
            with open_raster(source, **_GDAL) as raster:
                yield raster
            return
        options = {**_GDAL, **(_NO_SIDECARS if is_jp2(source) else {})}
        with rasterio.Env(**options):
            with self._lock:
                idle = self._idle.setdefault(source, [])
                raster = idle.pop() if idle else None
            raster = raster or rasterio.open(source, sharing=False)
            try:
                yield raster
            except BaseException:
                raster.close()
                raise
            idle.append(raster)


def is_jp2(source: str) -> bool:
    """Return whether a source is JPEG 2000, by its name."""
    return source.lower().endswith(".jp2")


# Prefix of GDAL's virtual file systems, https://gdal.org/user/virtual_file_systems.html
_VIRTUAL = "/vsi"

# Larger bands are read at reduced resolution, at about this number of pixels along each axis.
_REDUCED = 700
_EDGE = 3
# Points that are further apart, in pixels, are read in separate windows.
_WINDOW_GAP = 50

_DAMAGED = "The file is damaged or incomplete: download or copy it again."


@dataclass(frozen=True)
class RasterHeader:
    """The metadata of a raster file; tuples have one item for each band."""

    grid: Grid
    block_shapes: tuple[tuple[int, int], ...]
    dtypes: tuple[str, ...]
    descriptions: tuple[str, ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    nodata: tuple[float | None, ...]
    # Processing baseline, which GDAL copies from SAFE products into the metadata of other files.
    baseline: str | None = None


def read_header(source: str | Path, size: int | None = None) -> RasterHeader:
    """Read the header of a GeoTIFF or JPEG 2000 file, and check that the file is complete.

    Parameters
    ----------
    source
        Local file, member of an archive (/vsizip/...), or address.
    size
        Bytes of a member of an archive or of a remote file, None if unknown.

    Raises
    ------
    InputError
        If the file cannot be opened, is truncated, or has no coordinate system.
    """
    source = str(source)
    is_local = not (source.startswith(_VIRTUAL) or is_address(source))
    try:
        with OpenRasters() as rasters, rasters.use(source) as raster:
            grid = _grid(source, raster)
            end = _end_of_tiff_blocks(raster) if raster.driver == "GTiff" else 0
            header = RasterHeader(
                grid=grid,
                block_shapes=tuple(raster.block_shapes),
                dtypes=tuple(raster.dtypes),
                descriptions=tuple(text or "" for text in raster.descriptions),
                scales=tuple(raster.scales),
                offsets=tuple(raster.offsets),
                nodata=tuple(raster.nodatavals),
                baseline=raster.tags().get("PROCESSING_BASELINE"),
            )
    except (RasterioError, OSError) as error:
        raise InputError(f"{source} cannot be opened ({error}). {_DAMAGED}") from error
    if is_local:
        size = Path(source).stat().st_size
    if size is not None and end > size:
        raise InputError(f"{source} ends at byte {size}, its pixels at byte {end}. {_DAMAGED}")
    if is_local and size is not None and is_jp2(source):
        _check_complete_jp2(Path(source), size)
    return header


def read_window(band: Band, rows: slice, cols: slice) -> NDArray[Any]:
    """Read the raw values of a window of one band; see `read_windows`."""
    with OpenRasters() as rasters:
        (values,) = read_windows([band], rows, cols, rasters)
    return values


def read_windows(
    bands: Sequence[Band], rows: slice, cols: slice, rasters: OpenRasters
) -> list[NDArray[Any]]:
    """Read the raw values of a window of several bands; can be called from several threads.

    Successive bands of one file are read in one call: if the file stores them interleaved, GDAL
    decodes each block once.

    Parameters
    ----------
    bands
        Bands on one grid.
    rows, cols
        Slices of the bands' grid, with step 1.
    rasters
        Files that stay open from one window to the next.

    Returns
    -------
    list of ndarray of shape (rows, cols)
        One array for each band, in the data type of its file, without scale and offset.

    Raises
    ------
    InputError
        If a file cannot be read.
    """
    top, bottom, _ = rows.indices(bands[0].grid.height)
    left, right, _ = cols.indices(bands[0].grid.width)
    window = slice(top, bottom), slice(left, right)
    found: list[NDArray[Any]] = []
    for source, group in groupby(bands, key=lambda band: band.source):
        in_source = list(group)
        names = " ".join(band.name for band in in_source)
        try:
            found += _read(source, in_source, window, rasters)
        except InputError as error:  # of a remote file, with its own remedy
            raise InputError(f"Band {names}: {error}") from error
        except (RasterioError, OSError, RuntimeError, ValueError) as error:
            raise InputError(
                f"Band {names} of {source} cannot be read at rows {top}-{bottom}, columns "
                f"{left}-{right} ({error}). {_DAMAGED}"
            ) from error
    return found


def _read(
    source: str, bands: Sequence[Band], window: tuple[slice, slice], rasters: OpenRasters
) -> list[NDArray[Any]]:
    """Read a window of bands of one file."""
    layers = [band.layer for band in bands if isinstance(band.layer, int)]
    if not layers:
        return [
            read_plane(Path(source), band.layer, band.nodata, *window)
            for band in bands
            if isinstance(band.layer, Plane)
        ]
    with rasters.use(source) as raster:
        return list(raster.read(layers, window=Window.from_slices(*window)))


def has_data(band: Band, raw: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which raw values of a band are data: neither its nodata value nor NaN."""
    with_data = np.ones(raw.shape, bool) if band.nodata is None else raw != band.nodata
    if raw.dtype.kind == "f":
        with_data &= np.isfinite(raw)
    return with_data


def block_shape(band: Band) -> tuple[int, int]:
    """Return rows and columns of the blocks of a band, which are decoded as a whole.

    The file is opened if the band does not state them.

    Raises
    ------
    InputError
        If the file is opened and does not have the band's grid.
    """
    if band.block_shape is not None:
        return band.block_shape
    header = read_header(band.source)
    if not header.grid.matches(band.grid):
        raise InputError(
            f"{band.source} has the grid {header.grid}, but its catalogue states {band.grid}: "
            "leave the item out."
        )
    assert isinstance(band.layer, int)  # noqa: S101 (bands of stacks state their blocks)
    return header.block_shapes[band.layer - 1]


def is_read_in_windows(band: Band) -> bool:
    """Return whether a band cannot be read at reduced resolution without reading all of it.

    A stack has no coarser levels, and a remote JPEG 2000 would be downloaded as a whole.
    """
    return isinstance(band.layer, Plane) or (band.is_remote and is_jp2(band.source))


def read_points(
    band: Band,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    usable: Callable[[NDArray[Any]], NDArray[np.bool_]],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Read the raw values of a band at the points of a lattice, decoding as little as possible.

    A large raster is read at reduced resolution: JPEG 2000 contains coarser levels, and a Cloud
    Optimized GeoTIFF contains overviews. Other bands are read in windows around points that are
    near each other.

    Parameters
    ----------
    band
        Band or mask.
    x, y
        Coordinates of the lattice, (N,) from west to east and (M,) from north to south.
    usable
        Function that returns which raw values of a window can be used.

    Returns
    -------
    tuple of ndarray (M x N,)
        Raw values, and which of them are usable. Pixels within `_EDGE` pixels of others that are
        not usable are not, either: at reduced resolution they are mixed with them, and beside
        clouds they are hazy. Points outside the band are not usable.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    grid = band.grid
    rows = np.floor((grid.y_max - y) / grid.pixel_height).astype(int)
    cols = np.floor((x - grid.x_min) / grid.pixel_width).astype(int)
    values = np.zeros((len(y), len(x)))
    is_usable = np.zeros(values.shape, bool)
    max_gap = _WINDOW_GAP if is_read_in_windows(band) else max(grid.shape)
    for down in _runs(rows, grid.height, max_gap):
        for right in _runs(cols, grid.width, max_gap):
            window = (
                slice(rows[down[0]], rows[down[-1]] + 1),
                slice(cols[right[0]], cols[right[-1]] + 1),
            )
            raw = _read_reduced(band, *window)
            good = _inside(usable(raw))
            at = np.ix_(
                _scaled(rows[down], window[0], raw.shape[0]),
                _scaled(cols[right], window[1], raw.shape[1]),
            )
            place = np.ix_(down, right)
            values[place], is_usable[place] = raw[at], good[at]
    return values.ravel(), is_usable.ravel()


def _runs(at: NDArray[np.int_], size: int, max_gap: int) -> list[NDArray[np.int_]]:
    """Return the positions of sorted pixel numbers in runs without a gap, those outside apart."""
    inside = np.flatnonzero((at >= 0) & (at < size))
    if not inside.size:
        return []
    return np.split(inside, np.flatnonzero(np.diff(at[inside]) > max_gap) + 1)


def _scaled(at: NDArray[np.int_], window: slice, size: int) -> NDArray[np.int_]:
    """Return pixel numbers of a band as those of its window that was reduced to a size."""
    return np.asarray((at - window.start) * size // (window.stop - window.start))


def _read_reduced(band: Band, rows: slice, cols: slice) -> NDArray[Any]:
    """Read a window, at reduced resolution if it is large."""
    shape = rows.stop - rows.start, cols.stop - cols.start
    if max(shape) <= _REDUCED or is_read_in_windows(band):
        return read_window(band, rows, cols)
    try:
        with OpenRasters() as rasters, rasters.use(band.source) as raster:
            values: NDArray[Any] = raster.read(
                band.layer,
                window=Window.from_slices(rows, cols),
                out_shape=tuple(min(size, _REDUCED) for size in shape),
            )
            return values
    except (RasterioError, OSError) as error:
        raise InputError(
            f"Band {band.name} of {band.source} cannot be read ({error}). {_DAMAGED}"
        ) from error


def _inside(good: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels around which all pixels within `_EDGE` are good."""
    if good.all():
        return good
    from scipy import ndimage  # slow to import, and rarely needed

    around = np.ones((2 * _EDGE + 1, 2 * _EDGE + 1), bool)
    inner: NDArray[np.bool_] = ndimage.binary_erosion(good, around, border_value=1)
    return inner


def crs_text(crs: Any) -> str:
    """Return a coordinate system (of rasterio or pyproj) as EPSG code, or as WKT if it has none."""
    epsg = crs.to_epsg()
    return f"EPSG:{epsg}" if epsg else str(crs.to_wkt())


def _grid(source: str, raster: Any) -> Grid:
    """Return the grid of an open raster."""
    if raster.crs is None:
        raise InputError(f"{source} has no coordinate system: assign one (gdal_edit -a_srs).")
    try:
        return Grid.from_transform(crs_text(raster.crs), raster.transform, *raster.shape)
    except ValueError as error:
        raise InputError(f"{source}: {error}") from error


def _end_of_tiff_blocks(raster: Any) -> int:
    """Return the byte after the last block of all bands, as writers store blocks in order.

    A truncated TIFF can be opened without an error, because its directory is at its start.
    """
    end = 0
    for band in range(1, raster.count + 1):
        block_height, block_width = raster.block_shapes[band - 1]
        last = f"{(raster.width - 1) // block_width}_{(raster.height - 1) // block_height}"
        offset = raster.get_tag_item(f"BLOCK_OFFSET_{last}", "TIFF", bidx=band)
        size = raster.get_tag_item(f"BLOCK_SIZE_{last}", "TIFF", bidx=band)
        if offset and size:  # blocks of a sparse file may not be stored
            end = max(end, int(offset) + int(size))
    return end


def _check_complete_jp2(path: Path, size: int) -> None:
    """Check that the codestream of a JP2 file is complete.

    The boxes of ISO/IEC 15444-1 are followed to the codestream (annex I.4: a box has a length and
    a type; length 1 means that a long length follows, 0 means to the end of the file). The
    codestream ends with the marker FFD9 (annex A.4.4). GDAL opens a truncated file without an
    error, and fails when it decodes the missing part.
    """
    with path.open("rb") as file:
        start = 0
        while start + 8 <= size:
            length, kind = _read_box(file, start)
            end = size if length == 0 else start + length
            if kind == b"jp2c":
                file.seek(max(min(end, size) - 2, 0))
                if end > size or file.read(2) != b"\xff\xd9":
                    missing = f" of {end}" if end > size else ""
                    raise InputError(
                        f"{path} ends at byte {size}{missing}, before its image does. {_DAMAGED}"
                    )
                return
            if length < 8 and length != 0:
                break
            start = end
    raise InputError(f"{path} contains no JPEG 2000 codestream. {_DAMAGED}")


def _read_box(file: BinaryIO, start: int) -> tuple[int, bytes]:
    """Read length and type of the JP2 box that starts at a byte."""
    file.seek(start, os.SEEK_SET)
    head = file.read(16)
    length = int.from_bytes(head[:4], "big")
    return (int.from_bytes(head[8:16], "big") if length == 1 else length), head[4:8]
