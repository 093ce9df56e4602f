"""Digests of files and folders, by which a change is noticed after they were copied, too.

Digests are BLAKE2b of 32 bytes, as `b2sum --length 256` prints them; for a GeoPackage, without the
counters in its header, which change if QGIS opens it. Of a large input only samples
are digested: imagery is often more than can be read again within a run. They show that a product
was replaced or truncated, and practically every change of a compressed file; one changed pixel of
an uncompressed file between the samples only shows by the file's time.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from geo.imagery.imagery_files import walk

_SIZE = 32
# Samples of a file, from its first to its last bytes; a smaller file is digested as a whole.
SAMPLES, SAMPLE_BYTES = 16, 65_536
WHOLE_BYTES = SAMPLES * SAMPLE_BYTES

_SQLITE = b"SQLite format 3\0"
# Of the header of SQLite: versions of reading and writing, counter of changes, and its copy with
# the version of the library (https://www.sqlite.org/fileformat2.html#the_database_header).
_COUNTERS = (slice(18, 20), slice(24, 28), slice(92, 100))


class FileState(BaseModel):
    """A file, or a folder as the sum of its files, at the time at which it was digested."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    bytes: int
    """size"""

    mtime_ns: int
    """time of the last change, in ns since 1970; of a folder, that of its newest file"""

    blake2b: str
    """digest, hexadecimal"""

    files: int | None = None
    """number of files of a folder; None for a file"""

    def is_untouched(self, path: Path) -> bool:
        """Return whether a path still has this size and time, without reading it."""
        return (self.bytes, self.mtime_ns, self.files) == size_and_time(path)


def size_and_time(path: Path) -> tuple[int, int, int | None]:
    """Return size in bytes, time in ns, and number of files (None for a file) of what is there."""
    if not path.is_dir():
        state = path.stat()
        return state.st_size, state.st_mtime_ns, None
    states = [file.stat() for file in _below(path)]
    size = sum(state.st_size for state in states)
    return size, max((state.st_mtime_ns for state in states), default=0), len(states)


def digest_state(path: Path, *, is_sampled: bool) -> FileState:
    """Digest a file, or the names and digests of all files of a folder.

    Parameters
    ----------
    path
        The file or folder.
    is_sampled
        Whether only samples of large files are read.
    """
    size, time, files = size_and_time(path)
    digest = digest_file if not is_sampled else _digest_samples
    if files is None:
        return FileState(bytes=size, mtime_ns=time, blake2b=digest(path))
    total = hashlib.blake2b(digest_size=_SIZE)
    for file in _below(path):
        name = file.relative_to(path).as_posix().encode("utf-8", "surrogateescape")
        total.update(name + b"\0" + digest(file).encode() + b"\n")
    return FileState(bytes=size, mtime_ns=time, blake2b=total.hexdigest(), files=files)


def digest_all(paths: Sequence[tuple[Path, bool]], threads: int) -> list[FileState]:
    """Digest (path, is_sampled) pairs in threads: hashlib and reading release Python's lock."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda pair: digest_state(pair[0], is_sampled=pair[1]), paths))


def digest_file(path: Path) -> str:
    """Return the digest of the whole content of a file; of SQLite's without its counters."""
    with path.open("rb") as file:
        header = bytearray(file.read(100))
        if header.startswith(_SQLITE):
            for counter in _COUNTERS:
                header[counter] = bytes(len(header[counter]))
        # file_digest begins at the current position.
        digest = hashlib.file_digest(file, lambda: _blake2b(header))
    return digest.hexdigest()


def _digest_samples(path: Path) -> str:
    """Return the digest of the size and of evenly spaced samples of a file."""
    size = path.stat().st_size
    if size <= WHOLE_BYTES:
        return digest_file(path)
    digest = _blake2b()
    digest.update(f"{size}\n".encode())
    with path.open("rb") as file:
        for k in range(SAMPLES):
            file.seek(k * (size - SAMPLE_BYTES) // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _blake2b(start: bytes | bytearray = b"") -> hashlib.blake2b:
    return hashlib.blake2b(start, digest_size=_SIZE)


def _below(folder: Path) -> list[Path]:
    """Return the files of a folder, at any depth, sorted by name within each folder."""
    return [Path(os.path.join(at, name)) for at, _, names in walk(folder) for name in names]  # noqa: PTH118
