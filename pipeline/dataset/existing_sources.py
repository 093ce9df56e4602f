"""Existing Pixel-Set datasets, such as two seasons or regions, that are used as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

from geo.errors import InputError, first_five
from pipeline.classes.crop_class import alike_codes, spelling
from pipeline.dataset.existing_dataset import ExistingParcel, read_parcels
from pipeline.dataset.existing_metadata import (
    check_features,
    read_declared,
    read_n_dates,
    read_names,
    read_positions,
)
from pipeline.dataset.metadata import read_object
from pipeline.dataset.season import nearest_anniversary
from pipeline.workflow.paths import DatasetPaths

Value = TypeVar("Value")


@dataclass(frozen=True)
class Source:
    """What an existing dataset contains.

    Attributes
    ----------
    name
        Name of its run, or of its folder.
    files
        Its files.
    parcels
        Its arrays, by id.
    declared
        {nomenclature: {id: code as declared, or None}}.
    n_dates
        {id: number of dates on which the parcel is clear}, of the parcels for which it is stated.
    names
        {code as text: name}.
    features, positions
        By id; {} without them.
    groups
        {column: {id: value}}; {} without them.
    """

    name: str
    files: DatasetPaths
    parcels: dict[str, ExistingParcel]
    declared: dict[str, dict[str, Any]]
    n_dates: dict[str, int]
    names: dict[str, str]
    features: dict[str, Any]
    positions: dict[str, list[float]]
    groups: dict[str, Any]

    @property
    def ids(self) -> dict[str, None]:
        """Ids of all parcels that have an array or a label."""
        return dict.fromkeys([*self.parcels, *(i for own in self.declared.values() for i in own)])

    def renamed(self, names: Mapping[str, str]) -> Source:
        """Return the same with other ids, {old: new}; values of parcels not named are left out."""

        def rename(values: Mapping[str, Value]) -> dict[str, Value]:
            return {names[i]: value for i, value in values.items() if i in names}

        return replace(
            self,
            parcels=rename(self.parcels),
            declared={name: rename(codes) for name, codes in self.declared.items()},
            n_dates=rename(self.n_dates),
            features=rename(self.features),
            positions=rename(self.positions),
            groups={
                column: rename(values) if isinstance(values, dict) else values
                for column, values in self.groups.items()
            },
        )


def read_sources(folders: Sequence[Path], scale: float | None, threads: int = 1) -> list[Source]:
    """Read existing datasets, and check each of them.

    An id that occurs in several of them is prefixed by the name of its dataset: a:12, b:12.

    Parameters
    ----------
    folders
        One dataset or more.
    scale
        dataset.reflectance_scale.
    threads
        Parcels that are read at the same time.

    Raises
    ------
    InputError
        If files are missing, unreadable or contradict each other.
    """
    names = _names_of(folders)
    sources = [
        _read(name, DatasetPaths(folder), scale, threads)
        for name, folder in zip(names, folders, strict=True)
    ]
    if len(sources) == 1:
        return sources
    counts = Counter(i for source in sources for i in source.ids)
    renamed = [
        source.renamed({i: f"{source.name}:{i}" if counts[i] > 1 else i for i in source.ids})
        for source in sources
    ]
    counts = Counter(i for source in renamed for i in source.ids)
    if taken := [i for i, n in counts.items() if n > 1]:
        raise InputError(
            "dataset.paths: ids that several datasets have are prefixed by the dataset's name, "
            f"but {first_five(taken)} are ids already. Rename a folder or these ids."
        )
    return renamed


def joined(values: Iterable[Mapping[str, Value]]) -> dict[str, Value]:
    """Return the entries of several mappings; of a key that several have, the first counts."""
    result: dict[str, Value] = {}
    for own in values:
        for key, value in own.items():
            result.setdefault(key, value)
    return result


def joined_features(sources: Sequence[Source]) -> dict[str, Any] | None:
    """Return the features of all parcels; None if a dataset has none, or others than the first."""
    widths = {
        len(value) if isinstance(value, list) else 1
        for source in sources
        for value in source.features.values()
    }
    if len(sources) > 1 and len(widths) > 1:
        raise InputError(
            f"dataset.paths: META/geomfeat.json have {' and '.join(map(str, sorted(widths)))} "
            "features of a parcel. Write the same features in all datasets, or remove the files "
            "and set model.geometric_features to false."
        )
    if not all(source.files.features.is_file() for source in sources):
        return None
    return joined(source.features for source in sources)


def joined_groups(sources: Sequence[Source]) -> dict[str, Any] | None:
    """Return the groups of all parcels; None if a dataset has none. Equal values are one group."""
    if not all(source.files.groups.is_file() for source in sources):
        return None
    if len(sources) == 1:
        return sources[0].groups
    columns = dict.fromkeys(column for source in sources for column in source.groups)
    return {
        column: joined(source.groups.get(column) or {} for source in sources) for column in columns
    }


def join_descriptions(
    sources: Sequence[Source], descriptions: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return the content of dataset.json for several datasets together.

    Parameters
    ----------
    sources, descriptions
        The datasets, and the content of dataset.json of each, completed.

    Raises
    ------
    InputError
        If bands differ, or if only some datasets mask clouds.
    """
    first = descriptions[0]
    if len(descriptions) == 1:
        return first
    for source, own in zip(sources, descriptions, strict=True):
        if own["bands"] != first["bands"]:
            raise InputError(
                f"dataset.paths: {source.files.root} has the bands {', '.join(own['bands'])}, "
                f"{sources[0].files.root} has {', '.join(first['bands'])}. Prepare both with the "
                "same bands, in the same order."
            )
        if (own["fill"] == "none") != (first["fill"] == "none"):
            one, other = (
                "keeps cloudy observations and masks them"
                if each["fill"] == "none"
                else "interpolates cloudy observations"
                for each in (own, first)
            )
            raise InputError(
                f"dataset.paths: {source.files.root} {one}, {sources[0].files.root} {other} (fill "
                "in META/dataset.json). Prepare both with the same clouds.fill."
            )
    equal = {
        key: value
        for key, value in first.items()
        if all(key in own and own[key] == value for own in descriptions)
    }
    damaged = joined(own.get("damaged", {}) for own in descriptions)
    return {
        **equal,
        "crs": equal.get("crs"),
        "mask": equal.get("mask"),
        "fill": next((own["fill"] for own in descriptions if own["fill"]), None),
        "tiles": joined(own["tiles"] for own in descriptions),
        "simulated": any(own["simulated"] for own in descriptions),
        **({"damaged": damaged} if damaged else {}),
    }


