"""The packed pixels of one tile's parcels: two large .npy files, a table and a description.

Training draws a few pixels of many parcels. In the packed pixels the time series of a pixel is
contiguous and the pixels of a parcel are next to each other, so a draw reads few pages of the file.
"""

from __future__ import annotations

import io
import math
import mmap
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib import format as npy
from numpy.typing import NDArray

from models.pixel_sets import StackedRows, arrays_of
from pipeline.dataset.metadata import as_number
from pipeline.workflow.artefacts import artefact, read_json
from pipeline.workflow.paths import TilePaths
from pipeline.workflow.writing import replacing, write_json

PARCELS = pa.schema(
    {
        "parcel_id": pa.string(),
        "n_pixels": pa.int64(),
        "n_dates": pa.int64(),
        "held": pa.bool_(),
    }
)


@dataclass(frozen=True)
class PackedTile:
    """A tile's parcels, and what its packed pixels contain.

    Attributes
    ----------
    tile, crs
        Name of the tile, and coordinate system of its grid.
    parcel_ids
        The N parcels of its pixel index, in order.
    n_pixels
        int64 (N,): pixels of each parcel that are clear on at least one observed date.
    n_dates
        int64 (N,): observed dates on which at least one pixel of the parcel is clear.
    held
        bool (N,): whether n_pixels is at least min_pixels. Only such parcels are packed.
    dates
        The dates of the packed parcels, in order of time.
    parcel_dates
        {id: its dates} of the packed parcels where they differ; None where all have `dates`.
    bands, fill, mask
        Channels, and how clouds were treated.
    acquisitions
        Ids of the acquisitions that the pixels come from.
    simulated
        Whether the imagery is simulated.
    dropped_observations
        Number of (parcel, date) pairs that were dropped for having too few clear pixels.
    min_clear_fraction, min_pixels
        Settings by which dates were dropped and parcels were left out.
    is_nodata
        Whether no acquisition has a value at any pixel of the parcels.
    damaged
        {id: problem} of the acquisitions that were left out because they cannot be read.
    """

    tile: str
    crs: str
    parcel_ids: list[str]
    n_pixels: NDArray[np.int64]
    n_dates: NDArray[np.int64]
    held: NDArray[np.bool_]
    dates: tuple[date, ...]
    parcel_dates: dict[str, tuple[date, ...]] | None
    bands: list[str]
    fill: str
    mask: str | Sequence[str]
    acquisitions: list[str]
    simulated: bool
    dropped_observations: int
    min_clear_fraction: float
    min_pixels: int
    is_nodata: bool = False
    damaged: Mapping[str, str] = field(default_factory=dict)

    @property
    def packed_ids(self) -> list[str]:
        """The parcels whose pixels are packed, in order."""
        return [self.parcel_ids[i] for i in np.flatnonzero(self.held)]

    def dates_of(self, parcel_id: str) -> tuple[date, ...]:
        """Return the dates of a packed parcel."""
        return self.dates if self.parcel_dates is None else self.parcel_dates[parcel_id]


def write_tile(paths: TilePaths, tile: PackedTile) -> None:
    """Write the table of parcels as Parquet, and everything else about a tile as JSON."""
    values = {entry.name: getattr(tile, entry.name) for entry in fields(tile)}
    names = ("parcel_ids", "n_pixels", "n_dates", "held")
    columns = [values.pop(name) for name in names]
    arrays = [arrow(column, kind) for column, kind in zip(columns, PARCELS.types, strict=True)]
    with replacing(paths.parcels) as temporary:
        pq.write_table(pa.Table.from_arrays(arrays, schema=PARCELS), temporary)
    for name in ("is_nodata", "damaged"):
        if not values[name]:
            del values[name]
    values["dates"] = [as_number(day) for day in tile.dates]
    if tile.parcel_dates is not None:
        own = tile.parcel_dates.items()
        values["parcel_dates"] = {i: [as_number(day) for day in days] for i, days in own}
    write_json(paths.description, values)


def read_tile(paths: TilePaths) -> PackedTile:
    """Read what `write_tile` wrote."""
    # `read_table` and `to_numpy` would also import pandas.
    with (
        artefact(paths.parcels, "the table of a tile's parcels"),
        pq.ParquetFile(paths.parcels) as file,
    ):
        table = file.read().cast(PARCELS).to_pydict()

    def parse(values: dict[str, Any]) -> PackedTile:
        values["dates"] = _as_dates(values["dates"])
        if (own := values["parcel_dates"]) is not None:
            # Most parcels have the same dates as many others: they share one tuple.
            shared = {tuple(days): _as_dates(days) for days in own.values()}
            values["parcel_dates"] = {i: shared[tuple(days)] for i, days in own.items()}
        return PackedTile(
            parcel_ids=table["parcel_id"],
            n_pixels=np.array(table["n_pixels"], np.int64),
            n_dates=np.array(table["n_dates"], np.int64),
            held=np.array(table["held"], bool),
            **values,
        )

    return read_json(paths.description, parse, "the description of a tile")


def _as_dates(numbers: Sequence[int]) -> tuple[date, ...]:
    return tuple(date.fromisoformat(str(number)) for number in numbers)


