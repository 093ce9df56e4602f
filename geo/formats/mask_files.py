"""A user's own cloud masks: a folder with one raster an acquisition, by date and tile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from geo.errors import InputError
from geo.formats.conventions import date_in, tile_name
from geo.imagery.acquisition import UNNAMED_TILE, Acquisition, Band, first_five
from geo.imagery.listing import IMAGE_ENDINGS, files_ending
from geo.imagery.raster_reading import read_header


def with_mask_files(found: Sequence[Acquisition], folder: Path) -> list[Acquisition]:
    """Return acquisitions with the masks (MASK) of a folder in place of such of their own.

    One without a file there has none.

    Parameters
    ----------
    found
        Acquisitions.
    folder
        Rasters whose names hold the date (YYYYMMDD or YYYY-MM-DD) and, perhaps, the tile; not 0
        is not observed.

    Raises
    ------
    InputError
        If a name has no date, an acquisition has two files, or a file cannot be read.
    """
    files: dict[date, list[Path]] = {}
    undated = []
    for path in files_ending(folder, IMAGE_ENDINGS):
        try:
            day = date_in(path.stem)
        except ValueError:
            day = None
        if day is None:
            undated.append(path.name)
        else:
            files.setdefault(day, []).append(path)
    if undated:
        raise InputError(
            f"{len(undated)} masks of {folder} have no date (YYYYMMDD or YYYY-MM-DD) in their "
            f"names: {first_five(undated)}. Rename or move them."
        )
    return [_with(item, _choose(item, files.get(item.date, []))) for item in found]


def _choose(item: Acquisition, of_the_day: Sequence[Path]) -> Path | None:
    """Choose the mask of an acquisition: that of its tile, else one whose name has no tile."""
    tiles = {path: tile_name(path.stem) for path in of_the_day}
    of_tile = [p for p, tile in tiles.items() if tile is not None and tile == item.tile]
    of_any = [p for p, tile in tiles.items() if tile is None or item.tile == UNNAMED_TILE]
    candidates = of_tile or of_any
    if len(candidates) > 1:
        raise InputError(
            f"{item.id} has {len(candidates)} masks: {first_five([str(p) for p in candidates])}. "
            "Keep one, or write the tile into their names."
        )
    return candidates[0] if candidates else None


def _with(item: Acquisition, path: Path | None) -> Acquisition:
    """Return an acquisition with the mask of a file; without one, it has none."""
    others = {name: band for name, band in item.masks.items() if name != "MASK"}
    if path is None:
        return replace(item, masks=others)
    header = read_header(str(path))
    mask = Band(
        name="MASK",
        source=str(path),
        layer=1,
        grid=header.grid,
        block_shape=header.block_shapes[0],
        scale=1.0,
        offset=0.0,
        nodata=None,  # which would be not 0, too
    )
    return replace(item, masks={**others, "MASK": mask})
