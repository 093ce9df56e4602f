"""The command `inspect`: show the inputs of a run before any work is done."""

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
from geo.imagery.imagery_files import digests
from geo.pixels.pixel_index import index_pixels
from geo.register.columns import as_text
from geo.register.placement import buffered, in_one_system
from geo.register.polygons import POLYGONAL, PUNCTUAL
from pipeline.classes.class_choice import Models
from pipeline.classes.crop_class import Classes
from pipeline.classes.ledger import count_pixels, refuse_none_left, status_of
from pipeline.classes.reasons import AcquisitionReason, Status
from pipeline.classes.register import CheckedRegister, check_register
from pipeline.dataset.acquisition_choice import Decision, decide
from pipeline.dataset.groups import check_column
from pipeline.dataset.passes import expected_passes
from pipeline.inspection.folds import folds_section
from pipeline.inspection.picture import draw, to_degrees
from pipeline.inspection.text import (
    accepted,
    aligned,
    bytes_text,
    classes_section,
    clouds_unread,
    expected_bytes,
    imagery_section,
    parcels_section,
    section,
    sizes_section,
    status_lines,
)
from pipeline.stages.ingest import Examined, examine
from pipeline.workflow.acquisition_table import AcquisitionRow, read_acquisitions
from pipeline.workflow.artefacts import read_json
from pipeline.workflow.inputs import check_inputs
from pipeline.workflow.paths import DatasetPaths, RunPaths
from pipeline.workflow.settings import IndexSettings, IngestSettings, Settings, part_of


def inspect(settings: Settings, picture: Path | None = None) -> None:
    """Show the inputs of a run before any work is done.

    The terminal shows the acquisitions with their tiles, dates and processing baselines, the
    parcels and classes, how parcels and imagery overlap, and the size of the dataset on disk. A
    picture shows the footprints of the acquisitions over the parcels. `inspect` reads the register,
    and only metadata and file headers of the imagery.

    Parameters
    ----------
    settings
        All settings of the run.
    picture
        Written: the picture, as .png, .svg or .pdf. Default: results/<run>/inspect/inputs.png.

    Raises
    ------
    InputError
        If the inputs would end the run. The text up to there is on the terminal.
    """
    if picture is not None and picture.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise InputError(f"--picture {picture}: expected a name that ends in .png, .svg or .pdf.")
    check_inputs(settings)
    if settings.dataset.sources:
        _write(dataset_section(settings.dataset.sources, settings))
        return
    imagery, register = settings.imagery.path, settings.parcels.path
    if imagery is None or register is None:
        raise InputError("imagery.path and parcels.path are not set: set both.")
    absent = [path for path in (imagery, register) if isinstance(path, Path) and not path.exists()]
    if settings.simulate is not None and absent:
        raise InputError(
            f"The run simulates its scene, and there is no {absent[0]} yet. Simulate it first: "
            "`parcelwise run FILE simulate`."
        )
    paths = RunPaths.of(settings.run)
    with TemporaryDirectory() as scratch:
        items = Path(scratch) / "items" if settings.imagery.is_stac else None
        decision = decide(
            imagery, part_of(settings, IndexSettings), items, register, read_pixels=False
        )
        # The items of a catalogue may state the orbit.
        tracks = expected_passes(decision.rows, settings.imagery.start, settings.imagery.end)
    rows = without_damaged(decision, paths)
    _write(imagery_section(imagery, decision.found, rows, decision.grids, tracks))
    options = settings.parcels
    checked = check_register(register, decision.grids, options, options.labels)
    file = picture or paths.inspection / "inputs.png"
    try:
        classes = _choose_classes(checked, decision.grids, settings)
    finally:
        # The picture also helps to understand an error.
        _draw(file, settings.run, decision, checked)
    _write(parcels_section(register, checked.rows, checked.table.crs))
    _write(classes_section(*classes))
    if settings.predict.weights is None:
        _write(_folds_of_register(checked, decision.grids, settings, paths.variogram))
    sizes = expected_bytes(
        rows,
        accepted(checked.rows),
        len(settings.imagery.bands),
        npy_files=settings.dataset.npy_files,
    )
    at_most = any(map(clouds_unread, rows)) or settings.clouds.min_clear_fraction > 0
    _write(sizes_section(sizes, _free_bytes(paths.root), at_most=at_most))
    _write(f"Picture\n  {file}\n")


