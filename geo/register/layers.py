"""The layer of a register that GDAL reads, with its text decoded."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyogrio
import shapely

from geo.errors import InputError, did_you_mean, first_five
from geo.register.columns import LARGEST_EXACT
from geo.register.geopackage_contents import PARCELS, REJECTED, TILES
from geo.register.point_tables import TABLE_SUFFIXES, coordinate_columns, crs_of_columns
from geo.register.sources import (
    check_number_of_rows,
    find_sources,
    shapefile_part,
)
from geo.register.text import ANSI, RAW, RawText, stated_encoding

# DataLayerError is also that of geometries and coordinate systems. MemoryError: a damaged file
# states any number of rows. UnboundLocalError: pyogrio, for a coordinate system that is not UTF-8.
UNREADABLE = (
    pyogrio.errors.DataSourceError,
    pyogrio.errors.DataLayerError,
    shapely.errors.GEOSException,
    *(UnicodeDecodeError, UnboundLocalError, MemoryError),
)
# Characters of a path that SQLite opens (SQLITE_MAX_PATHLEN of its Unix files).
_LONGEST_PATH = 512
SHAPEFILE = "ESRI Shapefile"
# Column in which pyogrio returns the outlines.
OUTLINES = "geometry"
# Types of columns that pandas would take for those of their first values.
ARROW_TYPES = {"OFTBinary": pa.binary(), "OFTTime": pa.time64("us")}


class Layer:
    """A layer of a file or folder that GDAL opens.

    Parameters
    ----------
    path
        File or folder of a format in `geo.register.sources`, zipped or not.
    name
        Name of the layer, if there are several with geometries.
    encoding
        Encoding of text that is not UTF-8; None if it is not set.

    Raises
    ------
    InputError
        If the file is unreadable, or has several layers or none.
    """

    def __init__(self, path: Path, name: str | None, encoding: str | None = None) -> None:
        self._path = path
        self._source, self._name = _find_layer(path, name)
        self._coordinates = _coordinate_options(path, self._source, self._name)
        info = self._info()
        self._is_raw = self._is_shapefile = info["driver"] == SHAPEFILE
        self._text = RawText(str(path), encoding)
        if self._is_shapefile:
            self._text = _text_of_shapefile(path, self._name, encoding)
        names = self._text.names(info["fields"])
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(
                f"{path} has several columns of the same name: {first_five(repeated)}. Rename them."
            )
        self._raw_names = dict(zip(names, map(str, info["fields"]), strict=True))
        self.crs: Any = info["crs"]
        self.stated_bounds: Any = info["total_bounds"]
        """Bounds in the layer's coordinate system, if GDAL knows them without reading all rows."""
        self.geometry_type: str | None = info["geometry_type"]
        self.dtypes: dict[str, str] = dict(zip(self._raw_names, info["dtypes"], strict=True))
        """{column: type of its values in numpy}."""
        self.kinds: dict[str, str] = dict(zip(self._raw_names, info["ogr_types"], strict=True))
        """{column: type in OGR}."""
        self._fid_name = info["fid_column"] or "fid"

    def bounds(self) -> Any:
        """Return the bounds of all rows in the layer's coordinate system; None without any."""
        return self._info(force_total_bounds=True)["total_bounds"]

    def count(self) -> int:
        """Count the rows."""
        return int(self._info(force_feature_count=True)["features"])

    def read(self, **part: Any) -> tuple[gpd.GeoDataFrame, pd.Series[Any]]:
        """Read the rows, or a part of them, and their feature ids.

        `part` are options of `pyogrio.read_dataframe`: columns, read_geometry, skip_features,
        max_features.
        """
        try:
            rows = self._read(part)
        except UnicodeDecodeError:
            # Some text is not UTF-8, although the format demands it.
            self._is_raw = True
            rows = self._read(part)
        feature_ids = pd.Series(rows.index.to_numpy(np.int64), name=self._fid_name)
        rows = self._with_whole_numbers(rows.reset_index(drop=True), part)
        # Truth values among which some are missing arrive as floats.
        truths = [name for name, dtype in self.dtypes.items() if name in rows and dtype == "bool"]
        rows = rows.astype({name: "boolean" for name in truths if rows[name].dtype != "bool"})
        return rows, feature_ids

    def _info(self, **options: bool) -> dict[str, Any]:
        """Read what GDAL knows of the layer before its rows are read."""
        try:
            with _expected_warnings():
                info: dict[str, Any] = pyogrio.read_info(
                    self._source, layer=self._name, encoding=RAW, **self._coordinates, **options
                )
        except UNREADABLE as error:
            raise unreadable(self._path, error) from error
        if self._coordinates and info["crs"] is None and info["geometry_type"] == "Point":
            info["crs"] = crs_of_columns(self._path, *self._coordinates.values())
        check_number_of_rows(self._path, info["features"])
        return info

    def _read(self, part: dict[str, Any]) -> gpd.GeoDataFrame:
        """Read rows; raise UnicodeDecodeError if text that was not read as `RAW` is not UTF-8."""
        options = {"layer": self._name, "fid_as_index": True, **self._coordinates, **part}
        if self._is_raw:
            options["encoding"] = RAW
            if "columns" in part:
                options["columns"] = [self._raw_names[name] for name in part["columns"]]
        try:
            with _expected_warnings():
                try:
                    rows = pyogrio.read_dataframe(self._source, **options)
                except shapely.errors.GEOSException:
                    # Outlines that are damaged become None: rows with their reason.
                    rows = pyogrio.read_dataframe(self._source, on_invalid="ignore", **options)
                    if rows.geometry.isna().all():
                        raise
                if OUTLINES in self.dtypes and isinstance(rows, gpd.GeoDataFrame):
                    # pyogrio has put the outlines in place of the column of that name.
                    own = {**options, "columns": [OUTLINES], "read_geometry": False}
                    column = pyogrio.read_dataframe(self._source, **own)[OUTLINES]
                    free = next(n for n in ("geom", "outline", "_outline") if n not in rows)
                    rows = rows.rename_geometry(free).assign(**{OUTLINES: column})
        except UnicodeDecodeError:
            raise
        except UNREADABLE as error:
            raise unreadable(self._path, error) from error
        if self._coordinates and isinstance(rows, gpd.GeoDataFrame) and rows.crs is None:
            rows = rows.set_crs(self.crs)
        if self._is_raw:
            rows = rows.rename(columns={raw: name for name, raw in self._raw_names.items()})
        for name, dtype in rows.dtypes.items():
            if dtype == "object":
                rows[name] = _simple(rows[name], self.kinds[name])
        if self._is_raw:
            self._text.decode(rows, part.get("skip_features", 0))
        return rows

    def _with_whole_numbers(self, rows: gpd.GeoDataFrame, part: dict[str, Any]) -> gpd.GeoDataFrame:
        """Convert integer columns back that pandas made floats because values are missing."""
        whole = [
            name
            for name, dtype in self.dtypes.items()
            if name in rows and dtype.startswith("int") and rows[name].dtype == "float64"
        ]
        # Larger integers are not exact in float64: an id would become that of another row. Read
        # them again, with Arrow.
        large = [name for name in whole if (rows[name].abs() >= LARGEST_EXACT).any()]
        if large:
            options = {"read_geometry": False} | part
            options["columns"] = large
            if self._is_shapefile:
                options |= {"columns": [self._raw_names[n] for n in large], "encoding": RAW}
            _, exact = pyogrio.read_arrow(self._source, layer=self._name, **options)
            for name, raw in zip(large, options["columns"], strict=True):
                rows[name] = pd.array(exact[raw].to_pylist(), "Int64")
        return rows.astype(dict.fromkeys(whole, "Int64"))


