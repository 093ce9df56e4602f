"""The table of tile grids: {tile: grid}, one tile a run."""

from __future__ import annotations

import json
from pathlib import Path

from geo.grid import Grid


def read_grid(grids: Path) -> tuple[str, Grid]:
    """Read the name and the grid of the tile that a run works on.

    Raises
    ------
    ValueError
        If the table does not hold exactly one tile.
    """
    table = json.loads(grids.read_text(encoding="utf-8"))
    if len(table) != 1:
        raise ValueError(
            f"{grids} holds {len(table)} tiles ({', '.join(sorted(table)[:5])}), expected one. "
            "Set imagery.tile and run index again: snakemake -R index."
        )
    ((tile, values),) = table.items()
    return tile, Grid.from_dict(values)
