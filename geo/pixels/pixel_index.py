"""Which pixels of the grid belong to which parcel."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geo.errors import reading
from geo.grid import Grid


@dataclass(frozen=True)
class PixelIndex:
    """Rows and columns of the pixels of every parcel.

    Parameters
    ----------
    parcel_ids
        Ids of the P parcels.
    offsets
        int64 (P + 1,): the pixels of parcel i are those from offsets[i] up to offsets[i + 1].
    rows, cols
        int32 (pixels of all parcels,): place in the grid, row-major within a parcel. A pixel that
        several parcels cover is there several times.
    tile
        Tile of the grid.
    grid
        Grid that rows and columns count in.
    """

    parcel_ids: list[str]
    offsets: NDArray[np.int64]
    rows: NDArray[np.int32]
    cols: NDArray[np.int32]
    tile: str
    grid: Grid

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Number of pixels of every parcel, int64 (P,)."""
        return np.diff(self.offsets)

    def select(self, chosen: NDArray[np.bool_]) -> PixelIndex:
        """Keep some of the parcels, bool (P,), in their order."""
        pixels = np.repeat(chosen, self.sizes)
        return PixelIndex(
            [parcel_id for parcel_id, keep in zip(self.parcel_ids, chosen, strict=True) if keep],
            np.concatenate([[0], np.cumsum(self.sizes[chosen])]).astype(np.int64),
            self.rows[pixels],
            self.cols[pixels],
            self.tile,
            self.grid,
        )

    def save(self, path: Path) -> None:
        """Write the index as .npz; equal indices give equal bytes."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with temporary.open("wb") as file:
            np.savez(
                file,
                allow_pickle=False,
                # JSON, because an array of text would be as wide as its longest id.
                parcel_ids=np.frombuffer(json.dumps(self.parcel_ids).encode(), np.uint8),
                offsets=self.offsets,
                rows=self.rows,
                cols=self.cols,
                tile=np.array(self.tile),
                grid=np.array(json.dumps(asdict(self.grid))),
            )
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> PixelIndex:
        """Read an index that `save` wrote."""
        remedy = "Make it anew: snakemake -R rasterise."
        with (
            reading(path, "a pixel index", remedy),
            # numpy leaves a file open that it cannot read.
            path.open("rb") as content,
            np.load(content, allow_pickle=False) as file,
        ):
            return cls(
                json.loads(file["parcel_ids"].tobytes()),
                file["offsets"],
                file["rows"],
                file["cols"],
                str(file["tile"]),
                Grid(**json.loads(str(file["grid"]))),
            )
