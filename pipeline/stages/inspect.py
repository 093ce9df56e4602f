"""Show what a run would use, before anything is done."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import shapely

from geo.errors import InputError
from geo.grid import Grid
from geo.imagery.acquisition import Acquisition
from pipeline.inspection.dataset import say_dataset
from pipeline.inspection.picture import draw, to_degrees
from pipeline.inspection.sizes import Parcels, expected_sizes
from pipeline.inspection.text import (
    clouds_unread,
    say_classes,
    say_imagery,
    say_parcels,
    say_sizes,
)
from pipeline.stages.clean import Located, account, locate
from pipeline.stages.index import Decision, decide
from pipeline.workflow.inputs import check_inputs
from pipeline.workflow.paths import RunPaths
from pipeline.workflow.settings import (
    CleanSettings,
    IndexSettings,
    IngestSettings,
    Settings,
    part_of,
)


def inspect(settings: Settings, picture: Path | None = None) -> None:
    """Show what a run would use, before anything is done.

    The acquisitions, tiles, dates and processing baselines, the parcels and classes, how they
    overlap, and how large the dataset will be, on the terminal; and a picture of the footprints
    over the parcels. Only metadata and file headers of the imagery are read, and the register.

    Parameters
    ----------
    settings
        All of them.
    picture
        Written: the picture, by its ending .png, .svg or .pdf. Without it,
        results/<run>/inspect/inputs.png.

    Raises
    ------
    ValueError
        The errors with which the run itself would end, after what could be said.
    """
    check_inputs(settings)
    if settings.dataset.path is not None:
        _say(say_dataset(settings.dataset.path, part_of(settings, IngestSettings)))
        return
    _check_simulated(settings)
    paths = RunPaths.of(settings.run)
    imagery, register = settings.imagery.path, settings.parcels.path
    if imagery is None or register is None:
        raise InputError("imagery.path and parcels.path are not set: give both.")
    with TemporaryDirectory() as scratch:
        items = Path(scratch) / "items" if settings.imagery.is_stac else None
        decision = decide(
            imagery, part_of(settings, IndexSettings), items, register, read_pixels=False
        )
    _say(say_imagery(imagery, decision.found, decision.rows, decision.grids))
    located = locate(register, decision.grids, settings.parcels)
    try:
        _, classes = account(located, register, decision.grids, part_of(settings, CleanSettings))
    finally:
        # An error is understood best with the picture at hand.
        place = picture or paths.inspection / "inputs.png"
        _draw(place, settings.run, decision, located)
    _say(say_parcels(register, located.rows, located.table.crs))
    _say(say_classes(settings.parcels.trained_nomenclature, classes))
    sizes = expected_sizes(
        decision.rows,
        _accepted(located),
        len(settings.imagery.bands),
        masked=settings.clouds.fill == "none",
    )
    unknown = any(map(clouds_unread, decision.rows)) or settings.clouds.min_clear_fraction > 0
    _say(say_sizes(sizes, _free_bytes(paths.root), at_most=unknown))
    _say(f"Picture\n  {place}\n")


def _say(text: str) -> None:
    """Write to the terminal at once: what comes next may take its time."""
    sys.stdout.write(text)
    sys.stdout.flush()


def _check_simulated(settings: Settings) -> None:
    """Check that the scene is there, if the run simulates it."""
    needed = settings.imagery.path, settings.parcels.path
    absent = [path for path in needed if isinstance(path, Path) and not path.exists()]
    if settings.simulate is not None and absent:
        raise InputError(
            f"The run simulates its scene, and there is no {absent[0]} yet. Make it first: "
            "snakemake --cores 1 simulate --configfile ..."
        )


def _draw(place: Path, run: str, decision: Decision, located: Located) -> None:
    """Draw the footprints of the acquisitions over the outlines of the register."""
    table, rows = located.table, located.rows
    outlines = to_degrees(table.geometry.to_numpy(), table.crs)
    outlines[~np.isin(shapely.get_type_id(outlines), (3, 6))] = None
    status = rows["status"] if "status" in rows else rows["reason"].map(_status_so_far)
    draw(
        place,
        f"Run {run}: {len(decision.found)} acquisitions, {len(rows):,} rows of the register",
        _footprints(decision.found, decision.grids),
        outlines,
        status.to_numpy(object),
        decision.rows,
    )


def _status_so_far(reason: str) -> str:
    """Give the status of a parcel whose class was not looked at."""
    return "rejected" if reason else "used"


def _footprints(found: list[Acquisition], grids: Mapping[str, Grid]) -> dict[str, list[Grid]]:
    """Give the grids of the acquisitions of every tile, each once."""
    footprints: dict[str, list[Grid]] = {tile: [] for tile in grids}
    for item in found:
        seen = footprints.get(item.tile, [item.grid])
        if not any(grid.matches(item.grid) for grid in seen):
            seen.append(item.grid)
    return footprints


def _accepted(located: Located) -> dict[str, Parcels]:
    """Count the parcels that are used or predicted, and their pixels, by tile."""
    rows = located.rows[located.rows["status"] != "rejected"]
    return {
        str(tile): Parcels(len(its), int(its["n_pixels"].sum()))
        for tile, its in rows.groupby("tile")
    }


def _free_bytes(folder: Path) -> int:
    """Give the free space where a folder lies or would lie."""
    while not folder.exists():
        folder = folder.absolute().parent
    return shutil.disk_usage(folder).free
