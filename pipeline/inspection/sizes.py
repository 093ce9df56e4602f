"""How large the arrays of a run will be on disk."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.workflow.acquisition_table import AcquisitionRow

# Header of a .npy file.
HEADER_BYTES = 128


@dataclass(frozen=True)
class Parcels:
    """The parcels of one tile that are used or predicted: how many, and with how many pixels."""

    n_parcels: int
    n_pixels: int


@dataclass(frozen=True)
class Sizes:
    """Bytes of the arrays of a run.

    Attributes
    ----------
    extracted
        Of the pixels and their validity, an acquisition at a time.
    pixels, valid
        Of DATA and VALID, a parcel at a time; 0 where they are left out.
    packed
        Of the same pixels, a tile at a time, and which of them are clear.
    """

    extracted: int
    pixels: int
    valid: int
    packed: int


def expected_sizes(
    rows: Sequence[AcquisitionRow],
    parcels: Mapping[str, Parcels],
    n_bands: int,
    *,
    npy_files: bool,
) -> Sizes:
    """Compute the sizes of extracted pixels, DATA, VALID and what is packed.

    Pixels that turn out clear on no date are left out of all but the first: it is then less.

    Parameters
    ----------
    rows
        Acquisitions, used or not.
    parcels
        Those of every tile.
    n_bands
        Channels of the dataset.
    npy_files
        Whether DATA and VALID are written.
    """
    used = [row for row in rows if row.used and row.tile in parcels]
    dates = Counter(tile for tile, _ in {(row.tile, row.date) for row in used})
    extracted = sum(
        parcels[row.tile].n_pixels * (2 * n_bands + 1) + 2 * HEADER_BYTES for row in used
    )
    headers = HEADER_BYTES * sum(p.n_parcels for p in parcels.values())
    seen = sum(dates[tile] * p.n_pixels for tile, p in parcels.items())
    n_tiles = sum(p.n_parcels > 0 for p in parcels.values())
    packed = seen * (2 * n_bands + 1) + 2 * HEADER_BYTES * n_tiles
    files = (2 * n_bands * seen + headers, seen + headers) if npy_files else (0, 0)
    return Sizes(extracted, *files, packed)


def say_bytes(n_bytes: float) -> str:
    """Say a number of bytes in the unit that suits it."""
    units = ("B", "kB", "MB", "GB", "TB")
    power = min(len(units) - 1, max(0, int(math.log10(max(n_bytes, 1) * 1.0005) // 3)))
    value = n_bytes / 1000**power
    return f"{value:.{0 if power == 0 or value >= 9.95 else 1}f} {units[power]}"
