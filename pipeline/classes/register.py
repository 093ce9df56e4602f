"""The register: checked row by row before the run, and read again for the predictions."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from geo.errors import InputError, first_five
from geo.grid import Grid
from geo.register.columns import Checksums, as_text, numbered, row_checksums, with_codes
from geo.register.fiboa import PARQUET_SUFFIXES
from geo.register.placement import Placement, lon_lat_bounds, place
from geo.register.points import is_point
from geo.register.polygons import mend
from geo.register.reading import (
    fiboa_columns,
    read_columns,
    read_named,
    read_register_parts,
)
from pipeline.classes.class_choice import Models, classify
from pipeline.classes.class_mapping import nomenclatures
from pipeline.classes.crop_class import Classes, with_names
from pipeline.classes.ledger import refuse_none_left, set_aside
from pipeline.classes.reasons import WITHOUT_POLYGON, Reason
from pipeline.workflow.sections.parcels import (
    Label,
    ParcelClasses,
    RegisterColumns,
    RegisterFile,
    RegisterParcels,
    named_columns,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Declarations:
    """Ids and declared codes of a register.

    Attributes
    ----------
    table
        The columns of the codes, and others that were asked for.
    labels
        Nomenclatures.
    rows
        row, parcel_id, reason: one row per row of the register.
    """

    table: pd.DataFrame
    labels: Mapping[str, Label]
    rows: pd.DataFrame

    def classes(self, options: ParcelClasses, models: Models, names: Path | None) -> Classes:
        """Choose the classes as the stage label does, as if no other row were rejected.

        If this is an error, it is also one for a part of the rows, except for unknown codes.

        Parameters
        ----------
        options, models
            As in `classify`.
        names
            Table of class names.
        """
        _, classes = classify(self.rows.copy(), self.table, self.labels, options, models)
        return with_names(classes, names, options.encoding)


@dataclass(frozen=True)
class CheckedRegister:
    """A register, and the reason for which each row is rejected.

    Attributes
    ----------
    path
        File of the register.
    follows_fiboa
        Whether the file follows fiboa.
    table, ids
        The register, and the original ids of its rows.
    rows
        row, parcel_id, reason, mended, tile: one row per row of the register.
    placed
        Polygons and tiles of the parcels.
    """

    path: Path
    follows_fiboa: bool
    table: gpd.GeoDataFrame
    ids: pd.Series[Any]
    rows: pd.DataFrame
    placed: Placement

    def refuse_unusable(self, tiles: Mapping[str, Grid]) -> None:
        """Refuse a register if none of its parcels is on the imagery, or none can be used."""
        rows = self.rows
        with_polygon = ~rows["reason"].isin(WITHOUT_POLYGON).to_numpy()
        if with_polygon.any() and not (rows["tile"] != "").any():
            raise _outside_imagery(self.path, self.table[with_polygon], tiles)
        if self.n_refused_points and not (rows["reason"] == "").any():
            raise points_refused(self.path, f"{self.n_refused_points:,} of {len(rows):,}")
        refuse_none_left(rows, f" of {self.path}")

    @property
    def n_refused_points(self) -> int:
        """Number of points that are rejected because parcels.point_buffer_m is not set."""
        is_refused = (self.rows["reason"] == Reason.NOT_A_POLYGON).to_numpy()
        return int((is_refused & is_point(self.table.geometry.to_numpy())).sum())

    def classes(self, options: ParcelClasses, models: Models, names: Path | None) -> Classes:
        """Choose the classes as the stage label does, and complete the reasons of the rows.

        Parameters
        ----------
        options, models
            As in `classify`.
        names
            Table of class names.
        """
        labels = nomenclatures(options, self.table, follows_fiboa=self.follows_fiboa)
        _, classes = classify(self.rows, self.table, labels, options, models)
        return with_names(classes, names, options.encoding)


def check_register(
    path: Path, tiles: Mapping[str, Grid], options: RegisterParcels, labels: Mapping[str, Label]
) -> CheckedRegister:
    """Read a register, mend its polygons, place them on the tiles, and check every row.

    A row gets the first reason that applies. If usable rows share an id, the first one keeps it;
    the others are rejected or, with `duplicate_ids: number`, get numbered ids.

    Parameters
    ----------
    path
        The register.
    tiles
        Grid of every tile; earlier tiles are preferred.
    options
        layer, id, encoding, duplicate_ids, partly_outside, min_area_m2, point_buffer_m;
        all_touched, min_covered_fraction and buffer_m determine by how much a parcel may exceed a
        tile.
    labels
        Nomenclatures, whose columns the register must have.

    Raises
    ------
    InputError
        If the register cannot be read, has no rows, or lacks a column.
    """
    fiboa = _fiboa_columns(path, options, labels)
    id_column = _id_column(options, fiboa is not None)
    table, ids = read_named(path, options.layer, id_column, named_columns(labels), options.encoding)
    placed = place(
        mend(table.geometry.to_numpy(), with_points=options.point_buffer_m is not None),
        table.crs,
        tiles,
        buffer_m=options.buffer_m,
        slack_pixels=_slack_pixels(options),
        point_buffer_m=options.point_buffer_m,
    )
    rows = pd.DataFrame({"row": np.arange(len(table)), "parcel_id": as_text(ids)})
    rows["reason"], rows["mended"], rows["tile"] = placed.reasons, placed.mended, placed.tiles
    if options.duplicate_ids == "number":
        rows["parcel_id"] = numbered(rows["parcel_id"], (rows["reason"] == "").to_numpy())
    set_aside(rows, rows["parcel_id"] == "", Reason.MISSING_ID)
    repeated = rows["parcel_id"].where(rows["reason"] == "").duplicated()
    set_aside(rows, repeated, Reason.DUPLICATE_ID)
    set_aside(rows, placed.tiles == "", Reason.OUTSIDE_IMAGERY)
    if options.partly_outside == "reject":
        set_aside(rows, placed.partial, Reason.PARTLY_OUTSIDE)
    # A point stands for a field of any size.
    is_small = shapely.area(placed.polygons) < options.min_area_m2
    set_aside(rows, is_small & ~is_point(table.geometry.to_numpy()), Reason.TOO_SMALL)
    return CheckedRegister(path, fiboa is not None, table, ids, rows, placed)


def points_refused(register: Path, which: str) -> InputError:
    """Say that points are rejected, and which setting accepts them."""
    return InputError(
        f"{register} has points instead of outlines ({which} rows), and parcels.point_buffer_m is "
        "not set. Set it to 0 to read the pixel under each point, or to the radius in metres of a "
        "disc around it."
    )


def read_declarations(
    path: Path, options: RegisterColumns, others: Mapping[str, str] | None = None
) -> Declarations:
    """Read ids and declared codes of a register without its outlines.

    Parameters
    ----------
    path
        The register.
    options
        layer, id, encoding and labels.
    others
        {setting: column}: further columns to read.

    Raises
    ------
    InputError
        As `check_register`; if no row has an id.
    """
    fiboa = _fiboa_columns(path, options, options.labels)
    follows_fiboa = fiboa is not None
    labels = nomenclatures(options, fiboa or (), follows_fiboa=follows_fiboa)
    id_column = _id_column(options, follows_fiboa)
    columns = {**named_columns(labels), **(others or {})}
    table, ids = read_columns(path, options.layer, id_column, columns, options.encoding)
    rows = pd.DataFrame({"row": np.arange(len(table)), "parcel_id": as_text(ids), "reason": ""})
    set_aside(rows, rows["parcel_id"] == "", Reason.MISSING_ID)
    refuse_none_left(rows, f" of {path}")
    return Declarations(table, labels, rows)


def _fiboa_columns(
    path: Path, options: RegisterColumns | RegisterParcels, labels: Mapping[str, Label]
) -> list[str] | None:
    """List the columns of a register that follows fiboa; None for others, or if none is needed."""
    if path.suffix.lower() not in PARQUET_SUFFIXES and options.id is not None and labels:
        return None  # Listing them takes as long as reading the file, if it is GeoJSON.
    return fiboa_columns(path, options.layer, options.encoding)


def _id_column(options: RegisterFile, follows_fiboa: bool) -> str:
    """Return the column of the ids; fiboa's is fixed."""
    return options.id or ("id" if follows_fiboa else "ID_PARCEL")


