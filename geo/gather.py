"""Gathering: the parcels' pixels of one acquisition, block by block as they are decoded."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import numpy as np
from dask.base import compute
from dask.delayed import delayed
from numpy.typing import NDArray

from geo.acquisitions import SCENE_CLASSIFICATION, Acquisition, Band
from geo.pixel_index import PixelIndex
from geo.reading import read_window
from geo.resampling import Footprint, sample, window_of

logger = logging.getLogger(__name__)

# Rows and columns that are read together, at least; a tile of a Sentinel-2 JP2 has as many.
READ_SIZE = 1024

Sample = tuple[NDArray[np.uint16], NDArray[np.bool_]]


def gather(
    acquisition: Acquisition,
    index: PixelIndex,
    bands: Sequence[str],
    *,
    resampling: str = "bilinear",
    threads: int = 1,
) -> Sample:
    """Read the parcels' pixels of every band of an acquisition.

    Only blocks that hold parcels are read, each once. Bands on another grid than the index's are
    sampled at the parcels' pixels alone.

    Parameters
    ----------
    acquisition
        What to read.
    index
        P pixels of all parcels, on the tile's grid.
    bands
        C bands, in the order of the channels.
    resampling
        nearest, bilinear or cubic: of bands whose pixels are larger than the grid's.
    threads
        Blocks that are read at the same time.

    Returns
    -------
    pixels
        uint16 (C, P): reflectance x 10,000, offset applied, clipped at 0; 0 where there is no data.
    valid
        bool (P,): True where every band has data.

    Raises
    ------
    AcquisitionError
        If a file cannot be read.
    """
    sources = [acquisition.bands[name] for name in bands]
    pixels = np.zeros((len(bands), len(index.rows)), np.uint16)
    valid = np.ones(len(index.rows), bool)
    chosen, tasks = [], []
    for channel, band in enumerate(sources):
        method = "nearest" if band.grid.matches(index.grid) else resampling
        for positions, footprint in _blocks(band, index):
            chosen.append((channel, positions))
            tasks.append(delayed(_read_block)(band, footprint, method))
    results = compute(*tasks, scheduler="threads", num_workers=threads)
    for (channel, positions), (values, known) in zip(chosen, results, strict=True):
        pixels[channel, positions] = values
        valid[positions] &= known
    # A pixel without data in one band is without data: the bands stay aligned.
    pixels[:, ~valid] = 0
    return pixels, valid


def gather_classification(acquisition: Acquisition, index: PixelIndex) -> NDArray[np.uint8]:
    """Read the scene classification at the parcels' pixels.

    Returns
    -------
    uint8 (P,): SCL classes 0 to 11; the class of the 20 m pixel that holds the 10 m pixel.
    """
    band = acquisition.masks.get(SCENE_CLASSIFICATION)
    if band is None:
        raise ValueError(f"Acquisition {acquisition.id} has no scene classification.")
    classes = np.zeros(len(index.rows), np.uint8)
    for positions, footprint in _blocks(band, index):
        window = window_of(footprint, "nearest")
        rows, cols = footprint.nearest
        values = read_window(band, *window)
        classes[positions] = values[rows - window[0].start, cols - window[1].start]
    return classes


def _blocks(band: Band, index: PixelIndex) -> Iterator[tuple[NDArray[np.int64], Footprint]]:
    """Group the pixels of the index by the block of the band that holds them.

    Yields positions in the index, and their footprint on the band.
    """
    footprint = Footprint.of(index.rows, index.cols, index.grid, band.grid)
    rows, cols = footprint.nearest
    # Small tiles and strips are read together: opening a file costs more than decoding a few rows.
    block_rows, block_cols = (size * -(-READ_SIZE // size) for size in band.block_shape)
    per_row = -(-band.grid.width // block_cols)
    block = (rows // block_rows) * per_row + cols // block_cols
    order = np.argsort(block, kind="stable")
    borders = np.flatnonzero(np.diff(block[order])) + 1
    for positions in np.split(order, borders):
        if len(positions):
            yield positions, footprint[positions]


def _read_block(band: Band, footprint: Footprint, method: str) -> Sample:
    """Read one block of a band and sample it, as reflectance x 10,000."""
    window = window_of(footprint, method)
    raw = read_window(band, *window)
    known = np.ones(raw.shape, bool) if band.nodata is None else raw != band.nodata
    if raw.dtype.kind == "f":
        known &= np.isfinite(raw)
    values, valid = sample(raw, known, window, footprint, method)
    if raw.dtype.kind != "f":
        # Raw integers are resampled to raw integers first, as a warp of the band would give.
        values = np.floor(values + 0.5)
    reflectance = np.floor((values + band.offset) * band.scale + 0.5)
    return np.where(valid, np.clip(reflectance, 0, 65535), 0).astype(np.uint16), valid
