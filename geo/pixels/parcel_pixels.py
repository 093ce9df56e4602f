"""Gathering: the parcels' pixels of one acquisition, block by block as they are decoded."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geo.errors import InputError
from geo.imagery.acquisition import Acquisition, Band, Plane
from geo.imagery.cloud_masks import CloudRules
from geo.imagery.open_rasters import OpenRasters
from geo.imagery.raster_reading import block_shape, read_windows
from geo.imagery.reflectance import has_data, reflectance
from geo.pixels.block_plan import Block, Pixels, Plan
from geo.pixels.pixel_index import PixelIndex
from geo.pixels.resampling import Flatten, Stencil, is_too_fine, sample

logger = logging.getLogger(__name__)

# Rows and columns that are read together, at least: fewer cost more to ask for than to decode, and
# more are too few parts for threads to share evenly. Stacks are opened anew for each.
READ_SIZE = 512
STACK_READ_SIZE = 1024

# Blocks of remote files that are read at the same time, however few processors there are: they
# wait for the network.
REQUESTS_AT_ONCE = 8

# Bands are read apart where there are fewer blocks than this for every thread.
TASKS_PER_WORKER = 4

# Pixels that are sampled together: their places and weights stay in the processor's cache.
SAMPLED_AT_ONCE = 65_536

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
    InputError
        If a file cannot be read, or a band's grid cannot be sampled at the index's.
    """
    sources = [acquisition.bands[name] for name in bands]
    workers = _workers(sources, threads)
    pixels = np.zeros((len(bands), len(index.rows)), np.uint16)
    # A pixel without data in one band is without data: the bands stay aligned.
    valid = np.ones(len(index.rows), bool)
    with OpenRasters() as rasters:
        tasks: list[Callable[[], None]] = []
        gatherings = []
        for channels in _by_grid(sources):
            group = [sources[channel] for channel in channels]
            plan = _plan(group[0], index, resampling)
            valid[plan.outside.positions] = False
            for part in _parts(channels, len(plan.blocks), workers):
                read = {channel: sources[channel] for channel in part}
                gathering = _Gathering(read, plan, pixels, valid)
                gatherings.append(gathering)
                tasks += [partial(gathering.read, block, rasters) for block in plan.blocks]
        _run(tasks, workers)
    _run([gathering.sample_seams for gathering in gatherings], threads)
    if not valid.all():
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
        plan = _plan(band, index, "nearest")
        clear[plan.outside.positions] = False
        with OpenRasters() as rasters:
            read = partial(_read_clear, name, band, plan, rules, rasters, clear)
            _run([partial(read, block) for block in plan.blocks], _workers([band], threads))
    return clear


def _run(tasks: Iterable[Callable[[], None]], workers: int) -> None:
    """Run tasks at the same time, this thread among the workers; the first that fails ends it."""
    waiting = deque(tasks)

    def work() -> None:
        while True:
            try:
                task = waiting.popleft()
            except IndexError:
                return
            try:
                task()
            except BaseException:
                waiting.clear()
                raise

    with ThreadPoolExecutor(max(workers - 1, 1)) as pool:
        others = [pool.submit(work) for _ in range(min(workers, len(waiting)) - 1)]
        work()
        for other in others:
            other.result()


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


