"""META of the Pixel-Set dataset: its only writer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from pipeline.workflow.paths import DatasetPaths
from pipeline.workflow.writing import write_json

Code = int | str


@dataclass(frozen=True)
class LandClass:
    """A class of the nomenclature; its place in the list is the class index."""

    code: Code
    name: str


def write_metadata(
    dataset: DatasetPaths,
    *,
    tiles: Sequence[str],
    dates: Sequence[date],
    sizes: Mapping[str, int],
    n_dates: Mapping[str, int],
    description: Mapping[str, Any],
    parcel_dates: Mapping[str, tuple[date, ...]] | None = None,
) -> None:
    """Write META but for the labels: the reference's files, and additions in files of their own.

    Parameters
    ----------
    dataset
        The dataset.
    tiles
        Its tiles, in the order in which their parcels stand in the dataset.
    dates
        All dates, in order of time.
    sizes, n_dates
        {id: number of pixels} and {id: number of dates on which the parcel is clear}, both in the
        order of the dataset.
    description
        Bands, tiles, cloud treatment.
    parcel_dates
        {id: its dates} where parcels have dates of their own; None where all have `dates`.
    """
    write_json(dataset.dates, {str(i): as_number(d) for i, d in enumerate(dates)})
    if parcel_dates is None:
        dataset.parcel_dates.unlink(missing_ok=True)
    else:
        # Parcels share their dates with many others.
        numbers = {own: [as_number(d) for d in own] for own in set(parcel_dates.values())}
        own_dates = {parcel: numbers[own] for parcel, own in parcel_dates.items()}
        write_json(dataset.parcel_dates, own_dates)
    write_json(dataset.sizes, sizes)
    write_json(dataset.n_dates, n_dates)
    write_json(dataset.tiles, list(tiles))
    write_json(dataset.description, description)


def write_labels(
    dataset: DatasetPaths,
    *,
    labels: Mapping[str, Mapping[str, Code | None]],
    classes: Sequence[LandClass],
    nomenclature: str | None,
) -> None:
    """Write which classes the parcels have.

    Parameters
    ----------
    dataset
        The dataset.
    labels
        {nomenclature: {id: code, or None where none is declared}}.
    classes
        Classes to train on, in order of the class index.
    nomenclature
        The one that they are of; None without labels.
    """
    write_json(dataset.labels, labels)
    write_json(dataset.classes, [{"code": c.code, "name": c.name} for c in classes])
    write_json(dataset.nomenclature, nomenclature)


def write_names(dataset: DatasetPaths, names: Mapping[str, str]) -> None:
    """Write {code: name} of every declared code, trained on or not, as they are shown."""
    write_json(dataset.names, names)


def as_number(day: date) -> int:
    """Return a date as the reference writes it: YYYYMMDD."""
    return int(day.strftime("%Y%m%d"))
