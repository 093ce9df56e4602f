"""Stage assemble: all extracted acquisitions become the Pixel-Set dataset."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from itertools import compress
from pathlib import Path

import numpy as np
import pandas as pd

from geo.errors import InputError
from geo.pixels.pixel_index import PixelIndex
from pipeline.acquisitions.tiles import main_crs
from pipeline.classes.ledger import UNOBSERVED, Observed, complete, read_ledger, write_ledger
from pipeline.classes.register_columns import PARCEL_COLUMNS
from pipeline.dataset.observations import ObservationWriter
from pipeline.dataset.parcel_block import ObservedParcels, kept_dates, read_block
from pipeline.dataset.pixel_set_store import Code, LandClass, write_metadata
from pipeline.dataset.tile_series import TileSeries
from pipeline.workflow.acquisition_table import AcquisitionRow, read_used
from pipeline.workflow.paths import DatasetPaths
from pipeline.workflow.progress import ProgressLog
from pipeline.workflow.settings import AssembleSettings
from pipeline.workflow.writing import replacing, replacing_folder

logger = logging.getLogger(__name__)


def assemble(
    acquisitions: Path,
    extracted: Path,
    pixel_index: list[Path],
    parcels: Path,
    classes: Path,
    cleaned: Path,
    dataset: Path,
    ledger: Path,
    settings: AssembleSettings,
    threads: int = 1,
) -> None:
    """Join the extracted acquisitions into the Pixel-Set dataset, and complete the ledger.

    A parcel has the dates of its tile. Acquisitions of one tile and date are merged. Pixels that
    are clear on no date are left out, and so are parcels that keep too few: the ledger says so.

    Parameters
    ----------
    acquisitions
        Table of acquisitions: which are used, and their dates.
    extracted
        Folder of what extract wrote for each of them.
    pixel_index
        Pixels of the parcels, a file a tile.
    parcels
        Folder of the accepted parcels of every tile, for their labels.
    classes
        Classes of the nomenclature.
    cleaned
        What clean found of every row of the register.
    dataset
        Written: DATA, VALID, META and observations.parquet of the Pixel-Set dataset.
    ledger
        Written: one row per row of the register, with its status and the reason for it.
    settings
        clouds, imagery.bands, parcels.nomenclature, parcels.min_pixels, assemble.memory_mb.
    threads
        Blocks of parcels that are read, filled and written at the same time; the memory is that of
        all of them together.

    Raises
    ------
    InputError
        If clouds, or clouds.min_clear_fraction, leave no parcel enough pixels.
    """
    used = list(read_used(acquisitions).values())
    paths = DatasetPaths(dataset)
    contents = _Contents()
    with (
        replacing_folder(paths.pixels) as data,
        replacing_folder(paths.valid) as validity,
        replacing(paths.observations) as observations,
    ):
        with ObservationWriter(observations) as table:
            for path in pixel_index:
                index = PixelIndex.load(path)
                rows = [row for row in used if row.tile == index.tile]
                if not index.parcel_ids:
                    logger.info("tile %s has no parcels: %d acquisitions", index.tile, len(rows))
                    continue
                series = TileSeries.open(index, rows, extracted)
                contents.add_tile(index, rows)
                progress = ProgressLog(f"tile {index.tile}:", len(index.parcel_ids), "parcels")
                for block in _write_tile(series, data, validity, settings, threads):
                    table.add(index.tile, block.ids, block.dates, block.clear_fraction, block.kept)
                    contents.add_block(block)
                    progress.add(len(block.ids))
        contents.refuse_none_left(settings)
    _write_metadata(paths, contents, parcels, classes, settings)
    account = complete(read_ledger(cleaned), contents.observed, settings.parcels.min_pixels)
    write_ledger(ledger, account)
    _log_unobserved(account)


def _write_tile(
    series: TileSeries, data: Path, validity: Path, settings: AssembleSettings, threads: int
) -> Iterator[ObservedParcels]:
    """Write the files of a tile's parcels; every thread reads, fills and writes blocks of its own.

    Yields
    ------
    What is known of every block, in the order of the parcels.
    """
    clouds, min_pixels = settings.clouds, settings.parcels.min_pixels
    kept = kept_dates(series, clouds)

    def write(block: tuple[int, int]) -> ObservedParcels:
        parcels = read_block(series, clouds, min_pixels, kept, *block)
        parcels.write(data, validity)
        return parcels.observed

    blocks = list(series.blocks(settings.assemble.memory_mb * 1_000_000 // threads))
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(write, blocks)


@dataclass
class _Contents:
    """Contents of the dataset, collected while it is written.

    `observed` is what is known of all accepted parcels, `dates` of those that the dataset holds.
    """

    rows: list[AcquisitionRow] = field(default_factory=list)
    tiles: dict[str, str] = field(default_factory=dict)
    parcels: list[tuple[str, int]] = field(default_factory=list)
    observed: dict[str, Observed] = field(default_factory=dict)
    dates: dict[str, tuple[date, ...]] = field(default_factory=dict)
    n_dropped: int = 0

    def add_tile(self, index: PixelIndex, rows: list[AcquisitionRow]) -> None:
        """Add a tile and the acquisitions that are used of it."""
        self.rows += rows
        self.tiles[index.tile] = index.grid.crs
        self.parcels.append((index.grid.crs, len(index.parcel_ids)))

    def add_block(self, block: ObservedParcels) -> None:
        """Add parcels."""
        counts = map(Observed, block.n_pixels.tolist(), block.n_dates.tolist())
        self.observed |= dict(zip(block.ids, counts, strict=True))
        # Parcels share their dates with many others: one tuple for all of them.
        choices, which = np.unique(block.kept, axis=0, return_inverse=True)
        own = [tuple(compress(block.dates, choice)) for choice in choices]
        held = compress(zip(block.ids, which.ravel().tolist(), strict=True), block.enough)
        self.dates |= {parcel_id: own[w] for parcel_id, w in held}
        self.n_dropped += int((~block.kept).sum())

    @property
    def sizes(self) -> dict[str, int]:
        """Number of pixels of the parcels that the dataset holds."""
        return {i: self.observed[i].n_pixels for i in self.dates}

    @property
    def n_dates(self) -> dict[str, int]:
        """Number of dates on which these were seen clearly."""
        return {i: self.observed[i].n_dates for i in self.dates}

    def refuse_none_left(self, settings: AssembleSettings) -> None:
        """Refuse imagery and settings that leave no parcel enough pixels."""
        if self.dates:
            return
        n, limit = len(self.observed), settings.clouds.min_clear_fraction
        if self.n_dropped and not any(o.n_dates for o in self.observed.values()):
            raise InputError(
                f"clouds.min_clear_fraction is {limit:g}, and no date of any of the "
                f"{n} parcels has so large a share of clear pixels. Lower it."
            )
        most = max((o.n_pixels for o in self.observed.values()), default=0)
        raise InputError(
            f"None of the {n} parcels has parcels.min_pixels, {settings.parcels.min_pixels}, "
            f"pixels that are clear on at least one date: the most that one has is {most}. Check "
            "clouds.mask, clouds.classes, clouds.min_clear_fraction, imagery.max_cloud_fraction "
            "and parcels.min_pixels."
        )


def _write_metadata(
    paths: DatasetPaths,
    contents: _Contents,
    parcels: Path,
    classes: Path,
    settings: AssembleSettings,
) -> None:
    """Write META/ of the dataset."""
    accepted = _labels([parcels / f"{tile}.parquet" for tile in contents.tiles])
    labels = {name: {i: codes[i] for i in contents.dates} for name, codes in accepted.items()}
    nomenclature = settings.parcels.nomenclature or next(iter(labels), None)
    different = set(contents.dates.values())
    write_metadata(
        paths,
        dates=sorted(set().union(*different)),
        parcel_dates=contents.dates if len(different) > 1 else None,
        labels=labels,
        sizes=contents.sizes,
        n_dates=contents.n_dates,
        classes=_classes(classes, accepted.get(nomenclature or "", {})),
        description={
            "bands": list(settings.imagery.bands),
            "nomenclature": nomenclature,
            "tiles": contents.tiles,
            "crs": main_crs(contents.parcels),
            "fill": settings.clouds.fill,
            "mask": settings.clouds.mask,
            "dropped_observations": contents.n_dropped,
            "acquisitions": [row.acquisition for row in contents.rows],
            "simulated": any(row.platform == "Simulated" for row in contents.rows),
            "names": _names(classes),
        },
    )


def _log_unobserved(rows: pd.DataFrame) -> None:
    """Log how many pixels and parcels were never clear."""
    missing = rows["n_pixels_never_clear"].fillna(0)
    if missing.any():
        logger.warning(
            "%d pixels of %d parcels are clear on no date and left out",
            missing.sum(),
            (missing > 0).sum(),
        )
    for reason in UNOBSERVED:
        ids = rows.loc[rows["reason"] == reason, "parcel_id"].tolist()
        if ids:
            logger.warning("rejected: %d %s, such as %s", len(ids), reason, ", ".join(ids[:5]))


def _labels(parcels: Sequence[Path]) -> dict[str, dict[str, Code | None]]:
    """Read the declared codes of every nomenclature: {nomenclature: {id: code or None}}."""
    table = pd.concat([pd.read_parquet(p) for p in parcels])
    names = [c for c in table.columns if c not in PARCEL_COLUMNS]
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
