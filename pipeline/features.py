"""Stage features: geometric features and positions of the parcels."""

from __future__ import annotations

import logging
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely

from geo.pixel_index import PixelIndex
from geo.shape_features import shape_features
from pipeline.writing import write_json

logger = logging.getLogger(__name__)


def features(parcels: Path, pixel_index: Path, features: Path, positions: Path) -> None:
    """Compute the geometric features of the parcels.

    Parameters
    ----------
    parcels
        Accepted parcels.
    pixel_index
        Their pixels.
    features
        Written: {id: [perimeter in m, pixels, cover ratio, perimeter over surface in 1/m]}.
    positions
        Written: {id: [x, y]} of a point within the parcel, in metres of the imagery's coordinate
        system, for spatial splits and maps.

    Raises
    ------
    ValueError
        If parcels and pixel index do not belong together.
    """
    table = gpd.read_parquet(parcels, columns=["parcel_id", "geometry"])
    index = PixelIndex.load(pixel_index)
    ids = table["parcel_id"].tolist()
    if ids != index.parcel_ids or (index.sizes == 0).any():
        raise ValueError(
            f"{pixel_index} was not made from {parcels}: it has {len(index.parcel_ids)} parcels "
            f"({(index.sizes > 0).sum()} with pixels), expected the {len(ids)} parcels there. "
            "Run rasterise again: snakemake -R rasterise."
        )
    polygons = table.geometry.to_numpy()
    write_json(features, dict(zip(ids, shape_features(polygons, index).tolist(), strict=True)))
    # A centimetre is enough for a point that stands for a parcel.
    points = np.round(shapely.get_coordinates(shapely.point_on_surface(polygons)), 2)
    write_json(positions, dict(zip(ids, points.tolist(), strict=True)))
    logger.info("%d parcels", len(ids))
