"""What was read from files of imagery, kept until one of the files changes.

Looking at an acquisition takes some hundredths of a second to seconds: headers, metadata, masks,
some pixels. A run gets new acquisitions again and again, so the stage index looks only at these.
What it reads of one acquisition is kept here. What compares acquisitions with each other is
computed anew.

A state of a file is its name, size, and the times of its content and its inode, so a file that is
replaced by another one of the same size and time is noticed, too. The files beside it whose names
begin with the same stem belong to its state, because GDAL reads them (.aux.xml, .ovr, .tfw).
Remote files have no state and are always read.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import sys
import threading
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    import sqlite3

    from geo.imagery.acquisition import Acquisition
    from geo.imagery.array_reading import ChunkFiles

_T = TypeVar("_T")

logger = logging.getLogger(__name__)

# What is read depends on the readers, and on the libraries that they use.
_SOURCE = Path(__file__).parents[1]
_LIBRARIES = ("rasterio", "numpy", "pyproj", "xarray", "zarr", "netCDF4")

_TABLE = "CREATE TABLE entries (key BLOB PRIMARY KEY, state BLOB, value BLOB) WITHOUT ROWID"


class FileCache:
    """An SQLite file of what was read.

    Parameters
    ----------
    path
        The file. It may be deleted at any time; then everything is read again.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._database: sqlite3.Connection | None = _open(path)
        self._lock = threading.Lock()
        self._used: set[bytes] = set()
        self._n_kept = 0
        self._folders = _Folders()
        self._chunks: ChunkFiles | None = None

    def get(self, key: bytes, files: Iterable[Path | str]) -> tuple[bytes, bytes | None]:
        """Return the state of files, and what was kept of them: None if they have changed."""
        with self._lock:
            state = self._folders.state(files)
            self._used.add(key)
            query = "SELECT value FROM entries WHERE key = ? AND state = ?"
            found = self._execute(query, (key, state))
        content = found[0][0] if found else b""
        checksum, value = content[:_CHECKSUM], content[_CHECKSUM:]
        is_whole = bool(found) and checksum == _checksum(value)
        return state, value if is_whole else None

    def files_of(self, item: Acquisition) -> list[Path]:
        """Return the product of an acquisition, or its files; of a Zarr stack those of its time."""
        from geo.imagery.array_reading import ChunkFiles
        from geo.imagery.imagery_files import files_of, is_eopf

        product, self._chunks = item.product, self._chunks or ChunkFiles()
        if is_eopf(product):
            return [product, *(Path(m.source) for n, m in item.masks.items() if n == "MASK")]
        files = files_of(item, self._chunks)
        if item.format == "stack":
            return sorted(files)
        return sorted({product if product in file.parents else file for file in files})

    def put(self, key: bytes, state: bytes, value: bytes) -> None:
        """Keep what was read of files in a state."""
        with self._lock:
            query = "INSERT OR REPLACE INTO entries VALUES (?, ?, ?)"
            self._execute(query, (key, state, _checksum(value) + value))
            self._n_kept += 1
            if self._n_kept % _COMMIT_EVERY == 0:
                self._execute("COMMIT")
                self._execute("BEGIN")

    def _execute(self, query: str, values: Iterable[object] = ()) -> list[Any]:
        """Return the rows of a query; if the file cannot be used, go on without it."""
        import sqlite3

        if self._database is None:
            return []
        try:
            return self._database.execute(query, tuple(values)).fetchall()
        except sqlite3.Error as error:  # the disk is full, or the file is damaged
            logger.warning("%s cannot be used (%s): nothing is kept in it.", self._path, error)
            self._database.close()
            self._database = None
            self._path.unlink(missing_ok=True)
            return []

    def close(self, *, is_complete: bool) -> None:
        """Write the file; drop what was not used, if everything was looked at."""
        if is_complete:
            kept = {key for (key,) in self._execute("SELECT key FROM entries")}
            for key in kept - self._used:
                self._execute("DELETE FROM entries WHERE key = ?", (key,))
        self._execute("COMMIT")
        if self._database is not None:
            self._database.close()


# A killed index loses at most so many of its readings.
_COMMIT_EVERY = 500

# Bytes of the checksum before a value: SQLite has none.
_CHECKSUM = 8


