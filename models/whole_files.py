"""Write files and folders whole or not at all, also if the power fails.

They are written under a temporary name beside their place, flushed to the disk, and renamed. This
module needs nothing but the standard library, and `pipeline` uses it, too.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Temporary names contain the machine and the process that writes, so that `sweep` can tell whether
# it still runs: .<stem>.<machine>-<process>.part<suffix>
_MACHINE = f"{zlib.crc32(os.uname().nodename.encode()):08x}"
_TEMPORARY = re.compile(r"\..*\.(?P<machine>[0-9a-f]{8})-(?P<process>\d+)\.part(\..+)?", re.S)
# A file of another machine that did not change for so long is not being written.
_ABANDONED_S = 24 * 3600


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which is renamed to `path` once it is written.

    Its suffix is the same, because GDAL and numpy choose the format by the suffix. If the block
    raises, the temporary file is deleted, and an earlier file at `path` stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_of(path)
    try:
        yield temporary
        flush(temporary)
        temporary.replace(path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`, which is renamed to `path` once it is written.

    If the block raises, the temporary folder is deleted, and an earlier folder at `path` stays.
    """
    with temporary_folder(path) as temporary:
        yield temporary
        flush_folder(temporary)
        # A rename cannot replace a folder that is not empty. If the process is killed between these
        # lines, there is no folder, which is safer than an incomplete one.
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
        flush(path.parent)


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`, which is deleted at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_of(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def temporary_of(path: Path) -> Path:
    """Return a hidden path in the same folder that no other process uses."""
    return path.with_name(f".{path.stem}.{_MACHINE}-{os.getpid()}.part{path.suffix}")


def flush(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on the disk.

    Otherwise a rename can reach the disk before the content, and a power cut in between leaves an
    empty file.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_folder(folder: Path) -> None:
    """Wait until all files of a folder are on the disk.

    One `syncfs` of Linux for 10,000 files of 20 kB takes half a second; an fsync of each file takes
    8 to 45 seconds. It also flushes what other programs wrote to the same file system.
    """
    if sys.platform == "linux":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.syncfs(descriptor) == 0:
                return
            # 5: the disk reported an error. Other errors mean that the call is not available.
            if ctypes.get_errno() == 5:
                raise OSError(5, os.strerror(5), str(folder))
        finally:
            os.close(descriptor)
    for file in folder.rglob("*"):
        flush(file)


def sweep(folder: Path) -> list[Path]:
    """Delete the temporary files that killed processes left below a folder; return them.

    Files of a process that still runs stay, as do files of another machine that changed within a
    day: whether its process runs is not known here.
    """
    swept = []
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(parent, name)
            if (match := _TEMPORARY.fullmatch(name)) and not _is_written(path, match):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
                swept.append(path)
        folders[:] = [name for name in folders if not _TEMPORARY.fullmatch(name)]
    return swept


def _is_written(path: Path, name: re.Match[str]) -> bool:
    """Return whether a process may be writing a temporary file."""
    if name["machine"] != _MACHINE:
        return time.time() - path.stat().st_mtime < _ABANDONED_S
    try:
        os.kill(int(name["process"]), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True  # a process of another user
    return True
