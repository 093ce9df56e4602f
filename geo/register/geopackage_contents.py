"""What a GeoPackage says about its layers: the meaning of columns, and layers that are views.

pyogrio writes neither, so the tables of the specification (https://www.geopackage.org/spec121/) are
filled here. Only the standard library is imported: `Field` is used on machines without GDAL, too.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

# Layers of the predictions: all parcels, and those that show some of them, or where they are.
PARCELS, REJECTED, TILES = "parcels", "rejected", "tiles"
ACQUISITIONS = "acquisitions"

# The extension "Schema": titles and descriptions of columns.
_SCHEMA_EXTENSION = """
CREATE TABLE gpkg_data_columns (
    table_name TEXT NOT NULL, column_name TEXT NOT NULL, name TEXT, title TEXT, description TEXT,
    mime_type TEXT, constraint_name TEXT,
    CONSTRAINT pk_gdc PRIMARY KEY (table_name, column_name),
    CONSTRAINT gdc_tn UNIQUE (table_name, name));
CREATE TABLE gpkg_data_column_constraints (
    constraint_name TEXT NOT NULL, constraint_type TEXT NOT NULL, value TEXT,
    min NUMERIC, min_is_inclusive BOOLEAN, max NUMERIC, max_is_inclusive BOOLEAN, description TEXT,
    CONSTRAINT gdcc_ntv UNIQUE (constraint_name, constraint_type, value));
CREATE TABLE IF NOT EXISTS gpkg_extensions (
    table_name TEXT, column_name TEXT, extension_name TEXT NOT NULL, definition TEXT NOT NULL,
    scope TEXT NOT NULL, CONSTRAINT ge_tce UNIQUE (table_name, column_name, extension_name));
"""
# Columns of ids and outlines. A view cannot have a further one of these names.
RESERVED = {"fid", "ogc_fid", "geom"}
_DEFINITION = "http://www.geopackage.org/spec121/#extension_schema"


class Field(NamedTuple):
    """A column: a short title, which QGIS shows instead of its name, and its meaning."""

    title: str
    description: str


class Style(NamedTuple):
    """A style of a layer in QGIS: name (at most 30 characters), description, and QML."""

    name: str
    description: str
    qml: str


class Table(NamedTuple):
    """A further table of a GeoPackage; a layer, if its rows are a GeoDataFrame.

    QGIS applies the first of the styles, and offers the others.
    """

    name: str
    description: str
    rows: pd.DataFrame
    fields: Mapping[str, Field]
    styles: Sequence[Style] = ()


class Selection(NamedTuple):
    """A layer of the rows with one value in a column; the rows are not stored twice.

    It has all such rows, but only the outlines of those of the main layer, and so a single type of
    geometry.

    Attributes
    ----------
    name, description
        Name and description of the layer.
    column, value
        The rows are those with this text in this column.
    left_out
        Names of columns that the layer does not have.
    styles
        As of `Table`.
    """

    name: str
    description: str
    column: str
    value: str
    left_out: Collection[str]
    styles: Sequence[Style] = ()


def complete(
    path: Path,
    layers: Sequence[str],
    fields: Mapping[str, Mapping[str, Field]],
    selection: Selection | None = None,
) -> None:
    """Add what pyogrio does not write to a GeoPackage that is otherwise finished.

    Parameters
    ----------
    path
        The GeoPackage.
    layers
        Layers with the same columns, from which rows are selected.
    fields
        {layer: {column: title and meaning}}; columns that a layer lacks are ignored.
    selection
        A further layer of some of their rows; its columns are described as those of the first.

    Raises
    ------
    OSError
        If the disk is full.
    """
    try:
        with closing(sqlite3.connect(path)) as database, database:
            described = dict(fields)
            if selection is not None:
                _add_selection(database, selection, layers)
                described[selection.name] = fields.get(layers[0], {})
            _describe_columns(database, described)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


def _add_selection(
    database: sqlite3.Connection, selection: Selection, layers: Sequence[str]
) -> None:
    """Make a view on the rows of layers, and register it as a layer."""
    name, main = selection.name, layers[0]
    column, value = _quoted(selection.column), _text(selection.value)
    own = [name for name in _columns(database, main) if name not in selection.left_out]
    columns = ", ".join(_quoted(name) for name in own if name.lower() not in RESERVED)
    queries, n_ids = [], 0
    for layer in layers:
        source, index = _quoted(layer), _quoted(f"{layer}_{name}")
        # A partial index: without it, each view of the map would read the whole layer.
        database.execute(f"CREATE INDEX {index} ON {source} ({column}) WHERE {column} = {value}")
        # GDAL takes the ids of features from OGC_FID. They differ between layers. The columns of
        # the view have the types of the first query, so none of it may be an expression.
        ids = "fid AS OGC_FID, geom" if layer == main else f"fid + {n_ids}, NULL"
        queries.append(f"SELECT {ids}, {columns} FROM {source} WHERE {column} = {value}")  # noqa: S608
        last = f"SELECT coalesce(max(fid), 0) FROM {source}"  # noqa: S608
        n_ids += database.execute(last).fetchone()[0]
    database.execute(f"CREATE VIEW {_quoted(name)} AS {' UNION ALL '.join(queries)}")
    database.execute(
        "INSERT INTO gpkg_contents (table_name, data_type, identifier, description, srs_id) "
        "SELECT ?, data_type, ?, ?, srs_id FROM gpkg_contents WHERE table_name = ?",
        (name, name, selection.description, main),
    )
    database.execute(
        "INSERT INTO gpkg_geometry_columns "
        "SELECT ?, column_name, geometry_type_name, srs_id, z, m "
        "FROM gpkg_geometry_columns WHERE table_name = ?",
        (name, main),
    )


def _describe_columns(
    database: sqlite3.Connection, fields: Mapping[str, Mapping[str, Field]]
) -> None:
    """Fill the tables of the extension "Schema"."""
    database.executescript(_SCHEMA_EXTENSION)
    database.executemany(
        "INSERT INTO gpkg_extensions VALUES (?, NULL, 'gpkg_schema', ?, 'read-write')",
        [(f"gpkg_data_column{s}", _DEFINITION) for s in ("s", "_constraints")],
    )
    database.executemany(
        "INSERT INTO gpkg_data_columns VALUES (?, ?, ?, ?, ?, NULL, NULL)",
        [
            (layer, name, own[name].title, own[name].title, own[name].description)
            for layer, own in fields.items()
            for name in _columns(database, layer)
            if name in own
        ],
    )


def _columns(database: sqlite3.Connection, layer: str) -> list[str]:
    """List the columns of a layer."""
    rows = database.execute("SELECT name FROM pragma_table_info(?)", (layer,))
    return [name for (name,) in rows]


def _quoted(name: str) -> str:
    """Quote a name of a table or column for SQL."""
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    """Quote a text for SQL: a view has no parameters."""
    return "'" + value.replace("'", "''") + "'"