def _checksum(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()[:_CHECKSUM]


_active: FileCache | None = None
# Whether a thread reads something that is kept as a whole: its parts are not kept, too.
_reading = threading.local()


@contextmanager
def caching(path: Path | None) -> Iterator[None]:
    """Keep in a file what is read within the block; None: keep nothing.

    Files must not change within the block: each is looked at once.
    """
    global _active
    if path is None:
        yield
        return
    _active, is_complete = FileCache(path), False
    try:
        yield
        is_complete = True
    finally:
        cache_of_block, _active = _active, None
        cache_of_block.close(is_complete=is_complete)


def cached(
    key: Iterable[object],
    files: Iterable[Path | str],
    kind: Any,
    read: Callable[[], _T],
) -> _T:
    """Return what a function reads from files, or what it returned when they had the same state.

    Parameters
    ----------
    key
        What is read, and all arguments on which it depends. Their `repr` must be complete.
    files
        The files that are read, all local; a folder stands for all files in it, at any depth.
    kind
        Type of what is read, for pydantic: a type of JSON, a dataclass, a list of them. Or
        `numpy.ndarray`.
    read
        Reads it. Its errors are not kept.
    """
    if _active is None or getattr(_reading, "is_nested", False):
        return read()
    digest = hashlib.sha256(repr(tuple(key)).encode("utf-8", "surrogateescape")).digest()
    state, kept = _active.get(digest, files)
    if kept is not None:
        value: _T = _load(kind, kept)
        return value
    _reading.is_nested = True
    try:
        value = read()
    finally:
        _reading.is_nested = False
    content = _dump(kind, value)
    if content is not None:
        _active.put(digest, state, content)
    return value


def cached_of(item: Acquisition, key: Iterable[object], kind: Any, read: Callable[[], _T]) -> _T:
    """Return what a function reads of the pixels of an acquisition; see `cached`."""
    if _active is None or any(b.is_remote for b in (*item.bands.values(), *item.masks.values())):
        return read()
    return cached((*key, item), _active.files_of(item), kind, read)


def _dump(kind: Any, value: Any) -> bytes | None:
    """Return a value as bytes; None if it would not be the same when it is loaded again."""
    if isinstance(value, np.ndarray):
        file = io.BytesIO()
        np.save(file, value, allow_pickle=False)
        return zlib.compress(file.getvalue(), 1)
    plain = _adapter(kind).dump_python(value)
    content = json.dumps(plain, default=str).encode()
    try:
        is_same = repr(_load(kind, content)) == repr(value)
    except ValueError:  # pydantic refuses names that are not UTF-8
        is_same = False
    return content if is_same else None


def _load(kind: Any, content: bytes) -> Any:
    if kind is np.ndarray:
        return np.load(io.BytesIO(zlib.decompress(content)), allow_pickle=False)
    return _adapter(kind).validate_json(content)


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter  # most stages read no imagery

    return TypeAdapter(kind)


def _open(path: Path) -> sqlite3.Connection:
    """Open the file; begin it anew if it is damaged or was written by other software."""
    import sqlite3  # here and below: most stages keep nothing

    version = int.from_bytes(_version()[:4], "big", signed=True)
    for attempt in (1, 2):
        # Snakemake runs one index at a time in a folder. Without locks, it works on network disks.
        uri = f"{path.absolute().as_uri()}?vfs=unix-none"
        database = sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None)
        try:
            database.execute("BEGIN")
            if database.execute("PRAGMA user_version").fetchone()[0] != version:
                database.execute("DROP TABLE IF EXISTS entries")
                database.execute(_TABLE)
                database.execute(f"PRAGMA user_version = {version}")
            return database
        except sqlite3.DatabaseError:
            database.close()
            if attempt == 2:
                raise
            path.unlink(missing_ok=True)
    raise AssertionError


def _version() -> bytes:
    """Return a digest of the readers, and of the versions of their libraries."""
    from importlib import metadata

    digest = hashlib.sha256(sys.version.encode())
    for file in sorted(_SOURCE.rglob("*.py")):
        digest.update(file.read_bytes())
    for name in _LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            digest.update(f"{name} {metadata.version(name)}".encode())
    return digest.digest()


class _Folders:
    """The states of files, for which each folder is listed once."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}
        self._trees: dict[str, bytes] = {}
        self._stats: dict[str, str] = {}

    def state(self, files: Iterable[Path | str]) -> bytes:
        """Return a digest of the states of files and folders."""
        digest = hashlib.sha256()
        for path in map(str, files):
            if os.path.isdir(path):  # noqa: PTH112 (as in imagery_files.walk)
                digest.update(self._tree(path))
            else:
                for name in self._beside(path):
                    digest.update(self._stat(name).encode("utf-8", "surrogateescape"))
        return digest.digest()

    def _tree(self, folder: str) -> bytes:
        """Return a digest of all files in a folder, at any depth."""
        if folder not in self._trees:
            lines: list[str] = []
            entered: set[tuple[int, int]] = set()
            for parent, folders, names in os.walk(folder, followlinks=True):
                state = os.stat(parent)  # noqa: PTH116 (as in imagery_files.walk)
                if (state.st_dev, state.st_ino) in entered:  # a link to a folder above
                    folders.clear()
                    continue
                entered.add((state.st_dev, state.st_ino))
                folders.sort()
                lines += (self._stat(f"{parent}/{name}") for name in sorted(names))
            content = "".join(lines).encode("utf-8", "surrogateescape")
            self._trees[folder] = hashlib.sha256(content).digest()
        return self._trees[folder]

    def _beside(self, file: str) -> list[str]:
        """Return a file, and those beside it whose names begin with its stem and a dot."""
        folder, name = os.path.split(file)
        if folder not in self._names:
            try:
                self._names[folder] = sorted(os.listdir(folder or "."))  # noqa: PTH208
            except OSError:
                self._names[folder] = []
        names, start = self._names[folder], f"{os.path.splitext(name)[0]}."  # noqa: PTH122
        at = bisect_left(names, start)
        found = [file]
        while at < len(names) and names[at].startswith(start):
            if names[at] != name:
                found.append(os.path.join(folder, names[at]))  # noqa: PTH118
            at += 1
        return found

    def _stat(self, file: str) -> str:
        """Return name, size and times of a file; its name alone if it does not exist."""
        if file not in self._stats:
            try:
                state = os.stat(file)  # noqa: PTH116
                of_file = f"{state.st_size}\0{state.st_mtime_ns}\0{state.st_ctime_ns}"
            except OSError:
                of_file = ""
            self._stats[file] = f"{file}\0{of_file}\n"
        return self._stats[file]
