"""The Pixel-Set dataset on disk: its only reader and writer."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from models.pixel_sets import PixelSets
from pipeline.paths import DatasetPaths
from pipeline.writing import replacing, write_json

Code = int | str


class DatasetError(ValueError):
    """A dataset that cannot be read; the message says which file and what is wrong."""


@dataclass(frozen=True)
class LandClass:
    """A class of the nomenclature; its place in the list is the class index."""

    code: Code
    name: str


def file_name(parcel_id: str) -> str:
    """Name the file of a parcel; characters that a file name cannot hold are %-encoded."""
    return f"{quote(parcel_id, safe=' ()+,;=@-_.~')}.npy"


def write_arrays(
    folder: Path, arrays: Iterable[tuple[str, NDArray[Any]]], threads: int = 1
) -> None:
    """Write one .npy file a parcel, in C order."""

    def write(item: tuple[str, NDArray[Any]]) -> None:
        np.save(folder / file_name(item[0]), np.ascontiguousarray(item[1]))

    with ThreadPoolExecutor(threads) as pool:
        # list() raises what a thread raised.
        list(pool.map(write, arrays))


def write_metadata(
    dataset: DatasetPaths,
    *,
    dates: Sequence[date],
    labels: Mapping[str, Mapping[str, Code | None]],
    sizes: Mapping[str, int],
    n_dates: Mapping[str, int],
    classes: Sequence[LandClass],
    description: Mapping[str, Any],
) -> None:
    """Write META/: the reference's files, and additions in files of their own."""
    write_json(dataset.dates, {str(i): int(d.strftime("%Y%m%d")) for i, d in enumerate(dates)})
    write_json(dataset.labels, labels)
    write_json(dataset.sizes, sizes)
    write_json(dataset.n_dates, n_dates)
    write_json(dataset.classes, [{"code": c.code, "name": c.name} for c in classes])
    write_json(dataset.description, description)


def read_description(dataset: DatasetPaths) -> dict[str, Any]:
    """Read what the dataset says of itself: bands, nomenclature, whether it is simulated."""
    return dict(_read_json(dataset.description))


def read_classes(dataset: DatasetPaths) -> list[LandClass]:
    """Read the classes in order of the class index."""
    return [LandClass(c["code"], c["name"]) for c in _read_json(dataset.classes)]


def read_ids(dataset: DatasetPaths) -> list[str]:
    """Read the ids of all parcels, in the dataset's order."""
    return list(_read_json(dataset.sizes))


def read_labels(dataset: DatasetPaths) -> NDArray[np.int64]:
    """Read the class index of every parcel; -1 where it has none among the classes.

    Returns
    -------
    int64 (N,), in the order of `read_ids`.
    """
    nomenclature = read_description(dataset)["nomenclature"]
    codes = _read_json(dataset.labels).get(nomenclature, {})
    index = {c.code: i for i, c in enumerate(read_classes(dataset))}
    return np.array([index.get(codes.get(i), -1) for i in read_ids(dataset)], np.int64)


def read_n_dates(dataset: DatasetPaths) -> dict[str, int]:
    """Read on how many dates each parcel was seen clearly, in the dataset's order."""
    n_dates = _read_json(dataset.n_dates)
    return {i: n_dates[i] for i in read_ids(dataset)}


def read_positions(dataset: DatasetPaths) -> NDArray[np.float64]:
    """Read a point on every parcel, float64 (N, 2), metres."""
    positions = _read_json(dataset.positions)
    return np.array([positions[i] for i in read_ids(dataset)], float).reshape(-1, 2)


def read_dates(dataset: DatasetPaths) -> list[date]:
    """Read the dates, in order of time."""
    values = _read_json(dataset.dates)
    return [date.fromisoformat(str(values[str(i)])) for i in range(len(values))]


def read_pixels(dataset: DatasetPaths, parcel_id: str) -> NDArray[np.uint16]:
    """Read the pixels of a parcel, uint16 (T, C, S)."""
    path = dataset.pixels / file_name(parcel_id)
    try:
        pixels: NDArray[np.uint16] = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} is not a readable array: {error}") from error
    return pixels


def read_valid(dataset: DatasetPaths, parcel_id: str) -> NDArray[np.bool_]:
    """Read which observations of a parcel are clear, bool (T, S)."""
    valid: NDArray[np.bool_] = np.load(dataset.valid / file_name(parcel_id), allow_pickle=False)
    return valid


def read_pixel_sets(dataset: DatasetPaths, *, with_features: bool) -> PixelSets:
    """Load the whole dataset into memory, pixel-major, as the models take it.

    Where clouds were kept and masked, the validity of every observation comes with it; where they
    were filled, every observation counts.
    """
    ids, dates = read_ids(dataset), read_dates(dataset)
    description = read_description(dataset)
    sizes = np.array(list(_read_json(dataset.sizes).values()), np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    pixels = np.empty((offsets[-1], len(dates), len(description["bands"])), np.uint16)
    masked = description["fill"] == "none"
    valid = np.empty((offsets[-1], len(dates)), bool) if masked else None
    for parcel_id, start, stop in zip(ids, offsets[:-1], offsets[1:], strict=True):
        pixels[start:stop] = read_pixels(dataset, parcel_id).transpose(2, 0, 1)
        if valid is not None:
            valid[start:stop] = read_valid(dataset, parcel_id).T
    features = _read_json(dataset.features) if with_features else None
    days = np.array([(d - dates[0]).days for d in dates], np.int64)
    return PixelSets(
        ids=ids,
        pixels=pixels,
        offsets=offsets,
        valid=valid,
        days=np.broadcast_to(days, (len(ids), len(days))),
        observed=None,
        features=None if features is None else np.array([features[i] for i in ids], float),
        labels=read_labels(dataset),
    )


def write_normalisation(path: Path, means: NDArray[np.float64], stds: NDArray[np.float64]) -> None:
    """Write the pickle of (means, stds), each of shape (), (C,) or (T, C)."""
    with replacing(path) as temporary:
        temporary.write_bytes(pickle.dumps((means, stds), protocol=4))


def read_normalisation(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read the pickle of (means, stds) without executing anything but numpy's arrays."""
    with path.open("rb") as file:
        means, stds = _ArrayUnpickler(file).load()
    return np.asarray(means, np.float64), np.asarray(stds, np.float64)


# What a pickle of numpy arrays names, in numpy 1 and 2.
_ARRAY_PARTS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    *(
        (f"numpy.{core}.{module}", name)
        for core in ("core", "_core")
        for module, name in (
            ("multiarray", "_reconstruct"),
            ("multiarray", "scalar"),
            ("numeric", "_frombuffer"),
        )
    ),
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAY_PARTS:
            raise DatasetError(
                f"The normalisation pickle holds {module}.{name}; only numpy arrays are read."
            )
        return super().find_class(module, name)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise DatasetError(f"The dataset lacks {path}.") from None
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path} is not valid JSON: {error}") from None
