"""Gathering: the parcels' pixels of one acquisition, block by block as they are decoded."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import numpy as np
from dask.base import compute
from dask.delayed import delayed
from numpy.typing import NDArray

from geo.acquisitions import Acquisition, AcquisitionError, Band
from geo.clouds import CloudRules
from geo.pixel_index import PixelIndex
from geo.reading import block_shape, read_window
from geo.resampling import Footprint, is_too_fine, sample, widened, window_of

logger = logging.getLogger(__name__)

# Rows and columns that are read together, at least; a tile of a Sentinel-2 JP2 has as many.
READ_SIZE = 1024

# Blocks of remote files that are read at the same time, however few processors there are: they
# wait for the network.
REQUESTS_AT_ONCE = 8

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
        bool (P,): True where every band has data; nowhere beyond the edges of one.

    Raises
    ------
    AcquisitionError
        If a file cannot be read, or a band's grid cannot be sampled at the index's.
    """
    sources = [acquisition.bands[name] for name in bands]
    pixels = np.zeros((len(bands), len(index.rows)), np.uint16)
    n_known = np.zeros(len(index.rows), np.uint8)
    chosen, tasks = [], []
    for channel, band in enumerate(sources):
        method = "nearest" if band.grid.is_aligned(index.grid) else resampling
        _check_pixel_size(band, index, method)
        for positions, footprint in _blocks(band, index):
            chosen.append((channel, positions))
            tasks.append(delayed(_read_block)(band, footprint, method))
    results = compute(*tasks, scheduler="threads", num_workers=_workers(sources, threads))
    for (channel, positions), (values, known) in zip(chosen, results, strict=True):
        pixels[channel, positions] = values
        n_known[positions] += known
    # A pixel without data in one band is without data: the bands stay aligned.
    valid = n_known == len(bands)
    pixels[:, ~valid] = 0
    return pixels, valid


def gather_clear(
    acquisition: Acquisition, index: PixelIndex, rules: CloudRules, *, threads: int = 1
) -> NDArray[np.bool_]:
    """Tell at the parcels' pixels what the masks of an acquisition show clear.

    Returns
    -------
    bool (P,): True where the pixel of every mask that holds the centre is clear; False beyond the
    edges of a mask. All True without a mask.
    """
    clear = np.ones(len(index.rows), bool)
    for name, band in rules.choose(acquisition).items():
        chosen, tasks = [], []
        for positions, footprint in _blocks(band, index):
            chosen.append(positions)
            tasks.append(delayed(_read_clear)(name, band, footprint, rules))
        parts = compute(*tasks, scheduler="threads", num_workers=_workers([band], threads))
        seen = np.zeros(len(clear), bool)
        for positions, part in zip(chosen, parts, strict=True):
            seen[positions] = part
        clear &= seen
    return clear


def _workers(sources: Sequence[Band], threads: int) -> int:
    """Give how many blocks are read at the same time."""
    return max(threads, REQUESTS_AT_ONCE) if any(b.is_remote for b in sources) else threads


def _blocks(band: Band, index: PixelIndex) -> Iterator[tuple[NDArray[np.int64], Footprint]]:
    """Group the pixels of the index by the block of the band that holds them.

    Yields positions in the index, and their footprint on the band. Pixels beyond the edges of the
    band are in no block.
    """
    if not band.grid.has_crs(index.grid.crs):
        raise AcquisitionError(
            f"{band.name} of {band.source} is in {band.grid.crs}, the parcels' pixels are in "
            f"{index.grid.crs}: warp it to that (gdalwarp -t_srs)."
        )
    footprint = Footprint.of(index.rows, index.cols, index.grid, band.grid)
    inside = np.flatnonzero(footprint.inside)
    rows, cols = footprint[inside].nearest
    block_rows, block_cols = block_shape(band)
    if not band.is_remote:
        # Small tiles and strips are read together: opening a file costs more than decoding a few
        # rows. Over the network, what is not needed costs most.
        block_rows *= -(-READ_SIZE // block_rows)
        block_cols *= -(-READ_SIZE // block_cols)
    per_row = -(-band.grid.width // block_cols)
    block = (rows // block_rows) * per_row + cols // block_cols
    order = np.argsort(block, kind="stable")
    borders = np.flatnonzero(np.diff(block[order])) + 1
    for positions in np.split(inside[order], borders):
        if len(positions):
            yield positions, footprint[positions]


def _check_pixel_size(band: Band, index: PixelIndex, method: str) -> None:
    """Check that a band is not to be averaged."""
    if method != "nearest" and is_too_fine(band.grid, index.grid):
        sizes = [f"{g.pixel_width:g} x {g.pixel_height:g}" for g in (band.grid, index.grid)]
        raise AcquisitionError(
            f"{band.name} of {band.source} has pixels of {sizes[0]} m, smaller than the {sizes[1]} "
            f"m that the parcels are indexed on, and {method} resampling does not average: set "
            "imagery.resampling to nearest, or resample the band (gdalwarp -r average)."
        )


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
        limits = np.iinfo(raw.dtype)
        values = np.clip(np.floor(values + 0.5), limits.min, limits.max)
    reflectance = np.floor((values + band.offset) * band.scale + 0.5)
    return np.where(valid, np.clip(reflectance, 0, 65535), 0).astype(np.uint16), valid


def _read_clear(
    name: str, band: Band, footprint: Footprint, rules: CloudRules
) -> NDArray[np.bool_]:
    """Read one block of a mask, wide enough for the clouds around it."""
    window = widened(footprint, rules.margin(band))
    clear = rules.is_clear(name, read_window(band, *window), band)
    rows, cols = footprint.nearest
    at_pixels: NDArray[np.bool_] = clear[rows - window[0].start, cols - window[1].start]
    return at_pixels
