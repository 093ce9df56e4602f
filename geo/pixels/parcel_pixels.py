"""Read the parcels' pixels of one acquisition, every block of a raster once."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geo.errors import InputError
from geo.imagery.acquisition import Acquisition, Band, Plane
from geo.imagery.cloud_masks import CloudRules
from geo.imagery.radiometry import reflectance
from geo.imagery.raster_reading import OpenRasters, block_shape, has_data, read_windows
from geo.pixels.pixel_index import PixelIndex
from geo.pixels.resampling import Flatten, Ints, Stencil, is_too_fine, sample

Window = tuple[slice, slice]


@dataclass(frozen=True)
class Pixels:
    """Some pixels of an index: their places in it, int64 (n,), rows and columns, int32 (n,)."""

    positions: Ints
    rows: NDArray[np.int32]
    cols: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, part: slice) -> Pixels:
        return Pixels(self.positions[part], self.rows[part], self.cols[part])


@dataclass(frozen=True)
class Block:
    """What is wanted of one block.

    Parameters
    ----------
    pixels
        Pixels of the index that find all that they need of the source in this block.
    lent
        int64 (m,): source pixels of this block that pixels on its seams need, by their place in
        `Plan.seam_pixels`.
    """

    pixels: Pixels
    lent: Ints


@dataclass(frozen=True)
class Plan:
    """What is wanted of every block of a source.

    Parameters
    ----------
    stencil
        What each pixel of the index needs of the source.
    blocks
        Those of which something is wanted.
    seams
        Pixels of the index that need several blocks.
    seam_pixels
        int64 (m,): source pixels that those need, each once, ascending (row x width + column).
    outside
        Pixels of the index whose centre is beyond the edges of the source.
    """

    stencil: Stencil
    blocks: list[Block]
    seams: Pixels
    seam_pixels: Ints
    outside: Pixels

    @classmethod
    def of(cls, index: PixelIndex, stencil: Stencil, block_shape: tuple[int, int]) -> Plan:
        """Divide the pixels of an index by blocks of (rows, columns) of the source.

        Few pixels lie on seams, unless blocks are hardly larger than what one pixel needs: what
        those need is kept until all blocks are read, so that none is read for its neighbours.
        """
        height, width = stencil.down.size, stencil.right.size
        per_row = -(-width // block_shape[1])
        n = -(-height // block_shape[0]) * per_row
        # The sum over row and column tells all: below n it is the block, up to 2 n a seam, from 4 n
        # on outside.
        down, right = stencil.extents
        by_row = _block_of(down, block_shape[0], stencil.down.inside, per_row, n)
        by_col = _block_of(right, block_shape[1], stencil.right.inside, 1, n)
        order, ends = _sorted(by_row.take(index.rows) + by_col.take(index.cols), 8 * n + 1)
        pixels = Pixels(order, index.rows.take(order), index.cols.take(order))
        ends = np.concatenate([ends[:n], ends[[2 * n, 8 * n]]])
        *within, seams, outside = (pixels[part] for part in _between(ends))
        taps = stencil.taps(seams.rows, seams.cols, lambda r, c: r * width + c)
        seam_pixels = np.unique(taps[0].places) if taps else np.empty(0, np.int64)
        rows, cols = np.divmod(seam_pixels, width)
        lent, ends = _sorted(rows // block_shape[0] * per_row + cols // block_shape[1], n)
        blocks = [
            Block(here, lent[part])
            for here, part in zip(within, _between(ends), strict=True)
            if len(here) or part.stop > part.start
        ]
        return cls(stencil, blocks, seams, seam_pixels, outside)

    def window(self, block: Block, margins: tuple[int, int] = (0, 0)) -> Window:
        """Return the rows and columns of the source that hold all that is wanted of a block.

        Parameters
        ----------
        margins
            Rows and columns that are added on each side, as far as the source goes.
        """
        slices = []
        for extents, places, lent, margin, axis in zip(
            self.stencil.extents,
            (block.pixels.rows, block.pixels.cols),
            np.divmod(self.seam_pixels[block.lent], self.stencil.right.size),
            margins,
            (self.stencil.down, self.stencil.right),
            strict=True,
        ):
            # Both ascend: the first and the last row of the grid reach furthest.
            reached = [extents[0][places.min()], extents[1][places.max()]] if len(places) else []
            wanted = np.concatenate([reached, lent])
            first, last = int(wanted.min()) - margin, int(wanted.max()) + margin
            slices.append(slice(max(first, 0), min(last + 1, axis.size)))
        return slices[0], slices[1]


def _block_of(
    extents: Ints, length: int, inside: NDArray[np.bool_], step: int, n: int
) -> NDArray[np.integer]:
    """Return `step` times the row of blocks that holds first and last (2, rows) of each row.

    n where no one row of blocks holds both, 4 n where the row is outside.
    """
    first, last = extents // length
    numbers = np.where(inside, np.where(first == last, first * step, n), 4 * n)
    # Numpy sorts 16 bits by counting them, several times faster.
    return numbers.astype(np.uint16 if 8 * n < 2**16 else np.int64)


def _sorted(numbers: NDArray[np.integer], n: int) -> tuple[Ints, Ints]:
    """Return the places of the numbers 0 to n - 1, ascending, and where those of each end."""
    return np.argsort(numbers, kind="stable"), np.cumsum(np.bincount(numbers, minlength=n))


def _between(ends: Ints) -> list[slice]:
    """Return what lies between one end and the next."""
    return [slice(a, b) for a, b in pairwise([0, *ends.tolist()])]


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


def read_parcel_pixels(
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
        readings = []
        for channels in _by_grid(sources):
            group = [sources[channel] for channel in channels]
            plan = _plan(group[0], index, resampling)
            valid[plan.outside.positions] = False
            for part in _parts(channels, len(plan.blocks), workers):
                read = {channel: sources[channel] for channel in part}
                reading = _GridReading(read, plan, pixels, valid)
                readings.append(reading)
                tasks += [partial(reading.read, block, rasters) for block in plan.blocks]
        _run(tasks, workers)
    _run([reading.sample_seams for reading in readings], threads)
    if not valid.all():
        pixels[:, ~valid] = 0
    return pixels, valid


def read_clear_mask(
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
    """Return how many blocks are read at the same time."""
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


class _GridReading:
    """The reading of bands on one grid, each by its channel, into the pixels of an acquisition.

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
