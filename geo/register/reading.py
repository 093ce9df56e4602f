"""Read parcel registers: the formats of `geo.register.sources`, and GeoParquet."""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import shapely
from pyproj import Transformer

from geo.errors import InputError, did_you_mean, first_five
from geo.register.columns import LARGEST_EXACT
from geo.register.fiboa import PARQUET_SUFFIXES
from geo.register.point_tables import TABLE_SUFFIXES, coordinate_columns, crs_of_columns
from geo.register.sources import check_files, check_number_of_rows, check_view, find_sources

Bounds = tuple[float, float, float, float]

# DataLayerError is also that of geometries and coordinate systems. MemoryError: a damaged file
# states any number of rows. UnboundLocalError: pyogrio, for a coordinate system that is not UTF-8.
UNREADABLE = (
    pyogrio.errors.DataSourceError,
    pyogrio.errors.DataLayerError,
    shapely.errors.GEOSException,
    *(UnicodeDecodeError, UnboundLocalError, MemoryError),
)


def read_register(path: Path, layer: str | None = None) -> gpd.GeoDataFrame:
    """Read all rows of a parcel register.

    Heights and measures are dropped. GDAL approximates curves by lines, with a vertex every 4
    degrees of an arc.

    Parameters
    ----------
    path
        A file or folder of a format in `geo.register.sources`, zipped or not, or GeoParquet.
    layer
        Name of the layer, if the file has several layers with geometries.

    Returns
    -------
    GeoDataFrame
        In the order of the file, indexed 0, 1, ...; geometries in two dimensions.

    Raises
    ------
    InputError
        If the file is missing or unreadable, has several layers or none, or has no coordinate
        system.
    """
    return _read_all(path, layer)[0]


def read_named(
    path: Path, layer: str | None, id_column: str, codes: Mapping[str, str]
) -> tuple[gpd.GeoDataFrame, pd.Series[Any]]:
    """Read all rows of a register, and their ids.

    In some registers only GDAL's feature ids identify the parcels. GDAL reads them apart from the
    columns, under a separate name: `id` in the Dutch register, `t_id` in the Swiss one, `fid`
    where the format has no name for them.

    Parameters
    ----------
    path, layer
        As in `read_register`.
    id_column
        Column of the ids, or the name of the feature ids.
    codes
        {setting: column}: other columns that the register must have.

    Returns
    -------
    table, ids
        The register as `read_register` returns it, and the id of every row.

    Raises
    ------
    InputError
        As in `read_register`; if there are no rows, or a column is missing.
    """
    table, feature_ids = _read_all(path, layer)
    _refuse_empty(table, path)
    return table, _ids(path, table, feature_ids, id_column, codes)


def read_columns(
    path: Path, layer: str | None, id_column: str, codes: Mapping[str, str]
) -> tuple[pd.DataFrame, pd.Series[Any]]:
    """Read columns of a register without its geometries, which takes a fraction of the time.

    Parameters
    ----------
    path, layer, id_column, codes
        As in `read_named`.

    Returns
    -------
    table, ids
        The columns of `codes`, and the id of every row, as `read_named` returns them.

    Raises
    ------
    InputError
        As in `read_named`.
    """
    if not path.exists():
        raise InputError(f"There is no parcel register {path}. Check parcels.path.")
    wanted = list(dict.fromkeys([id_column, *codes.values()]))
    if path.suffix.lower() in PARQUET_SUFFIXES:
        return _columns_of_parquet(path, id_column, codes, wanted)
    source, layer = _find_layer(path, layer)
    # Reads all columns of the first row, and so refuses what `read_named` refuses.
    first, feature_ids = _read_with_gdal(path, source, layer, max_features=1)
    _refuse_unplaced(first.crs, path)
    _refuse_empty(first, path)
    _ids(path, first, feature_ids, id_column, codes)
    part = {"columns": [name for name in wanted if name in first], "read_geometry": False}
    table, feature_ids = _read_with_gdal(path, source, layer, **part)
    return table, table.get(id_column, feature_ids)


