"""Stage ingest: an existing Pixel-Set dataset becomes the dataset of the run."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geo.errors import InputError, reading
from pipeline.classes.class_mapping import choose_classes, read_codes, with_other
from pipeline.classes.crop_class import (
    Classes,
    Code,
    CropClass,
    read_names,
    write_classes,
    write_classes_csv,
)
from pipeline.classes.ledger import class_reasons, set_aside, status_of, write_ledger
from pipeline.classes.reasons import Reason, Status
from pipeline.dataset.existing_dataset import (
    GivenParcel,
    pack_arrays,
    place_arrays,
    read_labels,
    read_parcels,
    remove_arrays,
)
from pipeline.dataset.metadata import write_labels, write_metadata, write_names
from pipeline.dataset.normalisation_pickle import Values, read_normalisation, write_normalisation
from pipeline.workflow.paths import INGESTED, DatasetPaths
from pipeline.workflow.sections import Dataset
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
    """Check an existing Pixel-Set dataset and make it that of the run, without touching it.

    Its pixels are packed as assemble packs those of a tile. Its arrays are linked to, unless
    dataset.npy_files is false; they are written anew where they could not be used as they are:
    dates out of order, another integer type, other file names, pixels that VALID shows clear on no
    date. Such pixels are left out; a parcel that has no other is rejected.

    Parameters
    ----------
    source
        The dataset: DATA/<id>.npy and META/dates.json; META/labels.json, geomfeat.json and the
        normalisation pickle where there are any; likewise what this project adds: VALID,
        positions.json, parcel_dates.json, n_dates.json, names.json, dataset.json.
    dataset
        Written: the dataset of the run, with the packed pixels and all metadata that the other
        stages need, and the normalisation where the given one has it.
    ledger
        Written: one row a parcel, with its status and the reason for it.
    classes
        Written: classes of the nomenclature in order of the class index.
    settings
        dataset, imagery.bands, split.folds; predict.weights: with weights, nothing is trained, so
        classes need no parcels.
    threads
        Parcels that are read and packed at the same time.

    Raises
    ------
    InputError
        If files are missing, unreadable or contradict each other.
    InputError
        If the classes cannot be trained on.
    """
    if source.resolve() == dataset.resolve():
        raise InputError(
            f"dataset.path is {source}, the dataset of this very run, which would be overwritten. "
            "Give the run another name."
        )
    given, paths = DatasetPaths(source), DatasetPaths(dataset)
    found = examine(source, settings)
    usable, rows, chosen = found.usable, found.rows, found.classes
    tile = paths.tile(INGESTED)
    tile.root.mkdir(parents=True, exist_ok=True)
    pack_arrays(usable, given, tile, threads)
    if settings.dataset.npy_files:
        place_arrays(usable, given, paths)
    else:
        remove_arrays(paths)
    _write_meta(
        given,
        paths,
        usable,
        {
            **{"tiles": {}, "crs": None, "fill": None, "mask": None, "simulated": False},
            **_read_own(given.description),
            "bands": found.bands,
        },
    )
    labels = {name: {i: codes[i] for i in usable} for name, codes in found.labels.items()}
    write_labels(paths, labels, chosen)
    write_names(paths, chosen)
    _copy_json(given.features, paths.features)
    _copy_json(given.positions, paths.positions)
    if found.normalisation is not None:
        write_normalisation(paths.normalisation, *found.normalisation)
    write_classes(classes, chosen)
    write_classes_csv(classes.with_suffix(".csv"), chosen.classes)
    write_ledger(ledger, rows)
    counts = rows["status"].value_counts()
    logger.info("%d parcels: %s", len(rows), ", ".join(f"{n} {s}" for s, n in counts.items()))


@dataclass(frozen=True)
class Examined:
    """What an existing dataset holds, checked.

    Attributes
    ----------
    usable
        Parcels that are used or predicted, by id.
    labels
        {nomenclature: {id: code or None}}.
    nomenclature
        The one to train on; None without labels.
    bands
        Names of the channels.
    rows
        The ledger.
    classes
        Classes of the nomenclature.
    normalisation
        Means and standard deviations, their dates in order of time; None where they are computed.
    """

    usable: dict[str, GivenParcel]
    labels: dict[str, dict[str, Code | None]]
    nomenclature: str | None
    bands: list[str]
    rows: pd.DataFrame
    classes: Classes
    normalisation: Values | None


def examine(source: Path, settings: IngestSettings) -> Examined:
    """Read and check an existing dataset but for the values of its arrays; see `ingest`."""
    given = DatasetPaths(source)
    parcels = read_parcels(given)
    labels = _labels(given, parcels)
    nomenclature = _nomenclature(labels, settings.dataset)
    told = _read_own(given.description)
    _check_features(given)
    rows = _account(parcels, given, labels.get(nomenclature or "", {}))
    classes = Classes(nomenclature, _choose(rows, settings, _read_own(given.names)))
    if nomenclature in labels:
        labels[nomenclature] = dict(zip(rows["parcel_id"], _plain(rows["code"]), strict=True))
    usable = {i: parcels[i] for i in rows.loc[rows["status"] != Status.REJECTED, "parcel_id"]}
    if not usable:
        raise InputError(f"No parcel of {source} has a pixel that is clear on a date.")
    bands = _bands(next(iter(usable.values())).shape[1], settings, told)
    normalisation = _read_normalisation(given, next(iter(usable.values())))
    return Examined(usable, labels, nomenclature, bands, rows, classes, normalisation)


def _labels(
    given: DatasetPaths, parcels: Mapping[str, GivenParcel]
) -> dict[str, dict[str, Code | None]]:
    """Read the code of every parcel in every nomenclature, None where it has none."""
    labels = read_labels(given)
    strangers = [name for name, codes in labels.items() if codes and not codes.keys() & parcels]
    if strangers:
        raise InputError(
            f"{given.labels}: no id under {strangers[0]!r} is that of a file in DATA: it has "
            f"{', '.join(list(labels[strangers[0]])[:5])}, DATA has {', '.join(list(parcels)[:5])}."
        )
    read = {}
    for name, codes in labels.items():
        column = read_codes(pd.Series({i: codes.get(i) for i in parcels}, dtype=object))
        read[name] = dict(zip(parcels, _plain(column), strict=True))
    return read


def _plain(codes: pd.Series[Any]) -> list[Code | None]:
    """Return codes as Python's own values, None where there is none."""
    return list(codes.astype(object).where(codes.notna(), None))


