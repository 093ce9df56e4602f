"""The arrays of a dataset as one .npy file a parcel, in the layout that other software reads.

These are many small files. numpy parses and formats a header for each, which takes longer than
reading or writing the file. Here headers are cached, as the files of a dataset share a few hundred
of them, and a file is read or written by one system call.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from pipeline.dataset.packed_tiles import batches, header, unmap, write_at
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.workflow.paths import DatasetPaths
from pipeline.workflow.progress import ProgressLog
from pipeline.workflow.writing import replacing_folder, write_json

# The header of a plain array is shorter.
_HEADER_BYTES = 4096
# Bytes of a file name on all usual file systems, and those of a longer name that are kept.
_LONGEST_NAME, _KEPT_OF_LONG_NAME = 255, 200
# Bytes of a batch of parcels: larger batches are not faster.
LARGEST_BATCH = 16_000_000


def file_name(parcel_id: str, suffix: str = ".npy") -> str:
    """Return a parcel's file name; characters that cannot be in a file name are %-encoded.

    If the name is too long for a file system, it is shortened and ends in %~ and a digest of the
    id, so that different ids have different names.
    """
    name = quote(parcel_id, safe=" ()+,;=@-_.~")
    if len(name) + len(suffix) > _LONGEST_NAME:
        begin = re.sub("%[0-9A-F]?$", "", name[:_KEPT_OF_LONG_NAME])
        digest = hashlib.blake2b(parcel_id.encode("utf-8", "surrogatepass"), digest_size=16)
        name = f"{begin}%~{digest.hexdigest()}"
    return f"{name}{suffix}"


def write_shortened_names(paths: DatasetPaths, parcel_ids: Iterable[str]) -> None:
    """Write the names of the files whose name is shortened, {id: name}, if there are any."""
    names = {i: name for i in parcel_ids if "%~" in (name := file_name(i))}
    if names:
        write_json(paths.file_names, names)
    else:
        paths.file_names.unlink(missing_ok=True)


def write_npy_files(
    dataset: PixelSetDataset,
    threads: int,
    n_bytes: int | None = None,
    *,
    with_valid: bool = True,
) -> None:
    """Write DATA/<id>.npy and VALID/<id>.npy of every parcel, on its own dates.

    Parameters
    ----------
    dataset
        The dataset, whose packed pixels are read. Its DATA and VALID are replaced.
    threads
        Batches of parcels that are read and written at the same time.
    n_bytes
        Memory for all of them together; None for batches of the largest useful size.
    with_valid
        Whether to write VALID.
    """
    write_shortened_names(dataset.paths, dataset.ids)
    ids, offsets, lengths = dataset.ids, dataset.offsets.tolist(), dataset.lengths.tolist()
    pixels, clear = dataset.pixels, dataset.clear
    limit = LARGEST_BATCH if n_bytes is None else min(n_bytes // threads, LARGEST_BATCH)
    pixel_bytes = max(pixels.shape[1] * (2 * pixels.shape[2] + 1), 1)
    progress = ProgressLog("exported", len(ids), "parcels")
    with ExitStack() as stack:
        # The system resolves a path from the root, and a name in an open folder directly.
        folders = []
        for target in (dataset.paths.pixels, dataset.paths.valid)[: 1 + with_valid]:
            temporary = stack.enter_context(replacing_folder(target))
            folders.append(os.open(temporary, os.O_RDONLY))
            stack.callback(os.close, folders[-1])

        def write(batch: tuple[int, int]) -> int:
            first, last = batch
            rows = slice(offsets[first], offsets[last])
            # A view of a memmap is a memmap again, which takes longer to make than an ndarray.
            values, is_clear = np.asarray(pixels[rows]), np.asarray(clear[rows])
            for i in range(first, last):
                own = slice(offsets[i] - rows.start, offsets[i + 1] - rows.start)
                dates = slice(lengths[i])
                write_parcel(ids[i], values[own, dates], is_clear[own, dates], folders)
            return last - first

        pool = stack.enter_context(ThreadPoolExecutor(threads))
        for n in pool.map(write, batches(offsets, limit // pixel_bytes)):
            progress.add(n)
            unmap(pixels, clear)


def write_parcel(
    parcel_id: str, pixels: NDArray[np.uint16], clear: NDArray[np.bool_], folders: list[int]
) -> None:
    """Write the files of a parcel.

    Parameters
    ----------
    parcel_id
        Id, from which the files are named.
    pixels, clear
        uint16 (S, T, C) and bool (S, T).
    folders
        Descriptors of the open folders DATA and VALID, or of DATA alone.
    """
    name = file_name(parcel_id)
    # (S, T, C) to (T, C, S), and (S, T) to (T, S).
    for folder, array in zip(folders, (pixels.transpose(1, 2, 0), clear.T), strict=False):
        write_array(name, array, folder)


def remove_npy_files(paths: DatasetPaths) -> None:
    """Remove DATA and VALID of an earlier run, which are folders or links to folders."""
    paths.file_names.unlink(missing_ok=True)
    for folder in (paths.pixels, paths.valid):
        if folder.is_symlink():
            folder.unlink()
        elif folder.is_dir():
            shutil.rmtree(folder)


def write_array(path: Path | str, array: NDArray[Any], folder: int | None = None) -> None:
    """Write an array as `numpy.save` does, in C order.

    Parameters
    ----------
    path
        File to write; replaced if it exists.
    array
        Array of at least one axis, of any type but objects.
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
        # One call writes at most 2 GiB.
        write_at(file, content[written - len(begin) :], written)
    finally:
        os.close(file)