def _columns_of_parquet(
    path: Path, id_column: str, codes: Mapping[str, str], wanted: list[str]
) -> tuple[pd.DataFrame, pd.Series[Any]]:
    """Read columns of a GeoParquet file; refuse what `read_named` refuses."""
    try:
        schema = pq.read_schema(path)
    except pa.ArrowException as error:
        raise InputError(f"{path} cannot be read as GeoParquet: {error}") from error
    first = _read_geoparquet(path, _in_memory(schema.empty_table()))
    _refuse_unplaced(first.crs, path)
    _ids(path, first, None, id_column, codes)
    table = pq.read_table(path, columns=wanted).to_pandas().reset_index(drop=True)
    _refuse_empty(table, path)
    return table, table[id_column]


def _read_all(path: Path, layer: str | None) -> tuple[gpd.GeoDataFrame, pd.Series[Any] | None]:
    """Read a register and its feature ids; GeoParquet has none."""
    if not path.exists():
        raise InputError(f"There is no parcel register {path}. Check parcels.path.")
    if path.suffix.lower() in PARQUET_SUFFIXES:
        rows, feature_ids = _read_geoparquet(path, path), None
    else:
        rows, feature_ids = _read_with_gdal(path, *_find_layer(path, layer))
    return _in_two_dimensions(rows, path), feature_ids


def _ids(
    path: Path,
    table: gpd.GeoDataFrame,
    feature_ids: pd.Series[Any] | None,
    id_column: str,
    codes: Mapping[str, str],
) -> pd.Series[Any]:
    """Select the ids of the rows; refuse a register that lacks one of the columns."""
    columns = [str(c) for c in table.columns if c != table.geometry.name]
    if id_column not in columns and feature_ids is not None:
        columns.append(str(feature_ids.name))
    for setting, column in {"parcels.id": id_column, **codes}.items():
        if column not in columns:
            raise InputError(
                f"{setting} is {column!r}, which is not a column of {path}."
                f"{did_you_mean(column, columns)} Its columns are: {', '.join(columns)}."
            )
    return table[id_column] if id_column in table or feature_ids is None else feature_ids


def _in_two_dimensions(register: gpd.GeoDataFrame, path: Path) -> gpd.GeoDataFrame:
    """Drop heights and measures; refuse a register without a coordinate system."""
    _refuse_unplaced(register.crs, path)
    register.geometry = gpd.GeoSeries(shapely.force_2d(register.geometry.values), crs=register.crs)
    return register


def _refuse_empty(table: pd.DataFrame, path: Path) -> None:
    if table.empty:
        raise InputError(f"{path} has no rows. Check parcels.path and parcels.layer.")


def _refuse_unplaced(crs: Any, path: Path) -> None:
    if crs is None:
        raise InputError(
            f"{path} has no coordinate system, so its parcels cannot be placed on the imagery. "
            "Add the coordinate system that it was made in, for example with "
            "`ogr2ogr -a_srs EPSG:2154 register.gpkg` and the path."
        )


def read_bounds(path: Path, layer: str | None = None) -> tuple[float, float, float, float]:
    """Read the bounds of a register: west, south, east, north in degrees.

    Raises
    ------
    InputError
        As in `read_register`; if no row has a geometry.
    """
    if path.suffix.lower() in (*PARQUET_SUFFIXES, *TABLE_SUFFIXES):
        register = read_register(path, layer)
        crs, bounds = register.crs, tuple(register.total_bounds)
    else:
        info = _read_info(path, *_find_layer(path, layer), force_total_bounds=True)
        crs, bounds = info["crs"], info["total_bounds"]
    if crs is None or bounds is None or not np.isfinite(bounds).all():
        raise InputError(
            f"{path} has no coordinate system or no geometry, so that there is no area to search "
            "imagery for. Set imagery.bbox."
        )
    to_degrees = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    west, south, east, north = to_degrees.transform_bounds(*bounds)
    return west, south, east, north


