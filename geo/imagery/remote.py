"""Read files and rasters over HTTP and S3, and ask again where an answer fails.

Every answer is held against the length that was asked for. GDAL reads remote files itself
(/vsicurl/), but takes a body that ends early for what the file holds: its JPEG 2000 driver then
decodes wrong pixels without an error, and the cut body stays in its cache. Here GDAL reads through
`read_range`, which knows what is whole.
"""

from __future__ import annotations

import io
import itertools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import rasterio
import requests
from rasterio.abc import FileContainer
from requests.adapters import HTTPAdapter

from geo.errors import InputError
from geo.imagery.signing import authorised

logger = logging.getLogger(__name__)

# Seconds to wait before each new try of a request.
RETRY_DELAYS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
# A server may ask for more patience (Retry-After), but not for all of it.
_LONGEST_WAIT_S = 60.0
TIMEOUT_S = (10.0, 60.0)  # to connect, and between two bytes
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})

Answer = TypeVar("Answer")


class RemoteError(InputError):
    """A remote file that cannot be read; the message names it without its signature."""


class PassingFault(Exception):  # noqa: N818 (not for the user)
    """A fault after which it is worth trying again, after `patience_s` seconds if not later."""

    patience_s = 0.0


def until_answered(what: str, attempt: Callable[[], Answer]) -> Answer:
    """Try again, after longer and longer waits, for as long as faults may pass.

    Parameters
    ----------
    what
        What is asked for, for the message.
    attempt
        Asks once; raises PassingFault.

    Raises
    ------
    RemoteError
        If the last try fails, too.
    """
    for delay in (*RETRY_DELAYS_S, None):
        try:
            return attempt()
        except PassingFault as fault:
            problem = fault
        if delay is not None:
            wait = min(max(delay, problem.patience_s), _LONGEST_WAIT_S)
            logger.debug("%s: %s; again in %g s", what, problem, wait)
            time.sleep(wait)
    raise RemoteError(
        f"{what} cannot be read: {problem}, and so at each of {len(RETRY_DELAYS_S) + 1} tries. Run "
        "it again when the service answers: what is there already is kept."
    )


def without_signature(source: str) -> str:
    """Return an address as it may be shown: without query, which may hold a signature, and user."""
    parts = urlsplit(source)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def read_whole(source: str) -> bytes:
    """Read a whole file.

    Raises
    ------
    RemoteError
        If it is not there, or still cannot be read after the last try.
    """
    return _request(source, None).content


def read_range(source: str, start: int, stop: int) -> tuple[bytes, int]:
    """Read the bytes of a file from `start` up to `stop` or its end, and the length of the file.

    Raises
    ------
    RemoteError
        As `read_whole`; if the server sends whole files only.
    """
    answer = _request(source, (start, stop))
    return answer.content, _length(answer)


@lru_cache(maxsize=1)
def _session() -> requests.Session:
    """Make the session that keeps connections open."""
    session = requests.Session()
    adapter = HTTPAdapter(pool_maxsize=32)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def _request(source: str, extent: tuple[int, int] | None) -> requests.Response:
    """Ask for a file, or for its bytes from start up to stop, until the answer is whole."""
    return until_answered(without_signature(source), lambda: _try(source, extent))


def _try(source: str, extent: tuple[int, int] | None) -> requests.Response:
    """Ask once.

    Raises
    ------
    RemoteError
        If it is of no use to ask again.
    PassingFault
        If it is.
    """
    try:
        # At every try, as signatures expire. Compressed answers would have other lengths.
        address, headers = authorised(source)
        headers["Accept-Encoding"] = "identity"
        if extent is not None:
            headers["Range"] = f"bytes={extent[0]}-{extent[1] - 1}"
        # The body is read only once the status is known: a server may send all of a file that it
        # was asked a part of.
        with _session().get(address, headers=headers, timeout=TIMEOUT_S, stream=True) as answer:
            _check_status(source, extent, answer)
            content = answer.content
    except (requests.ConnectionError, requests.Timeout) as error:
        raise PassingFault("the connection failed") from error
    except requests.exceptions.ChunkedEncodingError as error:
        raise PassingFault("the answer broke off") from error
    except requests.RequestException as error:
        raise RemoteError(
            f"{without_signature(source)} cannot be asked for ({type(error).__name__})."
        ) from error
    if extent is not None and len(content) != min(extent[1], _length(answer)) - extent[0]:
        raise PassingFault(f"the answer ended after {len(content)} bytes")
    return answer


def _check_status(source: str, extent: tuple[int, int] | None, answer: requests.Response) -> None:
    """Check that an answer holds what was asked for, by its head."""
    status = answer.status_code
    if status in PASSING:
        fault = PassingFault(f"the server answered {status} {answer.reason}")
        asked = answer.headers.get("Retry-After", "")
        fault.patience_s = float(asked) if asked.isdigit() else 0.0
        raise fault
    if status in (401, 403):
        raise RemoteError(
            f"{without_signature(source)} is not to be read ({status} {answer.reason}). Set "
            "imagery.sign, or the credentials of its service in the environment (README, STAC). S3 "
            "says so of what is not there, too."
        )
    if status not in (200, 206):
        raise RemoteError(
            f"{without_signature(source)} is not there ({status} {answer.reason}). Check its "
            "address, or look for the imagery again: snakemake -R index."
        )
    if extent is None:
        return
    if status == 200 and not 0 < _length(answer) <= extent[1]:
        raise RemoteError(
            f"{without_signature(source)}: its server sends whole files only, no parts of them "
            "(HTTP ranges). Copy the imagery to a disk and read it there."
        )
    part = answer.headers.get("Content-Range", "")
    if status == 206 and not part.startswith(f"bytes {extent[0]}-"):
        raise PassingFault(f"the server sent {part or 'some part'}, not from {extent[0]} on")


def _length(answer: requests.Response) -> int:
    """Return the length of the file that an answer holds, all or in part; 0 if it is not told."""
    told = answer.headers.get("Content-Length", "")
    if answer.status_code == 206:
        told = answer.headers.get("Content-Range", "").rpartition("/")[2]
    return int(told) if told.isdigit() else 0


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
        """Return its time of change, which is not asked for."""
        return 0

    def rm(self, path: str) -> None:
        """Refuse to remove it."""
        raise PermissionError(f"{path} is only read.")

    def size(self, path: str) -> int:  # noqa: ARG002
        """Return its length in bytes, 0 where it cannot be had."""
        try:
            return _first_piece(self.source)[1]
        except Exception as error:  # noqa: BLE001 (raised by `open_raster`)
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
        """Return the position."""
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
        except Exception as error:  # noqa: BLE001 (raised by `open_raster`)
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