def _nomenclature(labels: Mapping[str, Any], options: Dataset) -> str | None:
    """Choose the nomenclature: the one asked for, else the first; None without labels."""
    name = options.nomenclature
    if name is not None and labels and name not in labels:
        raise InputError(
            f"dataset.nomenclature is {name!r}, but labels.json has {', '.join(labels)}."
        )
    return name or next(iter(labels), None)


def _account(
    parcels: Mapping[str, GivenParcel], given: DatasetPaths, codes: Mapping[str, Code | None]
) -> pd.DataFrame:
    """Start the ledger: one row a parcel that has an array or a label."""
    labelled = read_labels(given).values()
    lost = sorted({i for codes in labelled for i in codes} - parcels.keys())
    ids = [*parcels, *lost]
    rows = pd.DataFrame({"row": np.arange(len(ids)), "parcel_id": ids})
    own = _read_own(given.n_dates)
    whole = [parcels[i].shape[2] if i in parcels else 0 for i in ids]
    rows["n_pixels"] = [parcels[i].n_pixels if i in parcels else 0 for i in ids]
    rows["n_pixels_never_clear"] = whole - rows["n_pixels"]
    n_dates = [own.get(i, len(parcels[i].dates)) if i in parcels else 0 for i in ids]
    rows["n_dates"] = np.where(rows["n_pixels"] > 0, n_dates, 0)
    rows["code"] = read_codes(pd.Series([codes.get(i) for i in ids], dtype=object))
    rows["mended"], rows["tile"], rows["reason"] = False, "", ""
    empty = [i not in parcels or 0 in parcels[i].shape for i in ids]
    set_aside(rows, empty, Reason.NO_PIXELS)
    set_aside(rows, rows["n_dates"] == 0, Reason.NEVER_CLEAR)
    return rows


