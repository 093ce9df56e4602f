"""META of the Pixel-Set dataset: what writes it, and what reads one of its files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from geo.errors import InputError
from pipeline.classes.crop_class import Classes, Code
from pipeline.workflow.artefacts import read_json
from pipeline.workflow.large_json import write_json_parts
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
    """Write META except the labels. Additions to the reference's files are in separate files.

    Parameters
    ----------
    dataset
        The dataset.
    tiles
        Its tiles, in the order of their parcels in the dataset.
    dates
        All dates, in order of time.
    sizes, n_dates
        {id: number of pixels} and {id: number of dates on which the parcel is clear}, both in the
        order of the dataset.
    description
        Bands, tiles, cloud treatment.
    parcel_dates
        {id: its dates} where the dates differ between parcels; None where all have `dates`.
    """
    write_json(dataset.dates, {str(i): as_number(day) for i, day in enumerate(dates)})
    if parcel_dates is None:
        dataset.parcel_dates.unlink(missing_ok=True)
    else:
        # Most parcels have the same dates as many others: these are converted once.
        numbers = {own: [as_number(day) for day in own] for own in set(parcel_dates.values())}
        write_json_parts(
            dataset.parcel_dates, ((i, numbers[own]) for i, own in parcel_dates.items())
        )
    write_json_parts(dataset.sizes, sizes.items())
    write_json_parts(dataset.n_dates, n_dates.items())
    write_json(dataset.tiles, list(tiles))
    write_json(dataset.description, description)


def write_labels(
    dataset: DatasetPaths,
    labels: Mapping[str, Mapping[str, Code | None] | Iterable[tuple[str, Code | None]]],
    table: Classes,
) -> None:
    """Write the declared codes of the parcels, and the classes that are trained on.

    Parameters
    ----------
    dataset
        The dataset.
    labels
        {nomenclature: {id: code, or None}}, or {nomenclature: pairs of them}.
    table
        The declared classes, and their nomenclature.
    """
    pairs = {n: own.items() if isinstance(own, Mapping) else own for n, own in labels.items()}
    write_json_parts(dataset.labels, pairs)
    write_json(dataset.nomenclature, table.nomenclature)
    write_json(dataset.classes, [{"code": c.code, "name": c.name} for c in table.trained])


def write_names(dataset: DatasetPaths, table: Classes) -> None:
    """Write the names under which all declared classes are shown."""
    write_json(dataset.names, {str(c.code): c.name for c in table.classes})


def read_object(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """Read a JSON object; {} for a file that is optional and missing.

    Raises
    ------
    InputError
        If the file is missing, or is not a JSON object.
    """
    if optional and not path.is_file():
        return {}
    values: Any = read_json(path)
    if not isinstance(values, dict):
        raise InputError(
            f"{path} contains {str(values)[:50]!r}, expected a JSON object, {{...}}. Correct the "
            "file, or write it again."
        )
    return values


def as_number(day: date) -> int:
    """Return a date as the reference writes it: YYYYMMDD."""
    return int(day.strftime("%Y%m%d"))
