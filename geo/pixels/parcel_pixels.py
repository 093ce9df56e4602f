"""Read the parcels' pixels of one acquisition; every block of a raster is read once."""

from __future__ import annotations

import threading
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
from geo.imagery.open_rasters import OpenRasters, is_jp2
from geo.imagery.radiometry import reflectance
from geo.imagery.raster_header import block_shape
from geo.imagery.raster_reading import read_windows
from geo.imagery.valid_values import count_varied, has_data, is_impossible, refuse_wrong_scale
from geo.pixels.pixel_index import PixelIndex
from geo.pixels.resampling import Flatten, Ints, Stencil, is_too_fine, sample

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

# Pixels that are sampled together: their positions and weights fit into the processor's cache.
SAMPLED_AT_ONCE = 65_536

# If more pixels are needed from a block (Sentinel-2: of a million), all of it is decoded.
FEW_PIXELS = 50_000

Window = tuple[slice, slice]


@dataclass(frozen=True)
class Block:
    """The pixels that are needed from one block.

    Parameters
    ----------
    pixels
        int64 (n,): pixels of the index that need source pixels from this block only.
    for_seams
        int64 (m,): source pixels in this block that seam pixels need, as positions in
        `Plan.seam_sources`.
    """

    pixels: Ints
    for_seams: Ints


