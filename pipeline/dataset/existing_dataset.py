"""Read the arrays of a Pixel-Set dataset that was made elsewhere, in every form that occurs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import date
from itertools import compress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from geo.errors import InputError, first_five, reading
from geo.pixels.gap_filling import fill_linear
from pipeline.dataset.existing_metadata import read_dates, read_parcel_dates, refuse
from pipeline.dataset.metadata import read_object
from pipeline.dataset.normalisation_pickle import Values, read_normalisation
from pipeline.dataset.npy_files import file_name, read_array, read_shape
from pipeline.dataset.packed_tiles import packing
from pipeline.dataset.stored_values import UNIT, check_scale, convert, factor_of, is_our_unit
from pipeline.workflow.paths import DatasetPaths, TilePaths
from pipeline.workflow.progress import ProgressLog

# Arrays from which the scale of the values is checked.
SAMPLES = 100


@dataclass(frozen=True)
class ExistingParcel:
    """The array of a parcel in the existing dataset.

    Attributes
    ----------
    path
        File of (T, C, S).
    valid_path
        File of (T, S) in VALID; None without VALID.
    shape, dtype
        Shape and type in the file.
    scale
        dataset.reflectance_scale.
    order
        int64 (T,), positions in the file of the dates in order of time.
    dates
        The T dates, in order of time.
    ever_clear
        bool (S,), pixels that are clear on at least one date. The others are left out. None if
        all are clear at least once.
    n_nodata
        int64 (T,), observations without data on each date. Without VALID these are also the
        observations that are 0 in all channels.
    n_clear_dates
        Number of dates on which at least one pixel is clear.
    """

    path: Path
    valid_path: Path | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scale: float | None
    order: NDArray[np.int64]
    dates: tuple[date, ...]
    ever_clear: NDArray[np.bool_] | None = None
    n_nodata: NDArray[np.int64] | None = None
    n_clear_dates: int = 0

    @property
    def n_pixels(self) -> int:
        """Number of pixels that are not left out."""
        return self.shape[2] if self.ever_clear is None else int(self.ever_clear.sum())

    @property
    def has_nodata(self) -> bool:
        """Whether an observation has no data."""
        return self.n_nodata is not None and bool(self.n_nodata.any())

    def is_as_stored(self, parcel_id: str) -> bool:
        """Return whether a run can use the file unchanged: name, values, pixels, dates."""
        return (
            bool((np.diff(self.order) > 0).all())
            and self.path.name == file_name(parcel_id)
            and is_our_unit(self.dtype, self.scale)
            and self.ever_clear is None
            and not self.has_nodata
        )

    def examined(self) -> ExistingParcel:
        """Return the parcel with what only the values of its arrays tell."""
        if 0 in self.shape:
            return self
        # VALID tells everything about uint16 of our unit, so that DATA need not be read for it.
        if self.valid_path is not None and is_our_unit(self.dtype, self.scale):
            clear = _read_valid(self.valid_path, self.shape)
            nodata = np.zeros_like(clear)
        else:
            _, clear, nodata = self._read()
        ever_clear: NDArray[np.bool_] = np.any(clear, axis=0)
        return replace(
            self,
            ever_clear=None if ever_clear.all() else ever_clear,
            n_nodata=nodata.sum(axis=1)[self.order],
            n_clear_dates=int(np.any(clear, axis=1).sum()),
        )

    def read(self, *, fill: bool) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
        """Read pixels, uint16 (T, C, S), and which are clear, bool (T, S), in order of time.

        Parameters
        ----------
        fill
            Whether observations without data are interpolated in time, as cloudy ones are.
        """
        pixels, clear, nodata = (self._select(array) for array in self._read())
        if fill and nodata.any():
            pixels = np.ascontiguousarray(pixels)
            days = np.array([day.toordinal() for day in self.dates], np.int64)
            fill_linear(pixels, ~nodata, days)
        return pixels, clear

    def _read(self) -> tuple[NDArray[np.uint16], NDArray[np.bool_], NDArray[np.bool_]]:
        """Read pixels, which are clear, and which have no data; dates as in the file."""
        stored = _read_array(self.path)
        if self.valid_path is None:
            pixels, nodata = convert(stored, self.scale)
            # Without VALID, 0 in all channels is the nodata of Sentinel-2. No surface reflects it.
            nodata |= ~stored.any(axis=1)
            return pixels, ~nodata, nodata
        clear = _read_valid(self.valid_path, self.shape)
        if is_our_unit(self.dtype, self.scale):
            return stored, clear, np.zeros_like(clear)
        pixels, nodata = convert(stored, self.scale)
        return pixels, clear & ~nodata, nodata

    def _select(self, array: NDArray[Any]) -> NDArray[Any]:
        """Order the dates and leave out pixels that are never clear."""
        in_order = array[self.order]
        return in_order if self.ever_clear is None else in_order[..., self.ever_clear]


def read_parcels(
    dataset: DatasetPaths, scale: float | None = None, threads: int = 1
) -> dict[str, ExistingParcel]:
    """Find the arrays of all parcels, ordered by id: as numbers if all ids are numbers.

    Parameters
    ----------
    dataset
        The existing dataset.
    scale
        dataset.reflectance_scale.
    threads
        Parcels that are read at the same time.

    Raises
    ------
    InputError
        If there are none, if their dates are not those of the dataset, if their numbers of
        channels differ, if VALID does not fit them, or if their values are not plausible as
        reflectance.
    """
    shortened = {name: i for i, name in read_object(dataset.file_names, optional=True).items()}
    paths = {
        shortened.get(path.name) or _id_of(path): path
        for path in dataset.pixels.glob("*.npy")
        if not path.name.startswith(("._", ".nfs"))  # written by macOS and NFS
    }
    if not paths:
        raise InputError(f"{dataset.pixels} has no <id>.npy files. Check dataset.path.")
    numeric = all(parcel_id.isascii() and parcel_id.isdecimal() for parcel_id in paths)
    ids = sorted(paths, key=(lambda i: (int(i), i)) if numeric else None)
    own = read_parcel_dates(dataset)
    shared = read_dates(dataset) if dataset.dates.is_file() or not own else None
    if shared is None:
        refuse(
            [i for i in ids if i not in own],
            f"{dataset.parcel_dates} lacks parcels of DATA, and there is no {dataset.dates} for "
            "them",
        )
    has_valid = dataset.valid.is_dir()
    parcels = {}
    for parcel_id in ids:
        path, dates = paths[parcel_id], own.get(parcel_id, shared or [])
        order = np.argsort([day.toordinal() for day in dates], kind="stable").astype(np.int64)
        shape, dtype = _read_shape(path)
        parcels[parcel_id] = ExistingParcel(
            path=path,
            valid_path=dataset.valid / path.name if has_valid else None,
            shape=shape,
            dtype=dtype,
            scale=scale,
            order=order,
            dates=tuple(dates[i] for i in order),
        )
    _check_shapes(dataset, parcels)
    _check_values(dataset, list(parcels.values()), scale)
    with ThreadPoolExecutor(threads) as pool:
        examined = pool.map(ExistingParcel.examined, parcels.values())
        return dict(zip(parcels, examined, strict=True))


def pack_arrays(
    parcels: Mapping[str, ExistingParcel], paths: TilePaths, threads: int, *, fill: bool = True
) -> None:
    """Pack the pixels as assemble packs those of a tile.

    Parameters
    ----------
    parcels
        Parcels to pack, in order.
    paths
        Written: pixels and clear.
    threads
        Parcels that are read and written at the same time.
    fill
        Whether observations without data are interpolated in time.
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
            pixels, clear = items[i].read(fill=fill)
            # (T, C, S) to (S, T, C), and (T, S) to (S, T).
            write(int(rows[i]), pixels.transpose(2, 0, 1), clear.T)

        for _ in pool.map(pack, range(len(items))):
            progress.add(1)


