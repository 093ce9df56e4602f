"""Read parcel registers: the formats of `geo.register.sources`, and GeoParquet."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from geo.errors import InputError, did_you_mean
from geo.register.archives import unpacked
from geo.register.fiboa import PARQUET_SUFFIXES, follows_fiboa
from geo.register.geoparquet import GeoParquet
from geo.register.layers import Layer, is_text
from geo.register.point_tables import TABLE_SUFFIXES
from geo.register.text import RAW

_LONGEST_TEXT = 10_000  # characters of an id or a code

Bounds = tuple[float, float, float, float]


def read_register(
    path: Path, layer: str | None = None, encoding: str | None = None
) -> gpd.GeoDataFrame:
    """Read all rows of a parcel register.

    Heights and measures are dropped. GDAL approximates curves by lines, with a vertex every 4
    degrees of an arc.

    Parameters
    ----------
    path
        A file or folder of a format in `geo.register.sources`, or GeoParquet, packed or not.
    layer
        Name of the layer, if the file has several layers with geometries.
    encoding
        Encoding of text that is not UTF-8; None for that which a shapefile states.

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
    return _read_all(path, layer, encoding)[0]


def read_named(
    path: Path,
    layer: str | None,
    id_column: str,
    codes: Mapping[str, str],
    encoding: str | None = None,
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
    encoding
        As in `read_register`.

    Returns
    -------
    table, ids
        The register as `read_register` returns it, and the id of every row.

    Raises
    ------
    InputError
        As in `read_register`; if there are no rows, or a column is missing.
    """
    table, feature_ids = _read_all(path, layer, encoding)
    _refuse_empty(table, path)
    return table, _ids(path, table, feature_ids, id_column, codes)


def read_columns(
    path: Path,
    layer: str | None,
    id_column: str,
    codes: Mapping[str, str],
    encoding: str | None = None,
) -> tuple[pd.DataFrame, pd.Series[Any]]:
    """Read columns of a register without its geometries, which takes a fraction of the time.

    Parameters
    ----------
    path, layer, id_column, codes, encoding
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
    path = _existing(path)
    wanted = list(dict.fromkeys([id_column, *codes.values()]))
    # `first` has all columns, so that what `read_named` refuses is refused here.
    if path.suffix.lower() in PARQUET_SUFFIXES:
        file = GeoParquet(path, encoding)
        first = file.first()
        _refuse_unplaced(first.crs, path)
        _ids(path, first, None, id_column, codes)
        table = file.columns(wanted)
        _refuse_empty(table, path)
        return table, table[id_column]
    source = Layer(path, layer, encoding)
    first, feature_ids = source.read(max_features=1)
    _refuse_unplaced(first.crs, path)
    _refuse_empty(first, path)
    _ids(path, first, feature_ids, id_column, codes)
    columns = [name for name in wanted if name in first]
    table, feature_ids = source.read(columns=columns, read_geometry=False)
    return table, table.get(id_column, feature_ids)


def fiboa_columns(path: Path, layer: str | None, encoding: str | None = None) -> list[str] | None:
    """List the columns of a register that follows fiboa, any version; None for others.

    Parameters
    ----------
    path, layer, encoding
        As in `read_register`.
    """
    path = _existing(path)
    if path.suffix.lower() in PARQUET_SUFFIXES:
        file = GeoParquet(path, encoding)
        return file.names if follows_fiboa(file.names, file.metadata) else None
    names = list(Layer(path, layer, encoding).dtypes)
    return names if follows_fiboa(names, {}) else None


def _existing(path: Path) -> Path:
    """Return the file to read, see `unpacked`; refuse a path that does not exist."""
    if not path.exists():
        raise InputError(f"There is no parcel register {path}. Check parcels.path.")
    return unpacked(path)


def _read_all(
    path: Path, layer: str | None, encoding: str | None
) -> tuple[gpd.GeoDataFrame, pd.Series[Any] | None]:
    """Read a register and its feature ids; GeoParquet has none."""
    path = _existing(path)
    if path.suffix.lower() in PARQUET_SUFFIXES:
        return _in_two_dimensions(GeoParquet(path, encoding).read(), path), None
    rows, feature_ids = Layer(path, layer, encoding).read()
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
        if column in table:
            _refuse_long_texts(path, table[column], setting)
    return table[id_column] if id_column in table or feature_ids is None else feature_ids


def _refuse_long_texts(path: Path, texts: pd.Series[Any], setting: str) -> None:
    """Refuse a column of ids or codes with a text that is neither."""
    if not pd.api.types.is_string_dtype(texts.dtype):
        return
    lengths = texts.astype("str").str.len()
    if (longest := lengths.max()) > _LONGEST_TEXT:
        raise InputError(
            f"{path}: the column {texts.name} ({setting}) has a text of {longest:,.0f} characters, "
            f"in row {int(lengths.argmax()) + 1}; at most {_LONGEST_TEXT:,} are read as an id or a "
            "code. Correct it, or name another column."
        )


def _in_two_dimensions(register: gpd.GeoDataFrame, path: Path) -> gpd.GeoDataFrame:
    """Drop heights and measures; refuse a register without a coordinate system."""
    _refuse_unplaced(register.crs, path)
    outlines = shapely.force_2d(register.geometry.values)
    register.geometry = gpd.GeoSeries(outlines, crs=_without_heights(register.crs))
    return register


def _without_heights(crs: Any) -> CRS:
    """Return a coordinate system without its heights, for which PROJ has no bounds."""
    found: CRS = CRS.from_user_input(crs)
    return found.to_2d() if len(found.axis_info) > 2 else found


def _refuse_empty(table: pd.DataFrame, path: Path) -> None:
    if table.empty:
        raise InputError(f"{path} has no rows. Check parcels.path and parcels.layer.")


def _refuse_unplaced(crs: Any, path: Path) -> None:
    is_placed = crs is not None and (crs.is_projected or crs.is_geographic)
    # GeoPackage has two systems for data that have none.
    if not is_placed or crs.name.lower().startswith("undefined"):
        found = "" if crs is None else f" on the ground, but {crs.name}"
        raise InputError(
            f"{path} has no coordinate system{found}, so its parcels cannot be placed on the "
            "imagery. Add the coordinate system that it was made in, for example with "
            "`ogr2ogr -a_srs EPSG:2154 register.gpkg` and the path."
        )
    _to_degrees(crs, path)


def _to_degrees(crs: Any, path: Path) -> Transformer:
    """Return the transformation of a coordinate system to degrees; refuse one that has none."""
    try:
        return Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    except ProjError as error:
        raise InputError(
            f"{path}: its coordinate system cannot be used ({error}). Correct it, for example with "
            "`ogr2ogr -a_srs EPSG:2154 register.gpkg` and the path."
        ) from error


def read_bounds(path: Path, layer: str | None = None) -> tuple[float, float, float, float]:
    """Read the bounds of a register: west, south, east, north in degrees.

    Raises
    ------
    InputError
        As in `read_register`; if no row has a geometry.
    """
    path = unpacked(path)
    # Text is not used, so that every byte may stand for a letter.
    if path.suffix.lower() in (*PARQUET_SUFFIXES, *TABLE_SUFFIXES):
        register = read_register(path, layer, RAW)
        crs, bounds = register.crs, tuple(register.total_bounds)
    else:
        source = Layer(path, layer, RAW)
        crs, bounds = source.crs, source.bounds()
    if crs is None or bounds is None or not np.isfinite(bounds).all():
        raise InputError(
            f"{path} has no coordinate system or no geometry, so that there is no area to search "
            "imagery for. Set imagery.bbox."
        )
    to_degrees = _to_degrees(crs, path)
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
    path = _existing(path)
    if path.suffix.lower() in PARQUET_SUFFIXES:
        geo = json.loads(GeoParquet(path).metadata.get(b"geo", b"{}"))
        column = geo.get("columns", {}).get(geo.get("primary_column"), {})
        crs, bounds = column.get("crs", "OGC:CRS84"), column.get("bbox")
        types = column.get("geometry_types", [])
        if bounds is not None and len(bounds) == 6:  # with heights
            bounds = [*bounds[:2], *bounds[3:5]]
    elif path.suffix.lower() in TABLE_SUFFIXES:
        return None, {"Point"}
    else:
        source = Layer(path, layer, RAW)
        crs, bounds = source.crs, source.stated_bounds
        types = [] if source.geometry_type in (None, "Unknown") else [source.geometry_type]
    plain = {re.sub(r"^(3D |2\.5D |Measured )+|( Z| M| ZM)$", "", str(name)) for name in types}
    if crs is None or bounds is None or not np.isfinite(bounds).all():
        return None, plain
    to_degrees = _to_degrees(crs, path)
    west, south, east, north = to_degrees.transform_bounds(*bounds)
    return (west, south, east, north), plain


# Nullable types of pandas, by the kind of the numpy type.
NULLABLE = {"i": "Int64", "u": "UInt64", "b": "boolean"}

Parts = Iterable[tuple[gpd.GeoDataFrame, "pd.Series[Any] | None"]]


def read_register_parts(
    path: Path,
    layer: str | None,
    id_column: str,
    codes: Mapping[str, str],
    n_rows: int,
    encoding: str | None = None,
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
    path = _existing(path)
    parts: Parts
    if path.suffix.lower() in PARQUET_SUFFIXES:
        file = GeoParquet(path, encoding)
        file.first()  # refuses other Parquet
        parts = ((rows, None) for rows in file.parts(n_rows))
    else:
        parts = _parts_with_gdal(Layer(path, layer, encoding), n_rows)
    first = 0
    for rows, feature_ids in parts:
        part = _in_two_dimensions(rows, path)
        part.index = pd.RangeIndex(first, first + len(part))
        first += len(part)
        yield part, _ids(path, part, feature_ids, id_column, codes).set_axis(part.index)


def _parts_with_gdal(layer: Layer, n_rows: int) -> Parts:
    """Read the rows of a layer in parts of the same types, and their feature ids."""
    types = {
        name: NULLABLE[np.dtype(dtype).kind]
        for name, dtype in layer.dtypes.items()
        if layer.kinds[name].startswith("OFTInteger") and not dtype.startswith("list")
    }
    types |= {name: "str" for name, kind in layer.kinds.items() if is_text(kind)}
    for first in range(0, max(layer.count(), 1), n_rows):
        rows, feature_ids = layer.read(skip_features=first, max_features=n_rows)
        yield rows.astype({n: kind for n, kind in types.items() if n in rows}), feature_ids
