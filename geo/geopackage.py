"""Writing of vector layers that open anywhere."""

from __future__ import annotations

from pathlib import Path

import geopandas
import pyogrio


def write_layer(layer: geopandas.GeoDataFrame, path: Path, *, name: str, description: str) -> None:
    """Write a GeoPackage of one layer; rows without geometry are kept.

    Parameters
    ----------
    layer
        Rows; columns of any type that GDAL writes.
    path
        File to write; replaced if it is there.
    name
        Name of the layer.
    description
        Shown by QGIS and ogrinfo beside the name.
    """
    # The file would hold the time of writing; a rerun on the same input gives the same bytes.
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": "2000-01-01T00:00:00.000Z"})
    path.unlink(missing_ok=True)
    pyogrio.write_dataframe(
        layer,
        path,
        layer=name,
        driver="GPKG",
        geometry_type=_geometry_type(layer),
        # Newer versions of the format make older QGIS and GDAL warn.
        dataset_options={"VERSION": "1.2"},
        layer_options={"DESCRIPTION": description},
    )


def _geometry_type(layer: geopandas.GeoDataFrame) -> str:
    """Name a type that holds every geometry of the layer."""
    kinds = set(layer.geometry.geom_type.dropna())
    if kinds <= {"Polygon"}:
        return "Polygon"
    return "MultiPolygon" if kinds <= {"Polygon", "MultiPolygon"} else "Unknown"
