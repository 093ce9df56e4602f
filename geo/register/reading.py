"""Read parcel registers: anything that GDAL opens, and GeoParquet."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import shapely
from pyproj import Transformer

from geo.errors import InputError
from geo.register.columns import RegisterColumns, refuse_missing

PARQUET_SUFFIXES = (".parquet", ".geoparquet")
# What a file inside of a zip ends on, if it is one that holds parcels.
ZIPPED_SUFFIXES = (".shp", ".gpkg", ".fgb", ".gml", ".geojson", ".json")

UNREADABLE = (
    pyogrio.errors.DataSourceError,
    pyogrio.errors.DataLayerError,
    pyogrio.errors.GeometryError,
    shapely.errors.GEOSException,
)


def read_register(path: Path, layer: str | None = None) -> gpd.GeoDataFrame:
    """Read every row of a parcel register, unchanged but for the form of its outlines.

    Heights and measures are dropped, and curves become the lines that GDAL makes of them, a vertex
    every 4 degrees of an arc.

    Parameters
    ----------
    path
        A file or folder that GDAL opens, zipped or not, or GeoParquet.
    layer
        Which layer, where there are several with geometries.

    Returns
    -------
    GeoDataFrame
        In the order of the file, indexed 0, 1, ...; geometries in two dimensions.

    Raises
    ------
    InputError
        If the file is missing or unreadable, holds several layers or none, or has no coordinate
        system.
    """
    return _read_whole(path, layer)[0]


def read_named(
    path: Path, layer: str | None, columns: RegisterColumns
) -> tuple[gpd.GeoDataFrame, pd.Series[Any]]:
    """Read every row of a register, and its ids.

    Some registers number their parcels nowhere but in the feature ids, which GDAL keeps apart from
    the columns: the Dutch one calls them `id`, the Swiss one `t_id`, others have no name for them
    (`fid`).

    Returns
    -------
    table, ids
        As `read_register` gives it; and the column, or else the feature ids, that hold the ids.

    Raises
    ------
    InputError
        As `read_register`; if there are no rows, or a column is missing.
    """
    table, feature_ids = _read_whole(path, layer)
    if table.empty:
        raise InputError(f"{path} has no rows. Check parcels.path and parcels.layer.")
    return table, _ids(path, table, feature_ids, columns)


def _read_whole(path: Path, layer: str | None) -> tuple[gpd.GeoDataFrame, pd.Series[Any] | None]:
    """Read a register, and its feature ids; GeoParquet has none."""
    if not path.exists():
        raise InputError(f"There is no parcel register {path}. Check parcels.path.")
    if path.suffix.lower() in PARQUET_SUFFIXES:
        rows, feature_ids = read_geoparquet(path, path).reset_index(drop=True), None
    else:
        rows, feature_ids = read_with_gdal(path, *find_layer(path, layer))
    return in_two_dimensions(rows, path), feature_ids


def _ids(
    path: Path,
    table: gpd.GeoDataFrame,
    feature_ids: pd.Series[Any] | None,
    columns: RegisterColumns,
) -> pd.Series[Any]:
    """Find the ids of rows; refuse a register that lacks a column."""
    known = [str(c) for c in table.columns if c != table.geometry.name]
    if columns.id not in known and feature_ids is not None:
        known.append(str(feature_ids.name))
    refuse_missing(path, known, columns.named)
    return table[columns.id] if columns.id in table or feature_ids is None else feature_ids


def in_two_dimensions(register: gpd.GeoDataFrame, path: Path) -> gpd.GeoDataFrame:
    """Drop heights and measures; refuse a register without a coordinate system."""
    if register.crs is None:
        raise InputError(
            f"{path} has no coordinate system, so its parcels cannot be placed on the imagery. "
            "Add the one that it was made in, for example with "
            "`ogr2ogr -a_srs EPSG:2154 register.gpkg` and the path."
        )
    register.geometry = gpd.GeoSeries(shapely.force_2d(register.geometry.values), crs=register.crs)
    return register


def read_bounds(path: Path, layer: str | None = None) -> tuple[float, float, float, float]:
    """Read the bounds of a register: west, south, east, north in degrees.

    Raises
    ------
    InputError
        As `read_register`; if no row has a geometry.
    """
    if path.suffix.lower() in PARQUET_SUFFIXES:
        register = read_register(path, layer)
        crs, bounds = register.crs, tuple(register.total_bounds)
    else:
        source, layer = find_layer(path, layer)
        info = pyogrio.read_info(source, layer=layer, force_total_bounds=True)
        crs, bounds = info["crs"], info["total_bounds"]
    if crs is None or bounds is None or not np.isfinite(bounds).all():
        raise InputError(
            f"{path} has no coordinate system or no geometry, so that there is no area to search "
            "imagery for. Set imagery.bbox."
        )
    to_degrees = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    west, south, east, north = to_degrees.transform_bounds(*bounds)
    return west, south, east, north


def read_geoparquet(path: Path, source: Path | IO[bytes]) -> gpd.GeoDataFrame:
    """Read GeoParquet from the file itself or, as a file in memory, a part of it."""
    try:
        rows = gpd.read_parquet(source)
        types = {field.name: field.type for field in pq.read_schema(path)}
    except (ValueError, pa.ArrowException) as error:
        raise InputError(
            f"{path} cannot be read as GeoParquet: {error} Write it with geopandas' to_parquet."
        ) from error
    # Other formats have no lists, which fiboa's `category` is.
    for name in rows.columns.intersection([n for n, t in types.items() if pa.types.is_nested(t)]):
        rows[name] = [None if v is None else json.dumps(v, default=list) for v in rows[name]]
    return rows


def read_with_gdal(
    path: Path, source: str, layer: str, **part: Any
) -> tuple[gpd.GeoDataFrame, pd.Series[Any]]:
    """Read a layer that `find_layer` found, or a part of it, and its feature ids."""
    info = pyogrio.read_info(source, layer=layer)
    with warnings.catch_warnings():
        # It says that measures are dropped, which is what is wanted.
        warnings.filterwarnings("ignore", r"Measured \(M\) geometry types")
        try:
            rows = pyogrio.read_dataframe(source, layer=layer, fid_as_index=True, **part)
        except UNREADABLE as error:
            raise _unreadable(path, error) from error
    feature_ids = pd.Series(rows.index.to_numpy(np.int64), name=info["fid_column"] or "fid")
    kinds = dict(zip(info["fields"], info["dtypes"], strict=True))
    rows = rows.reset_index(drop=True)
    return _with_whole_numbers(rows, kinds, source, layer, **part), feature_ids


def _unreadable(path: Path, error: Exception) -> InputError:
    """Say that GDAL reads the file, but not what it holds."""
    return InputError(
        f"{path} cannot be read: {error} Have GDAL make polygons of it, for example with "
        "`ogr2ogr -nlt MULTIPOLYGON register.gpkg` and the path."
    )


def _with_whole_numbers(
    rows: gpd.GeoDataFrame, kinds: Mapping[str, str], source: str, layer: str, **part: Any
) -> gpd.GeoDataFrame:
    """Keep whole numbers whole where some are missing, which pandas would make floats."""
    read = [n for n in kinds if n in rows]
    whole = [n for n in read if kinds[n].startswith("int") and rows[n].dtype == "float64"]
    # Floats are not exact beyond that: such ids would become those of other rows.
    large = [n for n in whole if (rows[n].abs() >= 2**53).any()]
    if large:
        options = {"columns": large, "read_geometry": False} | part
        _, exact = pyogrio.read_arrow(source, layer=layer, **options)
        for name in large:
            rows[name] = pd.array(exact[name].to_pylist(), "Int64")
    return rows.astype(dict.fromkeys(whole, "Int64"))


def find_layer(path: Path, layer: str | None) -> tuple[str, str]:
    """Find what GDAL is to open, and the one layer to read."""
    source, layers = _list_layers(path)
    spatial = [name for name, geometry in layers if geometry is not None]
    if layer is not None:
        if layer not in spatial:
            raise InputError(
                f"{path} has no layer {layer!r} with geometries, but: {_join(spatial)}. "
                "Change parcels.layer."
            )
        return source, layer
    if not spatial:
        raise InputError(
            f"{path} has no layer with geometries. Give the register's own file, not a table of it."
        )
    if len(spatial) > 1:
        raise InputError(
            f"{path} has {len(spatial)} layers with geometries: {_join(spatial)}. "
            "Say which one holds the parcels: parcels.layer."
        )
    return source, spatial[0]


def _list_layers(path: Path) -> tuple[str, list[tuple[str, str | None]]]:
    """List the layers of a file, with the source that GDAL is to open and their geometry types.

    The type is None for plain tables.
    """
    failures = []
    for source in _sources(path):
        try:
            return source, [(str(name), kind) for name, kind in pyogrio.list_layers(source)]
        except pyogrio.errors.DataSourceError as error:
            failures.append(str(error))
        except pyogrio.errors.GeometryError as error:
            raise _unreadable(path, error) from error
    raise InputError(
        f"{path} cannot be read: {failures[0]} Give a file that GDAL opens (GeoPackage, shapefile, "
        "GML, GeoJSON, FlatGeobuf; zipped or not) or GeoParquet."
    )


def _sources(path: Path) -> Iterator[str]:
    """Give what GDAL may open: the file, then what a zip holds in a folder of its own.

    Of several shapefiles in that folder it is the folder, whose layers they are.
    """
    # GDAL opens a zip whose files lie at its root.
    yield str(path)
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        names = [PurePosixPath(n) for n in archive.namelist()]
    # macOS adds files of its own, such as __MACOSX/._parcels.shp.
    found = [n for n in names if n.suffix.lower() in ZIPPED_SUFFIXES and n.name[0] != "."]
    if len(found) > 1 and {(n.parent, n.suffix.lower()) for n in found} == {
        (found[0].parent, ".shp")
    }:
        found = [found[0].parent]
    if len(found) > 1:
        raise InputError(
            f"{path} holds {len(found)} files: {_join([str(n) for n in found])}. Unpack it, and "
            "give the one with the parcels as parcels.path."
        )
    for name in found:
        yield f"/vsizip/{path}/{name}"


def _join(names: list[str]) -> str:
    """Join the first five names."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