def _slack_pixels(options: RegisterParcels) -> float:
    """Return the share of a pixel by which a parcel may exceed a tile without losing a pixel.

    If pixels are selected by their centre, half a pixel beyond the edge contains no centre. The
    same holds for the fraction of a pixel that a parcel must cover. The least slack, a thousandth,
    is the precision of outlines and reprojection.
    """
    slack = 0.0 if options.all_touched else options.min_covered_fraction or 0.5
    return max(slack, 0.001)


def _outside_imagery(
    register: Path, parcels: gpd.GeoDataFrame, tiles: Mapping[str, Grid]
) -> InputError:
    """Say where the parcels are, and where the imagery is."""
    bounds = lon_lat_bounds(tuple(parcels.total_bounds), parcels.crs)
    outlines: NDArray[np.float64] = np.array(
        [lon_lat_bounds(grid.bounds, grid.crs) for grid in tiles.values()]
    )
    imagery = (*outlines[:, :2].min(axis=0).tolist(), *outlines[:, 2:].max(axis=0).tolist())
    return InputError(
        f"No parcel of {register} is on the imagery. In degrees (west, south, east, north), the "
        f"parcels cover {bounds} and the imagery covers {imagery}. Check "
        "parcels.path, imagery.path and the coordinate system that the register names."
    )