def _write(text: str) -> None:
    """Write to the terminal at once, because the next part can take long."""
    sys.stdout.write(text)
    sys.stdout.flush()


def without_damaged(decision: Decision, paths: RunPaths) -> list[AcquisitionRow]:
    """Return the rows, those set aside that an earlier run could not read.

    Only files that have not changed since then count.
    """
    found = {item.id: item for item in decision.found}
    reason = str(AcquisitionReason.DAMAGED)
    earlier = read_acquisitions(paths.acquisitions) if paths.acquisitions.is_file() else []
    noticed = {row.acquisition for row in earlier if row.reason == reason}

    def is_damaged(name: str) -> bool:
        record, item = paths.extraction_counts(name), paths.item(name)
        is_noticed = name in noticed or (record.is_file() and "damaged" in read_json(record))
        if not is_noticed or not item.is_file():
            return False
        stated: str = read_json(item)["properties"]["parcelwise:digest"]
        return stated == digests([found[name]])[name]

    return [
        row._replace(used=False, reason=reason) if row.used and is_damaged(row.acquisition) else row
        for row in decision.rows
    ]


def _choose_classes(
    checked: CheckedRegister, tiles: Mapping[str, Grid], settings: Settings
) -> Classes:
    """Choose the classes, and complete the rows of the register as far as no pixel is needed."""
    checked.refuse_unusable(tiles)
    options, rows = settings.parcels, checked.rows
    counts = [pd.DataFrame({"row": [], "n_pixels": [], "indexed": []})]
    for tile, grid in tiles.items():
        on_tile = np.flatnonzero(checked.placed.tiles == tile)
        index = index_pixels(
            buffered(checked.placed.polygons[on_tile], options.buffer_m),
            rows["parcel_id"].iloc[on_tile].tolist(),
            grid,
            tile,
            all_touched=options.all_touched,
            min_covered_fraction=options.min_covered_fraction,
        )
        enough = index.sizes >= options.min_pixels
        counts.append(pd.DataFrame({"row": on_tile, "n_pixels": index.sizes, "indexed": enough}))
    count_pixels(rows, pd.concat(counts[1:] or counts, ignore_index=True))
    refuse_none_left(rows, f" of {checked.path}")
    models = Models.of(settings.split.folds, settings.predict.weights)
    classes = checked.classes(options, models, options.names)
    rows["status"] = status_of(rows["reason"])
    return classes


def _folds_of_register(
    checked: CheckedRegister, tiles: Mapping[str, Grid], settings: Settings, variogram: Path
) -> str:
    """Return the section on the folds of the parcels of a register."""
    column, usable = settings.split.column, (checked.rows["status"] != Status.REJECTED).to_numpy()
    groups = None
    if column is not None:
        names = checked.table.columns.drop(checked.table.geometry.name)
        check_column(column, list(map(str, names)), str(checked.path), "column")
        groups = as_text(checked.table[column])
    polygons = in_one_system(checked.placed, usable, tiles)
    positions = np.full((len(polygons), 2), np.nan)
    positions[usable] = shapely.get_coordinates(shapely.point_on_surface(polygons[usable]))
    return folds_section(checked.rows, positions, groups, settings.split, variogram)


def _draw(file: Path, run: str, decision: Decision, checked: CheckedRegister) -> None:
    """Draw the footprints of the acquisitions over the outlines of the register."""
    table, rows = checked.table, checked.rows
    outlines = to_degrees(table.geometry.to_numpy(), table.crs)
    outlines[~np.isin(shapely.get_type_id(outlines), (*POLYGONAL, *PUNCTUAL))] = None
    if "status" not in rows:
        # An error came before the classes were chosen.
        rows = rows.assign(status=rows["reason"].map(_status_without_class))
    draw(
        file,
        f"Run {run}: {len(decision.found)} acquisitions, {len(rows):,} rows of the register",
        _footprints(decision.found, decision.grids),
        outlines,
        rows["status"].to_numpy(object),
        decision.rows,
    )


