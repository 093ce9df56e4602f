""".npy files: many small ones, each read and written by one system call, and large ones mapped.

numpy parses and formats a header for every file, which takes longer than the file itself; the
files of a dataset share a few hundred headers.
"""

from __future__ import annotations

import io
import math
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from geo.errors import InputError
from pipeline.workflow.writing import replacing

# More than the header of any plain array.
_HEADER_BYTES = 4096


def file_name(parcel_id: str) -> str:
    """Name the file of a parcel; characters that a file name cannot hold are %-encoded."""
    return f"{quote(parcel_id, safe=' ()+,;=@-_.~')}.npy"


def write_array(path: Path | str, array: NDArray[Any], folder: int | None = None) -> None:
    """Write an array as `numpy.save` does, in C order.

    Parameters
    ----------
    path
        File to write; replaced if it is there.
    array
        Of one dimension or more; any but of objects.
    folder
        Descriptor of the folder that `path` is relative to.
    """
    array = np.ascontiguousarray(array)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    file = os.open(path, flags, 0o666, dir_fd=folder)
    try:
        begin = header(array.shape, array.dtype.str)
        content = array.reshape(-1).view(np.uint8)
        written = os.writev(file, [begin, content.data])
        # One call writes 2 GiB at most.
        write_at(file, content[written - len(begin) :], written)
    finally:
        os.close(file)


def write_at(file: int, array: NDArray[Any], place: int) -> None:
    """Write the bytes of a contiguous array at a place of an open file."""
    left = array.reshape(-1).view(np.uint8).data
    while len(left):
        # One call writes 2 GiB at most.
        written = os.pwrite(file, left, place)
        left, place = left[written:], place + written


class RowsFile:
    """A .npy file that threads write row by row, each at its place.

    Parameters
    ----------
    file
        Descriptor of the open file.
    shape, dtype
        Of the whole array.
    """

    def __init__(self, file: int, shape: tuple[int, ...], dtype: type) -> None:
        begin = header(shape, np.dtype(dtype).str)
        self._file, self._start = file, len(begin)
        self._row_bytes = math.prod(shape[1:]) * np.dtype(dtype).itemsize
        write_at(file, np.frombuffer(begin, np.uint8), 0)

    def write(self, rows: NDArray[Any], place: int) -> None:
        """Write contiguous rows, the first of them as row `place`."""
        write_at(self._file, rows, self._start + place * self._row_bytes)


@contextmanager
def new_rows(path: Path, shape: tuple[int, ...], dtype: type) -> Iterator[RowsFile]:
    """Yield a file that takes the place of `path` once everything is written."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        yield RowsFile(file.fileno(), shape, dtype)


def map_array(path: Path, dtype: type, ndim: int) -> NDArray[Any]:
    """Map an array into memory, read-only.

    Raises
    ------
    InputError
        If the file is missing, is not a whole array, or has another type or number of axes.
    """
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(
            f"The dataset lacks {path}, its packed pixels. Make them anew: snakemake -R assemble; "
            "of an existing dataset, snakemake -R ingest."
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable array: {error}") from error
    if array.dtype != dtype or array.ndim != ndim:
        raise InputError(
            f"{path} is {array.dtype} of shape {array.shape}, expected {np.dtype(dtype)} of {ndim} "
            "axes. Make it anew: snakemake -R assemble; of an existing dataset, snakemake -R "
            "ingest."
        )
    return array


def batches(offsets: Sequence[int] | NDArray[np.int64], limit: int) -> Iterator[tuple[int, int]]:
    """Divide parcels into batches of at most so many pixels, but of at least one parcel.

    Parameters
    ----------
    offsets
        Parcel i has the pixels offsets[i] up to offsets[i + 1].
    limit
        Number of pixels.

    Yields
    ------
    First parcel of a batch, and the one after its last.
    """
    first, n = 0, len(offsets) - 1
    while first < n:
        end = offsets[first] + limit
        last = max(int(np.searchsorted(offsets, end, side="right")) - 1, first + 1)
        yield first, last
        first = last


def unmap(array: NDArray[Any]) -> None:
    """Free the memory in which a file is mapped; what is read again is mapped again.

    It is not memory of our own, but it would be counted as such, up to the size of the file.
    """
    mapped = getattr(array, "_mmap", None)
    # Where the system has no such call, it takes what it needs by itself.
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


@lru_cache(4096)
def header(shape: tuple[int, ...], dtype: str) -> bytes:
    """Return what stands before the values of an array in C order."""
    buffer = io.BytesIO()
    described = {"descr": dtype, "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(buffer, described)
    return buffer.getvalue()


def read_array(path: Path | str) -> NDArray[Any]:
    """Read an array as `numpy.load` does, never by unpickling.

    Raises
    ------
    ValueError
        If the file is no .npy, holds objects, or is shorter than its header says.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = np.empty(os.fstat(file).st_size, np.uint8)
        left = content.data
        while len(left) and (read := os.readv(file, [left])):
            left = left[read:]
    finally:
        os.close(file)
    start, shape, fortran_order, dtype = _described(content, len(content))
    values = content[start : start + _n_bytes(shape, dtype)].view(dtype)
    return values.reshape(shape[::-1]).T if fortran_order else values.reshape(shape)


def read_shape(path: Path | str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read shape and type of an array, as `read_array` would give it, without its values."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        begin = np.frombuffer(os.read(file, _HEADER_BYTES), np.uint8)
        _, shape, _, dtype = _described(begin, os.fstat(file).st_size)
    finally:
        os.close(file)
    return shape, dtype


def _described(
    begin: NDArray[np.uint8], n_bytes: int
) -> tuple[int, tuple[int, ...], bool, np.dtype[Any]]:
    """Find where the values start, their shape, whether in Fortran order, and their type."""
    # Its length stands in 2 bytes after the magic string and the version, since 2.0 in 4.
    wide = len(begin) > 6 and begin[6] > 1
    length = int.from_bytes(begin[8 : 12 if wide else 10].tobytes(), "little")
    start = (12 if wide else 10) + length
    shape, fortran_order, dtype = _parsed(begin[:start].tobytes())
    expected = start + _n_bytes(shape, dtype)
    if n_bytes < expected:
        raise ValueError(f"it has {n_bytes} bytes, expected {expected}: it is not whole")
    return start, shape, fortran_order, dtype


@lru_cache(4096)
def _parsed(begin: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    buffer = io.BytesIO(begin)
    version = npy.read_magic(buffer)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran_order, dtype = read(buffer)
    if dtype.hasobject:
        raise ValueError("it holds objects, which are not read")
    return shape, fortran_order, dtype


def _n_bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return math.prod(shape) * dtype.itemsize
