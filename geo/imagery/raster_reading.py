"""Read headers and windows of raster bands; windows from any thread."""

from __future__ import annotations

import math
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from geo.errors import InputError
from geo.grid import Grid
from geo.imagery.acquisition import Band, Plane, is_address, local_file
from geo.imagery.array_reading import BLOCK_ERRORS, read_plane

# Every block is read once, so GDAL's cache needs to hold only the blocks of the current windows.
# GDAL's default is 5 % of the memory. GDAL reads this variable at its first read; a value that the
# user has set is kept.
os.environ.setdefault("GDAL_CACHEMAX", "64")  # MB
# GDAL itself never opens an address: side-car files and tags could name one. `remote` reads
# addresses.
os.environ["CPL_VSIL_CURL_ALLOWED_FILENAME"] = "none"

# A file without a place on the ground is refused by name (see `_grid`).
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)

# The caller starts the threads, so GDAL is to start none.
_GDAL = {"GDAL_NUM_THREADS": "1"}
# JPEG 2000 and products in archives have no side-car files. To look for them, GDAL would list the
# folder at every opening.
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
            with open_raster(source, driver_of(source), **_GDAL) as raster:
                _check_overviews(source, raster)
                yield raster
            return
        in_archive = str(local_file(source)) != source
        options = {**_GDAL, **(_NO_SIDECARS if is_jp2(source) or in_archive else {})}
        with rasterio.Env(**options):
            with self._lock:
                idle = self._idle.setdefault(source, [])
                raster = idle.pop() if idle else None
            raster = raster or _open(source)
            try:
                yield raster
            except BaseException:
                raster.close()
                raise
            idle.append(raster)


def is_jp2(source: str) -> bool:
    """Return whether a source is JPEG 2000, by its name."""
    name = source.partition("?")[0] if is_address(source) else source
    return name.lower().endswith(".jp2")


def driver_of(source: str) -> str:
    """Return the only driver of GDAL that may open a source.

    Others, such as VRT and WMS, open further files and addresses, which their files name.
    """
    return "JP2OpenJPEG" if is_jp2(source) else "GTiff"


def _open(source: str) -> Any:
    """Open a local raster, or a member of an archive.

    Raises
    ------
    InputError
        If the file has another format, or names files from which GDAL would read overviews.
    OSError, RasterioError
        If there is no such file, or it is damaged.
    """
    file = local_file(source)
    # GDAL would also take a name for a connection, or for the content of a file.
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not a file")
    driver = driver_of(source)
    if str(file) == source:
        _check_format(file, driver)
        if driver == "GTiff":
            for side_car in (".ovr", ".msk"):
                beside = file.with_name(file.name + side_car)
                if beside.exists():
                    _check_format(beside, driver)
    raster = rasterio.open(source, driver=driver, sharing=False)
    _check_overviews(source, raster)
    return raster