def _status_without_class(reason: str) -> str:
    """Return the status of a parcel whose class was not considered."""
    return str(Status.REJECTED if reason else Status.USED)


def _footprints(found: list[Acquisition], grids: Mapping[str, Grid]) -> dict[str, list[Grid]]:
    """Return the different grids of the acquisitions of every tile."""
    footprints: dict[str, list[Grid]] = {tile: [] for tile in grids}
    for item in found:
        of_tile = footprints.get(item.tile, [item.grid])
        if not any(grid.matches(item.grid) for grid in of_tile):
            of_tile.append(item.grid)
    return footprints


def _free_bytes(folder: Path) -> int:
    """Return the free space of the disk of a folder, which need not exist yet."""
    while not folder.exists():
        folder = folder.absolute().parent
    return shutil.disk_usage(folder).free


def dataset_section(sources: Sequence[Path], settings: Settings) -> str:
    """Return the sections on existing datasets: parcels, dates, bands, files, classes, folds.

    Raises
    ------
    InputError
        As the stage ingest.
    """
    found = examine(sources, part_of(settings, IngestSettings))
    files = [("files", "; ".join(_file_texts(source))) for source in sources]
    lines = [
        *(*map(str, sources), f"{len(found.rows):,} parcels", *status_lines(found.rows), ""),
        *aligned([*_array_rows(found), *files]),
    ]
    text = section("Dataset", lines) + classes_section(*found.classes)
    if settings.predict.weights is not None:
        return text
    ids, column = found.rows["parcel_id"], settings.split.column
    places, groups = found.positions, None
    if column is not None:
        values = found.groups_of(column)
        groups = np.array([values.get(i, "") for i in ids], object)
    positions = np.array([places.get(i, [np.nan] * 2) for i in ids]) if places else None
    variogram = RunPaths.of(settings.run).variogram
    return text + folds_section(found.rows, positions, groups, settings.split, variogram)


def _array_rows(found: Examined) -> list[tuple[str, str]]:
    """Return rows on the arrays: dates, bands, pixels, size and labels."""
    parcels = list(found.usable.values())
    dates = sorted({day for parcel in parcels for day in parcel.dates})
    n_dates = _range_text([len(parcel.dates) for parcel in parcels])
    pixels = np.array([parcel.n_pixels for parcel in parcels])
    n_pixels = _range_text(pixels.tolist())
    size = sum(int(np.prod(parcel.shape)) * parcel.dtype.itemsize for parcel in parcels)
    types = sorted({str(parcel.dtype) for parcel in parcels})
    return [
        ("dates", f"{n_dates} a parcel, from {dates[0]} to {dates[-1]}"),
        ("bands", f"{len(found.bands)}: {' '.join(found.bands)}"),
        ("pixels", f"{pixels.sum():,}, {n_pixels} a parcel, median {np.median(pixels):.0f}"),
        ("DATA", f"{bytes_text(size)} of {', '.join(types)}"),
        ("labels", ", ".join(found.labels) or "none"),
    ]


def _file_texts(source: Path) -> list[str]:
    """Return the optional files of a dataset, and what the run does without them."""
    files = DatasetPaths(source)
    normalisation = files.existing_normalisation
    features, positions = files.features.is_file(), files.positions.is_file()
    return [
        "normalisation computed" if normalisation is None else normalisation.name,
        files.features.name if features else "no geometric features",
        files.positions.name if positions else "no positions (no spatial blocks, no map)",
        "cloudy pixels marked (VALID)"
        if files.valid.is_dir()
        else "no VALID: all but nodata clear",
    ]


def _range_text(counts: Sequence[int]) -> str:
    """Return the range of some numbers."""
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