def say_nodata(parcels: Iterable[ExistingParcel]) -> str | None:
    """Say how many observations have no data, and on which dates; None if all have data."""
    n, n_all, n_parcels = 0, 0, 0
    whole: Counter[date] = Counter()
    for parcel in parcels:
        if parcel.n_nodata is None:
            continue
        n += int(parcel.n_nodata.sum())
        n_all += parcel.shape[0] * parcel.shape[2]
        n_parcels += parcel.has_nodata
        whole.update(compress(parcel.dates, parcel.n_nodata == parcel.shape[2]))
    if not n:
        return None
    dates = [f"{day} ({count} parcels)" for day, count in whole.most_common()]
    return (
        f"{n} of {n_all} observations of pixels ({100 * n / n_all:.2g} %), of {n_parcels} parcels, "
        "have no data: 0 in all channels without VALID, NaN, or no plausible reflectance"
        f"{'; none of a parcel on ' * bool(dates)}{first_five(dates)}"
    )


def read_own_normalisation(
    dataset: DatasetPaths, parcels: Sequence[ExistingParcel]
) -> Values | None:
    """Read the normalisation, in the unit of a run and dates in order of time; None without one."""
    file = dataset.existing_normalisation
    if file is None:
        return None
    means, stds = read_normalisation(file)
    if means.ndim == 2 and dataset.parcel_dates.is_file():
        raise InputError(
            f"{file} has one value per date, but dates differ between parcels (parcel_dates.json). "
            "Provide values per channel, or remove the file: then they are computed."
        )
    parcel = parcels[0]
    n_dates, n_channels, _ = parcel.shape
    if means.shape not in {(), (n_channels,), (n_dates, n_channels)}:
        raise InputError(
            f"{file} has values of shape {means.shape}, but the dataset has {n_channels} channels "
            f"and {n_dates} dates: expected (), ({n_channels},) or ({n_dates}, {n_channels}). "
            "Provide those of this dataset, or remove the file: then they are computed."
        )
    factor = factor_of(parcel.dtype, parcel.scale)
    if factor != 1:
        # The pickle and the arrays were written by the same software, in the same unit.
        means, stds = means * factor, stds * factor
        median = UNIT * check_scale(_samples(parcels), parcel.scale, dataset.pixels)
        if not median / 20 <= np.median(means) <= median * 20:
            raise InputError(
                f"{file} has the means {np.array2string(np.ravel(means / factor)[:5])}, the median "
                f"of the arrays is {median / factor:.6g}: they are in different units. Provide "
                "values in the unit of the arrays, or remove the file: then they are computed."
            )
    return (means[parcel.order], stds[parcel.order]) if means.ndim == 2 else (means, stds)


