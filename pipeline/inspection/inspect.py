"""Show what a run would use, before anything is done."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import shapely

from geo.errors import InputError
from geo.grid import Grid
from geo.imagery.acquisition import Acquisition
from geo.pixels.pixel_index import index_pixels
from geo.register.placement import buffered
from pipeline.classes.class_mapping import classify, nomenclatures
from pipeline.classes.crop_class import Classes, with_names
from pipeline.classes.ledger import count_pixels, refuse_none_left, status_of
from pipeline.classes.reasons import Status
from pipeline.classes.register import CheckedRegister, check_register
from pipeline.inspection.picture import draw, to_degrees
from pipeline.inspection.sizes import Parcels, expected_sizes, say_bytes
from pipeline.inspection.text import (
    clouds_unread,
    say_classes,
    say_imagery,
    say_parcels,
    say_sizes,
    say_statuses,
    section,
)
from pipeline.stages.index import Decision, decide
from pipeline.stages.ingest import Examined, examine
from pipeline.workflow.inputs import check_inputs
from pipeline.workflow.paths import DatasetPaths, RunPaths
from pipeline.workflow.settings import IndexSettings, IngestSettings, Settings, part_of


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
    options = settings.parcels
    checked = check_register(register, decision.grids, options, options.labels)
    try:
        classes = _account(checked, decision.grids, settings)
    finally:
        # An error is understood best with the picture at hand.
        place = picture or paths.inspection / "inputs.png"
        _draw(place, settings.run, decision, checked)
    _say(say_parcels(register, checked.rows, checked.table.crs))
    _say(say_classes(*classes))
    sizes = expected_sizes(
        decision.rows,
        _accepted(checked),
        len(settings.imagery.bands),
        npy_files=settings.dataset.npy_files,
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


def _account(checked: CheckedRegister, tiles: Mapping[str, Grid], settings: Settings) -> Classes:
    """Complete the rows as far as they can be without pixels, and choose the classes."""
    checked.refuse_unusable(tiles)
    options, rows = settings.parcels, checked.rows
    counts = [pd.DataFrame({"row": [], "n_pixels": [], "indexed": []})]
    for tile, grid in tiles.items():
        here = np.flatnonzero(checked.placed.tiles == tile)
        index = index_pixels(
            buffered(checked.placed.polygons[here], options.buffer_m),
            rows["parcel_id"].iloc[here].tolist(),
            grid,
            tile,
            all_touched=options.all_touched,
            min_covered_fraction=options.min_covered_fraction,
        )
        enough = index.sizes >= options.min_pixels
        counts.append(pd.DataFrame({"row": here, "n_pixels": index.sizes, "indexed": enough}))
    count_pixels(rows, pd.concat(counts[1:] or counts, ignore_index=True))
    refuse_none_left(rows, f" of {checked.path}")
    folds = settings.split.folds if settings.predict.weights is None else None
    labels = nomenclatures(options, checked.table, follows_fiboa=checked.follows_fiboa)
    _, classes = classify(rows, checked.table, labels, options, folds)
    rows["status"] = status_of(rows["reason"])
    return with_names(classes, options.names)


def _draw(place: Path, run: str, decision: Decision, checked: CheckedRegister) -> None:
    """Draw the footprints of the acquisitions over the outlines of the register."""
    table, rows = checked.table, checked.rows
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
    return str(Status.REJECTED if reason else Status.USED)


def _footprints(found: list[Acquisition], grids: Mapping[str, Grid]) -> dict[str, list[Grid]]:
    """Give the grids of the acquisitions of every tile, each once."""
    footprints: dict[str, list[Grid]] = {tile: [] for tile in grids}
    for item in found:
        seen = footprints.get(item.tile, [item.grid])
        if not any(grid.matches(item.grid) for grid in seen):
            seen.append(item.grid)
    return footprints


def _accepted(checked: CheckedRegister) -> dict[str, Parcels]:
    """Count the parcels that are used or predicted, and their pixels, by tile."""
    rows = checked.rows[checked.rows["status"] != Status.REJECTED]
    return {
        str(tile): Parcels(len(its), int(its["n_pixels"].sum()))
        for tile, its in rows.groupby("tile")
    }


def _free_bytes(folder: Path) -> int:
    """Give the free space where a folder lies or would lie."""
    while not folder.exists():
        folder = folder.absolute().parent
    return shutil.disk_usage(folder).free


def say_dataset(source: Path, settings: IngestSettings) -> str:
    """Say which parcels, dates, bands and classes a dataset holds, and what it lacks.

    Raises
    ------
    InputError, InputError
        As the stage ingest.
    """
    found = examine(source, settings)
    lines = [
        *(str(source), f"{len(found.rows):,} parcels", *say_statuses(found.rows), ""),
        *_say_arrays(found, len(found.bands)),
        f"{'files':12}{'; '.join(_say_files(source))}",
    ]
    return section("Dataset", lines) + say_classes(*found.classes)


def _say_arrays(found: Examined, n_bands: int) -> list[str]:
    """Say how many dates and pixels the arrays have, and how large they are."""
    parcels = list(found.usable.values())
    dates = sorted({day for parcel in parcels for day in parcel.dates})
    pixels = np.array([parcel.n_pixels for parcel in parcels])
    size = sum(int(np.prod(parcel.shape)) * parcel.dtype.itemsize for parcel in parcels)
    types = sorted({str(parcel.dtype) for parcel in parcels})
    return [
        f"{'dates':12}{_span([len(parcel.dates) for parcel in parcels])} a parcel, from "
        f"{dates[0]} to {dates[-1]}",
        f"{'bands':12}{n_bands}: {' '.join(found.bands)}",
        f"{'pixels':12}{pixels.sum():,}, {_span(pixels.tolist())} a parcel, median "
        f"{np.median(pixels):.0f}",
        f"{'DATA':12}{say_bytes(size)} of {', '.join(types)}",
        f"{'labels':12}{', '.join(found.labels) or 'none'}",
    ]


def _say_files(source: Path) -> list[str]:
    """Say what a dataset may have beside arrays and labels, and what becomes of what it lacks."""
    given = DatasetPaths(source)
    normalisation = given.given_normalisation
    features, positions = given.features.is_file(), given.positions.is_file()
    return [
        "normalisation computed" if normalisation is None else normalisation.name,
        given.features.name if features else "no geometric features",
        given.positions.name if positions else "no positions (no spatial blocks, no map)",
        "cloudy pixels marked (VALID)" if given.valid.is_dir() else "no VALID: all count as clear",
    ]


def _span(counts: Sequence[int]) -> str:
    """Say the least and the greatest number."""
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