def season_years(first_dates: Sequence[date]) -> list[int]:
    """Return how many years the season of each dataset is after that of the earliest.

    Parameters
    ----------
    first_dates
        The first date of each dataset.
    """
    earliest = min(first_dates)
    return [nearest_anniversary(earliest, first).year - earliest.year for first in first_dates]


def _read(name: str, files: DatasetPaths, scale: float | None, threads: int) -> Source:
    """Read and check one dataset."""
    parcels = read_parcels(files, scale, threads)
    declared = read_declared(files)
    for nomenclature, codes in declared.items():
        _check_ids(files, nomenclature, codes, parcels)
    check_features(files)
    return Source(
        name,
        files,
        parcels,
        declared,
        read_n_dates(files),
        read_names(files),
        read_object(files.features, optional=True),
        read_positions(files),
        read_object(files.groups, optional=True),
    )


def _check_ids(
    files: DatasetPaths,
    nomenclature: str,
    codes: Mapping[str, Any],
    parcels: Mapping[str, ExistingParcel],
) -> None:
    """Refuse labels whose ids are not those of the files, or are spelled differently."""
    if codes and not codes.keys() & parcels:
        raise InputError(
            f"{files.labels}: no id under {nomenclature!r} is that of a file in DATA: it has "
            f"{', '.join(list(codes)[:5])}, DATA has {', '.join(list(parcels)[:5])}. Write "
            "ids as the names of the files."
        )
    # 1 and "1" are the same key in JSON, "1.0" and "01" are others.
    unused = [i for i in codes if i not in parcels and spelling(i).isdecimal()]
    if alike := alike_codes(unused, [i for i in parcels if i not in codes]):
        raise InputError(
            f"{files.labels}: the id {alike[0]!r} under {nomenclature!r} has no file in DATA, and "
            f"{alike[1]!r}, which has one, no label. Write ids as the names of the files."
        )


def _names_of(folders: Sequence[Path]) -> list[str]:
    """Name datasets by their run or folder; a name that is taken is numbered."""
    names: list[str] = []
    for folder in folders:
        own = folder.resolve()
        plain = own.parent.name if own.name == "dataset" and own.parent.name else own.name
        number, name = 1, plain
        while name in names:
            number += 1
            name = f"{plain}_{number}"
        names.append(name)
    return names