@contextmanager
def packing(
    paths: TilePaths, shape: tuple[int, int, int]
) -> Iterator[Callable[[int, NDArray[np.uint16], NDArray[np.bool_]], None]]:
    """Write the packed pixels of a tile, whole or not at all.

    Parameters
    ----------
    paths
        Written: pixels and clear.
    shape
        Number of pixels P, dates T and channels C.

    Yields
    ------
    Function that writes some pixels; threads may call it. It takes the row of the first of them,
    uint16 (p, t, C) and bool (p, t). If t is less than T, dates are padded behind with 0 and
    False. If t is greater, the dates behind T must be padding, and are cut off.
    """
    n_dates = shape[1]
    with (
        _writing_rows(paths.pixels, shape, np.uint16) as write_pixels,
        _writing_rows(paths.clear, shape[:2], bool) as write_clear,
    ):

        def write(row: int, pixels: NDArray[np.uint16], clear: NDArray[np.bool_]) -> None:
            write_pixels(row, _with_dates(pixels, n_dates))
            write_clear(row, _with_dates(clear, n_dates))

        yield write


@contextmanager
def _writing_rows(
    path: Path, shape: tuple[int, ...], dtype: type
) -> Iterator[Callable[[int, NDArray[Any]], None]]:
    """Write a .npy file by rows, in any order and from any thread.

    The file is not mapped for writing, because mapped pages count as memory of the process.
    """
    begin = header(shape, np.dtype(dtype).str)
    row_bytes = math.prod(shape[1:]) * np.dtype(dtype).itemsize
    with replacing(path) as temporary, temporary.open("wb") as file:
        descriptor = file.fileno()
        write_at(descriptor, np.frombuffer(begin, np.uint8), 0)
        yield lambda row, rows: write_at(descriptor, rows, len(begin) + row * row_bytes)


def _with_dates(rows: NDArray[Any], n_dates: int) -> NDArray[Any]:
    """Pad or cut the second axis of rows (n, t, ...) to n_dates; return them contiguous."""
    missing = n_dates - rows.shape[1]
    if missing > 0:
        rows = np.pad(rows, [(0, 0), (0, missing)] + [(0, 0)] * (rows.ndim - 2))
    return np.ascontiguousarray(rows[:, :n_dates])


@lru_cache(4096)
def header(shape: tuple[int, ...], dtype: str) -> bytes:
    """Return the header of a .npy file of an array in C order."""
    buffer = io.BytesIO()
    described = {"descr": dtype, "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(buffer, described)
    return buffer.getvalue()


def write_at(file: int, array: NDArray[Any], place: int) -> None:
    """Write the bytes of a contiguous array at a place of an open file."""
    left = array.reshape(-1).view(np.uint8).data
    while len(left):
        # One call writes at most 2 GiB.
        written = os.pwrite(file, left, place)
        left, place = left[written:], place + written


def map_array(path: Path, dtype: type, ndim: int) -> NDArray[Any]:
    """Map an array into memory, read-only.

    Raises
    ------
    InputError
        If the file is missing, has another size than its header says, or has another type or
        number of axes.
    """
    with artefact(path, "a readable array"):
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.dtype != dtype or array.ndim != ndim:
            raise ValueError(
                f"it is {array.dtype} of shape {array.shape}, expected {np.dtype(dtype)} of {ndim} "
                "axes"
            )
        size, expected = path.stat().st_size, getattr(array, "offset", 0) + array.nbytes
        if size != expected:
            raise ValueError(f"it has {size} bytes, expected {expected}")
        return array


def unmap(*arrays: NDArray[Any] | StackedRows[Any] | None) -> None:
    """Free the memory of mapped files; pages that are read again are mapped again.

    The system could reclaim these pages, but counts them as memory of the process: up to the size
    of the files.
    """
    for rows in arrays:
        for array in () if rows is None else arrays_of(rows):
            mapped = getattr(array, "_mmap", None)
            # Systems without this call reclaim the pages without being asked.
            if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
                mapped.madvise(mmap.MADV_DONTNEED)


def batches(offsets: Sequence[int] | NDArray[np.int64], limit: int) -> Iterator[tuple[int, int]]:
    """Divide parcels into batches of at most `limit` pixels, but of at least one parcel.

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


def arrow(values: Sequence[str] | NDArray[Any], kind: pa.DataType) -> pa.Array:
    """Return texts or numbers as an Arrow column.

    `pyarrow.array` would import pandas first, which takes longer than a small tile.
    """
    if kind == pa.string():
        texts = [text.encode() for text in values]
        ends = np.cumsum([0, *map(len, texts)]).astype(np.int32)
        return pa.StringArray.from_buffers(
            len(texts), pa.py_buffer(ends), pa.py_buffer(b"".join(texts))
        )
    numbers = np.asarray(values)
    if kind == pa.bool_():
        stored = np.packbits(numbers, bitorder="little")
    else:
        stored = np.ascontiguousarray(numbers, kind.to_pandas_dtype())
    return pa.Array.from_buffers(kind, len(numbers), [None, pa.py_buffer(stored)])