def read_extent(path: Path, layer: str | None = None) -> tuple[Bounds | None, set[str]]:
    """Read what a register states of its outlines, without reading them.

    Returns
    -------
    bounds, types
        West, south, east, north in degrees, None if they are not stated; and the types of its
        geometries, such as Point and MultiPolygon, empty if they are not stated.

    Raises
    ------
    InputError
        As in `read_register`.
    """
    if path.suffix.lower() in PARQUET_SUFFIXES:
        geo = json.loads((pq.read_schema(path).metadata or {}).get(b"geo", b"{}"))
        column = geo.get("columns", {}).get(geo.get("primary_column"), {})
        crs, bounds = column.get("crs", "OGC:CRS84"), column.get("bbox")
        types = column.get("geometry_types", [])
        if bounds is not None and len(bounds) == 6:  # with heights
            bounds = [*bounds[:2], *bounds[3:5]]
    elif path.suffix.lower() in TABLE_SUFFIXES:
        return None, {"Point"}
    else:
        info = _read_info(path, *_find_layer(path, layer))
        crs, bounds = info["crs"], info["total_bounds"]
        types = [] if info["geometry_type"] in (None, "Unknown") else [info["geometry_type"]]
    plain = {re.sub(r"^(3D |2\.5D |Measured )+|( Z| M| ZM)$", "", str(name)) for name in types}
    if crs is None or bounds is None or not np.isfinite(bounds).all():
        return None, plain
    to_degrees = Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    west, south, east, north = to_degrees.transform_bounds(*bounds)
    return (west, south, east, north), plain


def _read_geoparquet(path: Path, source: Path | IO[bytes]) -> gpd.GeoDataFrame:
    """Read GeoParquet from the file itself, or from a part of it in memory."""
    check_files(path)
    try:
        if source is path:
            check_number_of_rows(path, pq.read_metadata(path).num_rows)
        # Without the index that pandas stored: geometries are joined to rows by the index.
        rows = gpd.read_parquet(source).reset_index(drop=True)
        types = {field.name: field.type for field in pq.read_schema(path)}
    # KeyError, TypeError: the JSON of its metadata is damaged. OSError: a part of it is.
    except (*UNREADABLE, ValueError, KeyError, TypeError, OSError, pa.ArrowException) as error:
        raise InputError(
            f"{path} cannot be read as GeoParquet: {error} Write it with geopandas' to_parquet."
        ) from error
    # A layer of other formats has one geometry.
    for name in rows.columns[rows.dtypes == "geometry"].drop(rows.geometry.name):
        rows[name] = gpd.GeoSeries(rows[name]).to_wkt().astype("str")
    # Lists, such as fiboa's `category`, become JSON: other formats could not store them.
    for name in rows.columns.intersection([n for n, t in types.items() if pa.types.is_nested(t)]):
        rows[name] = [None if v is None else json.dumps(v, default=list) for v in rows[name]]
    return rows


def _read_with_gdal(
    path: Path, source: str, layer: str, **part: Any
) -> tuple[gpd.GeoDataFrame, pd.Series[Any]]:
    """Read a layer that `_find_layer` found, or a part of it, and its feature ids."""
    info = _read_info(path, source, layer)
    coordinates = _coordinate_options(path, source, layer)
    options = {"fid_as_index": True, **coordinates, **part}
    with _expected_warnings():
        try:
            rows = pyogrio.read_dataframe(source, layer=layer, **options)
        except UNREADABLE as error:
            raise _unreadable(path, error) from error
    if coordinates and isinstance(rows, gpd.GeoDataFrame) and rows.crs is None:
        rows = rows.set_crs(info["crs"])
    feature_ids = pd.Series(rows.index.to_numpy(np.int64), name=info["fid_column"] or "fid")
    types = dict(zip(info["fields"], info["dtypes"], strict=True))
    rows = rows.reset_index(drop=True)
    return _with_whole_numbers(rows, types, source, layer, **part), feature_ids


