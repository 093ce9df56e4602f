"""Stage pack: the arrays of the dataset become one file, as training and prediction read it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geo.errors import InputError
from pipeline.dataset.npy_files import header, write_at
from pipeline.dataset.packed_pixels import PackedLayout
from pipeline.dataset.pixel_set_store import file_name, read_pixels, read_valid
from pipeline.workflow.paths import DatasetPaths
from pipeline.workflow.progress import ProgressLog
from pipeline.workflow.settings import PackSettings
from pipeline.workflow.writing import replacing

# Blocks beyond this size are no faster.
LARGEST_BLOCK = 64_000_000


def pack(dataset: Path, settings: PackSettings, threads: int = 1) -> None:
    """Pack the pixels of all parcels into one file that is mapped into memory.

    DATA holds a parcel a file, as other software reads them. Training draws a few pixels of many
    parcels, for which a file each is slow: here a pixel's series is contiguous, the pixels of a
    parcel lie together, the parcels in the order of META/sizes.json.

    Parameters
    ----------
    dataset
        Pixel-Set dataset. Written into it: pixels.npy, uint16 (sum of S, T, C); where clouds were
        kept and masked also valid.npy, bool (sum of S, T).
    settings
        assemble.memory_mb.
    threads
        That read and write at the same time.

    Raises
    ------
    InputError
        If an array is not what META says of it.
    """
    paths = DatasetPaths(dataset)
    layout = PackedLayout.of(paths)
    n_bytes = min(settings.assemble.memory_mb * 1_000_000 // threads, LARGEST_BLOCK)
    blocks = list(layout.blocks(n_bytes))
    if not layout.masked:
        paths.packed_valid.unlink(missing_ok=True)
    validity = _new(paths.packed_valid, layout.shape[:2], bool) if layout.masked else nullcontext()
    with validity as valid, _new(paths.packed_pixels, layout.shape, np.uint16) as pixels:

        def copy(block: tuple[int, int]) -> int:
            first, last = block
            rows = int(layout.offsets[first])
            values = _read_pixels(paths, layout, first, last)
            pixels.write(values, rows)
            if valid is not None:
                valid.write(_read_valid(paths, layout, first, last), rows)
            return last - first

        progress = ProgressLog("packed", len(layout.ids), "parcels")
        with ThreadPoolExecutor(threads) as pool:
            for n in pool.map(copy, blocks):
                progress.add(n)


class _NewFile:
    """A .npy file that threads write row by row."""

    def __init__(self, file: int, shape: tuple[int, ...], dtype: type) -> None:
        begin = header(shape, np.dtype(dtype).str)
        self._file, self._start = file, len(begin)
        self._row_bytes = int(np.prod(shape[1:])) * np.dtype(dtype).itemsize
        os.pwrite(file, begin, 0)

    def write(self, rows: NDArray[np.generic], place: int) -> None:
        """Write rows at their place."""
        write_at(self._file, rows, self._start + place * self._row_bytes)


@contextmanager
def _new(path: Path, shape: tuple[int, ...], dtype: type) -> Iterator[_NewFile]:
    """Give a file that takes the place of `path` once everything is written."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        yield _NewFile(file.fileno(), shape, dtype)


def _read_pixels(
    dataset: DatasetPaths, layout: PackedLayout, first: int, last: int
) -> NDArray[np.uint16]:
    """Read the pixels of a run of parcels, padded: uint16 (pixels, T, C)."""
    offsets = layout.offsets[first : last + 1] - layout.offsets[first]
    # Every value is written but where parcels lack dates.
    shape = (int(offsets[-1]), *layout.shape[1:])
    packed = np.zeros(shape, np.uint16) if layout.is_ragged else np.empty(shape, np.uint16)
    for i, parcel_id in enumerate(layout.ids[first:last]):
        own = read_pixels(dataset, parcel_id)
        n_dates, size = int(layout.n_dates[first + i]), int(offsets[i + 1] - offsets[i])
        _check(dataset.pixels / file_name(parcel_id), own, (n_dates, layout.n_channels, size))
        packed[offsets[i] : offsets[i + 1], :n_dates] = own.transpose(2, 0, 1)
    return packed


def _read_valid(
    dataset: DatasetPaths, layout: PackedLayout, first: int, last: int
) -> NDArray[np.bool_]:
    """Read which observations of a run of parcels are clear, padded: bool (pixels, T)."""
    offsets = layout.offsets[first : last + 1] - layout.offsets[first]
    packed = np.zeros((int(offsets[-1]), layout.width), bool)
    for i, parcel_id in enumerate(layout.ids[first:last]):
        own = read_valid(dataset, parcel_id)
        n_dates, size = int(layout.n_dates[first + i]), int(offsets[i + 1] - offsets[i])
        _check(dataset.valid / file_name(parcel_id), own, (n_dates, size))
        packed[offsets[i] : offsets[i + 1], :n_dates] = own.T
    return packed


def _check(path: Path, array: NDArray[np.generic], shape: tuple[int, ...]) -> None:
    dtype = bool if len(shape) == 2 else np.uint16
    if array.shape != shape or array.dtype != dtype:
        raise InputError(
            f"{path} is {array.dtype} of shape {array.shape}, expected {np.dtype(dtype)} of "
            f"{shape} by META of the dataset."
        )
