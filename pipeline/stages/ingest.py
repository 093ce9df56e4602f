"""Stage ingest: make a dataset of the run from an existing Pixel-Set dataset."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geo.errors import InputError
from pipeline.classes import crop_class
from pipeline.classes.class_choice import Models, assign
from pipeline.classes.class_mapping import read_codes
from pipeline.classes.crop_class import (
    Classes,
    Code,
    CropClass,
    alike_codes,
    spelling,
    write_classes,
    write_classes_csv,
)
from pipeline.classes.ledger import class_reasons, say_counts, set_aside, status_of, write_ledger
from pipeline.classes.reasons import Reason, Status
from pipeline.dataset.existing_dataset import (
    ExistingParcel,
    pack_arrays,
    read_own_normalisation,
    read_parcels,
    say_nodata,
)
from pipeline.dataset.existing_metadata import (
    check_features,
    read_declared,
    read_description,
    read_n_dates,
    read_names,
    read_positions,
)
from pipeline.dataset.metadata import (
    read_object,
    write_labels,
    write_metadata,
    write_names,
)
from pipeline.dataset.normalisation_pickle import Values, write_normalisation
from pipeline.dataset.npy_files import remove_npy_files, write_npy_files, write_shortened_names
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.workflow.paths import INGESTED, DatasetPaths
from pipeline.workflow.sections.models import Dataset
from pipeline.workflow.settings import IngestSettings
from pipeline.workflow.writing import write_json

logger = logging.getLogger(__name__)


def ingest(
    source: Path,
    dataset: Path,
    ledger: Path,
    classes: Path,
    settings: IngestSettings,
    threads: int = 1,
) -> None:
    """Check an existing Pixel-Set dataset, and make a dataset of the run from it.

    The existing dataset is not changed. Its pixels are packed as assemble packs those of a tile.
    DATA and VALID become links to its folders, unless dataset.npy_files is false. They are
    written again where a run cannot use them as they are: if dates are not in order of time, or
    numbers are of another type or unit, or files are named differently, or observations have no
    data, or VALID shows pixels that are clear on no date. Such pixels are left out; a parcel
    without other pixels is rejected.

    Observations without data (see `stored_values`) are interpolated linearly in time, as cloudy
    ones are, unless the dataset masks clouds.

    Parameters
    ----------
    source
        The existing dataset: DATA/<id>.npy and META/dates.json. Optional: META/labels.json,
        geomfeat.json and the normalisation pickle; VALID, positions.json, groups.json,
        parcel_dates.json, n_dates.json, names.json and dataset.json, which this project adds.
    dataset
        Written: the dataset of the run, with the packed pixels and all metadata that the other
        stages need, and the normalisation if the existing dataset has one.
    ledger
        Written: one row a parcel, with its status and the reason for it.
    classes
        Written: classes of the nomenclature in order of the class index.
    settings
        dataset, imagery.bands, split.folds. predict.weights: if set, nothing is trained, and the
        classes are those of the weights.
    threads
        Parcels that are read and packed at the same time.

    Raises
    ------
    InputError
        If files are missing, unreadable or contradict each other, or if the classes cannot be
        trained on.
    """
    if source.resolve() == dataset.resolve():
        raise InputError(
            f"dataset.path is {source}, which is the dataset of this run and would be overwritten. "
            "Choose another name for the run."
        )
    existing, paths = DatasetPaths(source), DatasetPaths(dataset)
    found = examine(source, settings, threads)
    parcels = found.usable
    tile = paths.tile(INGESTED)
    tile.root.mkdir(parents=True, exist_ok=True)
    pack_arrays(parcels, tile, threads, fill=found.description["fill"] != "none")
    _write_metadata(existing, paths, found)
    if settings.predict.weights is None and not existing.features.is_file():
        logger.warning(
            "there is no %s: models can be trained only without geometric features "
            "(model.geometric_features: false)",
            existing.features,
        )
    labels = {name: {i: codes[i] for i in parcels} for name, codes in found.labels.items()}
    write_labels(paths, labels, found.classes)
    write_names(paths, found.classes)
    _copy_json(existing.features, paths.features)
    _copy_json(existing.positions, paths.positions)
    _copy_json(existing.groups, paths.groups)
    if found.normalisation is not None:
        write_normalisation(paths.normalisation, *found.normalisation)
    remove_npy_files(paths)
    if settings.dataset.npy_files:
        _place_npy_files(parcels, existing, paths, threads)
    write_classes(classes, found.classes)
    write_classes_csv(classes.with_suffix(".csv"), found.classes.classes)
    write_ledger(ledger, found.rows)
    logger.info("%d parcels: %s", len(found.rows), say_counts(found.rows["status"]))


@dataclass(frozen=True)
class Examined:
    """The checked content of an existing dataset.

    Attributes
    ----------
    usable
        Parcels that are used or predicted, by id.
    labels
        {nomenclature: {id: code or None}}.
    rows
        The ledger.
    classes
        Classes of the nomenclature to train on.
    normalisation
        Means and standard deviations, dates in order of time; None where they are computed.
    description
        Content of dataset.json.
    """

    usable: dict[str, ExistingParcel]
    labels: dict[str, dict[str, Code | None]]
    rows: pd.DataFrame
    classes: Classes
    normalisation: Values | None
    description: dict[str, Any]

    @property
    def bands(self) -> list[str]:
        """Names of the channels."""
        return list(self.description["bands"])


def examine(source: Path, settings: IngestSettings, threads: int = 1) -> Examined:
    """Read and check an existing dataset; see `ingest`."""
    existing = DatasetPaths(source)
    parcels = read_parcels(existing, settings.dataset.reflectance_scale, threads)
    declared = read_declared(existing)
    labels = _labels(existing, declared, parcels)
    nomenclature = _nomenclature(labels, settings.dataset)
    check_features(existing)
    read_positions(existing)
    codes = labels.get(nomenclature or "", {})
    without_array = sorted({i for own in declared.values() for i in own} - parcels.keys())
    rows = _start_ledger(existing, parcels, without_array, codes)
    names = read_names(existing)
    classes = Classes(nomenclature, _choose(rows, settings, names))
    if nomenclature in labels:
        labels[nomenclature] = dict(zip(rows["parcel_id"], _plain(rows["code"]), strict=True))
    usable = {i: parcels[i] for i in rows.loc[rows["status"] != Status.REJECTED, "parcel_id"]}
    if not usable:
        raise InputError(f"No parcel of {source} has a pixel that is clear on a date.")
    own = list(usable.values())
    if nodata := say_nodata(own):
        logger.warning(nodata)
    return Examined(
        usable,
        labels,
        rows,
        classes,
        read_own_normalisation(existing, own),
        _describe(existing, own, settings),
    )


def _labels(
    existing: DatasetPaths,
    declared: Mapping[str, Mapping[str, Any]],
    parcels: Mapping[str, ExistingParcel],
) -> dict[str, dict[str, Code | None]]:
    """Return the code of every parcel in every nomenclature, None where it has none."""
    labels = {}
    for name, codes in declared.items():
        if codes and not codes.keys() & parcels:
            raise InputError(
                f"{existing.labels}: no id under {name!r} is that of a file in DATA: it has "
                f"{', '.join(list(codes)[:5])}, DATA has {', '.join(list(parcels)[:5])}. Write "
                "ids as the names of the files."
            )
        # 1 and "1" are the same key in JSON, "1.0" and "01" are others.
        unused = [i for i in codes if i not in parcels and spelling(i).isdecimal()]
        if alike := alike_codes(unused, [i for i in parcels if i not in codes]):
            raise InputError(
                f"{existing.labels}: the id {alike[0]!r} under {name!r} has no file in DATA, and "
                f"{alike[1]!r}, which has one, no label. Write ids as the names of the files."
            )
        column = read_codes(pd.Series({i: codes.get(i) for i in parcels}, dtype=object))
        labels[name] = dict(zip(parcels, _plain(column), strict=True))
    return labels


def _plain(codes: pd.Series[Any]) -> list[Code | None]:
    """Return codes as Python values, None where there is none."""
    return list(codes.astype(object).where(codes.notna(), None))


def _nomenclature(labels: Mapping[str, Any], options: Dataset) -> str | None:
    """Return the nomenclature that the settings name, else the first; None without labels."""
    name = options.nomenclature
    if name is not None and labels and name not in labels:
        raise InputError(
            f"dataset.nomenclature is {name!r}, but labels.json has {', '.join(labels)}."
        )
    return name or next(iter(labels), None)


def _start_ledger(
    existing: DatasetPaths,
    parcels: Mapping[str, ExistingParcel],
    without_array: list[str],
    codes: Mapping[str, Code | None],
) -> pd.DataFrame:
    """Return a row for every parcel that has an array or a label, without classes yet."""
    ids = [*parcels, *without_array]
    clear_dates = _clear_dates(existing, parcels)
    rows = pd.DataFrame({"row": np.arange(len(ids)), "parcel_id": ids})
    n_stored = np.array([parcels[i].shape[2] if i in parcels else 0 for i in ids])
    rows["n_pixels"] = [parcels[i].n_pixels if i in parcels else 0 for i in ids]
    rows["n_pixels_never_clear"] = n_stored - rows["n_pixels"]
    n_dates = [clear_dates.get(i, 0) for i in ids]
    rows["n_dates"] = np.where(rows["n_pixels"] > 0, n_dates, 0)
    rows["code"] = read_codes(pd.Series([codes.get(i) for i in ids], dtype=object))
    rows["mended"], rows["tile"], rows["reason"] = False, "", ""
    set_aside(rows, [i not in parcels or 0 in parcels[i].shape for i in ids], Reason.NO_PIXELS)
    set_aside(rows, rows["n_dates"] == 0, Reason.NEVER_CLEAR)
    return rows


def _clear_dates(existing: DatasetPaths, parcels: Mapping[str, ExistingParcel]) -> dict[str, int]:
    """Return the number of dates on which each parcel is clear, as stated or as found."""
    stated = read_n_dates(existing)
    return {
        i: parcel.n_clear_dates if parcel.has_nodata else stated.get(i, parcel.n_clear_dates)
        for i, parcel in parcels.items()
    }


def _choose(
    rows: pd.DataFrame, settings: IngestSettings, known_names: Mapping[str, Any]
) -> list[CropClass]:
    """Choose the classes, and complete the ledger: parcels are used, only predicted or rejected."""
    options, usable = settings.dataset, rows["reason"] == ""
    names = crop_class.read_names(options.names, setting=None) if options.names else known_names
    if options.names:
        declared = rows.loc[usable, "code"].dropna().unique().tolist()
        crop_class.refuse_other_codes(names, declared, options.names)
    models = Models.of(settings.split.folds, settings.predict.weights)
    is_trained, chosen = models.folds is not None, list[CropClass]()
    if rows.loc[usable, "code"].notna().any() or not is_trained:
        rows["code"], chosen = assign(rows["code"], usable, options, names, models, "dataset")
    codes = rows.loc[usable, "code"]
    rows.loc[usable, "reason"] = class_reasons(codes, chosen, is_trained=is_trained)
    rows["status"] = status_of(rows["reason"])
    return chosen


def _describe(
    existing: DatasetPaths, parcels: Sequence[ExistingParcel], settings: IngestSettings
) -> dict[str, Any]:
    """Return the content of dataset.json: as in the existing one, completed."""
    description = read_description(existing)
    bands = settings.dataset.bands or description.get("bands") or settings.imagery.bands
    n_channels = parcels[0].shape[1]
    if len(bands) != n_channels:
        raise InputError(
            f"DATA/<id>.npy have {n_channels} channels, but {len(bands)} bands are named: "
            f"{', '.join(bands)}. List their names, in order, in dataset.bands."
        )
    description["bands"] = list(bands)
    if description["fill"] is None and any(parcel.has_nodata for parcel in parcels):
        description["fill"] = "linear"
    return description


def _write_metadata(existing: DatasetPaths, paths: DatasetPaths, found: Examined) -> None:
    """Write META without the labels."""
    parcels = found.usable
    parcel_dates = None
    dates = next(iter(parcels.values())).dates
    if existing.parcel_dates.is_file():
        parcel_dates = {i: parcel.dates for i, parcel in parcels.items()}
        dates = tuple(sorted(set().union(*parcel_dates.values())))
    write_metadata(
        paths,
        tiles=[INGESTED],
        dates=dates,
        sizes={i: parcel.n_pixels for i, parcel in parcels.items()},
        n_dates=_clear_dates(existing, parcels),
        description=found.description,
        parcel_dates=parcel_dates,
    )


def _copy_json(source: Path, target: Path) -> None:
    """Copy a file of the dataset if it exists; else remove that of an earlier run."""
    if source.is_file():
        write_json(target, read_object(source))
    else:
        target.unlink(missing_ok=True)


def _place_npy_files(
    parcels: Mapping[str, ExistingParcel],
    existing: DatasetPaths,
    paths: DatasetPaths,
    threads: int,
) -> None:
    """Link to DATA and VALID of the existing dataset if they can be used; else write them."""
    with_valid = existing.valid.is_dir() or any(parcel.has_nodata for parcel in parcels.values())
    if all(parcel.is_as_stored(parcel_id) for parcel_id, parcel in parcels.items()):
        write_shortened_names(paths, parcels)
        paths.pixels.symlink_to(existing.pixels.resolve(), target_is_directory=True)
        if with_valid:
            paths.valid.symlink_to(existing.valid.resolve(), target_is_directory=True)
    else:
        write_npy_files(PixelSetDataset.open(paths.root), threads, with_valid=with_valid)
