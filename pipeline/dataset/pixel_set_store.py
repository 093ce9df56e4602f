"""The Pixel-Set dataset on disk: its only reader and writer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from geo.errors import InputError
from pipeline.classes.crop_class import Classes, Code, CropClass
from pipeline.dataset.npy_files import read_array
from pipeline.workflow.paths import DatasetPaths
from pipeline.workflow.writing import write_json


def file_name(parcel_id: str) -> str:
    """Name the file of a parcel; characters that a file name cannot hold are %-encoded."""
    return f"{quote(parcel_id, safe=' ()+,;=@-_.~')}.npy"


def write_metadata(
    dataset: DatasetPaths,
    *,
    dates: Sequence[date],
    sizes: Mapping[str, int],
    n_dates: Mapping[str, int],
    description: Mapping[str, Any],
    parcel_dates: Mapping[str, tuple[date, ...]] | None = None,
) -> None:
    """Write META/ but for labels and classes: the reference's files, and additions beside them.

    Where parcels have dates of their own, `dates` are all of them together.
    """
    write_json(dataset.dates, {str(i): _as_number(d) for i, d in enumerate(dates)})
    if parcel_dates is None:
        dataset.parcel_dates.unlink(missing_ok=True)
    else:
        # Parcels share their dates with many others.
        numbers = {own: [_as_number(d) for d in own] for own in set(parcel_dates.values())}
        own_dates = {parcel: numbers[own] for parcel, own in parcel_dates.items()}
        write_json(dataset.parcel_dates, own_dates)
    write_json(dataset.sizes, sizes)
    write_json(dataset.n_dates, n_dates)
    write_json(dataset.description, description)


def write_labels(
    dataset: DatasetPaths, labels: Mapping[str, Mapping[str, Code | None]], table: Classes
) -> None:
    """Write the codes that the parcels declare, and the classes that are trained on.

    Parameters
    ----------
    dataset
        Where.
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


def read_description(dataset: DatasetPaths) -> dict[str, Any]:
    """Read what the dataset says of itself: bands, tiles, whether it is simulated."""
    return dict(_read_json(dataset.description))


def read_classes(dataset: DatasetPaths) -> list[CropClass]:
    """Read the classes in order of the class index, with the names that models keep."""
    return [CropClass(c["code"], c["name"]) for c in _read_json(dataset.classes)]


def read_names(dataset: DatasetPaths) -> dict[str, str]:
    """Read what declared classes are called, trained on or not: {code as text: name}."""
    return dict(_read_json(dataset.names))


def read_shown_classes(dataset: DatasetPaths) -> list[CropClass]:
    """Read the classes in order of the class index, with the names to show."""
    names = read_names(dataset)
    return [CropClass(c.code, names.get(str(c.code), c.name)) for c in read_classes(dataset)]


def read_ids(dataset: DatasetPaths) -> list[str]:
    """Read the ids of all parcels, in the dataset's order."""
    return list(_read_json(dataset.sizes))


def read_sizes(dataset: DatasetPaths) -> NDArray[np.int64]:
    """Read the number of pixels of every parcel, int64 (N,)."""
    return np.array(list(_read_json(dataset.sizes).values()), np.int64)


def read_labels(dataset: DatasetPaths) -> NDArray[np.int64]:
    """Read the class index of every parcel; -1 where it has none among the classes.

    Returns
    -------
    int64 (N,), in the order of `read_ids`.
    """
    codes = read_codes(dataset)
    index: dict[Code | None, int] = {c.code: i for i, c in enumerate(read_classes(dataset))}
    return np.array([index.get(codes.get(i), -1) for i in read_ids(dataset)], np.int64)


def read_codes(dataset: DatasetPaths) -> dict[str, Code | None]:
    """Read the class code that each parcel declares, None where it declares none."""
    nomenclature = _read_json(dataset.nomenclature)
    return dict(_read_json(dataset.labels).get(nomenclature, {}))


def read_n_dates(dataset: DatasetPaths) -> dict[str, int]:
    """Read on how many dates each parcel was seen clearly, in the dataset's order."""
    n_dates = _read_json(dataset.n_dates)
    return {i: n_dates[i] for i in read_ids(dataset)}


def read_positions(dataset: DatasetPaths) -> NDArray[np.float64]:
    """Read a point on every parcel, float64 (N, 2), metres."""
    if not dataset.positions.is_file():
        raise InputError(
            f"The dataset has no {dataset.positions}, which says where the parcels are. "
            "Set split.by to random or stratified."
        )
    positions = _read_json(dataset.positions)
    return np.array([positions[i] for i in read_ids(dataset)], float).reshape(-1, 2)


def read_features(dataset: DatasetPaths) -> NDArray[np.float64]:
    """Read the features of every parcel, float64 (N, F)."""
    return _features_of(dataset, read_ids(dataset))


def read_all_features(dataset: DatasetPaths) -> NDArray[np.float64]:
    """Read all features that were computed, also of parcels without pixels, float64 (M, F)."""
    return _features_of(dataset, list(_read_json(dataset.features)))


def _features_of(dataset: DatasetPaths, ids: Sequence[str]) -> NDArray[np.float64]:
    if not dataset.features.is_file():
        raise InputError(
            f"The dataset has no {dataset.features}: set model.geometric_features to false."
        )
    features = _read_json(dataset.features)
    if lacking := [i for i in ids if i not in features]:
        raise InputError(
            f"{dataset.features} lacks {len(lacking)} parcels, such as {', '.join(lacking[:5])}. "
            "Set model.geometric_features to false, or add them."
        )
    # The reference takes a number for a list of one.
    values = np.array([features[i] for i in ids], np.float64)
    return values[:, None] if values.ndim == 1 else values


def read_dates(dataset: DatasetPaths) -> list[date]:
    """Read the dates, in order of time: of all parcels together, where they have their own."""
    values = _read_json(dataset.dates)
    return [date.fromisoformat(str(values[str(i)])) for i in range(len(values))]


def read_parcel_dates(dataset: DatasetPaths) -> dict[str, list[date]] | None:
    """Read the dates of each parcel, in order of time; None where all have those of the dataset."""
    if not dataset.parcel_dates.is_file():
        return None
    values = _read_json(dataset.parcel_dates)
    # Parcels share their dates with many others.
    days = {number: date.fromisoformat(str(number)) for own in values.values() for number in own}
    return {i: [days[number] for number in values[i]] for i in read_ids(dataset)}


def read_pixels(dataset: DatasetPaths, parcel_id: str) -> NDArray[np.uint16]:
    """Read the pixels of a parcel, uint16 (T, C, S)."""
    return _read_array(dataset.pixels / file_name(parcel_id))


def read_valid(dataset: DatasetPaths, parcel_id: str) -> NDArray[np.bool_]:
    """Read which observations of a parcel are clear, bool (T, S); all, where nothing is known."""
    if not dataset.valid.is_dir():
        n_dates, _, size = read_pixels(dataset, parcel_id).shape
        return np.ones((n_dates, size), bool)
    return _read_array(dataset.valid / file_name(parcel_id))


def _read_array(path: Path) -> NDArray[Any]:
    try:
        return read_array(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable array: {error}") from error


def _as_number(day: date) -> int:
    """Write a date as the reference does: YYYYMMDD."""
    return int(day.strftime("%Y%m%d"))


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"The dataset lacks {path}.") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
