"""The Pixel-Set dataset of a run: arrays are mapped into memory, every table is parsed once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geo.errors import InputError, first_five
from models.model_description import ModelDescription
from models.pixel_sets import PixelSets, StackedRows, stacked
from pipeline.classes.crop_class import Code, CropClass
from pipeline.dataset.packed_tiles import map_array
from pipeline.dataset.season import in_year, moved_dates, season_of
from pipeline.workflow.artefacts import artefact, once, read_json, remedy_for
from pipeline.workflow.large_json import read_json_parts
from pipeline.workflow.paths import DatasetPaths

ROLES = ("train", "validation", "test")


@dataclass(frozen=True)
class Fold:
    """Positions in the dataset of the parcels of one fold, int64 each."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


class PixelSetDataset:
    """A dataset of N parcels. Every file is read when it is first needed, and only once.

    It can be passed to `torch.utils.data.DataLoader`:

    >>> from torch.utils.data import DataLoader
    >>> dataset = PixelSetDataset.open(Path("results/demo/dataset"))
    >>> loader = DataLoader(dataset, batch_size=32, shuffle=True, collate_fn=pad, num_workers=2)
    >>> for batch in loader:
    ...     pixels, labels = batch["pixels"], batch["label"]  # uint16 (B, T, C, S), int64 (B,)

    Parameters
    ----------
    folder
        The dataset, `results/<run>/dataset`: packed pixels and META.
    """

    def __init__(self, folder: Path | str) -> None:
        self.paths = DatasetPaths(Path(folder))

    @classmethod
    def open(cls, folder: Path | str) -> PixelSetDataset:
        """Open the dataset of a run.

        Raises
        ------
        InputError
            If the folder has no packed pixels, because the dataset was made elsewhere.
        """
        opened = cls(folder)
        if not (tiles := opened.paths.tiles).is_file():
            raise InputError(
                f"{folder} has no {tiles.relative_to(opened.paths.root)}: it was not made by a "
                "run. Set dataset.path to it, and the stage ingest makes a dataset of a run from "
                "it: snakemake dataset --config 'dataset={path: ...}'"
            )
        return opened

    def __reduce__(self) -> tuple[type[PixelSetDataset], tuple[Path]]:
        """Open the dataset again in another process, instead of copying its arrays."""
        return type(self), (self.paths.root,)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Read a parcel, on its own dates.

        Returns
        -------
        dict
            id: str. pixels: uint16 (T, C, S). clear: bool (T, S), False where the observation is
            cloudy or nodata. days: int64 (T,) since the dataset's first date. label: int64, class
            index, -1 for none. features: float64 (F,), empty where the dataset has none.
        """
        if not -len(self) <= i < len(self):
            raise IndexError(f"the dataset has {len(self)} parcels, found index {i}")
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
        """The tiles of the dataset's parcels, in its order."""
        return read_json(self.paths.tiles, list)

    # Parcels

    @cached_property
    def ids(self) -> list[str]:
        """The N parcel ids, in the dataset's order."""
        return self._ids_and_sizes[0]

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Number of pixels S of every parcel, int64 (N,)."""
        return self._ids_and_sizes[1]

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Parcel i has the rows offsets[i] up to offsets[i + 1] of pixels, int64 (N + 1,)."""
        return np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)

    @cached_property
    def n_dates(self) -> NDArray[np.int64]:
        """Number of dates on which each parcel is clear, int64 (N,)."""
        return self._table(self.paths.n_dates)[:, 0].astype(np.int64)

    @cached_property
    def positions(self) -> NDArray[np.float64]:
        """A point on every parcel, float64 (N, 2), metres."""
        if not self.paths.positions.is_file():
            raise InputError(
                f"The dataset has no {self.paths.positions}, the positions of the parcels. "
                "Set split.by to random or stratified."
            )
        return self._table(self.paths.positions, "Set split.by to random, or add them. ")

    @cached_property
    def features(self) -> NDArray[np.float64]:
        """Geometric features of every parcel, float64 (N, F)."""
        self._refuse_no_features()
        remedy = "Set model.geometric_features to false, or add them. "
        return self._table(self.paths.features, remedy)

    @property
    def all_features(self) -> NDArray[np.float64]:
        """All rows of geomfeat.json, parcels without pixels included, float64 (M, F)."""
        self._refuse_no_features()
        path = self.paths.features
        return np.concatenate([_as_rows(path, part) for part in read_json_parts(path)])

    # Classes

    @cached_property
    def nomenclature(self) -> str | None:
        """The nomenclature of the classes; None without labels."""
        return read_json(self.paths.nomenclature, _as_name)

    @cached_property
    def names(self) -> dict[str, str]:
        """Names of all declared classes, {code as text: name}."""
        return read_json(self.paths.names, dict)

    @cached_property
    def classes(self) -> list[CropClass]:
        """The classes in order of the class index, with the names that are saved with a model."""
        return read_json(
            self.paths.classes, lambda values: [CropClass(c["code"], c["name"]) for c in values]
        )

    @cached_property
    def shown_classes(self) -> list[CropClass]:
        """The classes in order of the class index, with the names that are shown."""
        return [CropClass(c.code, self.names.get(str(c.code), c.name)) for c in self.classes]

    @cached_property
    def codes(self) -> list[Code | None]:
        """The declared class code of each of the N parcels, None where none is declared."""
        codes: list[Code | None] = [None] * len(self)
        if self.nomenclature is not None:
            same: dict[Any, Code | None] = {}  # one object for all parcels of a code
            for places, own in self._parts(self.paths.labels, within=self.nomenclature):
                for place, code in zip(places.tolist(), own.values(), strict=True):
                    if place >= 0:
                        codes[place] = same.setdefault((type(code), code), code)
        return codes

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The class index of every parcel, int64 (N,); -1 if its code is not among the classes."""
        index: dict[Code | None, int] = {c.code: i for i, c in enumerate(self.classes)}
        return np.array([index.get(code, -1) for code in self.codes], np.int64)

    def folds(self, path: Path | str) -> list[Fold]:
        """Read the folds that split wrote.

        Raises
        ------
        InputError
            If a parcel of the folds is not in the dataset.
        """
        place = self._places()
        unknown: set[str] = set()

        def places_of(ids: list[str]) -> NDArray[np.int64]:
            places = np.fromiter((place.get(i, -1) for i in ids), np.int64, len(ids))
            unknown.update(ids[i] for i in np.flatnonzero(places < 0))
            return places

        folds = read_folds(Path(path), places_of)
        if unknown:
            raise InputError(
                f"{path} names {len(unknown)} parcels that the dataset lacks: "
                f"{', '.join(sorted(unknown)[:5])}. Run split again: snakemake -R split."
            )
        return [Fold(**fold) for fold in folds]

    def fold(self, path: Path, number: int) -> Fold:
        """Return one fold of those that split wrote, by its number from 1."""
        folds = self.folds(path)
        if not 1 <= number <= len(folds):
            raise InputError(f"{path} contains folds 1 to {len(folds)}, not {number}.")
        return folds[number - 1]

    # Dates and bands

    @cached_property
    def description(self) -> dict[str, Any]:
        """Bands, cloud treatment, and whether the imagery is simulated, as in dataset.json."""
        return read_json(self.paths.description, _as_description)

    @property
    def bands(self) -> list[str]:
        """Names of the C channels."""
        return list(self.description["bands"])

    @property
    def masks_clouds(self) -> bool:
        """Whether cloudy observations are kept and masked, instead of interpolated in time."""
        return bool(self.description["fill"] == "none")

    @cached_property
    def dates(self) -> list[date]:
        """The dates of all parcels, in order of time."""
        return read_json(
            self.paths.dates, lambda values: [_as_date(values[str(i)]) for i in range(len(values))]
        )

    @cached_property
    def parcel_dates(self) -> dict[str, list[date]] | None:
        """The dates of each parcel, in order of time; None if all parcels have the same dates."""
        if not self.paths.parcel_dates.is_file():
            return None
        # Most parcels have the same dates as many others, and share their list.
        known: dict[tuple[int, ...], list[date]] = {}
        dates: dict[str, list[date]] = {parcel_id: [] for parcel_id in self.ids}
        found = np.zeros(len(self), np.bool_)
        for places, part in self._parts(self.paths.parcel_dates):
            with artefact(self.paths.parcel_dates, "the dates of every parcel"):
                numbers = list(map(tuple, part.values()))
                known |= {n: list(map(_as_date, n)) for n in {*numbers} - known.keys()}
            for place, own in zip(places.tolist(), numbers, strict=True):
                if place >= 0:
                    dates[self.ids[place]] = known[own]
            found[places[places >= 0]] = True
        self._refuse_lacking(self.paths.parcel_dates, found)
        return dates

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Number of dates that each parcel has, int64 (N,)."""
        if self.parcel_dates is None:
            return np.full(len(self.ids), len(self.dates), np.int64)
        return np.array([len(own) for own in self.parcel_dates.values()], np.int64)

    @cached_property
    def observed(self) -> NDArray[np.bool_] | None:
        """Whether a date is not padding, bool (N, T); None if all parcels have the same dates."""
        if self.parcel_dates is None:
            return None
        observed: NDArray[np.bool_] = np.arange(self.lengths.max()) < self.lengths[:, None]
        return observed

    @cached_property
    def datasets(self) -> dict[str, list[str]]:
        """The parcels of each dataset that the run started from; {} for one or none."""
        return {name: list(own["parcels"]) for name, own in self._datasets.items()}

    @cached_property
    def years(self) -> NDArray[np.int64]:
        """Years of every parcel's season after the earliest one, int64 (N,); 0 for one dataset."""
        years = {i: own["years"] for own in self._datasets.values() for i in own["parcels"]}
        return np.array([years.get(i, 0) for i in self.ids], np.int64)

    @cached_property
    def season_dates(self) -> list[date]:
        """The dates of all parcels, in order, moved to the season of the earliest dataset."""
        if self.parcel_dates is None:
            return self.dates
        by_years: dict[int, set[date]] = {}
        for own, years in zip(self.parcel_dates.values(), self.years.tolist(), strict=True):
            by_years.setdefault(years, set()).update(own)
        return moved_dates(by_years)

    def days_from(self, day_0: date) -> NDArray[np.int64]:
        """Return every parcel's dates as days since day 0, int64 (N, T); 0 for padding.

        Of several datasets, `day_0` is that of the earliest season. The day 0 of a later season is
        its anniversary, so that the seasons lie on each other.
        """
        if self.parcel_dates is None or self.observed is None:
            shared = np.array([(d - day_0).days for d in self.dates], np.int64)
            return np.broadcast_to(shared, (len(self.ids), len(shared)))
        days = np.zeros(self.observed.shape, np.int64)
        zeros = {n: in_year(day_0, day_0.year + n) for n in set(self.years.tolist())}
        since = {n: {d: (d - zero).days for d in self.dates} for n, zero in zeros.items()}
        days[self.observed] = [
            since[n][d]
            for own, n in zip(self.parcel_dates.values(), self.years.tolist(), strict=True)
            for d in own
        ]
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
        """Whether each observation is clear, bool (sum of S, T), mapped; False for padding."""
        rows: NDArray[np.bool_] | StackedRows[np.bool_] = self._mapped("clear", bool, ())
        return rows

    def pixel_sets(
        self,
        *,
        with_features: bool,
        season_start: str | date | None = None,
        only_clear: bool = False,
    ) -> PixelSets:
        """Return the dataset as models take it. Pixels are read when they are used.

        If cloudy observations are masked, the mask is included. If they are interpolated, every
        observation is used. If dates differ between parcels, all parcels are padded behind to the
        most dates, and `observed` is False for padding.

        Parameters
        ----------
        with_features
            Whether to read the features of the parcels.
        season_start
            Day 0, as `day_zero` takes it.
        only_clear
            Whether to mask interpolated observations, too. They were computed from the clear ones
            before and after them, which are not known yet while the season goes on.
        """
        return PixelSets(
            ids=self.ids,
            pixels=self.pixels,
            offsets=self.offsets,
            clear=self.clear if self.masks_clouds or only_clear else None,
            days=self.days_from(day_zero(self.dates[0], season_start)),
            observed=self.observed,
            features=self.features if with_features else None,
            labels=self.labels,
        )

    def inputs_of(self, description: ModelDescription) -> PixelSets:
        """Return the dataset as a model takes it, with days since the model's day 0.

        Raises
        ------
        InputError
            If the model has other bands, or most dates are far from those of its training.
        """
        self.check_bands(description)
        season = season_of(description, self.season_dates)
        season.refuse("The model")
        return self.pixel_sets(
            with_features=description.feature_scaling is not None, season_start=season.day_0
        )

    def check_bands(self, description: ModelDescription) -> None:
        """Refuse a model that was trained with other bands."""
        if description.bands != self.bands:
            raise InputError(
                f"The models were trained with the bands {', '.join(description.bands)}; the "
                f"dataset has {', '.join(self.bands)}. Prepare it with the models' bands, in their "
                "order."
            )

    def _mapped(self, name: str, dtype: type, axes: tuple[int, ...]) -> Any:
        """Map an array of every tile; refuse a shape that contradicts META."""
        files = [getattr(self.paths.tile(tile), name) for tile in self.tiles]
        arrays = [map_array(file, dtype, 2 + len(axes)) for file in files]
        rows = stacked(arrays)
        expected = (int(self.offsets[-1]), int(self.lengths.max(initial=0)), *axes)
        if rows.shape != expected:
            raise InputError(
                f"{', '.join(map(str, files[:5]))}: {np.dtype(dtype)} of shape {rows.shape}, the "
                f"dataset's META says {expected}. {remedy_for(files[0])}"
            )
        return rows

    def _parts(
        self, path: Path, within: str | None = None
    ) -> Iterator[tuple[NDArray[np.int64], dict[str, Any]]]:
        """Yield the entries of {id: value} in parts, and the position of each, -1 for others."""
        start, place = 0, None
        for part in read_json_parts(path, within):
            ids = list(part)
            if ids == self.ids[start : start + len(ids)]:  # written in the order of the dataset
                places = np.arange(start, start + len(ids))
            else:
                place = place or self._places()
                places = np.array([place.get(i, -1) for i in ids], np.int64)
            start += len(ids)
            yield places, part

    def _table(self, path: Path, remedy: str = "") -> NDArray[np.float64]:
        """Read {id: number or numbers} as rows for the parcels of the dataset, float64 (N, F)."""
        found, table = np.zeros(len(self), np.bool_), np.empty((len(self), 0))
        for places, part in self._parts(path):
            rows, own = _as_rows(path, part), places >= 0
            if not found.any():
                table = np.empty((len(self), rows.shape[1]))
            with artefact(path, "as many numbers for every parcel"):
                table[places[own]] = rows[own]
            found[places[own]] = True
        self._refuse_lacking(path, found, remedy)
        return table

    def _refuse_lacking(self, path: Path, found: NDArray[np.bool_], remedy: str = "") -> None:
        """Refuse a file that lacks parcels of the dataset."""
        if not found.all():
            missing = [self.ids[i] for i in np.flatnonzero(~found)]
            raise InputError(
                f"{path} lacks {len(missing)} parcels, such as {first_five(missing)}. "
                f"{remedy}{remedy_for(path)}"
            )

    def _refuse_no_features(self) -> None:
        if not self.paths.features.is_file():
            raise InputError(
                f"The dataset has no {self.paths.features}: set model.geometric_features to false."
            )

    def _places(self) -> dict[str, int]:
        """Return the position of every id; not kept, because it is larger than the ids."""
        return {parcel_id: i for i, parcel_id in enumerate(self.ids)}

    @cached_property
    def _days(self) -> NDArray[np.int64]:
        return self.days_from(self.dates[0])

    @cached_property
    def _datasets(self) -> dict[str, dict[str, Any]]:
        if not self.paths.datasets.is_file():
            return {}
        return read_json(self.paths.datasets, _as_datasets)

    @cached_property
    def _ids_and_sizes(self) -> tuple[list[str], NDArray[np.int64]]:
        ids: list[str] = []
        sizes = [np.zeros(0, np.int64)]
        for part in read_json_parts(self.paths.sizes):
            ids += part
            with artefact(self.paths.sizes, "a number of pixels for every parcel"):
                sizes.append(np.array(list(part.values()), np.int64))
        return ids, np.concatenate(sizes)


