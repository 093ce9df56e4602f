"""Write vector layers as GeoPackage, with the styles in which QGIS draws them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import shapely

from geo.register.geopackage_contents import PARCELS, Field, Selection, Style, Table, complete
from geo.register.polygons import POLYGONAL, PUNCTUAL, with_polygons

# Older versions of QGIS and GDAL warn about newer versions of the format.
VERSION = "1.2"
# SQLite's limit of columns, without those of feature ids and outlines.
MOST_COLUMNS = 1998


POLYGONS = ("Polygon", "MultiPolygon")
POINTS = ("Point", "MultiPoint")


class LayerWriter:
    """Write a GeoPackage in parts: a layer of polygons, and a layer of rows that are not polygons.

    If there are points, but no polygons, the main layer is one of points, and the other layer
    contains rows that are not points. Rows without geometry belong to the main layer, so that it
    has a single declared type. Geometry collections are reduced to their polygons, if they contain
    any.

    Parameters
    ----------
    path
        File to write; an existing file is replaced.
    name
        Name of the main layer; the other layer is <name>_not_polygons or <name>_not_points.
    description
        Description of the layers, shown by QGIS and ogrinfo. For the main layer, the number of rows
        in the other layer is appended.
    outlines
        {geometry type: number of rows} over all parts, types as `outline_types` returns them.
    styles
        Styles of the main layer: QGIS applies the first one, and offers the others.
    other_styles
        Styles of the other layer.
    fields
        {column: title and meaning} of both layers.
    metadata
        What made the rows, {name: text}; ogrinfo shows it.
    selection
        A further layer that shows some rows of both.
    tables
        Further tables; layers are reprojected to the coordinate system of the rows.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        description: str,
        outlines: Mapping[str, int],
        styles: Sequence[Style] = (),
        other_styles: Sequence[Style] = (),
        fields: Mapping[str, Field] = MappingProxyType({}),
        metadata: Mapping[str, str] = MappingProxyType({}),
        selection: Selection | None = None,
        tables: Sequence[Table] = (),
    ) -> None:
        path.unlink(missing_ok=True)
        self._path = path
        has_points = has_only_points(outlines)
        kinds, plural = (POINTS, "points") if has_points else (POLYGONS, "polygons")
        self._type_ids = PUNCTUAL if has_points else POLYGONAL
        kind = kinds[1] if kinds[1] in outlines else kinds[0]
        self.n_others = sum(n for k, n in outlines.items() if k not in kinds)
        """Number of rows in the other layer."""
        self.others = f"{name}_not_{plural}"
        """Name of the other layer."""
        hint = f" {self.n_others} rows are not {plural}: see the layer {self.others}."
        about = description + hint * (self.n_others > 0)
        self._main = _Layer(path, name, kind, about, dict(metadata))
        about_others = f"{description} Rows that are not {plural}."
        self._others = _Layer(path, self.others, "Unknown", about_others)
        self._rows = [name, *([self.others] if self.n_others else [])]
        self._styles = {name: styles, self.others: other_styles if self.n_others else ()}
        self._fields = dict.fromkeys(self._rows, fields)
        self._fields |= {table.name: table.fields for table in tables}
        self._styles |= {table.name: table.styles for table in tables}
        if selection is not None:
            self._styles[selection.name] = selection.styles
        self._selection, self._tables, self._crs = selection, tables, None

    def add(self, part: geopandas.GeoDataFrame) -> None:
        """Append rows; the columns may have any type that GDAL writes.

        Columns after the first `MOST_COLUMNS` are left out.
        """
        own = part.columns.drop(part.geometry.name)
        part = part[[*own[:MOST_COLUMNS], part.geometry.name]]
        # By the specification, times are those of UTC.
        times = part.select_dtypes("datetimetz")
        part = part.assign(**{name: times[name].dt.tz_convert("UTC") for name in times})
        outlines = with_polygons(part.geometry.to_numpy())
        part = part.set_geometry(geopandas.GeoSeries(outlines, part.index, crs=part.crs))
        is_other = ~shapely.is_missing(outlines)
        is_other &= ~np.isin(shapely.get_type_id(outlines), self._type_ids)
        self._crs = part.crs
        # The main layer is to be the first of the file, even if the first part has no row of it.
        self._main.add(part[~is_other])
        if is_other.any():
            self._others.add(part[is_other])

    def close(self) -> None:
        """Write the further tables, the styles, and what the file says about its layers."""
        if not self._main.exists:  # as after an error
            return
        for table in self._tables:
            rows = table.rows
            pyogrio.write_dataframe(
                rows.to_crs(self._crs) if isinstance(rows, geopandas.GeoDataFrame) else rows,
                self._path,
                layer=table.name,
                driver="GPKG",
                use_arrow=True,
                layer_options={"DESCRIPTION": table.description},
            )
        complete(self._path, self._rows, self._fields, self._selection)
        self._write_styles()

    def _write_styles(self) -> None:
        """Write the styles to the table in which QGIS looks for them."""
        if not any(self._styles.values()):
            return
        # The columns, and the key `id`, are those that QGIS creates when it saves a style.
        spatial = {name for name, kind in pyogrio.list_layers(self._path) if kind is not None}
        rows = [
            {
                "f_table_catalog": "",
                "f_table_schema": "",
                "f_table_name": layer,
                "f_geometry_column": "geom" if layer in spatial else "",
                "styleName": style.name,
                "styleQML": style.qml,
                "styleSLD": "",
                "useAsDefault": style is styles[0],
                "description": style.description,
                "owner": "",
                "ui": "",
                "update_time": datetime.now(UTC),
            }
            for layer, styles in self._styles.items()
            for style in styles
        ]
        pyogrio.write_dataframe(
            pd.DataFrame(rows),
            self._path,
            layer="layer_styles",
            driver="GPKG",
            layer_options={"FID": "id"},
        )


