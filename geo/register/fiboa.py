"""Field boundaries as fiboa has them: GeoParquet with columns and metadata of fixed meaning.

fiboa 0.3.0 (https://fiboa.org/specification/v0.3.0/schema.yaml) builds on Vecorel 0.1.0, whose
GeoParquet encoding keeps what holds for a whole file as JSON under the key `collection`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from geo.register.reading import PARQUET_SUFFIXES

VECOREL = "https://vecorel.org/specification/v0.1.0/schema.yaml"
FIBOA = "https://fiboa.org/specification/v0.3.0/schema.yaml"
CROP = "https://fiboa.org/crop-extension/v0.2.0/schema.yaml"

# Where a file says that it is fiboa: up to version 0.2.0, and since.
METADATA_KEYS = (b"fiboa", b"collection")


def fiboa_columns(path: Path) -> list[str] | None:
    """List the columns of GeoParquet that follows fiboa, of any version; None for other files."""
    if path.suffix.lower() not in PARQUET_SUFFIXES or not path.is_file():
        return None
    try:
        schema = pq.read_schema(path)
    except pa.ArrowException:
        return None
    metadata = schema.metadata or {}
    says_so = any(b"fiboa" in metadata.get(key, b"") for key in METADATA_KEYS)
    return list(schema.names) if says_so else None


class FiboaWriter:
    """Write features as GeoParquet that follows fiboa, part by part.

    Parameters
    ----------
    path
        File to write.
    collection
        Name of the features together.
    code_list
        Address of the table of crop codes. The crop extension requires one: only with it does the
        file say that it follows the extension.
    properties
        What holds for all features.
    """

    def __init__(
        self, path: Path, *, collection: str, code_list: str | None, properties: Mapping[str, str]
    ) -> None:
        schemas = [VECOREL, FIBOA]
        shared = dict(properties)
        if code_list is not None:
            schemas.append(CROP)
            shared["crop:code_list"] = code_list
        self._about = {"schemas": {collection: schemas}, "collection": collection, **shared}
        self._path = path
        self._file: pq.ParquetWriter | None = None
        self._metadata: dict[bytes, bytes] = {}
        self._geo: dict[str, Any] = {}

    def add(self, features: geopandas.GeoDataFrame) -> None:
        """Write features with the columns id (unique text) and geometry (valid polygons).

        Other columns are called as fiboa or as the caller calls them; their types are those of the
        first part.
        """
        written = io.BytesIO()
        features.to_parquet(written, index=False, schema_version="1.1.0")
        table = pq.read_table(written)
        self._metadata = dict(table.schema.metadata) | self._metadata
        self._geo = _joined(self._geo, json.loads(table.schema.metadata[b"geo"]))
        if self._file is None:
            schema = with_text_for_nothing(table.schema.remove_metadata())
            # A stored schema would hide from Arrow what is added to the metadata at the end.
            options = {"compression": "zstd", "store_schema": False}
            self._file = pq.ParquetWriter(self._path, schema, **options)
        self._file.write_table(table.replace_schema_metadata().cast(self._file.schema))

    def close(self) -> None:
        """Write what is known of all features together, and end the file."""
        if self._file is not None:
            geo, about = (json.dumps(v).encode() for v in (self._geo, self._about))
            metadata = {**self._metadata, b"geo": geo, b"collection": about}
            self._file.add_key_value_metadata(metadata)
            self._file.close()


def with_text_for_nothing(schema: pa.Schema) -> pa.Schema:
    """Take a column that has no value yet for one of text."""
    for place, field in enumerate(schema):
        if pa.types.is_null(field.type):
            schema = schema.set(place, field.with_type(pa.string()))
    return schema


def _joined(all_before: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """Join what GeoParquet says of two parts: the types of their geometries and their bounds."""
    if not all_before:
        return part
    for name, column in part["columns"].items():
        whole = all_before["columns"][name]
        types = {*whole["geometry_types"], *column["geometry_types"]}
        whole["geometry_types"] = sorted(types)
        # A part without outlines has no bounds.
        bounds = [c["bbox"] for c in (whole, column) if "bbox" in c]
        if bounds:
            low, high = np.reshape(bounds, (-1, 2, 2)).swapaxes(0, 1)
            whole["bbox"] = [*low.min(axis=0).tolist(), *high.max(axis=0).tolist()]
    return all_before
