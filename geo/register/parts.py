"""Read a parcel register part by part, for what is done with one row after the other."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio

from geo.register.reading import (
    PARQUET_SUFFIXES,
    find_layer,
    in_two_dimensions,
    read_geoparquet,
    read_with_gdal,
)

# Types that can be missing, by the kind of those that cannot.
WITH_MISSING = {"i": "Int64", "u": "UInt64", "b": "boolean"}
# The lists and structures of GeoParquet are read as text.
WRITTEN_AS_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_nested)


def read_register_parts(path: Path, layer: str | None, n_rows: int) -> Iterator[gpd.GeoDataFrame]:
    """Read what `read_register` reads, no more than `n_rows` at once.

    Whole numbers and truth values are of types that can be missing, so that they are the same in
    all parts; the index goes on from one part to the next.

    Raises
    ------
    InputError
        As `read_register`.
    """
    if path.suffix.lower() in PARQUET_SUFFIXES:
        types, parts = _parts_of_parquet(path, n_rows)
    else:
        types, parts = _parts_with_gdal(path, layer, n_rows)
    first = 0
    for rows in parts:
        own = {name: kind for name, kind in types.items() if name in rows}
        part = in_two_dimensions(rows.astype(own), path)
        part.index = pd.RangeIndex(first, first + len(part))
        first += len(part)
        yield part


Parts = Iterator[gpd.GeoDataFrame]


def _parts_with_gdal(path: Path, layer: str | None, n_rows: int) -> tuple[dict[str, str], Parts]:
    """Give the types of the columns, and the parts of a layer that GDAL reads."""
    source, layer = find_layer(path, layer)
    info = pyogrio.read_info(source, layer=layer, force_feature_count=True)
    types = {}
    for name, kind, form in zip(info["fields"], info["dtypes"], info["ogr_types"], strict=True):
        if np.dtype(kind).kind in WITH_MISSING:
            types[str(name)] = WITH_MISSING[np.dtype(kind).kind]
        elif form == "OFTString":
            types[str(name)] = "str"
    parts = (
        read_with_gdal(path, source, layer, skip_features=first, max_features=n_rows)
        for first in range(0, max(info["features"], 1), n_rows)
    )
    return types, parts


def _parts_of_parquet(path: Path, n_rows: int) -> tuple[dict[str, str], Parts]:
    """Give the types of the columns, and the parts of GeoParquet."""
    # What is no GeoParquet is refused as a whole, by its own words.
    schema = pq.read_schema(path)
    read_geoparquet(path, _as_file(schema.empty_table()))
    types = {}
    for field in schema:
        if pa.types.is_integer(field.type):
            types[field.name] = "UInt64" if pa.types.is_unsigned_integer(field.type) else "Int64"
        elif pa.types.is_boolean(field.type):
            types[field.name] = "boolean"
        elif any(is_text(field.type) for is_text in WRITTEN_AS_TEXT):
            types[field.name] = "str"

    def parts() -> Parts:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=n_rows):
                yield read_geoparquet(path, _as_file(pa.Table.from_batches([batch], schema)))

    return types, parts()


def _as_file(table: pa.Table) -> io.BytesIO:
    """Write a table to memory: geopandas reads files, not tables."""
    written = io.BytesIO()
    pq.write_table(table, written)
    written.seek(0)
    return written
