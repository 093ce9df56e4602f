"""META of the Pixel-Set dataset: its only writer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from pipeline.classes.crop_class import Classes, Code
from pipeline.workflow.paths import DatasetPaths
from pipeline.workflow.writing import write_json


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
    dataset: DatasetPaths, labels: Mapping[str, Mapping[str, Code | None]], table: Classes
) -> None:
    """Write the codes that the parcels declare, and the classes that are trained on.

    Parameters
    ----------
    dataset
        The dataset.
    labels
        {nomenclature: {id: code, or None}}.
    table
        The declared classes, and their nomenclature.
    """
    write_json(dataset.labels, labels)
    write_json(dataset.nomenclature, table.nomenclature)
    write_json(dataset.classes, [{"code": c.code, "name": c.name} for c in table.trained])


def write_names(dataset: DatasetPaths, table: Classes) -> None:
    """Write what all declared classes are called where they are shown."""
    write_json(dataset.names, {str(c.code): c.name for c in table.classes})


def as_number(day: date) -> int:
    """Return a date as the reference writes it: YYYYMMDD."""
    return int(day.strftime("%Y%m%d"))