def matched_parts(
    register: Path, ledger: pd.DataFrame, options: RegisterColumns, n_rows: int
) -> Iterator[tuple[gpd.GeoDataFrame, NDArray[np.int64]]]:
    """Read a register in parts, and find the row of the ledger for every row.

    Rows are identified by id, declared codes and outline, in any order. Rows that are equal in all
    of these are matched in their order.

    Parameters
    ----------
    register
        The register that was cleaned, with its rows in any order.
    ledger
        parcel_id and checksum of every row that was cleaned.
    options
        layer, id, encoding and labels.
    n_rows
        Rows to read at a time.

    Yields
    ------
    part, places
        GeoDataFrame of at most `n_rows` rows, and the position of each row in the ledger, int64.

    Raises
    ------
    InputError
        If the rows are not those of the ledger: another register was cleaned. The parts that were
        yielded before must then be discarded.
    """
    fiboa = _fiboa_columns(register, options, options.labels)
    labels = nomenclatures(options, fiboa or (), follows_fiboa=fiboa is not None)
    codes, id_column = named_columns(labels), _id_column(options, fiboa is not None)
    matcher = _Matcher(ledger["checksum"].to_numpy(np.uint64))
    unknown: Counter[str] = Counter()  # ids of the rows that the ledger lacks
    moved, first = False, 0
    source = register, options.layer, id_column, codes, n_rows, options.encoding
    for part, ids in read_register_parts(*source):
        declared = [part[column] for column in dict.fromkeys(codes.values())]
        places = matcher.find(with_codes(row_checksums(part.geometry, ids), declared))
        unknown.update(_count_ids(as_text(ids)[places < 0]))
        moved = moved or not np.array_equal(places, np.arange(first, first + len(part)))
        first += len(part)
        # After a difference, the other parts are only read to list all differences.
        if not unknown:
            yield part, places
    missing = _count_ids(ledger["parcel_id"].to_numpy(object)[~matcher.is_found])
    if unknown or missing:
        changed = missing & unknown
        differences = {
            "not in the ledger": unknown - changed,
            "of the ledger missing": missing - changed,
            "with another outline, coordinate system or declared code": changed,
        }
        told = " ".join(
            f"Rows {what}: {found.total()} ({first_five(found)})."
            for what, found in differences.items()
            if found
        )
        raise InputError(
            f"{register} does not have the rows of the ledger, one for one: it is not the register "
            f"that was cleaned. {told} "
            "Give that register, or clean this one: snakemake -R clean."
        )
    if moved:
        logger.info("the rows of %s are in another order than when it was cleaned", register)


class _Matcher:
    """Find rows of the ledger by their checksums, each row once.

    Parameters
    ----------
    checksums
        Checksums of the rows of the ledger, uint64 (N,).
    """

    def __init__(self, checksums: Checksums) -> None:
        # A stable sort keeps equal rows in their order.
        self._order = np.argsort(checksums, kind="stable")
        self._sorted = checksums[self._order]
        self.is_found = np.zeros(len(checksums), bool)

    def find(self, checksums: Checksums) -> NDArray[np.int64]:
        """Return the row of each checksum, the next one of equal rows; -1 if none is left."""
        series = pd.Series(checksums)
        nth = series.groupby(series).cumcount().to_numpy()
        low, high = (np.searchsorted(self._sorted, checksums, side) for side in ("left", "right"))
        # Among equal rows, those of earlier parts come first: skip as many as were found.
        n_found = np.concatenate([[0], np.cumsum(self.is_found[self._order])])
        places = low + n_found[high] - n_found[low] + nth
        rows = np.full(len(checksums), -1, np.int64)
        exists = places < high
        rows[exists] = self._order[places[exists]]
        self.is_found[rows[exists]] = True
        return rows


def _count_ids(ids: Iterable[str]) -> Counter[str]:
    """Count rows by id."""
    return Counter(parcel_id or "(without id)" for parcel_id in ids)
