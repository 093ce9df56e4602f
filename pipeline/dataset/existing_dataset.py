"""Read a Pixel-Set dataset that was made elsewhere, in every spelling that occurs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from geo.errors import InputError
from pipeline.dataset.metadata import read_object
from pipeline.dataset.normalisation_pickle import Values, read_normalisation
from pipeline.dataset.npy_files import file_name, read_array, read_shape
from pipeline.dataset.packed_tiles import packing
from pipeline.workflow.paths import DatasetPaths, TilePaths
from pipeline.workflow.progress import ProgressLog


@dataclass(frozen=True)
class ExistingParcel:
    """The array of a parcel in the existing dataset.

    Attributes
    ----------
    path
        File of (T, C, S).
    shape, dtype
        Shape and type in the file.
    order
        int64 (T,), positions in the file of the dates in order of time.
    dates
        The T dates, in order of time.
    ever_clear
        bool (S,), pixels that are clear on at least one date according to VALID. The others are
        left out. None if all are clear at least once, or there is no VALID.
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
        """Return whether a run can use the file unchanged: name, type, pixels, order of dates."""
        in_order = bool((np.diff(self.order) > 0).all())
        as_named = self.path.name == file_name(parcel_id)
        return in_order and as_named and self.dtype == np.uint16 and self.ever_clear is None

    def read(self) -> NDArray[np.uint16]:
        """Read the pixels, uint16 (T, C, S), in order of time."""
        pixels = self._select(_read_array(self.path))
        if pixels.size and (pixels.min() < 0 or pixels.max() > np.iinfo(np.uint16).max):
            raise InputError(
                f"{self.path} has values from {pixels.min()} to {pixels.max()}, expected 0 to "
                "65535: reflectance x 10,000."
            )
        return np.asarray(pixels, np.uint16)

    def read_clear(self, folder: Path) -> NDArray[np.bool_]:
        """Read from VALID which observations are clear, bool (T, S), in order of time."""
        clear: NDArray[np.bool_] = self._select(_read_array(folder / self.path.name))
        return clear

    def _select(self, array: NDArray[Any]) -> NDArray[Any]:
        """Order the dates and leave out pixels that are never clear."""
        in_order = array[self.order]
        return in_order if self.ever_clear is None else in_order[..., self.ever_clear]


def read_parcels(dataset: DatasetPaths) -> dict[str, ExistingParcel]:
    """Find the arrays of all parcels, ordered by id: as numbers if all ids are numbers.

    Raises
    ------
    InputError
        If there are none, if their dates are not those of the dataset, if their numbers of
        channels differ, or if VALID does not fit them.
    """
    shortened = {name: i for i, name in read_object(dataset.file_names, optional=True).items()}
    paths = {
        shortened.get(path.name) or _id_of(path): path for path in dataset.pixels.glob("*.npy")
    }
    if not paths:
        raise InputError(f"{dataset.pixels} has no <id>.npy files. Check dataset.path.")
    numeric = all(parcel_id.isascii() and parcel_id.isdecimal() for parcel_id in paths)
    ids = sorted(paths, key=(lambda i: (int(i), i)) if numeric else None)
    own = _read_parcel_dates(dataset)
    shared = _read_dates(dataset) if dataset.dates.is_file() or not own else None
    if shared is None:
        _refuse(
            [i for i in ids if i not in own],
            f"{dataset.parcel_dates} lacks parcels of DATA, and there is no {dataset.dates} for "
            "them",
        )
    parcels = {}
    for parcel_id in ids:
        path, dates = paths[parcel_id], own.get(parcel_id, shared or [])
        order = np.argsort([day.toordinal() for day in dates], kind="stable").astype(np.int64)
        shape, dtype = _read_shape(path)
        ever_clear = None
        if dataset.valid.is_dir() and 0 not in shape:
            ever_clear = _read_ever_clear(dataset.valid / path.name, shape)
        in_order = tuple(dates[i] for i in order)
        parcels[parcel_id] = ExistingParcel(path, shape, dtype, order, in_order, ever_clear)
    _check_shapes(dataset, parcels)
    return parcels


def pack_arrays(
    parcels: Mapping[str, ExistingParcel], existing: DatasetPaths, paths: TilePaths, threads: int
) -> None:
    """Pack the pixels as assemble packs those of a tile.

    Parameters
    ----------
    parcels
        Parcels to pack, in order.
    existing
        Their dataset. Without VALID every observation is clear.
    paths
        Written: pixels and clear.
    threads
        Parcels that are read and written at the same time.
    """
    items = list(parcels.values())
    rows = np.concatenate([[0], np.cumsum([parcel.n_pixels for parcel in items])])
    n_dates, n_channels = max(parcel.shape[0] for parcel in items), items[0].shape[1]
    progress = ProgressLog("packed", len(items), "parcels")
    with (
        packing(paths, (int(rows[-1]), n_dates, n_channels)) as write,
        ThreadPoolExecutor(threads) as pool,
    ):

        def pack(i: int) -> None:
            pixels = items[i].read()
            clear = np.ones((pixels.shape[0], pixels.shape[2]), bool)
            if existing.valid.is_dir():
                clear = items[i].read_clear(existing.valid)
            # (T, C, S) to (S, T, C), and (T, S) to (S, T).
            write(int(rows[i]), pixels.transpose(2, 0, 1), clear.T)

        for _ in pool.map(pack, range(len(items))):
            progress.add(1)


def read_declared(dataset: DatasetPaths) -> dict[str, dict[str, Any]]:
    """Read labels.json, {nomenclature: {id: code, or None}}; {} where there is none."""
    labels = read_object(dataset.labels, optional=True)
    wrong = [name for name, codes in labels.items() if not isinstance(codes, dict)]
    _refuse(wrong, f"{dataset.labels}: expected {{nomenclature: {{id: code}}}}; other values")
    return labels


