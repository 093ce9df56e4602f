"""Read a few pixels of a tiled JPEG 2000 file, decoding only the parts of its tiles around them.

GDAL decodes a tile (1024 x 1024 pixels in Sentinel-2) as a whole. A tile consists of code-blocks of
at most 64 x 64 wavelet coefficients, which are decoded one by one and take nearly all of the time.
Few pixels need few of them. Here each tile is given to OpenJPEG as an image of its own, so that
several windows of it are decoded together.

Markers, segments and their parameters are those of ISO/IEC 15444-1, annex A; boxes annex I.4.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from geo.imagery.openjpeg import Box, decode, openjpeg

Ints = NDArray[np.int64]

# Sentinel-2 has code-blocks of 64 x 64 coefficients, the largest that the standard allows, and four
# levels of them. Those of the finest level are at half of the resolution of the image: each covers
# a cell of 128 x 128 pixels.
_BLOCK, _LEVELS = 64, 4
_CELL = 2 * _BLOCK
# If more of the cells contain needed pixels, whole tiles are decoded. Measured with parcels of 6 to
# 40 pixels a side: both take equally long at 0.55 to 0.65, and at 0.5 parts take 0.7 to 0.85 of the
# time (`make bench BENCH=extraction_sparse` measures whole products).
_MOST_CELLS = 0.5
# About this number of pixels is enough to see how many cells contain any.
_SAMPLE = 10_000
# Windows are merged if they fill at least this part of the box around them.
_FILLED = 0.5
# GDAL itself decodes windows of larger tiles, if the image is one tile.
_LARGEST_SIDE = 2048
# Files of Sentinel-2 have at most a few hundred.
_MOST_PARTS = 2**16

_SOC, _SIZ, _COD, _QCD, _QCC = 0xFF4F, 0xFF51, 0xFF52, 0xFF5C, 0xFF5D
_SOT, _SOD, _EOC = 0xFF90, 0xFF93, 0xFFD9
# Comments, and lengths of tile-parts and packets, by which they are found without a search.
_COM, _TLM, _PLM, _PLT = 0xFF64, 0xFF55, 0xFF57, 0xFF58
# All other segments are left to GDAL.
_IN_MAIN_HEADER, _IGNORED_IN_MAIN_HEADER = {_COD, _QCD, _QCC}, {_COM, _TLM, _PLM}
_IN_TILE_HEADER = {_QCD, _QCC, _COM, _PLT}


class _OtherError(Exception):
    """The codestream is damaged, or has a form that is left to GDAL."""


@dataclass(frozen=True)
class _Tiling:
    """Rows and columns of an image, and of its tiles."""

    shape: tuple[int, int]
    tile_shape: tuple[int, int]

    @property
    def tiles_across(self) -> int:
        """Number of tiles side by side."""
        return -(-self.shape[1] // self.tile_shape[1])

    def extent(self, tile: int) -> Box:
        """Return the rows and columns of a tile."""
        (height, width), (rows, cols) = self.shape, self.tile_shape
        top, left = tile // self.tiles_across * rows, tile % self.tiles_across * cols
        return top, min(top + rows, height), left, min(left + cols, width)


@dataclass(frozen=True)
class _Codestream:
    """What the main header of a codestream says, and where its tiles are in the file.

    Parameters
    ----------
    tiling
        The tiles.
    dtype
        Data type in which GDAL reads the image.
    sizes
        Content of the segment SIZ.
    header
        The segments after it that are needed to decode a tile.
    parts
        First byte and length of the parts of every tile.
    """

    tiling: _Tiling
    dtype: np.dtype[Any]
    sizes: bytes
    header: bytes
    parts: dict[int, list[tuple[int, int]]]

    def read_tile(self, file: BinaryIO, tile: int) -> bytes:
        """Return a tile as the codestream of an image of its own, in the same coordinates."""
        top, bottom, left, right = self.tiling.extent(tile)
        rows, cols = self.tiling.tile_shape
        area = struct.pack(">8I", right, bottom, left, top, cols, rows, left, top)
        sizes = self.sizes[:2] + area + self.sizes[34:]
        pieces: list[bytes | memoryview]
        pieces = [struct.pack(">H", _SOC), _segment(_SIZ, sizes), self.header]
        for start, length in self.parts.get(tile, []):
            file.seek(start)
            part = file.read(length)
            _check_tile_part(part, length)
            pieces += [part[:4], b"\0\0", memoryview(part)[6:]]  # the tile's number is 0 now
        return b"".join([*pieces, struct.pack(">H", _EOC)])


def read_needed(
    path: Path, shape: tuple[int, int], rows: slice, cols: slice, needed: Ints
) -> NDArray[Any] | None:
    """Read the needed pixels of a window, if that takes less time than to decode all of it.

    Can be called from several threads.

    Parameters
    ----------
    path
        JPEG 2000 file.
    shape
        Expected rows and columns of the image.
    rows, cols
        The window, inside the image.
    needed
        int64 (n,): positions in the window, row x width of the window + column.

    Returns
    -------
    ndarray of shape (rows, columns), or None
        In the data type of the file, 0 where a pixel is not decoded. None: GDAL has to read the
        window. Most of it is needed, or there is no OpenJPEG, or a part of a tile may differ from
        the same part of the whole tile (the irreversible wavelet rounds), or the file is damaged.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return None  # to open a pipe would wait for ever
        codestream = _open(path, status.st_mtime_ns, status.st_size)
        if codestream is None or codestream.tiling.shape != shape:
            return None
        of_window = (rows.start, rows.stop), (cols.start, cols.stop)
        windows = _windows_of_tiles(codestream.tiling, *of_window, needed.tobytes())
        if windows is None or openjpeg() is None:
            return None
        values = np.zeros((rows.stop - rows.start, cols.stop - cols.start), codestream.dtype)
        with path.open("rb") as file:
            for window, pixels in _decode(codestream, file, windows):
                top, bottom, left, right = window
                down = slice(top - rows.start, bottom - rows.start)
                values[down, left - cols.start : right - cols.start] = pixels
        return values
    except (OSError, _OtherError):
        return None


