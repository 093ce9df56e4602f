"""The tiles of a run: their grids, which comes first, and the coordinate system of them all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from datetime import date
from pathlib import Path

from geo.errors import reading
from geo.grid import Grid

# Tiles whose numbers of dates differ by less than this share count as equally often seen.
TENTH = 0.1


def read_grids(grids: Path) -> dict[str, Grid]:
    """Read the grid of every tile, in the order in which they are preferred."""
    with reading(grids, "the grids of tiles", "Make it anew: snakemake -R index."):
        table = json.loads(grids.read_text(encoding="utf-8"))
        return {tile: Grid.from_dict(values) for tile, values in table.items()}


def most_seen_first(used: Iterable[tuple[str, date]]) -> list[str]:
    """Order tiles by how often they were seen, in steps of a tenth; equals by name.

    The order decides which of overlapping tiles has a parcel. Tiles of one orbit are seen equally
    often but for an acquisition here and there, that clouds took or that has not arrived yet: were
    these counted, every new acquisition could move parcels from tile to tile, and all of their
    pixels would be read anew.

    Parameters
    ----------
    used
        Tile and date of the used acquisitions, each once.
    """
    counts = dict(Counter(tile for tile, _ in used))
    order = []
    while counts:
        least = (1 - TENTH) * max(counts.values())
        order.append(min(tile for tile, count in counts.items() if count >= least))
        del counts[order[-1]]
    return order


def main_crs(parcels: Iterable[tuple[str, int]]) -> str:
    """Give the coordinate system with most parcels, among equals the first by name.

    Parameters
    ----------
    parcels
        Coordinate system of every tile, and its number of parcels.
    """
    counts: Counter[str] = Counter()
    for crs, count in parcels:
        counts[crs] += count
    return max(sorted(counts), key=lambda crs: counts[crs])
