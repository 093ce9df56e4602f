"""A Pixel-Set dataset made elsewhere: its files in every spelling that is met."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from geo.errors import InputError
from pipeline.dataset.npy_files import (
    file_name,
    new_rows,
    read_array,
    read_shape,
    write_array,
)
from pipeline.workflow.paths import DatasetPaths, TilePaths
from pipeline.workflow.progress import ProgressLog
from pipeline.workflow.writing import replacing_folder


@dataclass(frozen=True)
class GivenParcel:
    """The array of a parcel as it lies there.

    Attributes
    ----------
    path
        File of (T, C, S).
    shape, dtype
        Of the array.
    order
        int64 (T,), the places in the file of its dates in order of time.
    dates
        The T dates, in order of time.
    ever_clear
        bool (S,), pixels that VALID shows clear on at least one date; None if all are, or without
        VALID. The others are left out.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: NDArray[np.int64]
    dates: tuple[date, ...]
    ever_clear: NDArray[np.bool_] | None

    @property
    def n_pixels(self) -> int:
        """Number of pixels that are not left out."""
        return self.shape[2] if self.ever_clear is None else int(self.ever_clear.sum())

    def is_as_stored(self, parcel_id: str) -> bool:
        """Return whether the file can be used as it is: name, type, pixels and order of time."""
        in_order = bool((np.diff(self.order) > 0).all())
        as_named = self.path.name == file_name(parcel_id)
        return in_order and as_named and self.dtype == np.uint16 and self.ever_clear is None

    def read(self) -> NDArray[np.uint16]:
        """Read the pixels, uint16 (T, C, S), in order of time."""
        pixels = self._chosen(_read_array(self.path))
        if pixels.size and (pixels.min() < 0 or pixels.max() > np.iinfo(np.uint16).max):
            raise InputError(
                f"{self.path} has values from {pixels.min()} to {pixels.max()}, expected 0 to "
                "65535: reflectance x 10,000."
            )
        return np.asarray(pixels, np.uint16)

    def read_valid(self, folder: Path) -> NDArray[np.bool_]:
        """Read which observations are clear, bool (T, S), in order of time."""
        valid: NDArray[np.bool_] = self._chosen(_read_array(folder / self.path.name))
        return valid

    def _chosen(self, array: NDArray[Any]) -> NDArray[Any]:
        """Choose the pixels that are not left out, in order of time."""
        in_order = array[self.order]
        return in_order if self.ever_clear is None else in_order[..., self.ever_clear]


def read_parcels(dataset: DatasetPaths) -> dict[str, GivenParcel]:
    """Find the arrays of all parcels, in order of their ids: as numbers, if all are.

    Raises
    ------
    InputError
        If there are none, if they do not have the dates that the dataset states, if they disagree
        on the number of channels, or if VALID does not fit them.
    """
    paths = {_id_of(path): path for path in dataset.pixels.glob("*.npy")}
    if not paths:
        raise InputError(f"{dataset.pixels} has no <id>.npy files. Check dataset.path.")
    numeric = all(parcel_id.isascii() and parcel_id.isdecimal() for parcel_id in paths)
    ids = sorted(paths, key=(lambda i: (int(i), i)) if numeric else None)
    own = _read_parcel_dates(dataset)
    shared = _read_dates(dataset) if dataset.dates.is_file() or not own else None
    parcels, undated = {}, []
    for parcel_id in ids:
        dates = own.get(parcel_id, shared)
        if dates is None:
            undated.append(parcel_id)
            continue
        order = np.argsort([d.toordinal() for d in dates], kind="stable")
        path = paths[parcel_id]
        shape, dtype = _shape_of(path)
        in_time = tuple(dates[i] for i in order)
        clear = None
        if dataset.valid.is_dir() and 0 not in shape:
            clear = _ever_clear(dataset.valid / path.name, shape)
        parcels[parcel_id] = GivenParcel(path, shape, dtype, order.astype(np.int64), in_time, clear)
    _refuse(
        undated,
        f"{dataset.parcel_dates} lacks parcels of DATA, and there is no {dataset.dates} for them",
    )
    _check_shapes(dataset, parcels)
    return parcels


def place_arrays(
    parcels: Mapping[str, GivenParcel], given: DatasetPaths, paths: DatasetPaths
) -> None:
    """Link the arrays into the run, or write them anew, in order of time.

    Parameters
    ----------
    parcels
        Parcels to place.
    given
        The dataset that they are in.
    paths
        Written: DATA, and VALID where the given dataset has it; what was there before is removed.
    """
    as_stored = all(parcel.is_as_stored(i) for i, parcel in parcels.items())
    remove_arrays(paths)
    for source, target in ((given.pixels, paths.pixels), (given.valid, paths.valid)):
        if not source.is_dir():
            continue
        if as_stored:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source.resolve(), target_is_directory=True)
            continue
        with replacing_folder(target) as folder:
            for parcel_id, parcel in parcels.items():
                array = parcel.read() if source == given.pixels else parcel.read_valid(source)
                write_array(folder / file_name(parcel_id), array)


def remove_arrays(paths: DatasetPaths) -> None:
    """Remove DATA and VALID of an earlier run, be they links or folders."""
    for folder in (paths.pixels, paths.valid):
        if folder.is_symlink():
            folder.unlink()
        elif folder.is_dir():
            shutil.rmtree(folder)