def _read_info(path: Path, source: str, layer: str, **options: bool) -> dict[str, Any]:
    """Read what GDAL knows of a layer before its rows are read."""
    check_view(path, layer)
    with _expected_warnings():
        try:
            coordinates = _coordinate_options(path, source, layer)
            info: dict[str, Any] = pyogrio.read_info(source, layer=layer, **coordinates, **options)
        except UNREADABLE as error:
            raise _unreadable(path, error) from error
    if coordinates and info["crs"] is None and info["geometry_type"] == "Point":
        info["crs"] = crs_of_columns(path, *coordinates.values())
    check_number_of_rows(path, info["features"])
    return info


@contextmanager
def _expected_warnings() -> Iterator[None]:
    """Silence GDAL's warnings of what is done on purpose."""
    with warnings.catch_warnings():
        # Measures are dropped.
        warnings.filterwarnings("ignore", r"Measured \(M\) geometry types")
        # Points whose coordinates are not numbers are rows without geometry, rejected by name.
        warnings.filterwarnings("ignore", "Invalid value type found")
        yield


def _coordinate_options(path: Path, source: str, layer: str) -> dict[str, str]:
    """Return the options with which GDAL takes points from two columns of a CSV file."""
    if path.suffix.lower() not in TABLE_SUFFIXES:
        return {}
    columns = coordinate_columns(pyogrio.read_info(source, layer=layer)["fields"])
    return dict(zip(("X_POSSIBLE_NAMES", "Y_POSSIBLE_NAMES"), columns or (), strict=False))


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path} cannot be read: {error} Convert it to polygons with GDAL, for example with "
        "`ogr2ogr -nlt MULTIPOLYGON register.gpkg` and the path."
    )


def _with_whole_numbers(
    rows: gpd.GeoDataFrame, types: Mapping[str, str], source: str, layer: str, **part: Any
) -> gpd.GeoDataFrame:
    """Convert integer columns back that pandas made floats because values are missing."""
    whole = [
        name
        for name, dtype in types.items()
        if name in rows and dtype.startswith("int") and rows[name].dtype == "float64"
    ]
    # Larger integers are not exact in float64: an id would become that of another row. Read them
    # again, with Arrow.
    large = [name for name in whole if (rows[name].abs() >= LARGEST_EXACT).any()]
    if large:
        options = {"columns": large, "read_geometry": False} | part
        _, exact = pyogrio.read_arrow(source, layer=layer, **options)
        for name in large:
            rows[name] = pd.array(exact[name].to_pylist(), "Int64")
    return rows.astype(dict.fromkeys(whole, "Int64"))


def _find_layer(path: Path, layer: str | None) -> tuple[str, str]:
    """Find the source that GDAL is to open, and the layer to read from it."""
    source, layers = _list_layers(path)
    spatial = [name for name, geometry_type in layers if geometry_type is not None]
    chosen = [name for name in spatial if layer in (None, name)]
    if len(chosen) == 1:
        return source, chosen[0]
    if layer is not None:
        problem = f"no layer {layer!r} with geometries, but: {first_five(spatial)}."
        remedy = f"{did_you_mean(layer, spatial)} Change parcels.layer."
    elif not spatial:
        problem = "no layer with geometries. "
        remedy = (
            "Set parcels.path to the file of the outlines. Points of a CSV file are read from "
            "columns lon and lat, in degrees."
        )
    else:
        problem = f"{len(spatial)} layers with geometries: {first_five(spatial)}."
        remedy = " Set parcels.layer to the layer of the parcels."
    raise InputError(f"{path} has {problem}{remedy}")


