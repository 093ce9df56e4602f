"""Read the parcels' pixels of one acquisition; every block of a raster is read once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geo.block_tasks import run_blocks
from geo.errors import InputError
from geo.imagery.acquisition import Acquisition, Band, Plane
from geo.imagery.cloud_masks import CloudRules
from geo.imagery.open_rasters import OpenRasters
from geo.imagery.raster_header import block_shape
from geo.imagery.valid_values import refuse_wrong_scale
from geo.pixels.block_plan import Block, Plan
from geo.pixels.block_reading import (
    NotFound,
    Sampled,
    SeamSources,
    read_block,
    read_clear_block,
    sample_bands,
    stencil_of,
)
from geo.pixels.pixel_index import PixelIndex
from geo.pixels.resampling import Ints, is_too_fine

if TYPE_CHECKING:
    from geo.cluster import Cluster

# Smallest number of rows and columns to read together: for smaller windows, the overhead of a read
# exceeds the decoding, and larger windows are too few to keep all threads busy. Stacks (NetCDF,
# Zarr) are opened again for each window.
READ_SIZE = 512
STACK_READ_SIZE = 1024

# Blocks of remote files that are requested at the same time, whatever the number of processors:
# the threads only wait for the network.
REQUESTS_AT_ONCE = 8

# With fewer blocks than this for each thread, the bands of a block are read as separate tasks.
TASKS_PER_WORKER = 4


def read_parcel_pixels(
    acquisition: Acquisition,
    index: PixelIndex,
    bands: Sequence[str],
    *,
    resampling: str = "bilinear",
    threads: int = 1,
    cluster: Cluster | None = None,
    impossible: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """Read the parcels' pixels of every band of an acquisition.

    Only blocks with parcels are read, each once. Bands on another grid than the index's are
    resampled at the parcels' pixels only.

    Parameters
    ----------
    acquisition
        The acquisition.
    index
        P pixels of all parcels, on the tile's grid.
    bands
        C bands, in the order of the channels.
    resampling
        nearest, bilinear or cubic: for bands whose pixels are larger than the grid's.
    threads
        Blocks to read at the same time.
    cluster
        A Dask cluster that reads the blocks; None: threads of this process.
    impossible
        bool (P,), all False. Set to True where a band has a value that is impossible as
        reflectance; such pixels are nodata.

    Returns
    -------
    pixels
        uint16 (C, P): reflectance x 10,000, offset applied, clipped at 0; 0 where any band is
        nodata.
    has_values
        bool (P,): False where any band is nodata, and outside the extent of any band.

    Raises
    ------
    InputError
        If a file cannot be read, a band cannot be resampled to the index's grid, or most values of
        a band are impossible as reflectance.
    """
    sources = [acquisition.bands[name] for name in bands]
    workers = _workers(sources, threads, cluster)
    pixels = np.zeros((len(bands), len(index.rows)), np.uint16)
    # A pixel counts as nodata if one band is: models take the bands of a pixel together.
    has_values = np.ones(len(index.rows), bool)
    if impossible is None:
        impossible = np.zeros(len(index.rows), bool)
    readings = []
    for channels in _by_grid(sources):
        plan = _plan(sources[channels[0]], index, resampling)
        has_values[plan.outside] = False
        for part in _parts(channels, len(plan.blocks), workers):
            of_part = [sources[channel] for channel in part]
            readings.append(_GridReading(part, of_part, plan, pixels, has_values, impossible))
    run_blocks(
        read_block,
        OpenRasters,
        [(reading, block) for reading in readings for block in reading.plan.blocks],
        lambda of: of[0].plan.part(of[1], of[0].bands),
        lambda of, piece: of[0].write(of[1], piece),
        workers,
    )
    run_blocks(
        _GridReading.sample_seams,
        nullcontext,
        readings,
        lambda reading: reading,
        lambda reading, piece: reading.write_pixels(reading.plan.seams, piece),
        threads,
    )
    for reading in readings:
        reading.check_scale()
    if not has_values.all():
        pixels[:, ~has_values] = 0
    return pixels, has_values


def read_clear_mask(
    acquisition: Acquisition,
    index: PixelIndex,
    rules: CloudRules,
    *,
    threads: int = 1,
    cluster: Cluster | None = None,
) -> NDArray[np.bool_]:
    """Read which of the parcels' pixels the masks of an acquisition show clear.

    Returns
    -------
    bool (P,): True where the nearest pixel of every mask is clear; False outside the extent of a
    mask. All True if there is no mask.
    """
    clear = np.ones(len(index.rows), bool)

    def write(block: Block, of_block: NDArray[np.bool_]) -> None:
        clear[block.pixels] &= of_block

    for name, band in rules.choose(acquisition).items():
        plan = _plan(band, index, "nearest")
        clear[plan.outside] = False
        run_blocks(
            partial(read_clear_block, name, rules),
            OpenRasters,
            plan.blocks,
            partial(plan.part, bands=[band], margins=rules.margin(band)),
            write,
            _workers([band], threads, cluster),
        )
    return clear


def _workers(sources: Sequence[Band], threads: int, cluster: Cluster | None) -> int | Cluster:
    """Return the number of blocks to read at the same time, or the cluster that reads them."""
    if cluster is not None:
        return cluster
    return max(threads, REQUESTS_AT_ONCE) if any(b.is_remote for b in sources) else threads


def _by_grid(sources: Sequence[Band]) -> list[list[int]]:
    """Group the channels of bands that share a grid and a block shape."""
    groups: dict[object, list[int]] = {}
    for channel, band in enumerate(sources):
        groups.setdefault((band.grid, block_shape(band)), []).append(channel)
    return list(groups.values())


def _parts(channels: Sequence[int], n_blocks: int, workers: int | Cluster) -> list[Sequence[int]]:
    """Divide the channels of a grid, if there are too few blocks to keep all threads busy."""
    n_threads = workers if isinstance(workers, int) else workers.n_threads
    wanted = -(-TASKS_PER_WORKER * n_threads // max(n_blocks, 1))
    size = max(len(channels) // wanted, 1)
    return [channels[start : start + size] for start in range(0, len(channels), size)]


def _plan(band: Band, index: PixelIndex, resampling: str) -> Plan:
    """Plan the reading of a band, and of others on the same grid."""
    if not band.grid.has_crs(index.grid.crs):
        raise InputError(
            f"{band.name} of {band.source} is in {band.grid.crs}, the parcels' pixels are in "
            f"{index.grid.crs}: warp it to that (gdalwarp -t_srs)."
        )
    method = "nearest" if band.grid.is_aligned(index.grid) else resampling
    if method != "nearest" and is_too_fine(band.grid, index.grid):
        sizes = [f"{g.pixel_width:g} x {g.pixel_height:g}" for g in (band.grid, index.grid)]
        raise InputError(
            f"{band.name} of {band.source} has pixels of {sizes[0]} m, smaller than the {sizes[1]} "
            f"m that the parcels are indexed on, and {method} resampling does not average: set "
            "imagery.resampling to nearest, or resample the band (gdalwarp -r average)."
        )
    rows, cols = block_shape(band)
    if not band.is_remote:
        # Small tiles and strips are read together. Over the network that would cost more than it
        # saves: it transfers blocks without parcels.
        size = STACK_READ_SIZE if isinstance(band.layer, Plane) else READ_SIZE
        cols *= -(-min(size, band.grid.width) // cols)
        rows *= -(-size * size // (rows * cols))
    return Plan.of(index, stencil_of(index.grid, band.grid, method), (rows, cols))


class _GridReading:
    """Write bands that share a grid into their channels of the pixels of an acquisition.

    No two blocks write the same pixels, so threads need no lock.
    """

    def __init__(
        self,
        channels: Sequence[int],
        bands: Sequence[Band],
        plan: Plan,
        pixels: NDArray[np.uint16],
        has_values: NDArray[np.bool_],
        impossible: NDArray[np.bool_],
    ) -> None:
        self.bands, self.plan = bands, plan
        self._channels = channels
        self._pixels, self._has_values, self._impossible = pixels, has_values, impossible
        # Raw values of plan.seam_sources by band, in the data type of the band's file.
        self._seams: dict[int, NDArray[Any]] = {}
        # For every band, what all samplings did not find. Threads append at the same time.
        self._not_found: list[list[NotFound]] = [[] for _ in bands]

    def write(self, block: Block, piece: Sampled | SeamSources) -> None:
        """Write what was read from a block."""
        if isinstance(piece, Sampled):
            self.write_pixels(block.pixels, piece)
            return
        for number, values in enumerate(piece.values):
            empty = np.empty(len(self.plan.seam_sources), values.dtype)
            self._seams.setdefault(number, empty)[block.for_seams] = values

    def write_pixels(self, pixels: Ints, piece: Sampled) -> None:
        """Write sampled pixels, given all pixels of the index that were asked for."""
        own = pixels[piece.pixels]
        for channel, values in zip(self._channels, piece.values, strict=True):
            self._pixels[channel][own] = values
        if piece.has_values is not None and piece.impossible is not None:
            self._has_values[own[~piece.has_values]] = False
            self._impossible[own[piece.impossible]] = True
        for noted, not_found in zip(self._not_found, piece.not_found, strict=True):
            if not_found is not None:
                noted.append(not_found)

    def sample_seams(self, _: None) -> Iterator[Sampled]:
        """Sample the pixels that need several blocks, after all blocks are read."""
        plan, sources, width = self.plan, self.plan.seam_sources, self.plan.stencil.right.size
        yield from sample_bands(
            self.bands,
            plan.stencil,
            [self._seams[number] for number in sorted(self._seams)],
            plan.index.rows.take(plan.seams),
            plan.index.cols.take(plan.seams),
            lambda row, col: sources.searchsorted(row * width + col),
        )

    def check_scale(self) -> None:
        """Refuse a band if most of its values are impossible as reflectance."""
        n = len(self.plan.index.rows) - len(self.plan.outside)
        for band, noted in zip(self.bands, self._not_found, strict=True):
            examples = sorted(found.example for found in noted if found.example is not None)
            if examples:
                n_data = n - sum(found.n for found in noted)
                n_varied = sum(found.n_varied for found in noted)
                refuse_wrong_scale(band, n, n_data, n_varied, examples[0])