def _choose(
    rows: pd.DataFrame, settings: IngestSettings, known_names: Mapping[str, Any]
) -> list[CropClass]:
    """Choose the classes, and complete the ledger: who is used, predicted only or rejected."""
    options, usable = settings.dataset, rows["reason"] == ""
    codes = rows["code"].where(usable)
    names = read_names(options.names) if options.names else known_names
    trained = settings.predict.weights is None
    classes, chosen = options.classes, list[CropClass]()
    if options.other_class is not None:
        rows["code"], classes = with_other(rows["code"], usable, classes, options.other_class)
        codes = rows["code"].where(usable)
    if codes.notna().any() or not trained:
        folds = settings.split.folds if trained else None
        chosen = choose_classes(codes, classes, names, folds, section="dataset")
    rows.loc[usable, "reason"] = class_reasons(codes[usable], chosen)
    rows["status"] = status_of(rows["reason"])
    return chosen


def _write_meta(
    given: DatasetPaths,
    paths: DatasetPaths,
    parcels: Mapping[str, GivenParcel],
    description: Mapping[str, Any],
) -> None:
    """Write META but for the labels, with what follows from the arrays."""
    seen = _read_own(given.n_dates)
    own = given.parcel_dates.is_file()
    dates = sorted({d for p in parcels.values() for d in p.dates}) if own else (
        next(iter(parcels.values())).dates
    )  # fmt: skip
    write_metadata(
        paths,
        tiles=[INGESTED],
        dates=dates,
        sizes={i: p.n_pixels for i, p in parcels.items()},
        n_dates={i: seen.get(i, len(p.dates)) for i, p in parcels.items()},
        description=description,
        parcel_dates={i: p.dates for i, p in parcels.items()} if own else None,
    )


def _read_own(path: Path) -> dict[str, Any]:
    """Read a file that only this project's datasets have; {} where it is not there."""
    if not path.is_file():
        return {}
    with reading(path, "a JSON object", "Correct the file, or remove it."):
        return dict(json.loads(path.read_text(encoding="utf-8-sig")))


def _check_features(given: DatasetPaths) -> None:
    """Check that the geometric features, where there are any, are finite numbers."""
    if not given.features.is_file():
        return
    features = _read_own(given.features)
    try:
        values = np.array(list(features.values()), np.float64)
    except (TypeError, ValueError):
        raise InputError(
            f"{given.features}: expected {{id: [number, ...]}}, as many numbers for each parcel."
        ) from None
    # The first axis is the parcel; there is a second one unless each has a single number.
    wrong_rows = np.unique(np.argwhere(~np.isfinite(values))[:, :1])
    if wrong := [list(features)[row] for row in wrong_rows[:5]]:
        raise InputError(
            f"{given.features}: the features of {len(wrong_rows)} parcels are not finite, such as "
            f"those of {', '.join(wrong)}. Compute them again, or remove the file and set "
            "model.geometric_features to false."
        )


def _bands(n_channels: int, settings: IngestSettings, told: Mapping[str, Any]) -> list[str]:
    """Name the channels."""
    bands = settings.dataset.bands or told.get("bands") or settings.imagery.bands
    if len(bands) != n_channels:
        raise InputError(
            f"DATA/<id>.npy have {n_channels} channels, but {len(bands)} bands are named: "
            f"{', '.join(bands)}. List their names, in order, in dataset.bands."
        )
    return list(bands)


def _copy_json(source: Path, target: Path) -> None:
    """Take over a file of the dataset, if it has it; else remove that of an earlier run."""
    if source.is_file():
        with reading(source, "JSON", "Correct the file, or remove it."):
            values = json.loads(source.read_text(encoding="utf-8-sig"))
        write_json(target, values)
    else:
        target.unlink(missing_ok=True)


def _read_normalisation(given: DatasetPaths, parcel: GivenParcel) -> Values | None:
    """Read the given normalisation, its dates in order of time; None where there is none."""
    file = given.given_normalisation
    if file is None:
        return None
    means, stds = read_normalisation(file)
    if means.ndim == 2 and given.parcel_dates.is_file():
        raise InputError(
            f"{file} has one value per date, but the parcels have dates of their own "
            "(parcel_dates.json). Give one of values per channel, or none: they are computed."
        )
    n_dates, n_channels, _ = parcel.shape
    if means.shape not in {(), (n_channels,), (n_dates, n_channels)}:
        raise InputError(
            f"{file} has values of shape {means.shape}, but the dataset has {n_channels} channels "
            f"and {n_dates} dates: expected (), ({n_channels},) or ({n_dates}, {n_channels}). Give "
            "that of this dataset, or remove it: then the values are computed."
        )
    return (means[parcel.order], stds[parcel.order]) if means.ndim == 2 else (means, stds)
