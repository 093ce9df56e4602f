"""Write vector layers as GeoPackage, with the styles in which QGIS draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import shapely

from geo.register.polygons import POLYGONAL, with_polygons

# Older versions of QGIS and GDAL warn about newer versions of the format.
VERSION = "1.2"
# SQLite's limit of columns, without those of feature ids and outlines.
MOST_COLUMNS = 1998


class Style(NamedTuple):
    """A style of a layer in QGIS: name (at most 30 characters), description, and QML."""

    name: str
    description: str
    qml: str


class LayerWriter:
    """Write a GeoPackage in parts: a layer of polygons, and a layer of rows that are not polygons.

    Rows without geometry belong to the layer of polygons, so that it has a single declared type.
    Geometry collections are reduced to their polygons, if they contain any.

    Parameters
    ----------
    path
        File to write; an existing file is replaced.
    name
        Name of the layer of polygons; the other layer is <name>_not_polygons.
    description
        Description of the layers, shown by QGIS and ogrinfo. For the polygons, the number of rows
        in the other layer is appended.
    outlines
        {geometry type: number of rows} over all parts, types as `outline_types` returns them.
    styles
        Styles of the polygons: QGIS applies the first one, and offers the others.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        description: str,
        outlines: Mapping[str, int],
        styles: Sequence[Style] = (),
    ) -> None:
        path.unlink(missing_ok=True)
        self._path, self._name, self._styles = path, name, styles
        kind = "MultiPolygon" if "MultiPolygon" in outlines else "Polygon"
        self.n_others = sum(n for k, n in outlines.items() if k not in ("Polygon", "MultiPolygon"))
        """Number of rows that are not polygons."""
        others = f"{name}_not_polygons"
        hint = f" {self.n_others} rows are not polygons: see the layer {others}."
        self._polygons = _Layer(path, name, kind, description + hint * (self.n_others > 0))
        self._others = _Layer(path, others, "Unknown", f"{description} Rows that are not polygons.")

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
        is_other &= ~np.isin(shapely.get_type_id(outlines), POLYGONAL)
        # Polygons come first, even if there are none: theirs is to be the first layer of the file.
        self._polygons.add(part[~is_other])
        if is_other.any():
            self._others.add(part[is_other])

    def close(self) -> None:
        """Write the styles to the table in which QGIS looks for them."""
        if not self._styles:
            return
        # The columns, and the key `id`, are those that QGIS creates when it saves a style.
        rows = [
            {
                "f_table_catalog": "",
                "f_table_schema": "",
                "f_table_name": self._name,
                "f_geometry_column": "geom",
                "styleName": style.name,
                "styleQML": style.qml,
                "styleSLD": "",
                "useAsDefault": style is self._styles[0],
                "description": style.description,
                "owner": "",
                "ui": "",
                "update_time": datetime.now(UTC),
            }
            for style in self._styles
        ]
        pyogrio.write_dataframe(
            pd.DataFrame(rows),
            self._path,
            layer="layer_styles",
            driver="GPKG",
            layer_options={"FID": "id"},
        )


class _Layer:
    def __init__(self, path: Path, name: str, geometry_type: str, description: str) -> None:
        self._path, self._name, self._type = path, name, geometry_type
        self._creation_options: dict[str, Any] = {
            "dataset_options": {"VERSION": VERSION},
            "layer_options": {"DESCRIPTION": description},
        }

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


def outline_types(outlines: geopandas.GeoSeries) -> list[str]:
    """List the geometry types as `LayerWriter` writes them; "" for rows without geometry."""
    written = geopandas.GeoSeries(with_polygons(outlines.to_numpy()), crs=outlines.crs)
    kinds: list[str] = written.geom_type.astype(object).fillna("").tolist()
    return kinds