# The bands of a product have the same tiles, and the same pixels are needed from each.
@lru_cache(maxsize=8)
def _windows_of_tiles(
    tiling: _Tiling, rows: tuple[int, int], cols: tuple[int, int], needed: bytes
) -> dict[int, list[Box]] | None:
    """Return the windows to decode of each tile, None if it takes less time to decode all.

    Parameters
    ----------
    rows, cols
        First and end of the rows and columns of a window.
    needed
        As in `read_needed`.
    """
    positions = np.frombuffer(needed, np.int64)
    row, col = np.divmod(positions, cols[1] - cols[0])
    row, col = row + rows[0], col + cols[0]
    some = slice(None, None, len(positions) // _SAMPLE + 1)
    if not _is_worthwhile(tiling, slice(*rows), slice(*cols), row[some], col[some]):
        return None
    tile_rows, tile_cols = tiling.tile_shape
    tiles = row // tile_rows * tiling.tiles_across + col // tile_cols
    return {
        tile: _windows(row[tiles == tile], col[tiles == tile], tiling.extent(tile))
        for tile in np.unique(tiles).tolist()
    }


def _is_worthwhile(tiling: _Tiling, rows: slice, cols: slice, row: Ints, col: Ints) -> bool:
    """Return whether few cells of the tiles that a window meets contain needed pixels."""
    (height, width), (tile_rows, tile_cols) = tiling.shape, tiling.tile_shape
    per_tile = -(-tile_rows // _CELL), -(-tile_cols // _CELL)
    down = row // tile_rows * per_tile[0] + row % tile_rows // _CELL
    right = col // tile_cols * per_tile[1] + col % tile_cols // _CELL
    cells_across = tiling.tiles_across * per_tile[1]
    is_needed = np.zeros((-(-height // tile_rows) * per_tile[0], cells_across), bool)
    is_needed[down, right] = True
    n_cells = _count_cells(rows, tile_rows, height) * _count_cells(cols, tile_cols, width)
    return int(np.count_nonzero(is_needed)) <= _MOST_CELLS * n_cells


def _count_cells(window: slice, tile: int, length: int) -> int:
    """Return the number of cells along an axis, in the tiles that a window meets."""
    first = window.start // tile * tile
    return sum(-(-min(tile, length - at) // _CELL) for at in range(first, window.stop, tile))


def _decode(
    codestream: _Codestream, file: BinaryIO, windows: dict[int, list[Box]]
) -> Iterator[tuple[Box, NDArray[np.int32]]]:
    """Yield windows, given by their tile, and their values."""
    for tile, of_tile in windows.items():
        extent = codestream.tiling.extent(tile)
        pixels = decode(codestream.read_tile(file, tile), extent, of_tile)
        if pixels is None:
            raise _OtherError
        yield from zip(of_tile, pixels, strict=True)


def _windows(row: Ints, col: Ints, extent: Box) -> list[Box]:
    """Return windows of an extent that contain pixels, at most one for each cell."""
    down, right = (row - extent[0]) // _CELL, (col - extent[2]) // _CELL
    order = np.lexsort((right, down))
    row, col, down, right = row[order], col[order], down[order], right[order]
    is_new = (np.diff(down, prepend=-1) != 0) | (np.diff(right, prepend=-1) != 0)
    first = np.flatnonzero(is_new)
    bounds = [
        extreme.reduceat(at, first) + past
        for at in (row, col)
        for extreme, past in ((np.minimum, 0), (np.maximum, 1))
    ]
    boxes = zip(*(bound.tolist() for bound in bounds), strict=True)
    cells = zip(down[first].tolist(), right[first].tolist(), strict=True)
    found: dict[tuple[int, int], list[Box]] = {
        cell: [box] for cell, box in zip(cells, boxes, strict=True)
    }
    while len(found) > 1:
        larger: dict[tuple[int, int], list[Box]] = {}
        for (i, j), windows in found.items():
            larger.setdefault((i // 2, j // 2), []).extend(windows)
        found = {cell: _merge(windows) for cell, windows in larger.items()}
    (windows,) = found.values()
    return _in_order(windows, extent)


def _merge(windows: list[Box]) -> list[Box]:
    """Return the box around windows if they fill most of it, otherwise the windows."""
    tops, bottoms, lefts, rights = zip(*windows, strict=True)
    around = min(tops), max(bottoms), min(lefts), max(rights)
    return [around] if sum(map(_area, windows)) >= _FILLED * _area(around) else windows


def _area(window: Box) -> int:
    top, bottom, left, right = window
    return (bottom - top) * (right - left)


def _in_order(windows: list[Box], extent: Box) -> list[Box]:
    """Return windows of an extent in an order in which neighbours share many code-blocks.

    OpenJPEG keeps the code-blocks of a window for the next one only. Each window is inserted where
    it adds most to what neighbours share, which is within 5 % of the least to decode.
    """
    corner, size = np.array(extent)[::2], np.array(extent)[1::2] - np.array(extent)[::2]
    starts, ends = (np.array(windows)[:, at::2] - corner for at in (0, 1))
    n = len(windows)
    shared = np.zeros((n + 1, n + 1), int)  # the last stands for the ends, which share nothing
    for level in range(1, _LEVELS + 1):
        # The wavelet reaches 2 coefficients beyond those of the window.
        side, reach = _BLOCK << level, 2 << level
        first = np.maximum(starts - reach, 0) // side
        last = (np.minimum(ends + reach, size) - 1) // side
        common = np.minimum(last[:, np.newaxis], last) - np.maximum(first[:, np.newaxis], first) + 1
        shared[:n, :n] += common.clip(0).prod(axis=2)
    path = np.array([n, n])
    for new in range(n):
        before, after = path[:-1], path[1:]
        gain = shared[before, new] + shared[new, after] - shared[before, after]
        path = np.insert(path, int(gain.argmax()) + 1, new)
    return [windows[i] for i in path[1:-1].tolist()]


@lru_cache(maxsize=256)
def _open(path: Path, _changed: int, size: int) -> _Codestream | None:
    """Return the codestream of a file, None if it is left to GDAL."""
    with path.open("rb") as file:
        try:
            return _parse(file, size)
        except _OtherError:
            return None


def _parse(file: BinaryIO, size: int) -> _Codestream:
    """Read the main header of the codestream, and the headers of its tile-parts."""
    start, end = find_codestream(file, size) or (0, 0)
    if not 0 < start < end <= size:
        raise _OtherError
    file.seek(start)
    if _unpack(file, ">HH") != (_SOC, _SIZ):
        raise _OtherError
    sizes = _content(file)
    shape, tile_shape, dtype = _sizes(sizes)
    segments: dict[int, bytes] = {}
    while (marker := _unpack(file, ">H")[0]) != _SOT:
        content = _content(file)
        if marker in _IGNORED_IN_MAIN_HEADER:
            continue
        if marker not in _IN_MAIN_HEADER or marker in segments:
            raise _OtherError
        segments[marker] = content
    _check_coding(segments.get(_COD, b""))
    header = b"".join(_segment(*segment) for segment in segments.items())
    parts = _tile_parts(file, file.tell() - 2, end - 2)
    return _Codestream(_Tiling(shape, tile_shape), dtype, sizes, header, parts)


def _sizes(content: bytes) -> tuple[tuple[int, int], tuple[int, int], np.dtype[Any]]:
    """Return shape, shape of the tiles and data type of an image of one unsigned component."""
    if len(content) != 39:
        raise _OtherError
    right, bottom, left, top, cols, rows, *of_tiles = struct.unpack_from(">8I", content, 2)
    components, depth, *sampling = struct.unpack_from(">H3B", content, 34)
    # A sign is the highest bit of the depth.
    is_plain = (left, top, *of_tiles, components, *sampling) == (0, 0, 0, 0, 1, 1, 1)
    is_small = 0 < rows <= _LARGEST_SIDE and 0 < cols <= _LARGEST_SIDE
    if not (is_plain and is_small and 1 <= depth < 16 and right * bottom > 0):
        raise _OtherError
    return (bottom, right), (rows, cols), np.dtype(np.uint8 if depth < 8 else np.uint16)


def _check_coding(content: bytes) -> None:
    """Check that the wavelet is the reversible one, and that the blocks are those of part 1."""
    if len(content) < 10 or content[9] != 1 or content[8] & 0x40:
        raise _OtherError


def _tile_parts(file: BinaryIO, start: int, end: int) -> dict[int, list[tuple[int, int]]]:
    """Return first byte and length of the parts of every tile; they fill the bytes to the end."""
    parts: dict[int, list[tuple[int, int]]] = {}
    for _ in range(_MOST_PARTS):
        if start == end:
            break
        file.seek(start)
        marker, _, tile, length, _, _ = _unpack(file, ">HHHIBB")
        if marker != _SOT or not 14 <= length <= end - start:
            raise _OtherError
        parts.setdefault(tile, []).append((start, length))
        start += length
    file.seek(end)
    if start != end or _unpack(file, ">H") != (_EOC,):
        raise _OtherError
    return parts


def _check_tile_part(part: bytes, length: int) -> None:
    """Check that the header of a tile-part changes nothing that the main header says."""
    if len(part) != length:
        raise _OtherError
    at = 12
    while at + 4 <= length:
        marker, size = struct.unpack_from(">HH", part, at)
        if marker == _SOD:
            return
        if marker not in _IN_TILE_HEADER:
            break
        at += 2 + size
    raise _OtherError


def _content(file: BinaryIO) -> bytes:
    """Read the content of a segment, from its length on."""
    (length,) = _unpack(file, ">H")
    content = file.read(max(length - 2, 0))
    if len(content) != length - 2:
        raise _OtherError
    return content


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">HH", marker, len(content) + 2) + content


def _unpack(file: BinaryIO, layout: str) -> tuple[Any, ...]:
    content = file.read(struct.calcsize(layout))
    if len(content) != struct.calcsize(layout):
        raise _OtherError
    return struct.unpack(layout, content)


def find_codestream(file: BinaryIO, size: int) -> tuple[int, int] | None:
    """Return first byte and end of the codestream of a JP2 file of a size, None if it has none.

    A box has a length and a type; length 1 means that a long length follows, 0 means to the end of
    the file. The end of a truncated file's codestream is beyond its size.
    """
    start = 0
    while start + 8 <= size:
        file.seek(start)
        head = file.read(16)
        length, content = int.from_bytes(head[:4], "big"), start + 8
        if length == 1:
            length, content = int.from_bytes(head[8:16], "big"), start + 16
        end = size if length == 0 else start + length
        if head[4:8] == b"jp2c":
            return content, end
        if length < 8 and length != 0:
            break
        start = end
    return None