def _id_of(path: Path) -> str:
    """Return the id in a file's name; only %-encoding as in `file_name` is decoded."""
    decoded = unquote(path.stem)
    return decoded if file_name(decoded) == path.name else path.stem


def _read_shape(path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    with _naming(path):
        shape, dtype = read_shape(path)
    if len(shape) != 3 or dtype.kind not in "iuf":
        raise InputError(
            f"{path}: expected numbers of shape (T, C, S), found {dtype} of shape {shape}."
        )
    return shape, dtype


def _read_array(path: Path) -> NDArray[Any]:
    with _naming(path):
        return read_array(path)


def _naming(path: Path) -> AbstractContextManager[None]:
    """Name the file if its array cannot be read."""
    if not path.is_file():  # a pipe would be waited for
        raise InputError(f"{path} is not a file.")
    return reading(path, "a readable array", "Write it again with numpy.save.")


def _read_valid(path: Path, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Read which observations are clear, bool (T, S); `shape` is that of the array in DATA."""
    if not path.is_file():
        raise InputError(f"There is no {path}, but other parcels have one. Write it, or no VALID.")
    clear = _read_array(path)
    expected = (shape[0], shape[2])
    if clear.shape != expected or clear.dtype != bool:
        raise InputError(
            f"{path}: expected bool of shape (T, S), {expected}, as the parcel's array in DATA; "
            f"found {clear.dtype} of shape {clear.shape}."
        )
    return clear


def _check_values(
    dataset: DatasetPaths, parcels: Sequence[ExistingParcel], scale: float | None
) -> None:
    """Refuse values of several units, or of a unit that is not plausible."""
    with_pixels = [parcel for parcel in parcels if 0 not in parcel.shape]
    floats = [p.path.name for p in with_pixels if p.dtype.kind == "f"]
    if len(floats) < len(with_pixels):
        refuse(floats, f"{dataset.pixels}: some arrays are integers, others are floats")
    check_scale(_samples(with_pixels), scale, dataset.pixels)


def _samples(parcels: Sequence[ExistingParcel]) -> Iterator[NDArray[Any]]:
    """Read the arrays of some parcels, evenly spaced, because neighbours are alike."""
    for parcel in parcels[:: max(1, len(parcels) // SAMPLES)]:
        yield _read_array(parcel.path)


def _check_shapes(dataset: DatasetPaths, parcels: Mapping[str, ExistingParcel]) -> None:
    """Refuse arrays with other numbers of dates or channels than the dataset."""
    misdated = [
        f"{i} ({p.shape[0]} instead of {len(p.dates)})"
        for i, p in parcels.items()
        if p.shape[0] != len(p.dates)
    ]
    refuse(
        misdated,
        f"The first axis of DATA/<id>.npy is not the dates of {dataset.dates.parent} (parcels with "
        "dates of their own: META/parcel_dates.json, {id: [YYYYMMDD, ...]})",
    )
    channels = [p.shape[1] for p in parcels.values()]
    usual = max(set(channels), key=channels.count)
    others = [f"{i} ({p.shape[1]})" for i, p in parcels.items() if p.shape[1] != usual]
    refuse(others, f"Most of DATA/<id>.npy have {usual} channels, others do not")
