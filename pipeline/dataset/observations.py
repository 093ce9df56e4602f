"""The table of observations: how much of a parcel was clear on a date, and whether it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from types import TracebackType

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

SCHEMA = pa.schema(
    {
        "parcel_id": pa.string(),
        "tile": pa.string(),
        "date": pa.date32(),
        "clear_fraction": pa.float32(),
        "kept": pa.bool_(),
    }
)


class ObservationWriter:
    """Write the table part by part, one row for every date of a parcel's tile.

    Parameters
    ----------
    path
        Parquet file to write.
    """

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetWriter(path, SCHEMA)

    def __enter__(self) -> ObservationWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(
        self,
        tile: str,
        parcel_ids: Sequence[str],
        dates: Sequence[date],
        clear_fraction: NDArray[np.float64],
        kept: NDArray[np.bool_],
    ) -> None:
        """Add parcels of one tile: `clear_fraction` (N, T) is 0 to 1, `kept` (N, T)."""
        n, n_dates = kept.shape
        parcel = pa.DictionaryArray.from_arrays(
            np.repeat(np.arange(n, dtype=np.int32), n_dates), pa.array(parcel_ids, pa.string())
        )
        columns = {
            "parcel_id": parcel.cast(pa.string()),
            "tile": pa.repeat(pa.scalar(tile), n * n_dates),
            "date": np.tile(np.asarray(dates, "datetime64[D]"), n),
            "clear_fraction": clear_fraction.ravel().astype(np.float32),
            "kept": kept.ravel(),
        }
        self._file.write_table(pa.table(columns, schema=SCHEMA))


def read_observations(path: Path) -> pd.DataFrame:
    """Read the table: parcel_id, tile, date, clear_fraction, kept."""
    return pd.read_parquet(path)