def check_features(dataset: DatasetPaths) -> None:
    """Check that the geometric features, if there are any, are finite numbers."""
    features = read_object(dataset.features, optional=True)
    try:
        values = np.array(list(features.values()), np.float64)
    except (TypeError, ValueError):
        raise InputError(
            f"{dataset.features}: expected {{id: [number, ...]}}, as many numbers for each parcel."
        ) from None
    # The first axis is the parcel. The second one is absent if every parcel has a single number.
    wrong_rows = np.unique(np.argwhere(~np.isfinite(values))[:, :1])
    if wrong := [list(features)[row] for row in wrong_rows[:5]]:
        raise InputError(
            f"{dataset.features}: the features of {len(wrong_rows)} parcels are not finite, such "
            f"as those of {', '.join(wrong)}. Compute them again, or remove the file and set "
            "model.geometric_features to false."
        )


def read_own_normalisation(dataset: DatasetPaths, parcel: ExistingParcel) -> Values | None:
    """Read the normalisation, dates in order of time; None where there is none."""
    file = dataset.existing_normalisation
    if file is None:
        return None
    means, stds = read_normalisation(file)
    if means.ndim == 2 and dataset.parcel_dates.is_file():
        raise InputError(
            f"{file} has one value per date, but dates differ between parcels (parcel_dates.json). "
            "Provide values per channel, or remove the file: then they are computed."
        )
    n_dates, n_channels, _ = parcel.shape
    if means.shape not in {(), (n_channels,), (n_dates, n_channels)}:
        raise InputError(
            f"{file} has values of shape {means.shape}, but the dataset has {n_channels} channels "
            f"and {n_dates} dates: expected (), ({n_channels},) or ({n_dates}, {n_channels}). "
            "Provide those of this dataset, or remove the file: then they are computed."
        )
    return (means[parcel.order], stds[parcel.order]) if means.ndim == 2 else (means, stds)


def _id_of(path: Path) -> str:
    """Return the id in a file's name; only %-encoding as in `file_name` is decoded."""
    decoded = unquote(path.stem)
    return decoded if file_name(decoded) == path.name else path.stem


def _read_shape(path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    with _naming(path):
        shape, dtype = read_shape(path)
    if len(shape) != 3 or dtype.kind not in "iu":
        raise InputError(
            f"{path}: expected integers of shape (T, C, S), found {dtype} of shape {shape}."
        )
    return shape, dtype


def _read_array(path: Path) -> NDArray[Any]:
    with _naming(path):
        return read_array(path)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Add the name of the file to the error of an array that cannot be read."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable array: {error}") from error


def _read_ever_clear(path: Path, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Read which pixels are clear on at least one date, bool (S,); None if all are."""
    clear = _read_array(path)
    expected = (shape[0], shape[2])
    if clear.shape != expected or clear.dtype != bool:
        raise InputError(
            f"{path}: expected bool of shape (T, S), {expected}, as the parcel's array in DATA; "
            f"found {clear.dtype} of shape {clear.shape}."
        )
    ever_clear: NDArray[np.bool_] = np.any(clear, axis=0)
    return None if ever_clear.all() else ever_clear


def _check_shapes(dataset: DatasetPaths, parcels: Mapping[str, ExistingParcel]) -> None:
    """Refuse arrays with other numbers of dates or channels than the dataset."""
    misdated = [
        f"{i} ({p.shape[0]} instead of {len(p.dates)})"
        for i, p in parcels.items()
        if p.shape[0] != len(p.dates)
    ]
    _refuse(
        misdated,
        f"The first axis of DATA/<id>.npy is not the dates of {dataset.dates.parent}",
    )
    channels = [p.shape[1] for p in parcels.values()]
    usual = max(set(channels), key=channels.count)
    others = [f"{i} ({p.shape[1]})" for i, p in parcels.items() if p.shape[1] != usual]
    _refuse(others, f"Most of DATA/<id>.npy have {usual} channels, others do not")


def _read_dates(dataset: DatasetPaths) -> list[date]:
    """Read the dates of the arrays' first axis; keys count from 0 or from 1."""
    values = read_object(dataset.dates)
    wrong = [key for key in values if not key.isdecimal()]
    _refuse(wrong, f'{dataset.dates}: expected {{"0": YYYYMMDD, "1": ...}}; other keys')
    if not values:
        raise InputError(f"{dataset.dates} has no dates.")
    return [_parse_date(values[key], dataset.dates) for key in sorted(values, key=int)]


def _read_parcel_dates(dataset: DatasetPaths) -> dict[str, list[date]]:
    """Read the parcels' own dates of their arrays' first axis; {} where there are none."""
    values = read_object(dataset.parcel_dates, optional=True)
    wrong = [i for i, own in values.items() if not isinstance(own, list)]
    _refuse(wrong, f"{dataset.parcel_dates}: expected {{id: [YYYYMMDD, ...]}}; other values")
    return {i: [_parse_date(v, dataset.parcel_dates) for v in own] for i, own in values.items()}


def _parse_date(value: object, path: Path) -> date:
    """Parse 20180501, "20180501", "2018-05-01" or an ISO date with a time."""
    try:
        return datetime.fromisoformat(str(value)).date()
    except ValueError:
        raise InputError(
            f"{path}: {value!r} is not a date. Write YYYYMMDD or YYYY-MM-DD."
        ) from None


def _refuse(items: Sequence[str], message: str) -> None:
    if items:
        raise InputError(f"{message}: {len(items)}, such as {', '.join(items[:5])}.")
