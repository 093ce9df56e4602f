"""Which block of a raster holds what pixels need of it, so that every block is read once."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from geo.pixels.pixel_index import PixelIndex
from geo.pixels.resampling import Ints, Stencil

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
        """Give the rows and columns of the source that hold all that is wanted of a block.

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
    """Give `step` times the row of blocks that holds first and last (2, rows) of each row.

    n where no one row of blocks holds both, 4 n where the row is outside.
    """
    first, last = extents // length
    numbers = np.where(inside, np.where(first == last, first * step, n), 4 * n)
    # Numpy sorts 16 bits by counting them, several times faster.
    return numbers.astype(np.uint16 if 8 * n < 2**16 else np.int64)


def _sorted(numbers: NDArray[np.integer], n: int) -> tuple[Ints, Ints]:
    """Give the places of the numbers 0 to n - 1, ascending, and where those of each end."""
    return np.argsort(numbers, kind="stable"), np.cumsum(np.bincount(numbers, minlength=n))


def _between(ends: Ints) -> list[slice]:
    """Give what lies between one end and the next."""
    return [slice(a, b) for a, b in pairwise([0, *ends.tolist()])]