@dataclass(frozen=True)
class Plan:
    """The pixels that are needed from every block of a source.

    A resampling kernel spans several source pixels. Near the border of two blocks, a pixel of the
    index needs both: it is a seam pixel. Its source pixels are kept until all blocks are read, so
    that no block is read a second time for its neighbours.

    Pixels of the index are given as int64 positions in it.

    Parameters
    ----------
    index
        The pixel index.
    stencil
        Source pixels that each pixel of the index needs.
    blocks
        The blocks from which anything is needed.
    seams
        Pixels of the index that need several blocks.
    seam_sources
        int64 (m,): source pixels that the seams need, without repetition, ascending, as
        row x width + column.
    outside
        Pixels of the index whose centre is outside the source.
    """

    index: PixelIndex
    stencil: Stencil
    blocks: list[Block]
    seams: Ints
    seam_sources: Ints
    outside: Ints

    @classmethod
    def of(cls, index: PixelIndex, stencil: Stencil, block_shape: tuple[int, int]) -> Plan:
        """Divide the pixels of an index by the blocks, (rows, columns), of the source.

        Few pixels are on seams, unless a block is hardly larger than the kernel.
        """
        height, width = stencil.down.size, stencil.right.size
        per_row = -(-width // block_shape[1])
        n = -(-height // block_shape[0]) * per_row
        # Encode each pixel's place in one integer so that it can be radix-sorted: [0, n) block
        # number, [n, 2n] straddles a block boundary, >= 4n outside the source.
        down, right = stencil.extents
        by_row = _block_numbers(down, block_shape[0], stencil.down.inside, per_row, n)
        by_col = _block_numbers(right, block_shape[1], stencil.right.inside, 1, n)
        order, ends = _sort(by_row.take(index.rows) + by_col.take(index.cols), 8 * n + 1)
        ends = np.concatenate([ends[:n], ends[[2 * n, 8 * n]]])
        *within, seams, outside = (order[part] for part in _slices(ends))
        taps = stencil.taps(index.rows[seams], index.cols[seams], lambda r, c: r * width + c)
        seam_sources = np.unique(taps[0][0]) if taps else np.empty(0, np.int64)
        rows, cols = np.divmod(seam_sources, width)
        for_seams, ends = _sort(rows // block_shape[0] * per_row + cols // block_shape[1], n)
        blocks = [
            Block(own, for_seams[part])
            for own, part in zip(within, _slices(ends), strict=True)
            if len(own) or part.stop > part.start
        ]
        return cls(index, stencil, blocks, seams, seam_sources, outside)

    def window(self, block: Block, margins: tuple[int, int] = (0, 0)) -> Window:
        """Return the rows and columns of the source that contain all pixels needed from a block.

        Parameters
        ----------
        margins
            Rows and columns to add on each side, within the source.
        """
        slices = []
        for extents, places, for_seams, margin, axis in zip(
            self.stencil.extents,
            (self.index.rows.take(block.pixels), self.index.cols.take(block.pixels)),
            np.divmod(self.seam_sources[block.for_seams], self.stencil.right.size),
            margins,
            (self.stencil.down, self.stencil.right),
            strict=True,
        ):
            # Source rows ascend with the rows of the grid: the first and the last row bound all.
            bounds = [extents[0][places.min()], extents[1][places.max()]] if len(places) else []
            needed = np.concatenate([bounds, for_seams])
            first, last = int(needed.min()) - margin, int(needed.max()) + margin
            slices.append(slice(max(first, 0), min(last + 1, axis.size)))
        return slices[0], slices[1]


def _block_numbers(
    extents: Ints, length: int, inside: NDArray[np.bool_], step: int, n: int
) -> NDArray[np.integer]:
    """Return, for each row of the grid, `step` times the row of blocks that contains its sources.

    n where the first and last source row, extents (2, rows), are in different rows of blocks; 4 n
    where the row is outside the source.
    """
    first, last = extents // length
    numbers = np.where(inside, np.where(first == last, first * step, n), 4 * n)
    # numpy sorts integers of 16 bits with a radix sort, several times faster.
    return numbers.astype(np.uint16 if 8 * n < 2**16 else np.int64)


def _sort(numbers: NDArray[np.integer], n: int) -> tuple[Ints, Ints]:
    """Return the order that sorts integers below n, and the end of each integer's run in it."""
    return np.argsort(numbers, kind="stable"), np.cumsum(np.bincount(numbers, minlength=n))


def _slices(ends: Ints) -> list[slice]:
    """Return the slices between consecutive ends."""
    return [slice(a, b) for a, b in pairwise([0, *ends.tolist()])]


def read_parcel_pixels(
    acquisition: Acquisition,
    index: PixelIndex,
    bands: Sequence[str],
    *,
    resampling: str = "bilinear",
    threads: int = 1,
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
    workers = _workers(sources, threads)
    pixels = np.zeros((len(bands), len(index.rows)), np.uint16)
    # A pixel counts as nodata if one band is: models take the bands of a pixel together.
    has_values = np.ones(len(index.rows), bool)
    if impossible is None:
        impossible = np.zeros(len(index.rows), bool)
    with OpenRasters() as rasters:
        tasks: list[Callable[[], None]] = []
        readings = []
        for channels in _by_grid(sources):
            plan = _plan(sources[channels[0]], index, resampling)
            has_values[plan.outside] = False
            for part in _parts(channels, len(plan.blocks), workers):
                of_part = {channel: sources[channel] for channel in part}
                reading = _GridReading(of_part, plan, pixels, has_values, impossible)
                readings.append(reading)
                tasks += [partial(reading.read, block, rasters) for block in plan.blocks]
        _run(tasks, workers)
    _run([reading.sample_seams for reading in readings], threads)
    for reading in readings:
        reading.check_scale()
    if not has_values.all():
        pixels[:, ~has_values] = 0
    return pixels, has_values


def read_clear_mask(
    acquisition: Acquisition, index: PixelIndex, rules: CloudRules, *, threads: int = 1
) -> NDArray[np.bool_]:
    """Read which of the parcels' pixels the masks of an acquisition show clear.

    Returns
    -------
    bool (P,): True where the nearest pixel of every mask is clear; False outside the extent of a
    mask. All True if there is no mask.
    """
    clear = np.ones(len(index.rows), bool)
    for name, band in rules.choose(acquisition).items():
        plan = _plan(band, index, "nearest")
        clear[plan.outside] = False
        with OpenRasters() as rasters:
            read = partial(_read_clear, name, band, plan, rules, rasters, clear)
            _run([partial(read, block) for block in plan.blocks], _workers([band], threads))
    return clear


def _run(tasks: Iterable[Callable[[], None]], workers: int) -> None:
    """Run tasks in threads; after the first failure no further task starts."""
    failed = threading.Event()

    def run(task: Callable[[], None]) -> None:
        if failed.is_set():
            return
        try:
            task()
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(workers) as pool:
        for future in [pool.submit(run, task) for task in tasks]:
            future.result()


def _workers(sources: Sequence[Band], threads: int) -> int:
    """Return the number of blocks to read at the same time."""
    return max(threads, REQUESTS_AT_ONCE) if any(b.is_remote for b in sources) else threads


def _by_grid(sources: Sequence[Band]) -> list[list[int]]:
    """Group the channels of bands that share a grid and a block shape."""
    groups: dict[object, list[int]] = {}
    for channel, band in enumerate(sources):
        groups.setdefault((band.grid, block_shape(band)), []).append(channel)
    return list(groups.values())


def _parts(channels: Sequence[int], n_blocks: int, workers: int) -> list[Sequence[int]]:
    """Divide the channels of a grid, if there are too few blocks to keep all threads busy."""
    wanted = -(-TASKS_PER_WORKER * workers // max(n_blocks, 1))
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
    return Plan.of(index, Stencil.of(index.grid, band.grid, method), (rows, cols))


class _GridReading:
    """Read bands that share a grid, {channel: band}, into the pixels of an acquisition.

    No two blocks write the same pixels, so threads need no lock.
    """

    def __init__(
        self,
        bands: Mapping[int, Band],
        plan: Plan,
        pixels: NDArray[np.uint16],
        has_values: NDArray[np.bool_],
        impossible: NDArray[np.bool_],
    ) -> None:
        self._bands, self._plan = bands, plan
        self._pixels, self._has_values, self._impossible = pixels, has_values, impossible
        # Raw values of plan.seam_sources by channel, in the data type of the band's file.
        self._seams: dict[int, NDArray[Any]] = {}
        # By channel, for every sampling with pixels that are not found: how many, how many of these
        # have varied impossible values, and one such value. Threads append at the same time.
        self._not_found: dict[int, list[tuple[int, int, float | None]]] = {c: [] for c in bands}

    def read(self, block: Block, rasters: OpenRasters) -> None:
        """Read one block of all bands, and sample the pixels that need only this block."""
        plan = self._plan
        rows, cols = plan.window(block)
        flatten = _flatten_in(rows, cols)
        bands = list(self._bands.values())
        needed = _needed(bands, plan, block, (rows, cols))
        windows = read_windows(bands, rows, cols, rasters, needed)
        raw = dict(zip(self._bands, windows, strict=True))
        self._sample(raw, block.pixels, flatten)
        if len(block.for_seams):
            at = flatten(*np.divmod(plan.seam_sources[block.for_seams], plan.stencil.right.size))
            for channel, values in raw.items():
                empty = np.empty(len(plan.seam_sources), values.dtype)
                self._seams.setdefault(channel, empty)[block.for_seams] = values.take(at)

    def sample_seams(self) -> None:
        """Sample the pixels that need several blocks, after all blocks are read."""
        sources, width = self._plan.seam_sources, self._plan.stencil.right.size
        self._sample(
            self._seams, self._plan.seams, lambda row, col: sources.searchsorted(row * width + col)
        )

    def _sample(self, raw: Mapping[int, NDArray[Any]], pixels: Ints, flatten: Flatten) -> None:
        """Sample pixels of the index from source pixels, {channel: raw values}."""
        for start in range(0, len(pixels), SAMPLED_AT_ONCE):
            part, index = pixels[start : start + SAMPLED_AT_ONCE], self._plan.index
            place = index.rows.take(part), index.cols.take(part), flatten
            # The bands share the grid, and with it positions and weights.
            centres, taps = self._plan.stencil.centres(*place), self._plan.stencil.taps(*place)
            for channel, values in raw.items():
                band = self._bands[channel]
                samples, found = sample(values, partial(has_data, band), centres, taps)
                self._pixels[channel][part] = reflectance(band, samples, values.dtype)
                if not found.all():
                    self._has_values[part[~found]] = False
                    self._note(channel, part[~found], values.take(centres[~found]))

    def _note(self, channel: int, pixels: Ints, raw: NDArray[Any]) -> None:
        """Note which of the pixels that are not found have an impossible raw value."""
        is_strange = is_impossible(self._bands[channel], raw)
        self._impossible[pixels[is_strange]] = True
        strange = raw[is_strange]
        example = float(strange[0]) if strange.size else None
        self._not_found[channel].append((len(pixels), count_varied(strange), example))

    def check_scale(self) -> None:
        """Refuse a band if most of its values are impossible as reflectance."""
        n = len(self._plan.index.rows) - len(self._plan.outside)
        for channel, noted in self._not_found.items():
            examples = sorted(example for _, _, example in noted if example is not None)
            if examples:
                n_data = n - sum(count for count, _, _ in noted)
                n_varied = sum(count for _, count, _ in noted)
                refuse_wrong_scale(self._bands[channel], n, n_data, n_varied, examples[0])


def _read_clear(
    name: str,
    band: Band,
    plan: Plan,
    rules: CloudRules,
    rasters: OpenRasters,
    clear: NDArray[np.bool_],
    block: Block,
) -> None:
    """Read one block of a mask, and clear the flag of the pixels that it masks.

    The window includes a margin, as clouds beyond the pixels may be grown into them.
    """
    margins = rules.margin(band)
    rows, cols = plan.window(block, margins)
    needed = _needed([band], plan, block, (rows, cols), margins)
    (values,) = read_windows([band], rows, cols, rasters, needed)
    of_index = plan.index.rows.take(block.pixels), plan.index.cols.take(block.pixels)
    centres = plan.stencil.centres(*of_index, _flatten_in(rows, cols))
    clear[block.pixels] &= rules.is_clear(name, values, band).take(centres)


def _needed(
    bands: Sequence[Band],
    plan: Plan,
    block: Block,
    window: Window,
    margins: tuple[int, int] = (0, 0),
) -> Ints | None:
    """Return the few source pixels that are needed from a block, as positions in its window.

    None if they are many, or if the format of the bands has no parts that are decoded separately.

    Parameters
    ----------
    margins
        Rows and columns around each pixel that are needed, too.
    """
    if len(block.pixels) > FEW_PIXELS or not any(is_jp2(band.source) for band in bands):
        return None
    rows, cols = window
    of_index = plan.index.rows.take(block.pixels), plan.index.cols.take(block.pixels)
    seams = np.divmod(plan.seam_sources[block.for_seams], plan.stencil.right.size)
    flatten = _flatten_in(rows, cols)
    needed = np.concatenate([plan.stencil.sources(*of_index, flatten).ravel(), flatten(*seams)])
    if any(margins):
        from scipy.ndimage import maximum_filter  # slow to import, and rarely needed

        around = np.zeros((rows.stop - rows.start, cols.stop - cols.start), np.uint8)
        around.ravel()[needed] = 1
        needed = np.flatnonzero(maximum_filter(around, [2 * margin + 1 for margin in margins]))
    return needed


def _flatten_in(rows: slice, cols: slice) -> Flatten:
    """Return a function from source rows and columns to positions in a window of the source."""
    width = cols.stop - cols.start
    return lambda row, col: (row - rows.start) * width + (col - cols.start)
