"""The Pixel-Set dataset of a run, opened once: arrays mapped, every table parsed once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geo.errors import InputError
from models.pixel_sets import PixelSets, StackedRows, arrays_of, stacked
from pipeline.classes.crop_class import Code, CropClass
from pipeline.dataset.folds import Fold, read_folds
from pipeline.dataset.npy_files import batches, map_array, unmap
from pipeline.workflow.paths import DatasetPaths

# Pixels of parcels that are predicted together.
BATCH_BYTES = 1_000_000_000


class PixelSetDataset:
    """Hold a dataset of N parcels; what is not asked for is not read, and nothing is read twice.

    It is a dataset as `torch.utils.data.DataLoader` takes them, too:

    >>> from torch.utils.data import DataLoader
    >>> dataset = PixelSetDataset.open(Path("results/demo/dataset"))
    >>> loader = DataLoader(dataset, batch_size=32, shuffle=True, collate_fn=pad, num_workers=2)
    >>> for batch in loader:
    ...     pixels, labels = batch["pixels"], batch["label"]  # uint16 (B, T, C, S), int64 (B,)

    Parameters
    ----------
    folder
        The dataset, results/<run>/dataset: packed pixels and META.
    """

    def __init__(self, folder: Path) -> None:
        self.paths = DatasetPaths(folder)

    @classmethod
    def open(cls, folder: Path) -> PixelSetDataset:
        """Open the dataset of a run.

        Raises
        ------
        InputError
            If the folder has no packed pixels, as the dataset was made elsewhere.
        """
        opened = cls(folder)
        if not opened.paths.tiles.is_file():
            raise InputError(
                f"{folder} has no {opened.paths.tiles.relative_to(folder)}: no stage of a run made "
                "it. Set dataset.path to it, and the stage ingest makes it the dataset of a run: "
                "snakemake dataset --config 'dataset={path: ...}'"
            )
        return opened

    def __reduce__(self) -> tuple[type[PixelSetDataset], tuple[Path]]:
        """Be opened anew in another process, instead of copying the arrays there."""
        return type(self), (self.paths.root,)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Read a parcel on its own dates.

        Returns
        -------
        dict
            id: str. pixels: uint16 (T, C, S). clear: bool (T, S), whether a mask hides the pixel
            on the date. days: int64 (T,) since the dataset's first date. label: int64, class
            index, -1 for none. features: float64 (F,), empty where the dataset has none.
        """
        if not -len(self) <= i < len(self):
            raise IndexError(f"the dataset has {len(self)} parcels, found {i}")
        i %= len(self)
        rows = slice(int(self.offsets[i]), int(self.offsets[i + 1]))
        own = int(self.lengths[i])
        features = self.features[i] if self.paths.features.is_file() else np.zeros(0)
        return {
            "id": self.ids[i],
            "pixels": np.array(self.pixels[rows][:, :own].transpose(1, 2, 0), order="C"),
            "clear": np.array(self.clear[rows][:, :own].T, order="C"),
            "days": self._days[i, :own].copy(),
            "label": self.labels[i],
            "features": features.copy(),
        }

    @cached_property
    def tiles(self) -> list[str]:
        """The tiles whose parcels the dataset holds, in its order."""
        return list(_read_json(self.paths.tiles))

    # Parcels

    @cached_property
    def ids(self) -> list[str]:
        """The N parcel ids, in the dataset's order."""
        return list(self._sizes)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Number of pixels S of every parcel, int64 (N,)."""
        return np.array(list(self._sizes.values()), np.int64)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Parcel i has the rows offsets[i] up to offsets[i + 1] of the pixels: int64 (N + 1,)."""
        return np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)

    @cached_property
    def n_dates(self) -> dict[str, int]:
        """On how many dates each parcel is clear, {id: number}, in the dataset's order."""
        n_dates = _read_json(self.paths.n_dates)
        return {i: n_dates[i] for i in self.ids}

    @cached_property
    def positions(self) -> NDArray[np.float64]:
        """A point on every parcel, float64 (N, 2), metres."""
        if not self.paths.positions.is_file():
            raise InputError(
                f"The dataset has no {self.paths.positions}, which says where the parcels are. "
                "Set split.by to random or stratified."
            )
        positions = _read_json(self.paths.positions)
        return np.array([positions[i] for i in self.ids], float).reshape(-1, 2)

    @cached_property
    def features(self) -> NDArray[np.float64]:
        """Geometric features of every parcel, float64 (N, F)."""
        known, values = self._features
        row = {parcel_id: i for i, parcel_id in enumerate(known)}
        if lacking := [i for i in self.ids if i not in row]:
            raise InputError(
                f"{self.paths.features} lacks {len(lacking)} parcels, such as "
                f"{', '.join(lacking[:5])}. Set model.geometric_features to false, or add them."
            )
        own: NDArray[np.float64] = values[[row[i] for i in self.ids]]
        return own

    @property
    def all_features(self) -> NDArray[np.float64]:
        """All features that were computed, also of parcels without pixels, float64 (M, F)."""
        return self._features[1]

    # Classes

    @cached_property
    def nomenclature(self) -> str | None:
        """The nomenclature of the classes; None without labels."""
        found: str | None = _read_json(self.paths.nomenclature)
        return found

    @cached_property
    def names(self) -> dict[str, str]:
        """What declared classes are called, trained on or not: {code as text: name}."""
        return dict(_read_json(self.paths.names))

    @cached_property
    def classes(self) -> list[CropClass]:
        """The classes in order of the class index, with the names that models keep."""
        return [CropClass(c["code"], c["name"]) for c in _read_json(self.paths.classes)]

    @cached_property
    def shown_classes(self) -> list[CropClass]:
        """The classes in order of the class index, with the names to show."""
        return [CropClass(c.code, self.names.get(str(c.code), c.name)) for c in self.classes]

    @cached_property
    def codes(self) -> dict[str, Code | None]:
        """The class code that each parcel declares, None where it declares none."""
        return dict(_read_json(self.paths.labels).get(self.nomenclature, {}))

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The class index of every parcel, int64 (N,); -1 where it has none among the classes."""
        index: dict[Code | None, int] = {c.code: i for i, c in enumerate(self.classes)}
        return np.array([index.get(self.codes.get(i), -1) for i in self.ids], np.int64)

    def folds(self, path: Path) -> list[Fold]:
        """Read the folds that split made of these parcels."""
        return read_folds(path, self.ids)

    # Dates and bands

    @cached_property
    def description(self) -> dict[str, Any]:
        """What the dataset says of itself: bands, cloud treatment, whether it is simulated."""
        return dict(_read_json(self.paths.description))

    @property
    def bands(self) -> list[str]:
        """Names of the C channels."""
        return list(self.description["bands"])

    @property
    def has_clouds(self) -> bool:
        """Whether cloudy observations were kept as they are, so that only clear ones count."""
        return bool(self.description["fill"] == "none")

    @cached_property
    def dates(self) -> list[date]:
        """The dates, in order of time: of all parcels together, where they have their own."""
        values = _read_json(self.paths.dates)
        return [date.fromisoformat(str(values[str(i)])) for i in range(len(values))]

    @cached_property
    def parcel_dates(self) -> dict[str, list[date]] | None:
        """The dates of each parcel, in order of time; None where all have those of the dataset."""
        if not self.paths.parcel_dates.is_file():
            return None
        values = _read_json(self.paths.parcel_dates)
        # Parcels share their dates with many others.
        days = {
            number: date.fromisoformat(str(number)) for own in values.values() for number in own
        }
        return {i: [days[number] for number in values[i]] for i in self.ids}

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Number of dates that each parcel has, int64 (N,)."""
        if self.parcel_dates is None:
            return np.full(len(self.ids), len(self.dates), np.int64)
        return np.array([len(self.parcel_dates[i]) for i in self.ids], np.int64)

    @cached_property
    def observed(self) -> NDArray[np.bool_] | None:
        """Which dates are not padding, bool (N, T); None where all parcels have the same dates."""
        if self.parcel_dates is None:
            return None
        observed: NDArray[np.bool_] = np.arange(self.lengths.max()) < self.lengths[:, None]
        return observed

    def days_from(self, day_0: date) -> NDArray[np.int64]:
        """Return the days of every parcel's dates since a date, int64 (N, T); 0 for padding."""
        if self.parcel_dates is None or self.observed is None:
            shared = np.array([(d - day_0).days for d in self.dates], np.int64)
            return np.broadcast_to(shared, (len(self.ids), len(shared)))
        days = np.zeros(self.observed.shape, np.int64)
        day = {d: (d - day_0).days for d in self.dates}
        days[self.observed] = [day[d] for i in self.ids for d in self.parcel_dates[i]]
        return days

    # Pixels

    @cached_property
    def pixels(self) -> NDArray[np.uint16] | StackedRows[np.uint16]:
        """The packed pixels of all tiles, uint16 (sum of S, T, C), mapped read-only."""
        rows: NDArray[np.uint16] | StackedRows[np.uint16]
        rows = self._mapped("pixels", np.uint16, (len(self.bands),))
        return rows

    @cached_property
    def clear(self) -> NDArray[np.bool_] | StackedRows[np.bool_]:
        """Which of these observations are clear, bool (sum of S, T), mapped; False for padding."""
        rows: NDArray[np.bool_] | StackedRows[np.bool_] = self._mapped("clear", bool, ())
        return rows

    def pixel_sets(
        self, *, with_features: bool, season_start: str | date | None = None
    ) -> PixelSets:
        """Return the dataset as models take it; pixels are read as they are used.

        Where cloudy observations were kept, which are clear comes with them; where they were
        filled, every observation counts. Where parcels have dates of their own, all are padded
        behind to the longest, and `observed` says which dates are true.

        Parameters
        ----------
        with_features
            Whether to read the features of the parcels.
        season_start
            Day 0: a date, or MM-DD for that day in the year of the first date. None: the first
            date.
        """
        return PixelSets(
            ids=self.ids,
            pixels=self.pixels,
            offsets=self.offsets,
            clear=self.clear if self.has_clouds else None,
            days=np.array(self.days_from(day_zero(self.dates[0], season_start))),
            observed=self.observed,
            features=self.features if with_features else None,
            labels=self.labels,
        )

    def _mapped(self, name: str, dtype: type, behind: tuple[int, ...]) -> Any:
        """Map an array of every tile; refuse those of other parcels, dates or bands than META."""
        files = [getattr(self.paths.tile(tile), name) for tile in self.tiles]
        arrays = [map_array(file, dtype, 2 + len(behind)) for file in files]
        rows = stacked(arrays)
        expected = (int(self.offsets[-1]), int(self.lengths.max(initial=0)), *behind)
        if rows.shape != expected:
            raise InputError(
                f"{', '.join(map(str, files[:5]))}: {np.dtype(dtype)} of shape {rows.shape}, the "
                f"dataset's META says {expected}. Make them anew: snakemake -R assemble; of an "
                "existing dataset, snakemake -R ingest."
            )
        return rows

    @cached_property
    def _days(self) -> NDArray[np.int64]:
        return self.days_from(self.dates[0])

    @cached_property
    def _sizes(self) -> dict[str, int]:
        return dict(_read_json(self.paths.sizes))

    @cached_property
    def _features(self) -> tuple[list[str], NDArray[np.float64]]:
        """The ids of geomfeat.json, and an array: the JSON itself takes ten times the memory."""
        if not self.paths.features.is_file():
            raise InputError(
                f"The dataset has no {self.paths.features}: set model.geometric_features to false."
            )
        found = _read_json(self.paths.features)
        values = np.array(list(found.values()), np.float64)
        # The reference takes a number for a list of one.
        return list(found), values[:, None] if values.ndim == 1 else values


