"""Stage ingest: make a dataset of the run from an existing Pixel-Set dataset."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geo.errors import InputError, first_five
from pipeline.classes import crop_class
from pipeline.classes.class_choice import Models, assign
from pipeline.classes.class_mapping import read_codes
from pipeline.classes.crop_class import (
    Classes,
    Code,
    CropClass,
    write_classes,
    write_classes_csv,
)
from pipeline.classes.ledger import class_reasons, say_counts, set_aside, status_of, write_ledger
from pipeline.classes.reasons import Reason, Status
from pipeline.dataset.existing_dataset import (
    ExistingParcel,
    pack_arrays,
    read_own_normalisation,
    say_nodata,
)
from pipeline.dataset.existing_metadata import read_description
from pipeline.dataset.existing_sources import (
    Source,
    join_descriptions,
    joined,
    joined_features,
    joined_groups,
    read_sources,
    season_years,
)
from pipeline.dataset.groups import column_of
from pipeline.dataset.metadata import (
    write_labels,
    write_metadata,
    write_names,
)
from pipeline.dataset.normalisation_pickle import Values, write_normalisation
from pipeline.dataset.npy_files import remove_npy_files, write_npy_files, write_shortened_names
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.dataset.season import moved_dates
from pipeline.workflow.inputs import shared_files
from pipeline.workflow.paths import DatasetPaths, ingested_tiles
from pipeline.workflow.sections.models import Dataset
from pipeline.workflow.settings import IngestSettings
from pipeline.workflow.writing import write_json

logger = logging.getLogger(__name__)


def ingest(
    source: list[Path],
    dataset: Path,
    ledger: Path,
    classes: Path,
    settings: IngestSettings,
    threads: int = 1,
) -> None:
    """Check an existing Pixel-Set dataset, or several, and make a dataset of the run from it.

    The existing dataset is not changed. Its pixels are packed as assemble packs those of a tile.
    DATA and VALID become links to its folders, unless dataset.npy_files is false. They are
    written again where a run cannot use them as they are: if dates are not in order of time, or
    numbers are of another type or unit, or files are named differently, or observations have no
    data, or VALID shows pixels that are clear on no date. Such pixels are left out; a parcel
    without other pixels is rejected.

    Several datasets, such as two seasons or regions, are packed like several tiles, with DATA and
    VALID written again. Ids that several of them have are prefixed by the name of the dataset.
    Every parcel has the dates of its dataset; classes are matched by code.

    Observations without data (see `stored_values`) are interpolated linearly in time, as cloudy
    ones are, unless the dataset masks clouds.

    Parameters
    ----------
    source
        The existing datasets: DATA/<id>.npy and META/dates.json. Optional: META/labels.json,
        geomfeat.json and the normalisation pickle; VALID, positions.json, groups.json,
        parcel_dates.json, n_dates.json, names.json and dataset.json, which this project adds.
    dataset
        Written: the dataset of the run, with the packed pixels and all metadata that the other
        stages need, and the normalisation if a single existing dataset has one. Of several:
        datasets.json, the parcels of each; features and positions only if all have them, and
        positions only if all have the same coordinate system.
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
        If files are missing, unreadable or contradict each other, if the classes cannot be trained
        on, or if datasets differ in bands, nomenclature or treatment of clouds.
    """
    for folder in source:
        if folder.resolve() == dataset.resolve():
            raise InputError(
                f"dataset.path is {folder}, which is the dataset of this run and would be "
                "overwritten. Choose another name for the run."
            )
    paths = DatasetPaths(dataset)
    found = examine(source, settings, threads)
    for name, parcels in found.tiles.items():
        tile = paths.tile(name)
        tile.root.mkdir(parents=True, exist_ok=True)
        pack_arrays(parcels, tile, threads, fill=found.description["fill"] != "none")
    _write_metadata(paths, found)
    if settings.predict.weights is None and found.features is None:
        files = [source.files.features for source in found.sources]
        logger.warning(
            "there is no %s: models can be trained only without geometric features "
            "(model.geometric_features: false)",
            first_five(file for file in files if not file.is_file()),
        )
    labels = {name: {i: codes[i] for i in found.usable} for name, codes in found.labels.items()}
    write_labels(paths, labels, found.classes)
    write_names(paths, found.classes)
    _write_optional(paths.features, found.features)
    _write_optional(paths.positions, found.positions)
    _write_optional(paths.groups, found.groups)
    _write_optional(paths.datasets, found.datasets)
    if found.normalisation is not None:
        write_normalisation(paths.normalisation, *found.normalisation)
    remove_npy_files(paths)
    if settings.dataset.npy_files:
        _place_npy_files(found, paths, threads)
    write_classes(classes, found.classes)
    write_classes_csv(classes.with_suffix(".csv"), found.classes.classes)
    write_ledger(ledger, found.rows)
    logger.info("%d parcels: %s", len(found.rows), say_counts(found.rows["status"]))


@dataclass(frozen=True)
class Examined:
    """The checked content of existing datasets, together.

    Attributes
    ----------
    sources
        The datasets.
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
    features, positions
        By id; None where not all datasets have them.
    groups
        {column: {id: value}}; None where not all datasets have them.
    """

    sources: list[Source]
    usable: dict[str, ExistingParcel]
    labels: dict[str, dict[str, Code | None]]
    rows: pd.DataFrame
    classes: Classes
    normalisation: Values | None
    description: dict[str, Any]
    features: dict[str, Any] | None
    positions: dict[str, Any] | None
    groups: dict[str, Any] | None

    @property
    def bands(self) -> list[str]:
        """Names of the channels."""
        return list(self.description["bands"])

    @property
    def tiles(self) -> dict[str, dict[str, ExistingParcel]]:
        """The usable parcels of each dataset, by the name under which they are packed."""
        parts = (self._usable_of(source) for source in self.sources)
        return dict(zip(ingested_tiles(len(self.sources)), parts, strict=True))

    @property
    def datasets(self) -> dict[str, dict[str, Any]] | None:
        """The parcels of each dataset, and the years of its season, as in datasets.json."""
        if len(self.sources) == 1:
            return None
        parts = [self._usable_of(source) for source in self.sources]
        firsts = [min(parcel.dates[0] for parcel in part.values()) for part in parts]
        return {
            source.name: {"years": years, "parcels": list(part)}
            for source, years, part in zip(self.sources, season_years(firsts), parts, strict=True)
        }

    @property
    def season_dates(self) -> list[date]:
        """All dates, in order, moved to the season of the earliest dataset."""
        years = [own["years"] for own in (self.datasets or {"": {"years": 0}}).values()]
        return moved_dates(
            {
                number: {day for parcel in part.values() for day in parcel.dates}
                for number, part in zip(years, self.tiles.values(), strict=True)
            }
        )

    def groups_of(self, column: str) -> dict[str, str]:
        """Return the group of each parcel in a column, "" for none.

        Raises
        ------
        InputError
            If a dataset has no groups, or no such column.
        """
        groups: dict[str, str] = {}
        for source in self.sources:
            groups |= column_of(source.files.groups, source.groups, column)
        return groups

    def _usable_of(self, source: Source) -> dict[str, ExistingParcel]:
        return {i: self.usable[i] for i in source.parcels if i in self.usable}


def examine(folders: Sequence[Path], settings: IngestSettings, threads: int = 1) -> Examined:
    """Read and check existing datasets; see `ingest`."""
    sources = read_sources(folders, settings.dataset.reflectance_scale, threads)
    nomenclature = _nomenclature(sources, settings.dataset)
    parcels = joined(source.parcels for source in sources)
    labels = _labels(sources, parcels)
    codes = labels.get(nomenclature or "", {})
    rows = _start_ledger(sources, parcels, codes)
    names = joined(source.names for source in sources)
    classes = Classes(nomenclature, _choose(rows, settings, names))
    if nomenclature in labels:
        labels[nomenclature] = dict(zip(rows["parcel_id"], _plain(rows["code"]), strict=True))
    usable = {i: parcels[i] for i in rows.loc[rows["status"] != Status.REJECTED, "parcel_id"]}
    descriptions = []
    for source in sources:
        own = [usable[i] for i in source.parcels if i in usable]
        if not own:
            raise InputError(
                f"No parcel of {source.files.root} has a pixel that is clear on a date."
            )
        descriptions.append(_describe(source.files, own, settings))
    if nodata := say_nodata(usable.values()):
        logger.warning(nodata)
    description = join_descriptions(sources, descriptions)
    has_positions = "positions" in shared_files(folders)
    return Examined(
        sources,
        usable,
        labels,
        rows,
        classes,
        _own_normalisation(sources, list(usable.values())),
        description,
        joined_features(sources),
        joined(source.positions for source in sources) if has_positions else None,
        joined_groups(sources),
    )


def _own_normalisation(
    sources: Sequence[Source], parcels: Sequence[ExistingParcel]
) -> Values | None:
    """Return the normalisation of a single dataset; that of several is computed."""
    if len(sources) == 1:
        return read_own_normalisation(sources[0].files, parcels)
    unused = [str(path) for s in sources if (path := s.files.existing_normalisation)]
    if unused:
        logger.info("the normalisation is computed over all datasets, not %s", first_five(unused))
    return None


def _labels(
    sources: Sequence[Source], parcels: Mapping[str, ExistingParcel]
) -> dict[str, dict[str, Code | None]]:
    """Return the code of every parcel in every nomenclature, None where it has none."""
    nomenclatures = dict.fromkeys(name for source in sources for name in source.declared)
    labels = {}
    for name in nomenclatures:
        codes = joined(source.declared.get(name, {}) for source in sources)
        column = read_codes(pd.Series({i: codes.get(i) for i in parcels}, dtype=object))
        labels[name] = dict(zip(parcels, _plain(column), strict=True))
    return labels


def _plain(codes: pd.Series[Any]) -> list[Code | None]:
    """Return codes as Python values, None where there is none."""
    return list(codes.astype(object).where(codes.notna(), None))


def _nomenclature(sources: Sequence[Source], options: Dataset) -> str | None:
    """Return the nomenclature that the settings name, else the first; None without labels."""
    first = next((name for source in sources for name in source.declared), None)
    name = options.nomenclature or first
    for source in sources:
        if source.declared and name not in source.declared:
            stated = "is" if options.nomenclature else "is not set, that of the first dataset is"
            raise InputError(
                f"dataset.nomenclature {stated} {name!r}, but labels.json has "
                f"{', '.join(source.declared)}: {source.files.labels}."
            )
    return name


def _start_ledger(
    sources: Sequence[Source],
    parcels: Mapping[str, ExistingParcel],
    codes: Mapping[str, Code | None],
) -> pd.DataFrame:
    """Return a row for every parcel that has an array or a label, without classes yet."""
    without_array = sorted({i for source in sources for i in source.ids} - parcels.keys())
    ids = [*parcels, *without_array]
    clear_dates = _clear_dates(sources)
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


def _clear_dates(sources: Sequence[Source]) -> dict[str, int]:
    """Return the number of dates on which each parcel is clear, as stated or as found."""
    return {
        i: parcel.n_clear_dates
        if parcel.has_nodata
        else source.n_dates.get(i, parcel.n_clear_dates)
        for source in sources
        for i, parcel in source.parcels.items()
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


def _write_metadata(paths: DatasetPaths, found: Examined) -> None:
    """Write META without the labels."""
    parcels = found.usable
    parcel_dates = None
    dates = next(iter(parcels.values())).dates
    if len(found.sources) > 1 or found.sources[0].files.parcel_dates.is_file():
        parcel_dates = {i: parcel.dates for i, parcel in parcels.items()}
        dates = tuple(sorted(set().union(*parcel_dates.values())))
    clear_dates = _clear_dates(found.sources)
    write_metadata(
        paths,
        tiles=list(found.tiles),
        dates=dates,
        sizes={i: parcel.n_pixels for i, parcel in parcels.items()},
        n_dates=clear_dates,
        description=found.description,
        parcel_dates=parcel_dates,
    )


def _write_optional(target: Path, values: Mapping[str, Any] | None) -> None:
    """Write a file of the dataset, or remove that of an earlier run if there are no values."""
    if values is None:
        target.unlink(missing_ok=True)
    else:
        write_json(target, values)


def _place_npy_files(found: Examined, paths: DatasetPaths, threads: int) -> None:
    """Link to DATA and VALID of a single dataset that can be used; else write them."""
    parcels, existing = found.usable, found.sources[0].files
    has_valid = any(source.files.valid.is_dir() for source in found.sources)
    with_valid = has_valid or any(parcel.has_nodata for parcel in parcels.values())
    are_as_stored = all(parcel.is_as_stored(i) for i, parcel in parcels.items())
    if len(found.sources) == 1 and are_as_stored:
        write_shortened_names(paths, parcels)
        paths.pixels.symlink_to(existing.pixels.resolve(), target_is_directory=True)
        if with_valid:
            paths.valid.symlink_to(existing.valid.resolve(), target_is_directory=True)
    else:
        write_npy_files(PixelSetDataset.open(paths.root), threads, with_valid=with_valid)
