"""The register on the imagery: read once, mended, placed on tiles, every row checked."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from geo.errors import InputError
from geo.grid import Grid
from geo.register.columns import (
    Checksums,
    RegisterColumns,
    as_text,
    numbered,
    row_checksums,
    with_codes,
)
from geo.register.fiboa import fiboa_columns
from geo.register.placement import Placement, place
from geo.register.polygons import lon_lat_bounds, mend
from geo.register.reading import read_named, read_register_parts
from pipeline.classes.class_mapping import nomenclatures
from pipeline.classes.ledger import say_counts, set_aside
from pipeline.classes.reasons import WITHOUT_POLYGON, Reason
from pipeline.workflow.sections import RegisterColumns as ColumnSettings
from pipeline.workflow.sections import RegisterFile, RegisterParcels, named_columns


@dataclass(frozen=True)
class CheckedRegister:
    """A register with what is wrong with each of its rows.

    Attributes
    ----------
    path
        Its file.
    follows_fiboa
        Whether it says so.
    table, ids
        The register, and its column of ids as it is.
    rows
        row, parcel_id, reason, mended, tile: one a row of the register.
    placed
        Where the parcels lie.
    """

    path: Path
    follows_fiboa: bool
    table: gpd.GeoDataFrame
    ids: pd.Series[Any]
    rows: pd.DataFrame
    placed: Placement

    def refuse_unusable(self, tiles: Mapping[str, Grid]) -> None:
        """Refuse a register of which no parcel lies on the imagery, or none can be used."""
        rows = self.rows
        with_polygon = ~rows["reason"].isin(WITHOUT_POLYGON).to_numpy()
        if with_polygon.any() and not (rows["tile"] != "").any():
            raise _lies_elsewhere(self.path, self.table[with_polygon], tiles)
        refuse_none_left(rows, str(self.path))


def check_register(
    path: Path, tiles: Mapping[str, Grid], options: RegisterParcels, codes: Mapping[str, str]
) -> CheckedRegister:
    """Read a register, mend its polygons, place them on the imagery, and check every row.

    A row has the first reason that applies. Of usable polygons that share an id the first keeps
    it, or with `duplicate_ids` number, the later ones get numbers.

    Parameters
    ----------
    path
        The register.
    tiles
        Grid of every tile; earlier ones are preferred.
    options
        layer, id, duplicate_ids, partly_outside, min_area_m2; all_touched,
        min_covered_fraction and buffer_m say how far a parcel may reach over the edge of a tile.
    codes
        {setting: column}: columns of declared codes, which the register must have.

    Raises
    ------
    InputError
        If the register cannot be read, has no rows, or lacks a column.
    """
    fiboa = fiboa_columns(path)
    columns = RegisterColumns(_id_column(options, fiboa), codes)
    table, ids = read_named(path, options.layer, columns)
    placed = place(
        mend(table.geometry.to_numpy()),
        table.crs,
        tiles,
        buffer_m=options.buffer_m,
        slack_pixels=_slack_pixels(options),
    )
    rows = pd.DataFrame({"row": np.arange(len(table)), "parcel_id": as_text(ids)})
    rows["reason"], rows["mended"], rows["tile"] = placed.reasons, placed.mended, placed.tiles
    if options.duplicate_ids == "number":
        rows["parcel_id"] = numbered(rows["parcel_id"], (rows["reason"] == "").to_numpy())
    set_aside(rows, rows["parcel_id"] == "", Reason.MISSING_ID)
    twice = rows["parcel_id"].where(rows["reason"] == "").duplicated()
    set_aside(rows, twice, Reason.DUPLICATE_ID)
    set_aside(rows, placed.tiles == "", Reason.OUTSIDE_IMAGERY)
    if options.partly_outside == "reject":
        set_aside(rows, placed.partial, Reason.PARTLY_OUTSIDE)
    set_aside(rows, shapely.area(placed.polygons) < options.min_area_m2, Reason.TOO_SMALL)
    return CheckedRegister(path, fiboa is not None, table, ids, rows, placed)


def columns_of(register: Path, options: ColumnSettings) -> RegisterColumns:
    """Say which columns of a register hold ids and declared codes.

    Parameters
    ----------
    register
        One that follows fiboa says by itself which columns hold ids and crops.
    options
        id and labels: they come first.
    """
    found = fiboa_columns(register)
    codes = named_columns(nomenclatures(options, found or ()))
    return RegisterColumns(_id_column(options, found), codes)


def _id_column(options: RegisterFile, fiboa: list[str] | None) -> str:
    """Return the column of the ids."""
    return options.id or ("ID_PARCEL" if fiboa is None else "id")


def refuse_none_left(rows: pd.DataFrame, register: str) -> None:
    """Refuse a register of which every parcel was rejected."""
    if (rows["reason"] == "").any():
        return
    raise InputError(
        f"None of the {len(rows)} parcels of {register} can be used: "
        f"{say_counts(rows['reason'])}. Check parcels.id, parcels.buffer_m, parcels.min_area_m2, "
        "parcels.min_pixels and parcels.partly_outside."
    )


def _slack_pixels(options: RegisterParcels) -> float:
    """Return the share of a pixel by which a parcel may reach over the edge and miss no pixel.

    Where pixels are chosen by their centre it is half of one, and likewise for the fraction that a
    parcel must cover; drawing and reprojecting are no more exact than a thousandth.
    """
    slack = 0.0 if options.all_touched else options.min_covered_fraction or 0.5
    return max(slack, 0.001)


def _lies_elsewhere(
    register: Path, parcels: gpd.GeoDataFrame, tiles: Mapping[str, Grid]
) -> InputError:
    """Say where the parcels lie, and where the imagery does."""
    bounds = lon_lat_bounds(tuple(parcels.total_bounds), parcels.crs)
    outlines: NDArray[np.float64] = np.array(
        [lon_lat_bounds(grid.bounds, grid.crs) for grid in tiles.values()]
    )
    imagery = (*outlines[:, :2].min(axis=0).tolist(), *outlines[:, 2:].max(axis=0).tolist())
    return InputError(
        f"No parcel of {register} lies on the imagery. In degrees (west, south, east, north) the "
        f"parcels reach over {bounds} and the imagery over {imagery}. Check "
        "parcels.path, imagery.path and the coordinate system that the register names."
    )


logger = logging.getLogger(__name__)

# How many ids an error names.
NAMED = 5


def matched_parts(
    register: Path, ledger: pd.DataFrame, options: ColumnSettings, n_rows: int
) -> Iterator[tuple[Any, NDArray[np.int64]]]:
    """Read a register once, part by part, with the row of the ledger of every row.

    Rows are known again by their id, declared codes and outline. Where rows are equal in all of
    these, they are matched in their order.

    Parameters
    ----------
    register
        The register that was cleaned, its rows in any order.
    ledger
        parcel_id and checksum of every row that was cleaned.
    options
        layer, id and labels.
    n_rows
        Rows to read at once.

    Yields
    ------
    part, places
        GeoDataFrame of at most `n_rows`; and the row of the ledger that was made from each, int64.

    Raises
    ------
    InputError
        If they are not the same rows: the register is not the one that was cleaned. Rows that were
        yielded before it are then not to be used.
    """
    columns = columns_of(register, options)
    matcher = _Matcher(ledger["checksum"].to_numpy(np.uint64))
    # Ids of the rows that the ledger lacks.
    more: Counter[str] = Counter()
    moved, first = False, 0
    for part, ids in read_register_parts(register, options.layer, columns, n_rows):
        declared = [part[column] for column in columns.declared]
        places = matcher.find(with_codes(row_checksums(part.geometry, ids), declared))
        more.update(_named(as_text(ids)[places < 0]))
        moved = moved or not np.array_equal(places, np.arange(first, first + len(part)))
        first += len(part)
        # What cannot be written is read on, to say how the two differ.
        if not more:
            yield part, places
    lacking = _named(ledger["parcel_id"].to_numpy(object)[~matcher.is_found])
    if more or lacking:
        raise InputError(
            f"{register} has not the rows of the ledger, one for one: it is not the register that "
            f"was cleaned. {_differences(more, lacking)} "
            "Give that register, or clean this one: snakemake -R clean."
        )
    if moved:
        logger.info("the rows of %s stand in another order than when it was cleaned", register)


class _Matcher:
    """Find rows of the ledger by their checksums, each row once.

    Parameters
    ----------
    known
        Checksums of the rows of the ledger, uint64 (N,).
    """

    def __init__(self, known: Checksums) -> None:
        # Equal ones stay in their order.
        self._order = np.argsort(known, kind="stable")
        self._sorted = known[self._order]
        self.is_found = np.zeros(len(known), bool)

    def find(self, checksums: Checksums) -> NDArray[np.int64]:
        """Return the row of each, the next one of equal rows; -1 where there is none left."""
        series = pd.Series(checksums)
        nth = series.groupby(series).cumcount().to_numpy()
        low, high = (np.searchsorted(self._sorted, checksums, side) for side in ("left", "right"))
        # Those of equal rows that were found before stand first.
        found = np.concatenate([[0], np.cumsum(self.is_found[self._order])])
        places = low + found[high] - found[low] + nth
        rows = np.full(len(checksums), -1, np.int64)
        exists = places < high
        rows[exists] = self._order[places[exists]]
        self.is_found[rows[exists]] = True
        return rows


def _differences(more: Counter[str], lacking: Counter[str]) -> str:
    """Say which rows the register has more, which it lacks, and which are others."""
    changed = lacking & more
    told = {
        "not in the ledger": more - changed,
        "of the ledger missing": lacking - changed,
        "with another outline, coordinate system or declared code": changed,
    }
    return " ".join(f"Rows {what}: {_count(ids)}." for what, ids in told.items() if ids)


def _named(ids: NDArray[Any]) -> Counter[str]:
    """Count rows by id."""
    return Counter(parcel_id or "(without id)" for parcel_id in ids)


def _count(ids: Counter[str]) -> str:
    """Say how many rows there are, and the first ids."""
    first = ", ".join(list(ids)[:NAMED])
    return f"{ids.total()} ({first}{', ...' if len(ids) > NAMED else ''})"