def pad(parcels: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Join parcels into a batch, padded behind to the most dates T and the most pixels S of them.

    Parameters
    ----------
    parcels
        As `PixelSetDataset` returns them.

    Returns
    -------
    dict
        id: list of str. pixels: uint16 (B, T, C, S). clear: bool (B, T, S), False for padding.
        days: int64 (B, T). observed: bool (B, T), False for padding. label: int64 (B,). features:
        float64 (B, F).
    """
    lengths = np.array([len(p["days"]) for p in parcels])
    width, channels, size = np.max([p["pixels"].shape for p in parcels], axis=0)
    pixels = np.zeros((len(parcels), width, channels, size), np.uint16)
    clear = np.zeros((len(parcels), width, size), bool)
    days = np.zeros((len(parcels), width), np.int64)
    for row, parcel in enumerate(parcels):
        own, _, own_size = parcel["pixels"].shape
        pixels[row, :own, :, :own_size] = parcel["pixels"]
        clear[row, :own, :own_size] = parcel["clear"]
        days[row, :own] = parcel["days"]
    return {
        "id": [p["id"] for p in parcels],
        "pixels": pixels,
        "clear": clear,
        "days": days,
        "observed": np.arange(width) < lengths[:, None],
        "label": np.array([p["label"] for p in parcels], np.int64),
        "features": np.stack([p["features"] for p in parcels]),
    }


def in_order(data: PixelSets, n_bytes: int = BATCH_BYTES) -> Iterator[tuple[int, PixelSets]]:
    """Yield the parcels in batches, in the order in which their pixels lie in the files.

    The pixels of a batch stay mapped until the next one is asked for: what is mapped is about
    `n_bytes`, or one parcel.

    Yields
    ------
    start, batch
        Place of the first parcel of the batch, and the batch.
    """
    pixel_bytes = max(data.n_dates * data.n_channels * data.pixels.itemsize, 1)
    for first, last in batches(data.offsets, n_bytes // pixel_bytes):
        yield first, data.between(first, last)
        for rows in (data.pixels, data.clear):
            for array in () if rows is None else arrays_of(rows):
                unmap(array)


def day_zero(first: date, season_start: str | date | None) -> date:
    """Return the date that days are counted from; see `PixelSetDataset.pixel_sets`."""
    if season_start is None:
        return first
    if isinstance(season_start, date):
        return season_start
    return date.fromisoformat(f"{first.year}-{season_start}")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"The dataset lacks {path}.") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