class _Layer:
    def __init__(
        self,
        path: Path,
        name: str,
        geometry_type: str,
        description: str,
        metadata: dict[str, str] | None = None,
    ) -> None:
        self._path, self._name, self._type = path, name, geometry_type
        self._creation_options: dict[str, Any] = {
            "dataset_options": {"VERSION": VERSION},
            "layer_options": {"DESCRIPTION": description},
            # For those of the whole file, GDAL would write a file .aux.xml beside it.
            **({"layer_metadata": metadata} if metadata else {}),
        }

    @property
    def exists(self) -> bool:
        """Whether the layer was created."""
        return not self._creation_options

    def add(self, part: geopandas.GeoDataFrame) -> None:
        """Append rows; the first call creates the layer, even without rows."""
        if part.empty and not self._creation_options:
            return
        pyogrio.write_dataframe(
            part,
            self._path,
            layer=self._name,
            driver="GPKG",
            geometry_type=self._type,
            # By the specification, a layer of multipolygons contains no plain polygons.
            promote_to_multi=self._type.startswith("Multi"),
            use_arrow=True,
            append=not self._creation_options,
            **self._creation_options,
        )
        self._creation_options = {}


def row_layers(names: Iterable[str]) -> list[str]:
    """Return the layers with the rows of the register, among all layers of predictions."""
    return [name for name in names if name == PARCELS or name.startswith(f"{PARCELS}_not_")]


def has_only_points(outlines: Iterable[str]) -> bool:
    """Return whether there are points among the geometry types of a register, but no polygons."""
    kinds = {*outlines}
    return not kinds.isdisjoint(POINTS) and kinds.isdisjoint(POLYGONS)


def outline_types(outlines: geopandas.GeoSeries) -> list[str]:
    """List the geometry types as `LayerWriter` writes them; "" for rows without geometry."""
    written = geopandas.GeoSeries(with_polygons(outlines.to_numpy()), crs=outlines.crs)
    kinds: list[str] = written.geom_type.astype(object).fillna("").tolist()
    return kinds
