"""Stage rasterise: find the pixels of the parcels of one tile."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
from rasterio.windows import Window

from geo.grid import read_grids
from geo.pixels.pixel_index import PixelIndex, index_pixels
from geo.register.placement import buffered, read_placed
from pipeline.workflow.settings import RasteriseSettings
from pipeline.workflow.writing import replacing

logger = logging.getLogger(__name__)

# Block size of the label image, in pixels.
BLOCK = 256


def rasterise(
    parcels: Path,
    grids: Path,
    tile: str,
    pixel_index: Path,
    counts: Path,
    label_image: Path,
    settings: RasteriseSettings,
) -> None:
    """Find the pixels of a tile's parcels; no other stage rasterises polygons.

    Parameters
    ----------
    parcels
        Folder of the polygons of every tile, written by clean.
    grids
        Grids of the tiles.
    tile
        The tile.
    pixel_index
        Written: rows and columns of the pixels of every usable parcel with at least
        parcels.min_pixels pixels.
    counts
        Written: Parquet, one row per parcel on the tile: row of the register, parcel_id, n_pixels,
        and whether the pixel index contains the parcel.
    label_image
        Written: GeoTIFF uint32 for people, 1 for the first indexed parcel, 0 outside all parcels.
        Where parcels overlap it shows the last one; the pixel index contains all of them.
    settings
        parcels.all_touched, min_covered_fraction, buffer_m and min_pixels.
    """
    grid = read_grids(grids)[tile]
    files = [parcels / f"{tile}.parquet", parcels / f"{tile}.rejected.parquet"]
    tables = [read_placed(path) for path in files]
    table = pd.concat(tables, ignore_index=True)
    found = index_pixels(
        buffered(table.geometry.to_numpy(), settings.parcels.buffer_m),
        table["parcel_id"].tolist(),
        grid,
        tile,
        all_touched=settings.parcels.all_touched,
        min_covered_fraction=settings.parcels.min_covered_fraction,
    )
    is_indexed = found.sizes >= settings.parcels.min_pixels
    # The second table has the rejected parcels.
    is_indexed[len(tables[0]) :] = False
    index = found.select(is_indexed)
    with replacing(pixel_index) as temporary:
        index.save(temporary)
    with replacing(counts) as temporary:
        counted = table[["row", "parcel_id"]].assign(n_pixels=found.sizes, indexed=is_indexed)
        pd.DataFrame(counted).to_parquet(temporary, index=False)
    with replacing(label_image) as temporary:
        _draw(temporary, index)
    logger.info("%d parcels, %d pixels of tile %s", len(index.parcel_ids), len(index.rows), tile)


def _draw(path: Path, index: PixelIndex) -> None:
    """Write the label image, one row of blocks at a time."""
    grid = index.grid
    labels = np.repeat(np.arange(1, len(index.parcel_ids) + 1, dtype=np.uint32), index.sizes)
    order = np.argsort(index.rows, kind="stable")
    tops = range(0, grid.height, BLOCK)
    starts = [*np.searchsorted(index.rows, tops, sorter=order), len(order)]
    profile = {
        "driver": "GTiff",
        "dtype": "uint32",
        "count": 1,
        "height": grid.height,
        "width": grid.width,
        "crs": grid.crs,
        "transform": grid.transform,
        "nodata": 0,
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "compress": "deflate",
        "sparse_ok": True,
    }
    with rasterio.open(path, "w", **profile) as image:
        for top, first, last in zip(tops, starts, starts[1:], strict=False):
            here = order[first:last]
            blocks = np.zeros((min(BLOCK, grid.height - top), grid.width), np.uint32)
            blocks[index.rows[here] - top, index.cols[here]] = labels[here]
            image.write(blocks, 1, window=Window(0, top, grid.width, len(blocks)))
