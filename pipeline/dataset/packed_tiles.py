"""What assemble knows of a tile: how much of each parcel was observed, and on which dates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from geo.errors import InputError
from pipeline.dataset.metadata import as_number
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
    """A tile's parcels, and what its packed pixels are.

    Attributes
    ----------
    tile, crs
        Name of the tile, and coordinate system of its grid.
    parcel_ids
        The N parcels of its pixel index, in order.
    n_pixels
        int64 (N,): pixels of each parcel that are clear on at least one kept date.
    n_dates
        int64 (N,): kept dates on which the parcel is clear, in part at least.
    held
        bool (N,): whether n_pixels is at least min_pixels, so that the parcel's pixels are packed.
    dates
        The dates of the held parcels, in order of time.
    parcel_dates
        {id: its dates} of the held parcels where they differ; None where all have `dates`.
    bands, fill, mask
        Channels, and how clouds were treated.
    acquisitions
        Those that the pixels come from.
    simulated
        Whether the imagery is.
    dropped_observations
        Dates of parcels, one each, that were dropped for having too few clear pixels.
    min_clear_fraction, min_pixels
        Settings by which dates were dropped and parcels are held.
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

    @property
    def held_ids(self) -> list[str]:
        """The parcels whose pixels are packed, in order."""
        return [self.parcel_ids[i] for i in np.flatnonzero(self.held)]

    @property
    def sizes(self) -> list[int]:
        """Number of packed pixels of each of these."""
        return list(self.n_pixels[self.held].tolist())

    @property
    def offsets(self) -> list[int]:
        """Parcel i of these has the packed pixels offsets[i] up to offsets[i + 1]."""
        return [0, *accumulate(self.sizes)]

    def dates_of(self, parcel_id: str) -> tuple[date, ...]:
        """Return the dates of a held parcel."""
        return self.dates if self.parcel_dates is None else self.parcel_dates[parcel_id]


def write_tile(paths: TilePaths, tile: PackedTile) -> None:
    """Write the table of parcels and the description of a tile."""
    columns: list[Any] = [tile.parcel_ids, tile.n_pixels, tile.n_dates, tile.held]
    arrays = [arrow(c, kind) for c, kind in zip(columns, PARCELS.types, strict=True)]
    with replacing(paths.parcels) as temporary:
        pq.write_table(pa.Table.from_arrays(arrays, schema=PARCELS), temporary)
    own = tile.parcel_dates
    write_json(
        paths.description,
        {
            "tile": tile.tile,
            "crs": tile.crs,
            "dates": [as_number(day) for day in tile.dates],
            "parcel_dates": own and {i: [as_number(d) for d in days] for i, days in own.items()},
            "bands": tile.bands,
            "fill": tile.fill,
            "mask": tile.mask,
            "acquisitions": tile.acquisitions,
            "simulated": tile.simulated,
            "dropped_observations": tile.dropped_observations,
            "min_clear_fraction": tile.min_clear_fraction,
            "min_pixels": tile.min_pixels,
        },
    )


def read_tile(paths: TilePaths) -> PackedTile:
    """Read what `write_tile` wrote."""
    told = json.loads(paths.description.read_text(encoding="utf-8"))
    # Neither `read_table` nor `to_numpy`, which would import pandas, too.
    with pq.ParquetFile(paths.parcels) as file:
        table = file.read().to_pydict()
    own = told.pop("parcel_dates")
    # Parcels share their dates with many others.
    known = {tuple(days): _as_dates(days) for days in (own or {}).values()}
    return PackedTile(
        parcel_ids=table["parcel_id"],
        n_pixels=np.array(table["n_pixels"], np.int64),
        n_dates=np.array(table["n_dates"], np.int64),
        held=np.array(table["held"], bool),
        dates=_as_dates(told.pop("dates")),
        parcel_dates=None if own is None else {i: known[tuple(days)] for i, days in own.items()},
        **told,
    )


def refuse_none_held(tiles: Sequence[PackedTile]) -> None:
    """Raise if imagery and settings leave no parcel of any tile enough pixels."""
    if any(tile.held.any() for tile in tiles):
        return
    n = sum(len(tile.parcel_ids) for tile in tiles)
    limit = max((tile.min_clear_fraction for tile in tiles), default=0.0)
    if any(tile.dropped_observations for tile in tiles) and not any(
        tile.n_dates.any() for tile in tiles
    ):
        raise InputError(
            f"clouds.min_clear_fraction is {limit:g}, and no date of any of the "
            f"{n} parcels has so large a share of clear pixels. Lower it."
        )
    most = max((int(tile.n_pixels.max(initial=0)) for tile in tiles), default=0)
    min_pixels = max((tile.min_pixels for tile in tiles), default=1)
    raise InputError(
        f"None of the {n} parcels has parcels.min_pixels, {min_pixels}, "
        f"pixels that are clear on at least one date: the most that one has is {most}. Check "
        "clouds.mask, clouds.classes, clouds.min_clear_fraction, imagery.max_cloud_fraction "
        "and parcels.min_pixels."
    )


def arrow(values: Sequence[str] | NDArray[Any], kind: pa.DataType) -> pa.Array:
    """Return a column of texts or numbers as Arrow has it.

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


def _as_dates(numbers: Sequence[int]) -> tuple[date, ...]:
    return tuple(date.fromisoformat(str(number)) for number in numbers)