def pad(parcels: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Join parcels into a batch, padded behind to the most dates T and the most pixels S.

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


def read_folds(path: Path, places_of: Callable[[list[str]], Any] = list) -> list[dict[str, Any]]:
    """Read the folds that split wrote: {train, validation or test: parcel ids} each.

    Parameters
    ----------
    path
        The file.
    places_of
        Replaces the ids of a part. It is called while the file is parsed, so that the ids of one
        fold are in memory at a time.
    """

    def shorten(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = once(pairs)
        return values | {role: places_of(values[role]) for role in ROLES if role in values}

    with artefact(path, "the folds of a dataset"):
        values = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=shorten)
        return [{role: fold[role] for role in ROLES} for fold in values["folds"]]


def _as_date(number: int) -> date:
    """Parse YYYYMMDD."""
    return date.fromisoformat(str(number))


def _as_name(value: Any) -> str | None:
    """Check that JSON is a name or null."""
    if not isinstance(value, str | None):
        raise ValueError(f"it contains {value!r}")
    return value


def _as_datasets(values: Any) -> dict[str, dict[str, Any]]:
    """Check the content of datasets.json."""
    return {
        name: {"years": int(own["years"]), "parcels": list(own["parcels"])}
        for name, own in values.items()
    }


def _as_description(values: Any) -> dict[str, Any]:
    """Check the parts of dataset.json that stages use."""
    if lacking := [key for key in ("bands", "crs", "fill", "simulated") if key not in values]:
        raise ValueError(f"it lacks {', '.join(lacking)}")
    return dict(values)


def _as_rows(path: Path, part: dict[str, Any]) -> NDArray[np.float64]:
    """Return the values of JSON as rows of numbers, ten times smaller, float64 (n, F)."""
    with artefact(path, "as many numbers for every parcel"):
        table = np.array(list(part.values()), np.float64)
        if table.ndim > 2:
            raise ValueError(f"it has lists of lists, of shape {table.shape[1:]}")
    # Like the reference, accept a single number for a list of one.
    return table[:, None] if table.ndim == 1 else table


def day_zero(first: date, season_start: str | date | None) -> date:
    """Return the date from which days are counted.

    Parameters
    ----------
    first
        The first date of the dataset.
    season_start
        A date; MM-DD for that day in the year of the first date; None for the first date.
    """
    if season_start is None:
        return first
    if isinstance(season_start, date):
        return season_start
    return date.fromisoformat(f"{first.year}-{season_start}")
