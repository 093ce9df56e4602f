"""The block plan: which pixels of an index are needed from every block of a source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from geo.imagery.acquisition import Band
from geo.pixels.block_reading import BlockPart, Window
from geo.pixels.pixel_index import PixelIndex
from geo.pixels.resampling import Ints, Stencil


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

    def part(
        self, block: Block, bands: Sequence[Band], margins: tuple[int, int] = (0, 0)
    ) -> BlockPart:
        """Return what is needed to read a block of some bands; `margins` as in `window`."""
        return BlockPart(
            bands,
            self.index.grid,
            self.stencil.method,
            self.window(block, margins),
            self.index.rows.take(block.pixels),
            self.index.cols.take(block.pixels),
            self.seam_sources[block.for_seams],
        )

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
