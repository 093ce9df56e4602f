"""Stage features: compute the geometric features and the positions of the parcels."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray

from geo.errors import InputError, first_five
from geo.grid import main_crs
from geo.pixels.pixel_index import PixelIndex
from geo.register.placement import read_placed
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.workflow.writing import write_json

logger = logging.getLogger(__name__)


def features(
    parcels: Path, pixel_index: list[Path], dataset: Path, features: Path, positions: Path
) -> None:
    """Compute the geometric features and the positions of the parcels.

    The features describe the outline: they include pixels that are clear on no date.

    Parameters
    ----------
    parcels
        Folder of the usable parcels of every tile.
    pixel_index
        Pixel indices, one file per tile.
    dataset
        Pixel-Set dataset: features are written for its parcels.
    features
        Written: {id: [perimeter in m, pixels, cover ratio, perimeter over surface in 1/m]}.
    positions
        Written: {id: [x, y]} of a point within the parcel, for spatial splits and maps: in metres,
        in the coordinate system of the tiles with most parcels.

    Raises
    ------
    InputError
        If a pixel index was made from other parcels.
    """
    values: dict[str, list[float]] = {}
    points: list[tuple[str, gpd.GeoSeries]] = []
    for path in pixel_index:
        index = PixelIndex.load(path)
        source = parcels / f"{index.tile}.parquet"
        table = read_placed(source)
        ids, geometries = index.parcel_ids, table.set_index("parcel_id").geometry
        if (lacking := [i for i in ids if i not in geometries.index]) or (index.sizes == 0).any():
            raise InputError(
                f"{path} was not made from {source}: of its {len(ids)} parcels "
                f"({(index.sizes > 0).sum()} with pixels) {len(lacking)} are not there"
                f"{', such as ' * bool(lacking)}{first_five(lacking)}. Run rasterise again: "
                "snakemake -R rasterise."
            )
        polygons = geometries.loc[ids].to_numpy()
        values |= dict(zip(ids, shape_features(polygons, index).tolist(), strict=True))
        inside = gpd.GeoSeries(shapely.point_on_surface(polygons), index=ids, crs=index.grid.crs)
        points.append((index.grid.crs, inside))
    xy, ids = _in_one_system(points), PixelSetDataset.open(dataset).ids
    write_json(features, {i: values[i] for i in ids})
    write_json(positions, {i: xy[i] for i in ids})
    logger.info("%d parcels", len(ids))


def _in_one_system(points: list[tuple[str, gpd.GeoSeries]]) -> dict[str, list[float]]:
    """Reproject the points to the coordinate system of most parcels: {id: [x, y]}."""
    crs = main_crs((own, len(tile)) for own, tile in points)
    positions: dict[str, list[float]] = {}
    for _, tile in points:
        # In centimetres: more digits are meaningless for a point that represents a parcel.
        xy = np.round(shapely.get_coordinates(tile.to_crs(crs).to_numpy()), 2)
        positions |= dict(zip(tile.index, xy.tolist(), strict=True))
    return positions


def shape_features(geometries: NDArray[Any], index: PixelIndex) -> NDArray[np.float64]:
    """Compute the four geometric features of Sainte Fare Garnot et al. (CVPR 2020, section 3.2).

    Parameters
    ----------
    geometries
        Polygons of the parcels (P,) in metres, without buffer, in the order of the index.
    index
        Pixels of the parcels, at least one per parcel.

    Returns
    -------
    NDArray
        float64 (P, 4): perimeter in metres (with holes), number of pixels, cover ratio (number of
        pixels / pixels of their bounding box), perimeter / area in 1/m.
    """
    if not len(geometries):
        return np.empty((0, 4))
    starts = index.offsets[:-1]
    extents = [
        np.maximum.reduceat(places, starts) - np.minimum.reduceat(places, starts) + 1
        for places in (index.rows.astype(np.int64), index.cols.astype(np.int64))
    ]
    perimeter_m = shapely.length(geometries)
    return np.column_stack(
        [
            perimeter_m,
            index.sizes,
            index.sizes / (extents[0] * extents[1]),
            perimeter_m / shapely.area(geometries),
        ]
    )
