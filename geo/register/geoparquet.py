"""GeoParquet as a register: whole, in parts, or some of its columns."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyproj.exceptions import ProjError

from geo.errors import InputError, first_five
from geo.register.layers import UNREADABLE, as_json
from geo.register.sources import check_files, check_number_of_rows
from geo.register.text import RAW, RawText

# The years of Python's dates; no other format stores dates beyond them.
FIRST_YEAR, LAST_YEAR = np.datetime64("0001-01-01"), np.datetime64("9999-12-31T23:59:59")
# Decimals with more digits than GDAL reads become text.
LARGEST_PRECISION = 18


class GeoParquet:
    """A GeoParquet file.

    Parameters
    ----------
    path
        The file.
    encoding
        Encoding of text that is not UTF-8; None if it is not set.

    Raises
    ------
    InputError
        If the file is not Parquet, or has two columns of the same name.
    """

    def __init__(self, path: Path, encoding: str | None = None) -> None:
        self._path, self._encoding = path, encoding
        check_files(path)
        try:
            check_number_of_rows(path, pq.read_metadata(path).num_rows)
            self._schema = pq.read_schema(path)
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(error) from error
        names = self._schema.names
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(
                f"{path} has several columns of the same name: {first_five(repeated)}. Rename them."
            )

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return list(self._schema.names)

    @property
    def metadata(self) -> Mapping[bytes, bytes]:
        """What is stored for the whole file."""
        return self._schema.metadata or {}

    def first(self) -> gpd.GeoDataFrame:
        """Return a table without rows; refuse a file that is Parquet, but not GeoParquet."""
        return self._read(_in_memory(self._schema.empty_table()))

    def read(self) -> gpd.GeoDataFrame:
        """Read all rows."""
        return self._read(self._path)

    def columns(self, names: Sequence[str]) -> pd.DataFrame:
        """Read some columns without outlines."""
        table = pq.read_table(self._path, columns=list(names))
        rows: pd.DataFrame = table.to_pandas().reset_index(drop=True)
        self._decode(rows, 0)
        return rows

    def parts(self, n_rows: int) -> Iterator[gpd.GeoDataFrame]:
        """Read all rows in parts; columns have the same types in all of them."""
        types = {field.name: _stable_type(field.type) for field in self._schema}
        first = 0
        with pq.ParquetFile(self._path) as file:
            for batch in file.iter_batches(batch_size=n_rows):
                part = _in_memory(pa.Table.from_batches([batch], self._schema))
                rows = self._read(part, first)
                first += len(rows)
                # Outlines are bytes in the file; further ones are text here.
                own = [n for n, dtype in rows.dtypes.items() if dtype not in ("geometry", "str")]
                yield rows.astype({n: types[n] for n in own if types[n] is not None})

    def _read(self, source: Path | IO[bytes], first_row: int = 0) -> gpd.GeoDataFrame:
        """Read from the file itself, or from a part of it in memory."""
        try:
            # Without the index that pandas stored: geometries are joined to rows by the index.
            rows = gpd.read_parquet(source).reset_index(drop=True)
            nested = [f.name for f in self._schema if pa.types.is_nested(f.type) and f.name in rows]
            # Outlines can be nested, too.
            nested = [name for name in nested if rows[name].dtype != "geometry"]
            lists = pq.read_table(source, columns=nested).to_pydict() if nested else {}
        # KeyError, TypeError: the JSON of its metadata is damaged. OSError: a part of it is.
        # OverflowError: a date is not one of Python's.
        except (
            *UNREADABLE,
            *(ValueError, KeyError, TypeError, OSError, OverflowError, pa.ArrowException),
        ) as error:
            raise self._unreadable(error) from error
        except ProjError as error:  # its text repeats the whole definition
            raise self._unreadable("its coordinate system is damaged.") from error
        self._refuse_far_dates(rows, first_row)
        # A layer of other formats has one geometry.
        for name in rows.columns[rows.dtypes == "geometry"].drop(rows.geometry.name):
            rows[name] = gpd.GeoSeries(rows[name]).to_wkt().astype("str")
        # Lists, such as fiboa's `category`, become JSON: other formats could not store them.
        for name, values in lists.items():
            rows[name] = as_json(pd.Series(values, dtype=object), ascii_only=True)
        self._decode(rows, first_row)
        return rows

    def _decode(self, rows: pd.DataFrame, first_row: int) -> None:
        """Decode text that is not UTF-8, which Arrow does not check."""
        for name in rows.columns[rows.dtypes == "str"]:
            values = pa.chunked_array(rows[name].array.__arrow_array__())
            try:
                values.validate(full=True)
            except pa.ArrowInvalid:
                raw = [
                    None if value is None else value.decode(RAW)
                    for value in values.cast(pa.large_binary()).to_pylist()
                ]
                column = pd.DataFrame({name: pd.Series(raw, rows.index, "str")})
                RawText(str(self._path), self._encoding).decode(column, first_row)
                rows[name] = column[name]

    def _refuse_far_dates(self, rows: pd.DataFrame, first_row: int) -> None:
        """Refuse dates that no other format can store."""
        for name in rows.select_dtypes(["datetime", "datetimetz"]):
            values = rows[name].to_numpy("datetime64[s]")
            far = np.flatnonzero((values < FIRST_YEAR) | (values > LAST_YEAR))
            if len(far):
                raise InputError(
                    f"{self._path}: row {first_row + far[0] + 1}, column {name!r} is "
                    f"{values[far[0]]}, which is not a date of the years 1 to 9999. Correct it, or "
                    "write the column as text."
                )

    def _unreadable(self, error: Exception | str) -> InputError:
        return InputError(
            f"{self._path} cannot be read as GeoParquet: {error} Write it with geopandas' "
            "to_parquet."
        )


def _stable_type(kind: pa.DataType) -> Any:
    """Return the type of a column in pandas that does not depend on its values; None for others."""
    if pa.types.is_integer(kind):
        return "UInt64" if kind == pa.uint64() else "Int64"
    if pa.types.is_boolean(kind):
        return "boolean"
    is_text = (
        *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
        pa.types.is_nested,
    )
    if any(is_type(kind) for is_type in is_text):
        return "str"
    is_bytes = (
        *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view),
        pa.types.is_fixed_size_binary,
    )
    if any(is_type(kind) for is_type in is_bytes):
        return pd.ArrowDtype(pa.binary())
    if pa.types.is_decimal(kind):
        return pd.ArrowDtype(kind) if kind.precision <= LARGEST_PRECISION else "str"
    return pd.ArrowDtype(kind) if pa.types.is_date(kind) or pa.types.is_time(kind) else None


def _in_memory(table: pa.Table) -> io.BytesIO:
    """Write a table to a file in memory: geopandas reads files, not tables."""
    written = io.BytesIO()
    pq.write_table(table, written)
    written.seek(0)
    return written