def _plan(band: Band, index: PixelIndex, resampling: str) -> Plan:
    """Plan which blocks of a band, and of others like it, are read for which pixels."""
    if not band.grid.has_crs(index.grid.crs):
        raise InputError(
            f"{band.name} of {band.source} is in {band.grid.crs}, the parcels' pixels are in "
            f"{index.grid.crs}: warp it to that (gdalwarp -t_srs)."
        )
    method = "nearest" if band.grid.is_aligned(index.grid) else resampling
    _check_pixel_size(band, index, method)
    rows, cols = block_shape(band)
    if not band.is_remote:
        # Small tiles and strips are read together. Over the network, what is not needed costs most.
        size = STACK_READ_SIZE if isinstance(band.layer, Plane) else READ_SIZE
        cols *= -(-min(size, band.grid.width) // cols)
        rows *= -(-size * size // (rows * cols))
    return Plan.of(index, Stencil.of(index.grid, band.grid, method), (rows, cols))


def _check_pixel_size(band: Band, index: PixelIndex, method: str) -> None:
    """Check that a band is not to be averaged."""
    if method != "nearest" and is_too_fine(band.grid, index.grid):
        sizes = [f"{g.pixel_width:g} x {g.pixel_height:g}" for g in (band.grid, index.grid)]
        raise InputError(
            f"{band.name} of {band.source} has pixels of {sizes[0]} m, smaller than the {sizes[1]} "
            f"m that the parcels are indexed on, and {method} resampling does not average: set "
            "imagery.resampling to nearest, or resample the band (gdalwarp -r average)."
        )


class _Gathering:
    """The gathering of bands on one grid, each by its channel, into the pixels of an acquisition.

    Every block writes what no other does: threads need no lock.
    """

    def __init__(
        self,
        bands: Mapping[int, Band],
        plan: Plan,
        pixels: NDArray[np.uint16],
        valid: NDArray[np.bool_],
    ) -> None:
        self._bands, self._plan, self._pixels, self._valid = bands, plan, pixels, valid
        # Raw values at plan.seam_pixels, by channel, in the data type of the band's file.
        self._seams: dict[int, NDArray[Any]] = {}

    def read(self, block: Block, rasters: OpenRasters) -> None:
        """Read one block of all bands, and sample the pixels that lie in it."""
        plan = self._plan
        rows, cols = plan.window(block)
        flatten = _flatten_in(rows, cols)
        found = read_windows(list(self._bands.values()), rows, cols, rasters)
        raw = dict(zip(self._bands, found, strict=True))
        self._place(raw, block.pixels, flatten)
        if len(block.lent):
            at = flatten(*np.divmod(plan.seam_pixels[block.lent], plan.stencil.right.size))
            for channel, values in raw.items():
                blank = np.empty(len(plan.seam_pixels), values.dtype)
                self._seams.setdefault(channel, blank)[block.lent] = values.take(at)

    def sample_seams(self) -> None:
        """Sample the pixels between blocks, once all blocks are read."""
        pixels, width = self._plan.seam_pixels, self._plan.stencil.right.size
        self._place(
            self._seams, self._plan.seams, lambda row, col: pixels.searchsorted(row * width + col)
        )

    def _place(self, raw: Mapping[int, NDArray[Any]], pixels: Pixels, flatten: Flatten) -> None:
        """Sample pixels of the index from source pixels that are at hand, by channel."""
        for start in range(0, len(pixels), SAMPLED_AT_ONCE):
            part = pixels[start : start + SAMPLED_AT_ONCE]
            centres = self._plan.stencil.centres(part.rows, part.cols, flatten)
            kernels = self._plan.stencil.taps(part.rows, part.cols, flatten)
            for channel, values in raw.items():
                band = self._bands[channel]
                samples, known = sample(values, partial(has_data, band), centres, kernels)
                self._pixels[channel][part.positions] = reflectance(band, samples, values.dtype)
                if not known.all():
                    self._valid[part.positions[~known]] = False


def _read_clear(
    name: str,
    band: Band,
    plan: Plan,
    rules: CloudRules,
    rasters: OpenRasters,
    clear: NDArray[np.bool_],
    block: Block,
) -> None:
    """Read one block of a mask, wide enough for the clouds around it, and note what is hidden."""
    rows, cols = plan.window(block, rules.margin(band))
    (values,) = read_windows([band], rows, cols, rasters)
    pixels = block.pixels
    centres = plan.stencil.centres(pixels.rows, pixels.cols, _flatten_in(rows, cols))
    clear[pixels.positions] &= rules.is_clear(name, values, band).take(centres)


def _flatten_in(rows: slice, cols: slice) -> Flatten:
    """Make what gives the places of source pixels in a window of the source."""
    width = cols.stop - cols.start
    return lambda row, col: (row - rows.start) * width + (col - cols.start)