# First bytes of TIFF and BigTIFF, and of JPEG 2000 as a file and as a bare codestream.
_BEGINNINGS = {
    "GTiff": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "JP2OpenJPEG": (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
}
_FORMATS = {"GTiff": "GeoTIFF", "JP2OpenJPEG": "JPEG 2000"}


def _check_format(file: Path, driver: str) -> None:
    """Check by its first bytes that a file has the format of a driver; an empty file is damaged."""
    with file.open("rb") as content:
        begin = content.read(12)
    if begin and not begin.startswith(_BEGINNINGS[driver]):
        raise InputError(
            f"{file} cannot be opened as {_FORMATS[driver]}: it begins with {begin!r}. Download it "
            "again. Other formats, such as VRT, can name further files and addresses and are not "
            "opened: write the pixels into a GeoTIFF with gdal_translate."
        )


def _check_overviews(source: str, raster: Any) -> None:
    """Check that no tag names another file, from which GDAL would read overviews."""
    named = raster.tags(ns="OVERVIEWS").get("OVERVIEW_FILE")
    if named is not None:
        raise InputError(
            f"{source} takes its overviews from {named} (OVERVIEW_FILE in its tags or its "
            ".aux.xml), which is not opened: remove the tag, or write the file again with "
            "gdal_translate."
        )


# Values of a block. A whole Sentinel-2 band of 10980 x 10980 pixels has a quarter of it.
LARGEST_BLOCK = 2**29

# Larger bands are read at reduced resolution, at about this number of pixels along each axis.
_REDUCED = 700
# Windows along each axis by which a band is represented that cannot be read at reduced resolution.
_WINDOWS = 5
_EDGE = 3
# Points that are further apart, in pixels, are read in separate windows.
_WINDOW_GAP = 50

_DAMAGED = "The file is damaged or incomplete: download or copy it again."


@dataclass(frozen=True)
class RasterHeader:
    """The metadata of a raster file; tuples have one item for each layer.

    `alphas` tells which layers are alpha bands.
    """

    grid: Grid
    block_shapes: tuple[tuple[int, int], ...]
    dtypes: tuple[str, ...]
    descriptions: tuple[str, ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    nodata: tuple[float | None, ...]
    alphas: tuple[bool, ...]
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
    is_local = str(local_file(source)) == source and not is_address(source)
    try:
        with OpenRasters() as rasters, rasters.use(source) as raster:
            grid = _grid(source, raster)
            alphas = _alpha_layers(raster)
            end = _end_of_tiff_blocks(raster) if raster.driver == "GTiff" else 0
            header = RasterHeader(
                grid=grid,
                block_shapes=tuple(raster.block_shapes),
                dtypes=tuple(raster.dtypes),
                descriptions=tuple(text or "" for text in raster.descriptions),
                scales=tuple(raster.scales),
                offsets=tuple(raster.offsets),
                nodata=tuple(raster.nodatavals),
                alphas=tuple(layer in alphas for layer in raster.indexes),
                baseline=raster.tags().get("PROCESSING_BASELINE"),
            )
    except (RasterioError, OSError) as error:
        raise InputError(f"{source} cannot be opened ({error}). {_DAMAGED}") from error
    for shape in header.block_shapes:
        check_block(source, shape)
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
        except (RasterioError, *BLOCK_ERRORS) as error:
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
        return _read_layers(raster, bands, layers, window=Window.from_slices(*window))


def _read_layers(
    raster: Any, bands: Sequence[Band], layers: Sequence[int], **how: Any
) -> list[NDArray[Any]]:
    """Read layers of an open raster; pixels that the file itself masks get the nodata value.

    Parameters
    ----------
    raster, bands, layers
        The raster, and its bands with the number of each one's layer.
    how
        Options of rasterio's `read`: window or out_shape.
    """
    values = list(raster.read(layers, **how))
    visible = _visible(raster, layers[0], **how)
    if visible is None or visible.all():
        return values
    return [
        raw
        if band.nodata is None
        else np.where(visible, raw, raw.dtype.type(band.nodata)).astype(raw.dtype)
        for band, raw in zip(bands, values, strict=True)
    ]


def _visible(raster: Any, layer: int, **how: Any) -> NDArray[np.bool_] | None:
    """Return where the own masks of a GeoTIFF show pixels, None if it has none.

    These are an internal mask or a .msk file, and alpha bands. GDAL applies an alpha band only if
    there is no nodata value, so it is read here. JPEG 2000 of Sentinel-2 has no such masks.
    """
    if raster.driver != "GTiff":
        return None
    masks = [raster.read(i, **how) for i in _alpha_layers(raster) if i != layer]
    flags = raster.mask_flag_enums[layer - 1]
    if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
        masks.append(raster.read_masks(layer, **how))
    return np.all([mask != 0 for mask in masks], axis=0) if masks else None


def _alpha_layers(raster: Any) -> list[int]:
    """Return the numbers of the layers that are alpha bands.

    GDAL takes the fourth layer of a file for alpha if the first three are red, green and blue. If
    it is described as something else, it is not.
    """
    layers = enumerate(zip(raster.colorinterp, raster.descriptions, strict=True), 1)
    return [
        layer
        for layer, (colour, text) in layers
        if colour == ColorInterp.alpha and (text or "alpha").lower().startswith("alpha")
    ]


def check_block(source: str | Path, shape: Sequence[int]) -> None:
    """Check that a block, which is decoded as a whole, has at most `LARGEST_BLOCK` values."""
    if math.prod(shape) > LARGEST_BLOCK:
        raise InputError(
            f"{source} has blocks of {' x '.join(map(str, shape))} values, and every block is "
            f"decoded as a whole: at most {LARGEST_BLOCK:,} values are read. Write it again in "
            "smaller blocks (gdal_translate -co TILED=YES, or chunks of xarray)."
        )


def block_shape(band: Band) -> tuple[int, int]:
    """Return rows and columns of the blocks of a band, which are decoded as a whole.

    The file is opened if the band does not state them.

    Raises
    ------
    InputError
        If the file is opened and does not have the band's grid or layer.
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
    if band.layer > len(header.block_shapes):
        raise InputError(
            f"{band.source} has {len(header.block_shapes)} layers, but {band.name} is layer "
            f"{band.layer} by its catalogue: leave the item out."
        )
    return header.block_shapes[band.layer - 1]


def is_read_in_windows(band: Band) -> bool:
    """Return whether a band cannot be read at reduced resolution without reading all of it.

    A stack has no coarser levels, and a remote JPEG 2000 would be downloaded as a whole.
    """
    return isinstance(band.layer, Plane) or (band.is_remote and is_jp2(band.source))


def read_coarse(band: Band, side: int) -> NDArray[Any]:
    """Read the raw values of about `side` x `side` pixels that represent the whole band.

    A raster is read at reduced resolution, so that little is decoded: JPEG 2000 contains coarser
    levels, and a Cloud Optimized GeoTIFF contains overviews. A stack has neither, and a remote
    JPEG 2000 would have to be downloaded as a whole. Both are read in windows that are spread
    evenly over the band.

    Returns
    -------
    ndarray of shape (windows, rows, cols)
        In the data type of the file; a raster and a small band have one window.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    height, width = band.grid.shape
    if max(height, width) <= side:
        return read_window(band, slice(None), slice(None))[np.newaxis]
    if is_read_in_windows(band):
        rows, cols = (_spread(length, side // _WINDOWS) for length in (height, width))
        return np.stack([read_window(band, row, col) for row in rows for col in cols])
    return _read_reduced(band, slice(0, height), slice(0, width), side)[np.newaxis]


def _spread(length: int, size: int) -> list[slice]:
    """Return slices of one size that are spread evenly over a length."""
    size = min(size, length)
    starts = np.linspace(0, length - size, _WINDOWS).astype(int)
    return [slice(start, start + size) for start in starts.tolist()]


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
            raw = _read_reduced(band, *window, _REDUCED)
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


def _read_reduced(band: Band, rows: slice, cols: slice, side: int) -> NDArray[Any]:
    """Read a window, at reduced resolution if it is large."""
    shape = rows.stop - rows.start, cols.stop - cols.start
    if max(shape) <= side or is_read_in_windows(band):
        return read_window(band, rows, cols)
    try:
        with OpenRasters() as rasters, rasters.use(band.source) as raster:
            (values,) = _read_layers(
                raster,
                [band],
                [band.layer],  # type: ignore[list-item]  # a stack is read in windows
                window=Window.from_slices(rows, cols),
                out_shape=tuple(min(size, side) for size in shape),
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
    if raster.transform.is_identity:
        points = "only ground control points" if raster.gcps[0] else "none"
        raise InputError(
            f"{source} has no place on the ground: expected the corner and the size of its pixels "
            f"(a geotransform), found {points}. Warp it (gdalwarp), or assign its corners "
            "(gdal_edit.py -a_ullr)."
        )
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
