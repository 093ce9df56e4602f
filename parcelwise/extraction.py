"""Extract the parcels' pixels from imagery by the stages of the workflow, without Snakemake."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geo.errors import InputError, did_you_mean, first_five
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.workflow.config import load, view
from pipeline.workflow.inputs import check_inputs
from pipeline.workflow.paths import RunPaths
from pipeline.workflow.settings import Settings

if TYPE_CHECKING:
    import geopandas as gpd

logger = logging.getLogger(__name__)

# The sections of the settings that have an effect on the extraction.
SECTIONS = ("imagery", "clouds", "parcels", "assemble", "dataset")
# The register that is made from a GeoDataFrame.
REGISTER = "parcels.parquet"


def extract(
    imagery: Path | str,
    parcels: Path | str | gpd.GeoDataFrame,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    folder: Path | str | None = None,
    threads: int | None = None,
) -> PixelSetDataset:
    """Extract the parcels' pixels from imagery, as the dataset of a run contains them.

    The stages index, clean, rasterise, extract, assemble, export, label, features and normalise of
    the workflow run in this process.

    Parameters
    ----------
    imagery
        Folder of products, GeoTIFFs or stacks; path or address of a STAC source.
    parcels
        The outlines: a GeoDataFrame, or the path of a register. Ids of a GeoDataFrame are its
        index, unless `parcels.id` names a column.
    settings
        Settings as in a settings file, in the sections imagery, clouds, parcels, assemble and
        dataset: `{"parcels": {"id": "ID_PARCEL"}, "clouds": {"fill": "none"}}`. The paths are the
        arguments. A class needs two parcels, unless `parcels.classes` says otherwise.
    folder
        Empty or new folder to keep, with the files of `results/<run>`. None: a temporary folder
        that is removed with the dataset, at the latest when Python ends.
    threads
        Number of blocks and batches that are processed at the same time; None: one per core.

    Returns
    -------
    PixelSetDataset
        `dataset[i]` is a parcel: pixels, uint16 (T, C, S), reflectance x 10,000; clear, bool
        (T, S); days, label and features. Parcels that cannot be used are not in it: a warning
        counts them, and `parcels/ledger.csv` in the folder gives the reason of every row.

    Raises
    ------
    InputError
        If imagery, parcels or settings cannot be used, or no parcel is left.
    """
    root = _root(folder)
    try:
        dataset = _extract(imagery, parcels, settings or {}, root, folder is not None, threads)
    except BaseException:
        if folder is None:
            shutil.rmtree(root, ignore_errors=True)
        raise
    if folder is None:
        weakref.finalize(dataset, shutil.rmtree, root, ignore_errors=True)
    return dataset


def _root(folder: Path | str | None) -> Path:
    """Return the folder of the files; refuse one with files of something else."""
    if folder is None:
        return Path(tempfile.mkdtemp(prefix="parcelwise-"))
    root = Path(folder)
    if root.exists() and not root.is_dir():
        raise InputError(f"{root} is a file: give an empty or new folder.")
    run = RunPaths(root)
    own = [run.acquisitions, run.acquisitions_view, run.items, run.source_items, run.grids]
    own += [run.register.parent, run.extractions, run.counts, run.dataset.root, root / REGISTER]
    if root.is_dir() and (others := sorted({*root.iterdir()} - {*own})):
        names = first_five(path.name for path in others)
        raise InputError(f"{root} contains other files ({names}): give an empty or new folder.")
    return root


def _extract(
    imagery: Path | str,
    parcels: Path | str | gpd.GeoDataFrame,
    settings: Mapping[str, Mapping[str, Any]],
    root: Path,
    is_kept: bool,
    threads: int | None,
) -> PixelSetDataset:
    """Write the dataset into a folder, and open it."""
    if unused := [name for name in settings if name not in SECTIONS]:
        raise InputError(
            f"extract has no use for the settings {first_five(unused)}; it uses the sections "
            f"{', '.join(SECTIONS)}.{did_you_mean(unused[0], SECTIONS)}"
        )
    if wrong := [name for name, values in settings.items() if not isinstance(values, Mapping)]:
        raise InputError(
            f"{wrong[0]}: expected settings and their values, found {settings[wrong[0]]!r}"
        )
    if threads is not None and threads < 1:
        raise InputError(f"threads: expected at least 1, or None, found {threads}")
    own = {name: dict(values) for name, values in settings.items()}
    for name in ("imagery", "parcels"):
        if "path" in own.setdefault(name, {}):
            raise InputError(f"{name}.path: the path is the argument {name}. Remove it.")
    own["dataset"] = {"npy_files": is_kept, **own.get("dataset", {})}
    own["parcels"].setdefault("classes", {"min_parcels": 2})
    own["imagery"]["path"] = str(imagery)
    if not isinstance(parcels, str | Path):
        own["parcels"] |= _as_register(parcels, own["parcels"], root / REGISTER)
    else:
        own["parcels"]["path"] = str(parcels)
    whole = load({**own, "split": {"folds": 2}})
    check_inputs(whole)
    prepare(whole, RunPaths(root), os.cpu_count() or 1 if threads is None else threads)
    _warn_of_rejected(RunPaths(root))
    return PixelSetDataset.open(RunPaths(root).dataset.root)


def prepare(settings: Settings, run: RunPaths, threads: int) -> None:
    """Run the stages from index to normalise, one after the other, on imagery and a register."""
    from geo.grid import read_grids
    from pipeline.stages.assemble import assemble
    from pipeline.stages.clean import clean
    from pipeline.stages.export import export
    from pipeline.stages.extract import extract as extract_acquisition
    from pipeline.stages.features import features
    from pipeline.stages.index import index
    from pipeline.stages.label import label
    from pipeline.stages.names import names
    from pipeline.stages.normalise import normalise
    from pipeline.stages.rasterise import rasterise
    from pipeline.workflow.acquisition_table import read_used

    imagery, register, dataset = settings.imagery.path, settings.parcels.path, run.dataset
    assert imagery is not None  # noqa: S101 (check_inputs)
    assert register is not None  # noqa: S101
    table_of_names = json.dumps(settings.parcels.names and str(settings.parcels.names))
    source_items = run.source_items if settings.imagery.is_stac else None
    index(
        imagery, run.acquisitions, run.acquisitions_view, run.items, run.grids,
        view(settings, "index"), source_items, register, threads,
    )  # fmt: skip
    clean(
        register, run.grids, run.register, run.overlaps, run.parcels, view(settings, "clean"),
        view(settings, "label").model_dump_json(), table_of_names,
    )  # fmt: skip
    tiles = sorted(read_grids(run.grids))
    for tile in tiles:
        rasterise(
            run.parcels, run.grids, tile, run.pixel_index(tile), run.pixel_counts(tile),
            run.label_image(tile), view(settings, "rasterise"),
        )  # fmt: skip
    for name, row in read_used(run.acquisitions).items():
        extract_acquisition(
            run.item(name), run.pixel_index(row.tile), run.extracted(name),
            run.extracted_valid(name), view(settings, "extract"), threads,
            run.extraction_counts(name), settings.imagery.damaged,
        )  # fmt: skip
    packed = [dataset.tile(tile) for tile in tiles]
    for tile, paths in zip(tiles, packed, strict=True):
        assemble(
            run.acquisitions, run.extractions, run.pixel_index(tile), paths.root,
            view(settings, "assemble"), threads, run.counts,
        )  # fmt: skip
    # Its content is packed now.
    shutil.rmtree(run.extractions)
    export([paths.root for paths in packed], dataset.root, view(settings, "export"), threads)
    label(
        run.register, run.overlaps, list(map(run.pixel_counts, tiles)),
        [paths.parcels for paths in packed], run.ledger, run.classes, dataset.root,
        view(settings, "label"), table_of_names,
    )  # fmt: skip
    names(run.classes, dataset.root, run.class_table, view(settings, "names"))
    normalise(dataset.root, dataset.normalisation, view(settings, "normalise"))
    indices = [run.pixel_index(tile) for tile in tiles]
    features(run.parcels, indices, dataset.root, dataset.features, dataset.positions)


def _as_register(
    parcels: gpd.GeoDataFrame, options: Mapping[str, Any], path: Path
) -> dict[str, Any]:
    """Write the outlines, ids and codes of a GeoDataFrame as a register; return its settings."""
    import geopandas as gpd

    from geo.register.columns import as_text, storable
    from pipeline.workflow.sections.parcels import named_columns

    if not isinstance(parcels, gpd.GeoDataFrame):
        kind = type(parcels).__name__
        raise InputError(f"parcels: expected a GeoDataFrame or a path, found {kind}.")
    if parcels.crs is None:
        raise InputError("The GeoDataFrame has no coordinate system: set it by set_crs.")
    labels = load({"parcels": {"labels": options.get("labels") or {}}}).parcels.labels
    wanted = list(named_columns(labels).values())
    id_column = options.get("id")
    if id_column is not None:
        wanted.append(id_column)
    if missing := [name for name in wanted if name not in parcels.columns]:
        raise InputError(
            f"The GeoDataFrame has no column {first_five(missing)}; it has "
            f"{first_five(parcels.columns)}.{did_you_mean(str(missing[0]), parcels.columns)}"
        )
    if parcels.columns.duplicated().any():
        twice = parcels.columns[parcels.columns.duplicated()]
        raise InputError(f"The GeoDataFrame has a column twice: {first_five(twice)}. Rename one.")
    own = {name: storable(parcels[name].reset_index(drop=True)) for name in wanted}
    outlines = gpd.GeoDataFrame(own, geometry=parcels.geometry.array)
    if id_column is None:
        id_column = next(name for name in ("index", "_index") if name not in outlines.columns)
        outlines[id_column] = as_text(parcels.index.to_series())
    path.parent.mkdir(parents=True, exist_ok=True)
    outlines.to_parquet(path)
    return {"path": str(path), "id": id_column}


def _warn_of_rejected(run: RunPaths) -> None:
    """Say how many rows are not in the dataset, and why."""
    from pipeline.classes.ledger import read_ledger, say_counts
    from pipeline.classes.reasons import Status

    rows = read_ledger(run.ledger, ["status", "reason"])
    rejected = rows.loc[rows["status"] == Status.REJECTED, "reason"]
    if len(rejected):
        logger.warning(
            "%d of %d parcels are not in the dataset: %s. %s names them.",
            *(len(rejected), len(rows), say_counts(rejected), run.ledger.with_suffix(".csv")),
        )