def read_array(path: Path) -> NDArray[Any]:
    """Read an array as `numpy.load` does, but never unpickle objects.

    Raises
    ------
    ValueError
        If the file is not a .npy file, contains objects, or has another size than its header says.
    """
    with path.open("rb", buffering=0) as file:
        content = np.empty(os.fstat(file.fileno()).st_size, np.uint8)
        left = content.data
        while len(left) and (n_read := file.readinto(left)):
            left = left[n_read:]
    start, shape, fortran_order, dtype = _parse_header(content, len(content))
    values = content[start : start + math.prod(shape) * dtype.itemsize].view(dtype)
    return values.reshape(shape[::-1]).T if fortran_order else values.reshape(shape)


def read_shape(path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read the shape and type of an array without its values; raise as `read_array` does."""
    with path.open("rb", buffering=0) as file:
        begin = np.frombuffer(file.read(_HEADER_BYTES), np.uint8)
        _, shape, _, dtype = _parse_header(begin, os.fstat(file.fileno()).st_size)
    return shape, dtype


def _parse_header(
    begin: NDArray[np.uint8], n_bytes: int
) -> tuple[int, tuple[int, ...], bool, np.dtype[Any]]:
    """Return the place of the first value, the shape, whether in Fortran order, and the type."""
    # The length of the header is in 2 bytes behind magic string and version; 4 since version 2.0.
    wide = len(begin) > 6 and begin[6] > 1
    length = int.from_bytes(begin[8 : 12 if wide else 10].tobytes(), "little")
    start = (12 if wide else 10) + length
    shape, fortran_order, dtype = _parse_described(begin[:start].tobytes())
    if min(shape, default=0) < 0:
        raise ValueError(f"its shape is {shape}")
    expected = start + math.prod(shape) * dtype.itemsize
    if n_bytes != expected:
        reason = "it is incomplete" if n_bytes < expected else "something was appended to it"
        raise ValueError(f"it has {n_bytes} bytes, expected {expected}: {reason}")
    return start, shape, fortran_order, dtype


@lru_cache(4096)
def _parse_described(begin: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    buffer = io.BytesIO(begin)
    version = npy.read_magic(buffer)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran_order, dtype = read(buffer)
    if dtype.hasobject:
        raise ValueError("it contains objects, which are not read")
    return shape, fortran_order, dtype