# Types that can be missing, by the kind of those that cannot.
WITH_MISSING = {"i": "Int64", "u": "UInt64", "b": "boolean"}
# The lists and structures of GeoParquet are read as text.
WRITTEN_AS_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_nested)


def read_register_parts(
    path: Path, layer: str | None, columns: RegisterColumns, n_rows: int
) -> Iterator[tuple[gpd.GeoDataFrame, pd.Series[Any]]]:
    """Read what `read_named` reads, no more than `n_rows` at once.

    Whole numbers and truth values are of types that can be missing, so that they are the same in
    all parts; the index goes on from one part to the next.

    Yields
    ------
    part, ids
        Rows, and their ids with the same index.

    Raises
    ------
    InputError
        As `read_register`; if a column is missing.
    """
    if path.suffix.lower() in PARQUET_SUFFIXES:
        types, parts = _parts_of_parquet(path, n_rows)
    else:
        types, parts = _parts_with_gdal(path, layer, n_rows)
    first = 0
    for rows, feature_ids in parts:
        own = {name: kind for name, kind in types.items() if name in rows}
        part = in_two_dimensions(rows.astype(own), path)
        part.index = pd.RangeIndex(first, first + len(part))
        first += len(part)
        yield part, _ids(path, part, feature_ids, columns).set_axis(part.index)


Parts = Iterator[tuple[gpd.GeoDataFrame, "pd.Series[Any] | None"]]


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
                part = _as_file(pa.Table.from_batches([batch], schema))
                yield read_geoparquet(path, part), None

    return types, parts()


def _as_file(table: pa.Table) -> io.BytesIO:
    """Write a table to memory: geopandas reads files, not tables."""
    written = io.BytesIO()
    pq.write_table(table, written)
    written.seek(0)
    return written