def pack_arrays(
    parcels: Mapping[str, GivenParcel], given: DatasetPaths, paths: TilePaths, threads: int
) -> None:
    """Pack the arrays pixel-major, as assemble does; each thread holds one parcel at a time.

    Parameters
    ----------
    parcels
        Parcels to pack, in order.
    given
        The dataset that they are in.
    paths
        Written: pixels and clear; without VALID every observation is clear.
    threads
        Parcels that are read and written at the same time.
    """
    items = list(parcels.values())
    places = np.concatenate([[0], np.cumsum([parcel.n_pixels for parcel in items])])
    width = max(parcel.shape[0] for parcel in items)
    shape = (int(places[-1]), width, items[0].shape[1])
    progress = ProgressLog("packed", len(items), "parcels")
    with (
        new_rows(paths.pixels, shape, np.uint16) as pixels,
        new_rows(paths.clear, shape[:2], bool) as clear,
        ThreadPoolExecutor(threads) as pool,
    ):

        def write(i: int) -> None:
            parcel, place = items[i], int(places[i])
            own = parcel.read()
            own_clear = np.ones((own.shape[0], own.shape[2]), bool)
            if given.valid.is_dir():
                own_clear = parcel.read_valid(given.valid)
            padding = ((0, 0), (0, width - own.shape[0]))
            pixels.write(
                np.ascontiguousarray(np.pad(own.transpose(2, 0, 1), (*padding, (0, 0)))), place
            )
            clear.write(np.ascontiguousarray(np.pad(own_clear.T, padding)), place)

        for _ in pool.map(write, range(len(items))):
            progress.add(1)


def read_labels(dataset: DatasetPaths) -> dict[str, dict[str, Any]]:
    """Read {nomenclature: {id: code, or None}}; empty where there is no labels.json."""
    if not dataset.labels.is_file():
        return {}
    labels = _read_json(dataset.labels)
    wrong = [str(name) for name, codes in labels.items() if not isinstance(codes, dict)]
    _refuse(wrong, f"{dataset.labels}: expected {{nomenclature: {{id: code}}}}; not so")
    return {str(name): dict(codes) for name, codes in labels.items()}


def _id_of(path: Path) -> str:
    """Return the id in a file's name; %-encoding is undone only where it is ours."""
    decoded = unquote(path.stem)
    return decoded if file_name(decoded) == path.name else path.stem


def _shape_of(path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    try:
        shape, dtype = read_shape(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable array: {error}") from error
    if len(shape) != 3 or dtype.kind not in "iu":
        raise InputError(
            f"{path}: expected whole numbers of shape (T, C, S), found {dtype} of shape {shape}."
        )
    return shape, dtype


def _read_array(path: Path) -> NDArray[Any]:
    try:
        return read_array(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable array: {error}") from error


def _ever_clear(path: Path, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Return which pixels are clear on at least one date, bool (S,); None if all are."""
    valid = _read_array(path)
    expected = (shape[0], shape[2])
    if valid.shape != expected or valid.dtype != bool:
        raise InputError(
            f"{path}: expected bool of shape (T, S), {expected}, as the parcel's array in DATA; "
            f"found {valid.dtype} of shape {valid.shape}."
        )
    ever_clear: NDArray[np.bool_] = np.any(valid, axis=0)
    return None if ever_clear.all() else ever_clear


def _check_shapes(dataset: DatasetPaths, parcels: Mapping[str, GivenParcel]) -> None:
    """Refuse arrays whose dates or channels are not those of the dataset."""
    misdated = [
        f"{i} ({p.shape[0]} instead of {len(p.dates)})"
        for i, p in parcels.items()
        if p.shape[0] != len(p.dates)
    ]
    _refuse(misdated, f"The first axis of DATA/<id>.npy is not the dates of {dataset.dates.parent}")
    channels = [p.shape[1] for p in parcels.values()]
    usual = max(set(channels), key=channels.count)
    others = [f"{i} ({p.shape[1]})" for i, p in parcels.items() if p.shape[1] != usual]
    _refuse(others, f"Most of DATA/<id>.npy have {usual} channels, others not")


def _read_dates(dataset: DatasetPaths) -> list[date]:
    """Read the dates as they lie on the first axis of the arrays; keys count from 0 or from 1."""
    values = _read_json(dataset.dates)
    wrong = [key for key in values if not key.isdecimal()] if isinstance(values, dict) else [""]
    _refuse(wrong, f'{dataset.dates}: expected {{"0": YYYYMMDD, "1": ...}}; other keys')
    keys = sorted(values, key=int)
    if not keys:
        raise InputError(f"{dataset.dates} has no dates.")
    return [_parse_date(values[key], dataset.dates) for key in keys]


def _read_parcel_dates(dataset: DatasetPaths) -> dict[str, list[date]]:
    """Read the parcels' own dates as they lie on the first axis of their arrays."""
    if not dataset.parcel_dates.is_file():
        return {}
    values = _read_json(dataset.parcel_dates)
    if lone := [i for i, own in values.items() if not isinstance(own, list)]:
        raise InputError(f"{dataset.parcel_dates}: {lone[0]!r} has no list of dates.")
    return {i: [_parse_date(v, dataset.parcel_dates) for v in own] for i, own in values.items()}


def _parse_date(value: Any, path: Path) -> date:
    """Read 20180501, "20180501", "2018-05-01" or an ISO date with a time."""
    try:
        return datetime.fromisoformat(str(value)).date()
    except ValueError:
        raise InputError(
            f"{path}: {value!r} is not a date. Write YYYYMMDD or YYYY-MM-DD."
        ) from None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"The dataset lacks {path}.")
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} holds {str(values)[:50]!r}, expected a JSON object: {{...}}.")
    return values


def _refuse(items: Sequence[str], message: str) -> None:
    if items:
        raise InputError(f"{message}: {len(items)}, such as {', '.join(items[:5])}.")
