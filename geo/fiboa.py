"""Field boundaries as fiboa has them: GeoParquet with columns and metadata of fixed meaning.

fiboa 0.3.0 (https://fiboa.org/specification/v0.3.0/schema.yaml) builds on Vecorel 0.1.0, whose
GeoParquet encoding keeps what holds for a whole file as JSON under the key `collection`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

import geopandas
import pyarrow as pa
import pyarrow.parquet as pq

from geo.register import PARQUET_SUFFIXES

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


def write_fiboa(
    features: geopandas.GeoDataFrame,
    path: Path,
    *,
    collection: str,
    code_list: str | None,
    properties: Mapping[str, str],
) -> None:
    """Write features as GeoParquet that follows fiboa.

    Parameters
    ----------
    features
        With the columns id (unique text) and geometry (valid polygons); other columns as fiboa or
        as the caller calls them.
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
    schemas = [VECOREL, FIBOA]
    shared = dict(properties)
    if code_list is not None:
        schemas.append(CROP)
        shared["crop:code_list"] = code_list
    about = {"schemas": {collection: schemas}, "collection": collection, **shared}
    written = io.BytesIO()
    features.to_parquet(written, index=False, schema_version="1.1.0")
    table = pq.read_table(written)
    metadata = {**table.schema.metadata, b"collection": json.dumps(about).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path, compression="zstd")
