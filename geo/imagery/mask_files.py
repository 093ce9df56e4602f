"""The user's own cloud masks: a folder of rasters with the dates in their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from geo.errors import InputError
from geo.formats.conventions import tile_name
from geo.formats.dates import date_in
from geo.imagery.acquisition import UNNAMED_TILE, Acquisition, Band, first_five
from geo.imagery.imagery_files import IMAGE_ENDINGS, files_ending
from geo.imagery.raster_header import read_header


def with_mask_files(found: Sequence[Acquisition], folder: Path) -> list[Acquisition]:
    """Return the acquisitions with the user's masks in place of their masks of that name (MASK).

    Parameters
    ----------
    found
        The acquisitions. One without a file in the folder is returned without a MASK.
    folder
        Rasters whose names contain the date (YYYYMMDD or YYYY-MM-DD) and optionally the tile.
        Every value but 0 is cloudy.

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
    return [_with_mask(item, _choose_mask(item, files.get(item.date, []))) for item in found]


def _choose_mask(item: Acquisition, candidates: Sequence[Path]) -> Path | None:
    """Return the mask with the tile of an acquisition in its name, else one without any tile."""
    tiles = {path: tile_name(path.stem) for path in candidates}
    of_tile = [p for p, tile in tiles.items() if tile is not None and tile == item.tile]
    of_any = [p for p, tile in tiles.items() if tile is None or item.tile == UNNAMED_TILE]
    chosen = of_tile or of_any
    if len(chosen) > 1:
        raise InputError(
            f"{item.id} has {len(chosen)} masks: {first_five([str(p) for p in chosen])}. "
            "Keep one, or write the tile into their names."
        )
    return chosen[0] if chosen else None


def _with_mask(item: Acquisition, path: Path | None) -> Acquisition:
    """Return an acquisition with the user's mask in a file, or without a MASK if it has none."""
    masks = {name: band for name, band in item.masks.items() if name != "MASK"}
    if path is not None:
        header = read_header(path)
        # The nodata value of the file is not needed: like every value but 0, it is cloudy.
        masks["MASK"] = Band("MASK", str(path), 1, header.grid, header.block_shapes[0])
    return replace(item, masks=masks)
