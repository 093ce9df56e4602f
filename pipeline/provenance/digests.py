"""Digests of files and folders, by which a change is noticed after they were copied, too.

Digests are BLAKE2b of 32 bytes, as `b2sum --length 256` prints them. Of a large input only samples
are digested: imagery is often more than can be read again within a run. They show that a product
was replaced or truncated, and practically every change of a compressed file; one changed pixel of
an uncompressed file between the samples only shows by the file's time.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from geo.imagery.imagery_files import walk

_SIZE = 32
# Samples of a file, from its first to its last bytes; a smaller file is digested as a whole.
SAMPLES, SAMPLE_BYTES = 16, 65_536


@dataclass(frozen=True)
class FileState:
    """A file, or a folder as the sum of its files, at the time at which it was digested.

    Attributes
    ----------
    bytes
        Size.
    mtime_ns
        Time of the last change, in nanoseconds since 1970; of a folder, that of its newest file.
    blake2b
        Digest, hexadecimal.
    files
        Number of files of a folder; None for a file.
    """

    bytes: int
    mtime_ns: int
    blake2b: str
    files: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the attributes that are not None."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def is_untouched(self, path: Path) -> bool:
        """Return whether a path still has this size and time, without reading it."""
        return self.bytes_and_time == size_and_time(path)

    @property
    def bytes_and_time(self) -> tuple[int, int, int | None]:
        """Size, time, and number of files."""
        return self.bytes, self.mtime_ns, self.files


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
        return FileState(size, time, digest(path))
    total = hashlib.blake2b(digest_size=_SIZE)
    for file in _below(path):
        name = file.relative_to(path).as_posix().encode("utf-8", "surrogateescape")
        total.update(name + b"\0" + digest(file).encode() + b"\n")
    return FileState(size, time, total.hexdigest(), files)


def digest_all(paths: Sequence[tuple[Path, bool]], threads: int) -> list[FileState]:
    """Digest (path, is_sampled) pairs in threads; hashlib and reading release the lock of Python."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda pair: digest_state(pair[0], is_sampled=pair[1]), paths))


def digest_file(path: Path) -> str:
    """Return the digest of the whole content of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, _blake2b).hexdigest()


def _digest_samples(path: Path) -> str:
    """Return the digest of the size and of evenly spaced samples of a file."""
    size = path.stat().st_size
    if size <= SAMPLES * SAMPLE_BYTES:
        return digest_file(path)
    digest = _blake2b()
    digest.update(f"{size}\n".encode())
    with path.open("rb") as file:
        for k in range(SAMPLES):
            file.seek(k * (size - SAMPLE_BYTES) // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _blake2b() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=_SIZE)


def _below(folder: Path) -> list[Path]:
    """Return the files of a folder, at any depth, sorted by name within each folder."""
    return [Path(os.path.join(at, name)) for at, _, names in walk(folder) for name in names]  # noqa: PTH118