@contextmanager
def _expected_warnings() -> Iterator[None]:
    """Silence warnings of what is done on purpose."""
    with warnings.catch_warnings():
        # Measures are dropped.
        warnings.filterwarnings("ignore", r"Measured \(M\) geometry types")
        # Text that looks like JSON in some rows only remains text.
        warnings.filterwarnings("ignore", r"Could not parse column .* as JSON")
        # Points whose coordinates are not numbers are rows without geometry, rejected by name.
        warnings.filterwarnings("ignore", "Invalid value type found")
        yield


def _coordinate_options(path: Path, source: str, layer: str) -> dict[str, str]:
    """Return the options with which GDAL takes points from two columns of a CSV file."""
    if path.suffix.lower() not in TABLE_SUFFIXES:
        return {}
    columns = coordinate_columns(pyogrio.read_info(source, layer=layer, encoding=RAW)["fields"])
    return dict(zip(("X_POSSIBLE_NAMES", "Y_POSSIBLE_NAMES"), columns or (), strict=False))


def _simple(column: pd.Series[Any], kind: str) -> pd.Series[Any]:
    """Convert values that a table cannot store to text, or give them the type of all rows.

    Lists and objects of JSON become its text.
    """
    if kind in ARROW_TYPES:
        return column.astype(pd.ArrowDtype(ARROW_TYPES[kind]))
    return as_json(column) if is_text(kind) and column.notna().any() else column


