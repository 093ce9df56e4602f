"""Read and sample the pixels of one block: pure tasks, which can run in another process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geo.grid import Grid
from geo.imagery.acquisition import Band
from geo.imagery.cloud_masks import CloudRules
from geo.imagery.open_rasters import OpenRasters, is_jp2
from geo.imagery.radiometry import reflectance
from geo.imagery.raster_reading import read_windows
from geo.imagery.valid_values import count_varied, has_data, is_impossible
from geo.pixels.resampling import Flatten, Ints, Stencil, sample

# Pixels that are sampled together: their positions and weights fit into the processor's cache.
SAMPLED_AT_ONCE = 65_536

# If more pixels are needed from a block (Sentinel-2: of a million), all of it is decoded.
FEW_PIXELS = 50_000

# Rows and columns of a source.
Window = tuple[slice, slice]


@lru_cache(maxsize=16)
def stencil_of(grid: Grid, source: Grid, method: str) -> Stencil:
    """Return the stencil of a grid and a source, computed once for all blocks of a process."""
    return Stencil.of(grid, source, method)


@dataclass(frozen=True)
class BlockPart:
    """The part of a plan that is needed to read one block.

    Parameters
    ----------
    bands
        C bands on one grid.
    grid
        Grid of the pixel index.
    method
        How the bands are resampled: nearest, bilinear or cubic.
    window
        Rows and columns of the bands to read.
    rows, cols
        int32 (n,): pixels of the index that need only this window.
    seam_sources
        int64 (m,): source pixels in the window that seam pixels need, as row x width + column.
    """

    bands: Sequence[Band]
    grid: Grid
    method: str
    window: Window
    rows: NDArray[np.int32]
    cols: NDArray[np.int32]
    seam_sources: Ints

    def __str__(self) -> str:
        """Name the block in messages."""
        rows, cols = self.window
        return (
            f"{' '.join(band.name for band in self.bands)} of {self.bands[0].source} at rows "
            f"{rows.start}-{rows.stop}, columns {cols.start}-{cols.stop}"
        )

    @property
    def stencil(self) -> Stencil:
        """Source pixels that each pixel of the grid needs."""
        return stencil_of(self.grid, self.bands[0].grid, self.method)


@dataclass(frozen=True)
class NotFound:
    """Sampled pixels of a band that are nodata: how many, and how many impossible values vary.

    `example` is one impossible value, None if there is none.
    """

    n: int
    n_varied: int
    example: float | None


@dataclass(frozen=True)
class Sampled:
    """Pixels of several bands.

    Parameters
    ----------
    pixels
        Their positions among those that were asked for.
    values
        uint16 (C, n), reflectance x 10,000.
    has_values
        bool (n,), False where any band is nodata. None: all have values.
    impossible
        bool (n,), True where a band has an impossible value. None with `has_values`.
    not_found
        For every band, what is known of its pixels without a value; None if all have one.
    """

    pixels: slice
    values: NDArray[np.uint16]
    has_values: NDArray[np.bool_] | None
    impossible: NDArray[np.bool_] | None
    not_found: Sequence[NotFound | None]


@dataclass(frozen=True)
class SeamSources:
    """Raw values of the source pixels in one block that seam pixels need: (m,) for every band."""

    values: Sequence[NDArray[Any]]


def read_block(part: BlockPart, rasters: OpenRasters) -> Iterator[Sampled | SeamSources]:
    """Read one block of all bands, and sample the pixels that need only this block."""
    flatten = _flatten_in(part.window)
    raw = read_windows(part.bands, *part.window, rasters, _needed(part))
    yield from sample_bands(part.bands, part.stencil, raw, part.rows, part.cols, flatten)
    if len(part.seam_sources):
        at = flatten(*np.divmod(part.seam_sources, part.stencil.right.size))
        yield SeamSources([values.take(at) for values in raw])


def sample_bands(
    bands: Sequence[Band],
    stencil: Stencil,
    raw: Sequence[NDArray[Any]],
    rows: NDArray[np.int32],
    cols: NDArray[np.int32],
    flatten: Flatten,
) -> Iterator[Sampled]:
    """Sample pixels of a grid from the raw values of bands that share another grid.

    Parameters
    ----------
    bands, raw
        The bands, and source pixels of each one.
    stencil
        Source pixels that each pixel of the grid needs.
    rows, cols
        int32 (n,): pixels of the grid.
    flatten
        Returns positions in the source pixels.
    """
    for start in range(0, len(rows), SAMPLED_AT_ONCE):
        pixels = slice(start, start + SAMPLED_AT_ONCE)
        place = rows[pixels], cols[pixels], flatten
        # The bands share the grid, and with it positions and weights.
        centres, taps = stencil.centres(*place), stencil.taps(*place)
        values = np.empty((len(bands), len(centres)), np.uint16)
        not_found: list[NotFound | None] = [None] * len(bands)
        has_values = impossible = None
        for channel, (band, source) in enumerate(zip(bands, raw, strict=True)):
            samples, found = sample(source, partial(has_data, band), centres, taps)
            values[channel] = reflectance(band, samples, source.dtype)
            if found.all():
                continue
            if has_values is None or impossible is None:
                has_values, impossible = np.ones(len(centres), bool), np.zeros(len(centres), bool)
            has_values &= found
            missing = np.flatnonzero(~found)
            without = source.take(centres[missing])
            is_strange = is_impossible(band, without)
            impossible[missing[is_strange]] = True
            strange = without[is_strange]
            example = float(strange[0]) if strange.size else None
            not_found[channel] = NotFound(len(missing), count_varied(strange), example)
        yield Sampled(pixels, values, has_values, impossible, not_found)


def read_clear_block(
    name: str, rules: CloudRules, part: BlockPart, rasters: OpenRasters
) -> Iterator[NDArray[np.bool_]]:
    """Read one block of a mask, and yield which of the pixels are clear, bool (n,).

    The window includes a margin, as clouds beyond the pixels may be grown into them.
    """
    (band,) = part.bands
    needed = _needed(part, rules.margin(band))
    (values,) = read_windows(part.bands, *part.window, rasters, needed)
    centres = part.stencil.centres(part.rows, part.cols, _flatten_in(part.window))
    yield rules.is_clear(name, values, band).take(centres)


def _needed(part: BlockPart, margins: tuple[int, int] = (0, 0)) -> Ints | None:
    """Return the few source pixels that are needed from a block, as positions in its window.

    None if they are many, or if the format of the bands has no parts that are decoded separately.

    Parameters
    ----------
    margins
        Rows and columns around each pixel that are needed, too.
    """
    if len(part.rows) > FEW_PIXELS or not any(is_jp2(band.source) for band in part.bands):
        return None
    flatten = _flatten_in(part.window)
    seams = np.divmod(part.seam_sources, part.stencil.right.size)
    sources = part.stencil.sources(part.rows, part.cols, flatten).ravel()
    needed = np.concatenate([sources, flatten(*seams)])
    if any(margins):
        from scipy.ndimage import maximum_filter  # slow to import, and rarely needed

        rows, cols = part.window
        around = np.zeros((rows.stop - rows.start, cols.stop - cols.start), np.uint8)
        around.ravel()[needed] = 1
        needed = np.flatnonzero(maximum_filter(around, [2 * margin + 1 for margin in margins]))
    return needed


def _flatten_in(window: Window) -> Flatten:
    """Return a function from source rows and columns to positions in a window of the source."""
    rows, cols = window
    width = cols.stop - cols.start
    return lambda row, col: (row - rows.start) * width + (col - cols.start)
