"""Open rasters over HTTP and S3, reading the ranges that GDAL asks for.

GDAL reads remote files itself (/vsicurl/), but takes a body that ends early for what the file
holds: its JPEG 2000 driver then decodes wrong pixels without an error, and the cut body stays in
its cache. Here GDAL reads through `geo.imagery.remote`, which knows what is whole.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import rasterio
from rasterio.abc import FileContainer

from geo.errors import InputError
from geo.imagery.remote import read_range

# Headers and the heads of JPEG 2000 tiles are read in pieces of this size and kept (64 MiB at
# most), as every window opens its file anew; pixels are read as asked for, and not kept.
_PIECE = 16_384
_PIECES_KEPT = 4096

_names = itertools.count()


@contextmanager
def open_raster(source: str, **options: Any) -> Iterator[Any]:
    """Open a remote raster for this thread alone.

    Parameters
    ----------
    source
        Its address.
    options
        Configuration of GDAL. Its drivers must use no threads of their own, which would not find
        the file.

    Raises
    ------
    RemoteError
        If any part that was read is not whole, whatever GDAL made of it.
    """
    remote = _Container(source)
    # One opener a name: threads may read the same file at the same time.
    name = f"{next(_names)}/{urlsplit(source).path.rpartition('/')[2]}"
    options |= {"GDAL_NUM_THREADS": "1", "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}
    try:
        with rasterio.Env(**options), rasterio.open(name, opener=remote, sharing=False) as raster:
            yield raster
    finally:
        if remote.failures:
            raise remote.failures[0]


class _Container(FileContainer):  # type: ignore[misc]
    """The one remote file of an opening, as rasterio wants to be given it."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.failures: list[Exception] = []

    def open(self, path: str, mode: str = "r", **options: Any) -> _RangeFile:  # noqa: ARG002
        """Open the file."""
        return _RangeFile(self)

    def isfile(self, path: str) -> bool:  # noqa: ARG002
        """Tell that it is a file."""
        return True

    def isdir(self, path: str) -> bool:  # noqa: ARG002
        """Tell that it is no folder."""
        return False

    def ls(self, path: str) -> list[str]:  # noqa: ARG002
        """Name the files beside it: none."""
        return []

    def mtime(self, path: str) -> int:  # noqa: ARG002
        """Give its time of change, which is not asked for."""
        return 0

    def rm(self, path: str) -> None:
        """Refuse to remove it."""
        raise PermissionError(f"{path} is only read.")

    def size(self, path: str) -> int:  # noqa: ARG002
        """Give its length in bytes, 0 where it cannot be had."""
        try:
            return _first_piece(self.source)[1]
        except (InputError, ValueError, OSError) as error:
            self.failures.append(error)
            return 0


class _RangeFile(io.RawIOBase):
    """A remote file that is read by ranges.

    An exception would end the process, as GDAL calls from C++: failures are noted down instead,
    and raised by `open_raster`.
    """

    def __init__(self, container: _Container) -> None:
        self.container = container
        self.position = 0

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it has positions."""
        return True

    def tell(self) -> int:
        """Give the position."""
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.position}.get(whence)
        self.position = offset + (self.container.size("") if start is None else start)
        return self.position

    def read(self, size: int = -1) -> bytes:
        """Read from the position on; nothing once a read has failed."""
        if self.container.failures:
            return b""
        try:
            end = _first_piece(self.container.source)[1]
            stop = end if size < 0 else min(self.position + size, end)
            content = _read(self.container.source, self.position, stop)
        except (InputError, ValueError, OSError) as error:
            self.container.failures.append(error)
            return b""
        self.position += len(content)
        return content


def _read(source: str, start: int, stop: int) -> bytes:
    """Read the bytes from `start` up to `stop`, neither of them beyond the end."""
    if start >= stop:
        return b""
    if stop - start > _PIECE:
        return read_range(source, start, stop)[0]
    first = start // _PIECE
    pieces = [_piece(source, number) for number in range(first, (stop - 1) // _PIECE + 1)]
    return b"".join(pieces)[start - first * _PIECE : stop - first * _PIECE]


@lru_cache(maxsize=_PIECES_KEPT)
def _piece(source: str, number: int) -> bytes:
    """Read one piece of a file, and keep it."""
    content, end = _first_piece(source)
    if number == 0:
        return content
    return read_range(source, number * _PIECE, min((number + 1) * _PIECE, end))[0]


@lru_cache(maxsize=_PIECES_KEPT)
def _first_piece(source: str) -> tuple[bytes, int]:
    """Read the first piece of a file, and its length."""
    return read_range(source, 0, _PIECE)
