"""Gathering: the parcels' pixels of one acquisition, block by block as they are decoded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from dask.base import compute
from dask.delayed import delayed
from numpy.typing import NDArray

from geo.acquisitions import Acquisition, AcquisitionError, Band
from geo.clouds import CloudRules
from geo.pixel_index import PixelIndex
from geo.reading import block_shape, read_window, read_windows
from geo.resampling import Footprint, is_too_fine, sample, take, widened, window_of

logger = logging.getLogger(__name__)

# Rows and columns that are read together, at least; a tile of a Sentinel-2 JP2 has as many.
READ_SIZE = 1024

# Blocks of remote files that are read at the same time, however few processors there are: they
# wait for the network.
REQUESTS_AT_ONCE = 8

# Bands are read apart where there are fewer blocks than this for every thread.
TASKS_PER_WORKER = 4

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
    workers = _workers(sources, threads)
    pixels = np.zeros((len(bands), len(index.rows)), np.uint16)
    n_known = np.zeros(len(index.rows), np.uint8)
    chosen, tasks = [], []
    for channels in _by_grid(sources):
        group = [sources[channel] for channel in channels]
        method = "nearest" if group[0].grid.is_aligned(index.grid) else resampling
        _check_pixel_size(group[0], index, method)
        blocks = _blocks(group[0], index)
        for part in _parts(channels, len(blocks), workers):
            read = [sources[channel] for channel in part]
            for positions in blocks:
                chosen.append((part, positions))
                # Bound before, as dask would look for tasks of its own in what it is given.
                tasks.append(delayed(partial(_read_block, read, index, positions, method))())
    results = compute(*tasks, scheduler="threads", num_workers=workers)
    for (part, positions), (values, known) in zip(chosen, results, strict=True):
        pixels[np.array(part)[:, None], positions] = values
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
        blocks = _blocks(band, index)
        tasks = [delayed(partial(_read_clear, name, band, index, p, rules))() for p in blocks]
        parts = compute(*tasks, scheduler="threads", num_workers=_workers([band], threads))
        seen = np.zeros(len(clear), bool)
        for positions, part in zip(blocks, parts, strict=True):
            seen[positions] = part
        clear &= seen
    return clear


def _workers(sources: Sequence[Band], threads: int) -> int:
    """Give how many blocks are read at the same time."""
    return max(threads, REQUESTS_AT_ONCE) if any(b.is_remote for b in sources) else threads


def _by_grid(sources: Sequence[Band]) -> list[list[int]]:
    """Group the places of bands that lie on the same pixels, in the same blocks."""
    groups: dict[object, list[int]] = {}
    for channel, band in enumerate(sources):
        groups.setdefault((band.grid, block_shape(band)), []).append(channel)
    return list(groups.values())


def _parts(channels: Sequence[int], n_blocks: int, workers: int) -> list[Sequence[int]]:
    """Divide the bands of a grid so that there is work for all, be the blocks few."""
    wanted = -(-TASKS_PER_WORKER * workers // max(n_blocks, 1))
    size = max(len(channels) // wanted, 1)
    return [channels[start : start + size] for start in range(0, len(channels), size)]


def _blocks(band: Band, index: PixelIndex) -> list[NDArray[np.int64]]:
    """Group the pixels of the index by the block of the band that holds them.

    Gives positions in the index. Pixels beyond the edges of the band are in no block.
    """
    if not band.grid.has_crs(index.grid.crs):
        raise AcquisitionError(
            f"{band.name} of {band.source} is in {band.grid.crs}, the parcels' pixels are in "
            f"{index.grid.crs}: warp it to that (gdalwarp -t_srs)."
        )
    footprint = Footprint.of(index.rows, index.cols, index.grid, band.grid)
    rows, cols = footprint.nearest
    block_rows, block_cols = block_shape(band)
    if not band.is_remote:
        # Small tiles and strips are read together: opening a file costs more than decoding a few
        # rows. Over the network, what is not needed costs most.
        block_rows *= -(-READ_SIZE // block_rows)
        block_cols *= -(-READ_SIZE // block_cols)
    per_row = -(-band.grid.width // block_cols)
    block = np.where(footprint.inside, (rows // block_rows) * per_row + cols // block_cols, -1)
    order = np.argsort(block, kind="stable")
    borders = np.flatnonzero(np.diff(block[order], prepend=-1))
    return np.split(order, borders)[1:]


def _check_pixel_size(band: Band, index: PixelIndex, method: str) -> None:
    """Check that a band is not to be averaged."""
    if method != "nearest" and is_too_fine(band.grid, index.grid):
        sizes = [f"{g.pixel_width:g} x {g.pixel_height:g}" for g in (band.grid, index.grid)]
        raise AcquisitionError(
            f"{band.name} of {band.source} has pixels of {sizes[0]} m, smaller than the {sizes[1]} "
            f"m that the parcels are indexed on, and {method} resampling does not average: set "
            "imagery.resampling to nearest, or resample the band (gdalwarp -r average)."
        )


def _read_block(
    bands: Sequence[Band], index: PixelIndex, positions: NDArray[np.int64], method: str
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Read one block of bands on one grid and sample it.

    Returns
    -------
    pixels
        uint16 (bands, positions): reflectance x 10,000, 0 where there is no data.
    n_known
        uint8 (positions,): how many of the bands have data.
    """
    footprint = _footprint(index, positions, bands[0])
    window = window_of(footprint, method)
    pixels = np.zeros((len(bands), len(positions)), np.uint16)
    n_known = np.zeros(len(positions), np.uint8)
    for at, raw in enumerate(read_windows(bands, *window)):
        if method == "nearest":  # without a look at the pixels between the parcels
            taken = take(raw, window, footprint)
            known = _has_data(bands[at], taken)
            values = np.where(known, taken, 0).astype(np.float64)
        else:
            values, known = sample(raw, _has_data(bands[at], raw), window, footprint, method)
        pixels[at] = np.where(known, _reflectance(bands[at], values, raw.dtype), 0)
        n_known += known
    return pixels, n_known


def _footprint(index: PixelIndex, positions: NDArray[np.int64], band: Band) -> Footprint:
    """Place pixels of the index on a band."""
    return Footprint.of(index.rows[positions], index.cols[positions], index.grid, band.grid)


def _has_data(band: Band, raw: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell which raw values are data."""
    known = np.ones(raw.shape, bool) if band.nodata is None else raw != band.nodata
    if raw.dtype.kind == "f":
        known &= np.isfinite(raw)
    return known


def _reflectance(
    band: Band, values: NDArray[np.float64], dtype: np.dtype[Any]
) -> NDArray[np.uint16]:
    """Turn sampled raw values into reflectance x 10,000."""
    if dtype.kind != "f":
        # Raw integers are resampled to raw integers first, as a warp of the band would give.
        limits = np.iinfo(dtype)
        values = np.clip(np.floor(values + 0.5), limits.min, limits.max)
    reflectance = np.floor((values + band.offset) * band.scale + 0.5)
    return np.clip(reflectance, 0, 65535).astype(np.uint16)


def _read_clear(
    name: str, band: Band, index: PixelIndex, positions: NDArray[np.int64], rules: CloudRules
) -> NDArray[np.bool_]:
    """Read one block of a mask, wide enough for the clouds around it."""
    footprint = _footprint(index, positions, band)
    window = widened(footprint, rules.margin(band))
    return take(rules.is_clear(name, read_window(band, *window), band), window, footprint)
