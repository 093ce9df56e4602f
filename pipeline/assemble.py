"""Stage assemble: all extracted acquisitions become the Pixel-Set dataset."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geo.gap_filling import fill_linear
from geo.pixel_index import PixelIndex
from pipeline.acquisition_table import read_used
from pipeline.paths import DatasetPaths
from pipeline.pixel_set_store import Code, LandClass, write_arrays, write_metadata
from pipeline.settings import Settings
from pipeline.writing import replacing_folder

logger = logging.getLogger(__name__)

# Filling holds several copies of a block of pixels.
COPIES = 6


def assemble(
    acquisitions: Path,
    extracted: Path,
    pixel_index: Path,
    parcels: Path,
    classes: Path,
    dataset: Path,
    settings: Settings,
    threads: int = 1,
) -> None:
    """Join the extracted acquisitions into the Pixel-Set dataset.

    Parameters
    ----------
    acquisitions
        Table of acquisitions: which are used, and their dates.
    extracted
        Folder of what extract wrote for each of them.
    pixel_index
        Pixels of the parcels.
    parcels
        Accepted parcels, for their labels.
    classes
        Classes of the nomenclature.
    dataset
        Written: DATA, VALID and META of the Pixel-Set dataset.
    settings
        clouds.fill, imagery.bands, parcels.labels, assemble.memory_mb.
    threads
        Files written at the same time.
    """
    index = PixelIndex.load(pixel_index)
    stack = _Stack.open(acquisitions, extracted)
    paths = DatasetPaths(dataset)
    n_dates: dict[str, int] = {}
    with replacing_folder(paths.pixels) as data, replacing_folder(paths.valid) as validity:
        for first, last in _batches(index, stack, settings.assemble.memory_mb):
            block = slice(int(index.offsets[first]), int(index.offsets[last]))
            values, clear = stack.read(block)
            if settings.clouds.fill == "linear":
                values = fill_linear(values, clear, stack.days)
            ids = index.parcel_ids[first:last]
            places = [
                slice(int(a - block.start), int(b - block.start))
                for a, b in zip(index.offsets[first:last], index.offsets[first + 1 :], strict=False)
            ]
            write_arrays(
                data, ((i, values[:, :, p]) for i, p in zip(ids, places, strict=True)), threads
            )
            write_arrays(
                validity, ((i, clear[:, p]) for i, p in zip(ids, places, strict=True)), threads
            )
            n_dates |= {
                i: int(clear[:, p].any(axis=1).sum()) for i, p in zip(ids, places, strict=True)
            }
            logger.info("%d of %d parcels", last, len(index.parcel_ids))
    labels = _labels(parcels, settings)
    nomenclature = settings.parcels.nomenclature or next(iter(labels), None)
    write_metadata(
        paths,
        dates=stack.dates,
        labels=labels,
        sizes={i: int(s) for i, s in zip(index.parcel_ids, index.sizes, strict=True)},
        n_dates=n_dates,
        classes=_classes(classes, labels.get(nomenclature or "", {})),
        description={
            "bands": list(settings.imagery.bands),
            "nomenclature": nomenclature,
            "tile": index.tile,
            "crs": index.grid.crs,
            "fill": settings.clouds.fill,
            "mask": settings.clouds.mask,
            "acquisitions": stack.ids,
            "simulated": stack.simulated,
            "names": _names(classes),
        },
    )


@dataclass(frozen=True)
class _Stack:
    """The extracted acquisitions in order of time, as files that are read block by block."""

    ids: list[str]
    dates: list[date]
    pixels: list[NDArray[np.uint16]]
    valid: list[NDArray[np.bool_]]
    simulated: bool

    @classmethod
    def open(cls, acquisitions: Path, extracted: Path) -> _Stack:
        """Map the files into memory, in order of date."""
        used = sorted(read_used(acquisitions).values(), key=lambda row: (row.date, row.acquisition))
        ids = [row.acquisition for row in used]
        return cls(
            ids,
            [row.date for row in used],
            [np.load(extracted / f"{i}.npy", mmap_mode="r") for i in ids],
            [np.load(extracted / f"{i}.valid.npy", mmap_mode="r") for i in ids],
            any(row.platform == "Simulated" for row in used),
        )

    @property
    def days(self) -> NDArray[np.int64]:
        """Days since the first date, int64 (T,)."""
        return np.array([(d - self.dates[0]).days for d in self.dates], np.int64)

    def read(self, block: slice) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
        """Read the pixels of a block: uint16 (T, C, P) and bool (T, P)."""
        values = np.stack([p[:, block] for p in self.pixels])
        return values, np.stack([v[block] for v in self.valid])


def _batches(index: PixelIndex, stack: _Stack, memory_mb: int) -> Iterator[tuple[int, int]]:
    """Cut the parcels into runs whose pixels fit the memory, at least one parcel each."""
    n_channels = stack.pixels[0].shape[0]
    bytes_per_pixel = len(stack.ids) * (2 * n_channels + 1) * COPIES
    limit = memory_mb * 1_000_000 // bytes_per_pixel
    first = 0
    while first < len(index.parcel_ids):
        last = int(np.searchsorted(index.offsets, index.offsets[first] + limit, side="right")) - 1
        last = max(last, first + 1)
        yield first, last
        first = last


def _labels(parcels: Path, settings: Settings) -> dict[str, dict[str, Code | None]]:
    """Read the declared codes of every nomenclature: {nomenclature: {id: code or None}}."""
    names = list(settings.parcels.labels)
    table = geopandas.read_parquet(parcels, columns=["parcel_id", *names, "geometry"])
    return {name: dict(zip(table["parcel_id"], _plain(table[name]), strict=True)) for name in names}


def _plain(codes: pd.Series) -> list[Code | None]:
    """Give codes as Python's own values, None where there is none."""
    return list(codes.astype(object).where(codes.notna(), None))


def _names(table: Path) -> dict[str, str]:
    """Read the name of every code that is declared, trained on or not: {code: name}."""
    with table.open(newline="") as file:
        return {row["code"]: row["name"] for row in csv.DictReader(file)}


def _classes(table: Path, labels: Mapping[str, Code | None]) -> list[LandClass]:
    """Read the classes that are trained on, in order of the class index."""
    # A CSV does not tell 12 from "12": the labels do.
    codes = {str(code): code for code in labels.values() if code is not None}
    with table.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["class_index"] != ""]
    return [LandClass(codes[row["code"]], row["name"]) for row in rows]
