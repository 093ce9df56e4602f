"""Writing of vector layers that open anywhere."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from pathlib import Path

import geopandas
import pyogrio


class LayerWriter:
    """Write a GeoPackage of one layer, part by part; rows without geometry are kept.

    Parameters
    ----------
    path
        File to write; replaced if it is there.
    name
        Name of the layer.
    description
        Shown by QGIS and ogrinfo beside the name.
    outlines
        Types of geometry that occur in any part.
    """

    def __init__(
        self, path: Path, *, name: str, description: str, outlines: AbstractSet[str]
    ) -> None:
        # The file would hold the time of writing; a rerun on the same input gives the same bytes.
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": "2000-01-01T00:00:00.000Z"})
        path.unlink(missing_ok=True)
        self._path, self._name = path, name
        self._geometry_type = _geometry_type(outlines)
        self._made = {
            # Newer versions of the format make older QGIS and GDAL warn.
            "dataset_options": {"VERSION": "1.2"},
            "layer_options": {"DESCRIPTION": description},
        }

    def add(self, part: geopandas.GeoDataFrame) -> None:
        """Write rows behind those that are there; columns of any type that GDAL writes."""
        pyogrio.write_dataframe(
            part,
            self._path,
            layer=self._name,
            driver="GPKG",
            geometry_type=self._geometry_type,
            # A layer of multipolygons holds no plain polygons, by the specification.
            promote_to_multi=self._geometry_type.startswith("Multi"),
            use_arrow=True,
            append=not self._made,
            **self._made,
        )
        self._made = {}


def write_layer(layer: geopandas.GeoDataFrame, path: Path, *, name: str, description: str) -> None:
    """Write a GeoPackage of one layer at once; see `LayerWriter`."""
    outlines = set(layer.geometry.geom_type.dropna())
    LayerWriter(path, name=name, description=description, outlines=outlines).add(layer)


def _geometry_type(outlines: AbstractSet[str]) -> str:
    """Name a type that holds every geometry of the layer."""
    if outlines <= {"Polygon"}:
        return "Polygon"
    return "MultiPolygon" if outlines <= {"Polygon", "MultiPolygon"} else "Unknown"
