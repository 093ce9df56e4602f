"""Writing of vector layers that open anywhere, and in QGIS in their colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import shapely

from geo.register.polygons import POLYGONAL, with_polygons

# Newer versions of the format make older QGIS and GDAL warn.
VERSION = "1.2"


@dataclass(frozen=True)
class Style:
    """How QGIS draws a layer: a name of at most 30 characters, what it shows, and its QML."""

    name: str
    description: str
    qml: str


class LayerWriter:
    """Write a GeoPackage part by part: a layer of polygons, and one of the rows that have others.

    Rows without geometry are in the layer of polygons, which so has a single declared type. Of
    collections the polygons are written, where they have any.

    Parameters
    ----------
    path
        File to write; replaced if it is there.
    name
        Name of the layer of polygons; the other is <name>_not_polygons.
    description
        Of the layers, shown by QGIS and ogrinfo beside the name. That of the polygons also says
        how many rows the other layer has.
    outlines
        {type of geometry: number of rows} in all parts, as `outline_types` gives them.
    styles
        How QGIS draws the polygons: it takes the first by itself, and offers the others.
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
        """Number of rows that the layer of polygons cannot hold."""
        others = f"{name}_not_polygons"
        hint = f" {self.n_others} rows are not polygons: see the layer {others}."
        self._polygons = _Layer(path, name, kind, description + hint * (self.n_others > 0))
        self._others = _Layer(path, others, "Unknown", f"{description} Rows that are not polygons.")

    def add(self, part: geopandas.GeoDataFrame) -> None:
        """Write rows behind those that are there; columns of any type that GDAL writes."""
        outlines = with_polygons(part.geometry.to_numpy())
        part = part.set_geometry(geopandas.GeoSeries(outlines, part.index, crs=part.crs))
        is_other = ~shapely.is_missing(outlines)
        is_other &= ~np.isin(shapely.get_type_id(outlines), POLYGONAL)
        # First, so that it is the first layer of the file, even if it has no rows.
        self._polygons.add(part[~is_other])
        if is_other.any():
            self._others.add(part[is_other])

    def close(self) -> None:
        """Write the styles."""
        if self._styles:
            rows = pd.DataFrame(
                [
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
            )
            # As QGIS makes it, when it saves a style to the file.
            pyogrio.write_dataframe(
                rows, self._path, layer="layer_styles", driver="GPKG", layer_options={"FID": "id"}
            )


class _Layer:
    def __init__(self, path: Path, name: str, geometry_type: str, description: str) -> None:
        self._path, self._name, self._type = path, name, geometry_type
        self._made: dict[str, Any] = {
            "dataset_options": {"VERSION": VERSION},
            "layer_options": {"DESCRIPTION": description},
        }

    def add(self, part: geopandas.GeoDataFrame) -> None:
        """Write rows; the first call makes the layer, also without any."""
        if part.empty and not self._made:
            return
        pyogrio.write_dataframe(
            part,
            self._path,
            layer=self._name,
            driver="GPKG",
            geometry_type=self._type,
            # A layer of multipolygons holds no plain polygons, by the specification.
            promote_to_multi=self._type.startswith("Multi"),
            use_arrow=True,
            append=not self._made,
            **self._made,
        )
        self._made = {}


def outline_types(outlines: geopandas.GeoSeries) -> list[str]:
    """List the types of geometry as `LayerWriter` writes them; "" for rows without any."""
    written = geopandas.GeoSeries(with_polygons(outlines.to_numpy()), crs=outlines.crs)
    return [kind or "" for kind in written.geom_type.astype(object).where(lambda k: k.notna(), "")]
