"""The table of attention: a row for every predicted parcel, a column for every date."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.workflow.writing import replacing

# More digits would make the file larger, and mean nothing.
_DIGITS = 5


class AttentionWriter:
    """Write the attention of parcels, part by part. Made by `writing_attention`."""

    def __init__(self, file: pq.ParquetWriter, schema: pa.Schema) -> None:
        self._file, self._schema = file, schema

    def put(
        self, ids: Sequence[str], attention: NDArray[np.float32], places: NDArray[np.int64]
    ) -> None:
        """Write n parcels as a row group.

        Parameters
        ----------
        ids
            Their ids.
        attention
            float32 (n, T).
        places
            int64 (n, T), positions of these dates among those of the file; -1 for padding.
        """
        values = np.full((len(ids), len(self._schema) - 1), np.nan, np.float32)
        rows, columns = np.nonzero(places >= 0)
        values[rows, places[rows, columns]] = np.round(attention[rows, columns], _DIGITS)
        arrays = [pa.array(ids, pa.string())]
        arrays += [pa.array(own, pa.float32(), from_pandas=True) for own in values.T]
        self._file.write_table(pa.Table.from_arrays(arrays, schema=self._schema))


@contextmanager
def writing_attention(path: Path, dates: Sequence[date]) -> Iterator[AttentionWriter]:
    """Write a table of attention whole or not at all.

    Parameters
    ----------
    path
        Parquet. Columns: parcel_id, and float32 of every date, named YYYY-MM-DD. A value is null
        where the parcel does not have the date.
    dates
        The dates of all parcels.
    """
    schema = pa.schema(
        [("parcel_id", pa.string()), *((day.isoformat(), pa.float32()) for day in dates)]
    )
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema) as file:
        yield AttentionWriter(file, schema)


def places_of_dates(dataset: PixelSetDataset, parcels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the positions of parcels' dates among those of the dataset, int64 (n, T); -1: padding.

    Parameters
    ----------
    dataset
        The dataset.
    parcels
        int64 (n,).
    """
    if dataset.parcel_dates is None:
        return np.broadcast_to(np.arange(len(dataset.dates)), (len(parcels), len(dataset.dates)))
    places = {day: place for place, day in enumerate(dataset.dates)}
    found = np.full((len(parcels), int(dataset.lengths.max(initial=0))), -1, np.int64)
    for row, parcel in zip(found, parcels.tolist(), strict=True):
        own = dataset.parcel_dates[dataset.ids[parcel]]
        row[: len(own)] = [places[day] for day in own]
    return found


def attention_by_class(
    path: Path, chosen: NDArray[np.int64], n_classes: int
) -> NDArray[np.float64]:
    """Compute the quartiles of the attention of every class, float64 (K, dates, 3).

    The columns are read one by one. NaN where no parcel of the class has the date.

    Parameters
    ----------
    path
        Table of attention.
    chosen
        int64 (N,), class index of each of its parcels.
    n_classes
        Number of classes K.
    """
    file = pq.ParquetFile(path)
    names = file.schema_arrow.names[1:]
    found = np.full((n_classes, len(names), 3), np.nan)
    for place, name in enumerate(names):
        values = file.read(columns=[name])[name].to_numpy()
        of_class = pd.Series(values).groupby(chosen)
        for rank, quartile in enumerate((0.25, 0.5, 0.75)):
            values_of = of_class.quantile(quartile)
            found[values_of.index, place, rank] = values_of
    return found
