"""Stage features: compute the geometric features and the positions of the parcels."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from pyproj import Transformer

from geo.errors import InputError, first_five
from geo.grid import main_crs
from geo.pixels.pixel_index import PixelIndex
from geo.register.placement import ROWS_AT_A_TIME, read_placed_parts
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.workflow.large_json import write_json_parts

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
    ids = PixelSetDataset.open(dataset).ids
    place = pd.Index(ids, dtype=object)
    values, xy = np.full((len(ids), 4), np.nan), np.full((len(ids), 2), np.nan)
    tiles: list[tuple[str, int, NDArray[np.intp]]] = []
    for path in pixel_index:
        index = PixelIndex.load(path)
        measured, points = _measure(parcels / f"{index.tile}.parquet", path, index)
        own = place.get_indexer(pd.Index(index.parcel_ids, dtype=object))
        held = own >= 0
        values[own[held]] = shape_features(measured, index)[held]
        xy[own[held]] = points[held]
        tiles.append((index.grid.crs, len(own), own[held]))
    # In centimetres: more digits are meaningless for a point that represents a parcel.
    xy = np.round(_in_one_system(xy, tiles), 2)
    write_json_parts(features, zip(ids, _lists(values), strict=True))
    write_json_parts(positions, zip(ids, _lists(xy), strict=True))
    logger.info("%d parcels", len(ids))


def _measure(
    source: Path, path: Path, index: PixelIndex
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the `measures` of a tile's parcels, and a point within each, both float64 (P, 2).

    Parameters
    ----------
    source
        The parcels of the tile, of which some are in the index. They are read in parts.
    path, index
        The pixel index, and its file.
    """
    place = pd.Index(index.parcel_ids, dtype=object)
    measured, points = np.full((len(place), 2), np.nan), np.full((len(place), 2), np.nan)
    for _, ids, outlines in read_placed_parts(source):
        own = place.get_indexer(pd.Index(ids, dtype=object))
        polygons, own = outlines.to_numpy()[own >= 0], own[own >= 0]
        measured[own] = measures(polygons)
        points[own] = shapely.get_coordinates(shapely.point_on_surface(polygons))
    lacking = place[np.isnan(measured[:, 0])].tolist()
    if lacking or (index.sizes == 0).any():
        raise InputError(
            f"{path} was not made from {source}: of its {len(place)} parcels "
            f"({(index.sizes > 0).sum()} with pixels) {len(lacking)} are not there"
            f"{', such as ' * bool(lacking)}{first_five(lacking)}. Run rasterise again: "
            "snakemake -R rasterise."
        )
    return measured, points


def _in_one_system(
    xy: NDArray[np.float64], tiles: Sequence[tuple[str, int, NDArray[np.intp]]]
) -> NDArray[np.float64]:
    """Reproject points (N, 2) to the coordinate system of most parcels.

    Parameters
    ----------
    xy
        The points.
    tiles
        Coordinate system, number of parcels, and positions of the points, of every tile.
    """
    crs = main_crs((own, n) for own, n, _ in tiles)
    moved = xy.copy()
    for own, _, places in tiles:
        to_crs = Transformer.from_crs(own, crs, always_xy=True)
        moved[places] = np.column_stack(to_crs.transform(*xy[places].T))
    return moved


def _lists(rows: NDArray[np.float64]) -> Iterator[list[float]]:
    """Yield rows as JSON takes them, without a list of all."""
    for start in range(0, len(rows), ROWS_AT_A_TIME):
        yield from rows[start : start + ROWS_AT_A_TIME].tolist()


def measures(polygons: NDArray[Any]) -> NDArray[np.float64]:
    """Return perimeter in metres (with holes) and area in m2 of polygons (P,), float64 (P, 2)."""
    return np.column_stack([shapely.length(polygons), shapely.area(polygons)])


def shape_features(measured: NDArray[np.float64], index: PixelIndex) -> NDArray[np.float64]:
    """Compute the four geometric features of Sainte Fare Garnot et al. (CVPR 2020, section 3.2).

    Parameters
    ----------
    measured
        `measures` of the parcels' outlines in metres, without buffer, in the order of the index.
    index
        Pixels of the parcels, at least one per parcel.

    Returns
    -------
    NDArray
        float64 (P, 4): perimeter in metres (with holes), number of pixels, cover ratio (number of
        pixels / pixels of their bounding box), perimeter / area in 1/m.
    """
    if not len(measured):
        return np.empty((0, 4))
    starts = index.offsets[:-1]
    extents = [
        np.maximum.reduceat(places, starts) - np.minimum.reduceat(places, starts) + 1
        for places in (index.rows, index.cols)
    ]
    perimeter_m, area_m2 = measured.T
    return np.column_stack(
        [
            perimeter_m,
            index.sizes,
            index.sizes / (extents[0].astype(np.int64) * extents[1]),
            perimeter_m / area_m2,
        ]
    )