def _list_layers(path: Path) -> tuple[str, list[tuple[str, str | None]]]:
    """Find the source that GDAL can open, and list its layers with their geometry types.

    The type of a table without geometries is None.
    """
    failures = []
    for source in find_sources(path):
        try:
            layers = [(str(name), kind) for name, kind in pyogrio.list_layers(source)]
            return source, [
                (name, kind or ("Point" if _coordinate_options(path, source, name) else None))
                for name, kind in layers
            ]
        except pyogrio.errors.DataSourceError as error:
            failures.append(str(error))
        except UNREADABLE as error:
            raise _unreadable(path, error) from error
    raise InputError(
        f"{path} cannot be read: {failures[0]} Use a GeoPackage, shapefile, GML, GeoJSON, "
        "FlatGeobuf or file geodatabase, zipped or not, or GeoParquet. Files that name others "
        "(VRT, WFS) are not opened: convert them with ogr2ogr."
    )


# Nullable types of pandas, by the kind of the numpy type.
NULLABLE = {"i": "Int64", "u": "UInt64", "b": "boolean"}

Parts = Iterable[tuple[gpd.GeoDataFrame, "pd.Series[Any] | None"]]


def read_register_parts(
    path: Path, layer: str | None, id_column: str, codes: Mapping[str, str], n_rows: int
) -> Iterator[tuple[gpd.GeoDataFrame, pd.Series[Any]]]:
    """Read the rows of `read_named` in parts of at most `n_rows` rows.

    Integers and booleans have nullable types, so that all parts have the same types. The index
    continues from part to part.

    Yields
    ------
    part, ids
        Rows, and their ids with the same index.

    Raises
    ------
    InputError
        As in `read_register`; if a column is missing.
    """
    if path.suffix.lower() in PARQUET_SUFFIXES:
        types, parts = _parts_of_parquet(path, n_rows)
    else:
        types, parts = _parts_with_gdal(path, layer, n_rows)
    first = 0
    for rows, feature_ids in parts:
        own = {name: dtype for name, dtype in types.items() if name in rows}
        part = _in_two_dimensions(rows.astype(own), path)
        part.index = pd.RangeIndex(first, first + len(part))
        first += len(part)
        yield part, _ids(path, part, feature_ids, id_column, codes).set_axis(part.index)


def _parts_with_gdal(path: Path, layer: str | None, n_rows: int) -> tuple[dict[str, str], Parts]:
    """Return the types of the columns, and the parts of a layer that GDAL reads."""
    source, layer = _find_layer(path, layer)
    info = _read_info(path, source, layer, force_feature_count=True)
    types = {}
    for name, dtype, ogr_type in zip(
        info["fields"], info["dtypes"], info["ogr_types"], strict=True
    ):
        if np.dtype(dtype).kind in NULLABLE:
            types[str(name)] = NULLABLE[np.dtype(dtype).kind]
        elif ogr_type == "OFTString":
            types[str(name)] = "str"
    parts = (
        _read_with_gdal(path, source, layer, skip_features=first, max_features=n_rows)
        for first in range(0, max(info["features"], 1), n_rows)
    )
    return types, parts


def _parts_of_parquet(path: Path, n_rows: int) -> tuple[dict[str, str], Parts]:
    """Return the types of the columns, and the parts of a GeoParquet file."""
    check_files(path)
    try:
        check_number_of_rows(path, pq.read_metadata(path).num_rows)
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read as Parquet: {error}") from error
    # Refuses a file that is Parquet, but not GeoParquet.
    _read_geoparquet(path, _in_memory(schema.empty_table()))
    is_text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_nested)
    types = {}
    for field in schema:
        if pa.types.is_integer(field.type):
            types[field.name] = "UInt64" if pa.types.is_unsigned_integer(field.type) else "Int64"
        elif pa.types.is_boolean(field.type):
            types[field.name] = "boolean"
        elif any(is_type(field.type) for is_type in is_text):
            types[field.name] = "str"

    def parts() -> Parts:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=n_rows):
                part = _in_memory(pa.Table.from_batches([batch], schema))
                yield _read_geoparquet(path, part), None

    return types, parts()


def _in_memory(table: pa.Table) -> io.BytesIO:
    """Write a table to a file in memory: geopandas reads files, not tables."""
    written = io.BytesIO()
    pq.write_table(table, written)
    written.seek(0)
    return written
