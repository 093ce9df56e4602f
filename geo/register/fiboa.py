"""Field boundaries in fiboa's format: GeoParquet with columns and metadata of fixed meaning.

fiboa 0.3.0 (https://fiboa.org/specification/v0.3.0/schema.yaml) builds on Vecorel 0.1.0. Its
GeoParquet encoding stores the properties of the whole file as JSON under the key `collection`.

Only pyarrow is imported here: predictions are also written on machines without GDAL.
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from geo.register.geopackage_contents import Field

if TYPE_CHECKING:
    import geopandas

PARQUET_SUFFIXES = (".parquet", ".geoparquet")

VECOREL = "https://vecorel.org/specification/v0.1.0/schema.yaml"
FIBOA = "https://fiboa.org/specification/v0.3.0/schema.yaml"
CROP = "https://fiboa.org/crop-extension/v0.2.0/schema.yaml"

# Where vecorel-cli reads the meaning of columns that no schema defines, and its names of types.
CUSTOM = "schemas:custom"
_TYPES = {
    "string": "string",
    "large_string": "string",
    "int64": "int64",
    "float": "float",
    "double": "double",
}

# Metadata that name fiboa: up to version 0.2.0, and from 0.3.0 on.
METADATA_KEYS = (b"fiboa", b"collection")
# Beginnings of the names of columns of fiboa and its extensions; with "_" up to version 0.2.0.
PREFIXES = ("determination:", "determination_", "crop:", "hcat:", "admin:", "flik:", "metrics:")


def follows_fiboa(columns: Sequence[str], metadata: Mapping[bytes, bytes]) -> bool:
    """Return whether a register follows fiboa, any version.

    GeoParquet says so in its metadata. In other formats, columns show it whose names only fiboa
    uses, beside the column of the ids.
    """
    if any(b"fiboa" in metadata.get(key, b"") for key in METADATA_KEYS):
        return True
    return "id" in columns and any(name.startswith(PREFIXES) for name in columns)


class ParquetWriter:
    """Write a Parquet file in parts; all parts have the column types of the first one.

    Parameters
    ----------
    path
        File to write.
    required
        Columns that have a value in every row.
    options
        Options of `pyarrow.parquet.ParquetWriter`.
    """

    def __init__(self, path: Path, required: Collection[str] = (), **options: Any) -> None:
        self._path, self._required, self._options = path, required, options
        self._file: pq.ParquetWriter | None = None

    def add(self, table: pa.Table) -> None:
        """Write rows."""
        if self._file is None:
            # Later parts may have text in a column that is empty in the first part.
            fields = [
                (
                    field.with_type(pa.string()) if pa.types.is_null(field.type) else field
                ).with_nullable(field.name not in self._required)
                for field in table.schema
            ]
            schema = pa.schema(fields, table.schema.metadata)
            self._file = pq.ParquetWriter(self._path, schema, **self._options)
        self._file.write_table(table.cast(self._file.schema))

    def close(self, metadata: Mapping[bytes, bytes] | None = None) -> None:
        """Finish the file, with metadata that only the last part completes."""
        if self._file is not None:
            if metadata is not None:
                self._file.add_key_value_metadata(metadata)
            self._file.close()

    @property
    def schema(self) -> pa.Schema:
        """The names and types of the columns, after the first part."""
        return self._file.schema if self._file is not None else pa.schema([])


class FiboaWriter:
    """Write features in parts as GeoParquet that follows fiboa.

    A column `bbox` has the bounds of every feature, so that software reads only the row groups of
    the region that it shows (GeoParquet 1.1, covering).

    Parameters
    ----------
    path
        File to write.
    collection
        Name of the collection that the features form.
    code_list
        Address of the table of crop codes. The crop extension requires it: without an address, the
        file does not claim to follow the extension.
    properties
        Properties that all features share.
    fields
        {column: title and meaning} of the columns that fiboa does not define; those of other names
        are ignored.
    """

    def __init__(
        self,
        path: Path,
        *,
        collection: str,
        code_list: str | None,
        properties: Mapping[str, str],
        fields: Mapping[str, Field],
    ) -> None:
        schemas, required = [VECOREL, FIBOA], {"id", "geometry"}
        shared = dict(properties)
        if code_list is not None:
            schemas.append(CROP)
            required.add("crop:code")
            shared["crop:code_list"] = code_list
        self._collection = {"schemas": {collection: schemas}, "collection": collection, **shared}
        # Arrow would read a stored schema in place of the metadata that `close` adds.
        self._file = ParquetWriter(path, required, compression="zstd", store_schema=False)
        self._fields = fields
        self._metadata: dict[bytes, bytes] = {}
        self._geo: dict[str, Any] = {}

    def add(self, features: geopandas.GeoDataFrame) -> None:
        """Write features with the columns id (unique text) and geometry (valid polygons).

        Other columns keep their names, which are fiboa's or the caller's own.
        """
        # geopandas writes files, not tables, and its metadata describe only this part.
        part = io.BytesIO()
        features.to_parquet(part, index=False, schema_version="1.1.0", write_covering_bbox=True)
        table = pq.read_table(part)
        self._metadata = dict(table.schema.metadata) | self._metadata
        self._geo = _merge_geo(self._geo, json.loads(table.schema.metadata[b"geo"]))
        self._file.add(table.replace_schema_metadata())

    def close(self) -> None:
        """Write the metadata of all features together, and finish the file."""
        types = {name: _TYPES.get(str(kind)) for name, kind in _pairs(self._file.schema)}
        own = {
            name: {"type": types[name], "description": field.description}
            for name, field in self._fields.items()
            if types.get(name) is not None
        }
        about = {**self._collection, CUSTOM: {"properties": own}}
        geo, collection = (json.dumps(v).encode() for v in (self._geo, about))
        self._file.close({**self._metadata, b"geo": geo, b"collection": collection})


def _pairs(schema: pa.Schema) -> Iterable[tuple[str, pa.DataType]]:
    """Return the names and types of columns."""
    return zip(schema.names, schema.types, strict=True)


def _merge_geo(whole: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """Merge GeoParquet's metadata of a part into those of the whole: geometry types and bounds."""
    if not whole:
        return part
    for name, column in part["columns"].items():
        merged = whole["columns"][name]
        types = {*merged["geometry_types"], *column["geometry_types"]}
        merged["geometry_types"] = sorted(types)
        # A part without outlines has no bounds.
        bounds = [c["bbox"] for c in (merged, column) if "bbox" in c]
        if bounds:
            low, high = np.reshape(bounds, (-1, 2, 2)).swapaxes(0, 1)
            merged["bbox"] = [*low.min(axis=0).tolist(), *high.max(axis=0).tolist()]
    return whole
