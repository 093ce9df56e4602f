"""Stage features: geometric features and positions of the parcels."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray

from geo.errors import InputError, reading
from geo.grid import main_crs
from geo.pixels.pixel_index import PixelIndex
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.workflow.writing import write_json

logger = logging.getLogger(__name__)


def features(
    parcels: Path, pixel_index: list[Path], dataset: Path, features: Path, positions: Path
) -> None:
    """Compute the geometric features of the parcels.

    They describe the outline: all its pixels count, be they observed or not.

    Parameters
    ----------
    parcels
        Folder of the usable parcels of every tile.
    pixel_index
        Pixels of those that are indexed, a file a tile.
    dataset
        Pixel-Set dataset, whose parcels are taken.
    features
        Written: {id: [perimeter in m, pixels, cover ratio, perimeter over surface in 1/m]}.
    positions
        Written: {id: [x, y]} of a point within the parcel, in metres of one coordinate system, for
        spatial splits and maps: that of the imagery with most parcels.

    Raises
    ------
    InputError
        If parcels and pixel index do not belong together.
    """
    values: dict[str, list[float]] = {}
    points: list[tuple[str, gpd.GeoSeries]] = []
    for path in pixel_index:
        index = PixelIndex.load(path)
        source = parcels / f"{index.tile}.parquet"
        with reading(source, "a table of parcels", "Make it anew: snakemake -R clean."):
            table = gpd.read_parquet(source, columns=["parcel_id", "geometry"])
        ids, geometries = index.parcel_ids, table.set_index("parcel_id").geometry
        if (lacking := [i for i in ids if i not in geometries.index]) or (index.sizes == 0).any():
            raise InputError(
                f"{path} was not made from {source}: of its {len(ids)} parcels "
                f"({(index.sizes > 0).sum()} with pixels) {len(lacking)} are not there"
                f"{', such as ' * bool(lacking)}{', '.join(lacking[:5])}. Run rasterise again: "
                "snakemake -R rasterise."
            )
        polygons = geometries.loc[ids].to_numpy()
        values |= dict(zip(ids, shape_features(polygons, index).tolist(), strict=True))
        inside = gpd.GeoSeries(shapely.point_on_surface(polygons), index=ids, crs=index.grid.crs)
        points.append((index.grid.crs, inside))
    where, held = _in_one_system(points), PixelSetDataset.open(dataset).ids
    write_json(features, {i: values[i] for i in held})
    write_json(positions, {i: where[i] for i in held})
    logger.info("%d parcels", len(held))


def _in_one_system(points: list[tuple[str, gpd.GeoSeries]]) -> dict[str, list[float]]:
    """Bring the points of all tiles to the coordinate system of most parcels: {id: [x, y]}."""
    crs = main_crs((own, len(tile)) for own, tile in points)
    positions: dict[str, list[float]] = {}
    for _, tile in points:
        # A centimetre is enough for a point that stands for a parcel.
        xy = np.round(shapely.get_coordinates(tile.to_crs(crs).to_numpy()), 2)
        positions |= dict(zip(tile.index, xy.tolist(), strict=True))
    return positions


def shape_features(geometries: NDArray[Any], index: PixelIndex) -> NDArray[np.float64]:
    """Compute the four geometric features of Sainte Fare Garnot et al. (CVPR 2020, section 3.2).

    Parameters
    ----------
    geometries
        Polygons of the parcels (P,) in metres, in the order of the index; not buffered.
    index
        Their pixels, at least one a parcel.

    Returns
    -------
    NDArray
        float64 (P, 4): perimeter in metres (holes included), number of pixels, cover ratio (pixels
        over the pixels of their bounding box), perimeter over surface in 1/m.
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
