"""Stage rasterise: find the pixels of the parcels of one tile."""

from __future__ import annotations

import logging
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
from rasterio.windows import Window

from geo.errors import reading
from geo.grid import read_grids
from geo.pixels.pixel_index import PixelIndex, index_pixels
from geo.register.placement import buffered
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
    usable = _read_parcels(parcels / f"{tile}.parquet")
    rejected = _read_parcels(parcels / f"{tile}.rejected.parquet")
    table = pd.concat([usable, rejected], ignore_index=True)
    found = index_pixels(
        buffered(table.geometry.to_numpy(), settings.parcels.buffer_m),
        table["parcel_id"].tolist(),
        read_grids(grids)[tile],
        tile,
        all_touched=settings.parcels.all_touched,
        min_covered_fraction=settings.parcels.min_covered_fraction,
    )
    is_usable = np.arange(len(table)) < len(usable)
    is_indexed = is_usable & (found.sizes >= settings.parcels.min_pixels)
    index = found.select(is_indexed)
    _write_index(pixel_index, index)
    _write_counts(counts, table.assign(n_pixels=found.sizes, indexed=is_indexed))
    _write_label_image(label_image, index)
    logger.info("%d parcels, %d pixels of tile %s", len(index.parcel_ids), len(index.rows), tile)


def _read_parcels(path: Path) -> gpd.GeoDataFrame:
    """Read a table of parcels that clean wrote."""
    with reading(path, "a table of parcels", "Make it anew: snakemake -R clean."):
        return gpd.read_parquet(path)


def _write_index(path: Path, index: PixelIndex) -> None:
    with replacing(path) as temporary:
        index.save(temporary)


def _write_counts(path: Path, table: gpd.GeoDataFrame) -> None:
    columns = pd.DataFrame(table[["row", "parcel_id", "n_pixels", "indexed"]])
    with replacing(path) as temporary:
        columns.to_parquet(temporary, index=False)


def _write_label_image(path: Path, index: PixelIndex) -> None:
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
    with replacing(path) as temporary, rasterio.open(temporary, "w", **profile) as image:
        for top, first, last in zip(tops, starts, starts[1:], strict=False):
            here = order[first:last]
            blocks = np.zeros((min(BLOCK, grid.height - top), grid.width), np.uint32)
            blocks[index.rows[here] - top, index.cols[here]] = labels[here]
            image.write(blocks, 1, window=Window(0, top, grid.width, len(blocks)))