def is_text(kind: str) -> bool:
    """Return whether a type of OGR is text, or a list, which becomes the text of JSON."""
    return kind == "OFTString" or kind.endswith("List")


def as_json(column: pd.Series[Any], *, ascii_only: bool = False) -> pd.Series[Any]:
    """Convert lists and objects to JSON; text remains, and missing values do."""
    texts = [
        value
        if isinstance(value, str)
        else json.dumps(value, default=_plain, ensure_ascii=ascii_only)
        for value in column.dropna()
    ]
    return pd.Series(texts, column.dropna().index, "str").reindex(column.index)


def _plain(value: Any) -> Any:
    """Convert a value for JSON: arrays and numbers of numpy, bytes, dates, and others."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value.hex() if isinstance(value, bytes) else str(value)


def unreadable(path: Path, error: Exception) -> InputError:
    """Make the error for a file that GDAL cannot read."""
    return InputError(
        f"{path} cannot be read: {error} Convert it to polygons with GDAL, for example with "
        "`ogr2ogr -nlt MULTIPOLYGON register.gpkg` and the path."
    )


def _find_layer(path: Path, layer: str | None) -> tuple[str, str]:
    """Find the source that GDAL is to open, and the layer to read from it."""
    source, layers = _list_layers(path)
    spatial = [name for name, geometry_type in layers if geometry_type is not None]
    if layer is None and PARCELS in spatial:
        # Predictions have further layers, which show the same parcels and their tiles.
        spatial = [name for name in spatial if name not in (REJECTED, TILES)]
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
            failures.append(str(error).partition(";")[0])  # then follow GDAL's ways to force it
        except UNREADABLE as error:
            raise unreadable(path, error) from error
    if path.is_dir() and path.suffix.lower() != ".gdb":
        files = first_five(sorted(file.name for file in path.iterdir()))
        raise InputError(f"{path} is a folder ({files}): set parcels.path to the file in it.")
    n_characters = len(str(path.absolute()))
    if n_characters > _LONGEST_PATH:
        raise InputError(
            f"{path} cannot be read: its whole path has {n_characters} characters, and some "
            f"formats open at most {_LONGEST_PATH}. Move it to a shorter path."
        )
    raise InputError(
        f"{path} cannot be read: {failures[0].rstrip('.')}. Use a GeoPackage, shapefile, GML, "
        "GeoJSON, FlatGeobuf or file geodatabase, zipped or not, or GeoParquet. Files that name "
        "others (VRT, WFS) are not opened: convert them with ogr2ogr."
    )


def _text_of_shapefile(path: Path, layer: str, encoding: str | None) -> RawText:
    """Find the encoding that a shapefile states in its .cpg file or its table."""
    code_page, table = (shapefile_part(path, layer, suffix) for suffix in ("cpg", "dbf"))
    language_driver = table[29] if table is not None and len(table) > 29 else 0
    return RawText(
        str(path),
        encoding,
        is_whole=True,
        stated=stated_encoding(
            None if code_page is None else code_page.decode("ascii", "replace"), language_driver
        ),
        is_assumed=code_page is None and language_driver == ANSI,
    )
