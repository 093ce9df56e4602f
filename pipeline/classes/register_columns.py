"""The columns of a register that the settings name: ids and declared codes."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from geo.errors import InputError
from geo.register.fiboa import fiboa_columns
from geo.register.parts import read_register_parts
from geo.register.reading import read_feature_ids, read_register
from pipeline.classes.ids_as_text import as_text
from pipeline.workflow.sections import Label, LabelColumns

Options = TypeVar("Options", bound=LabelColumns)

# Columns of the accepted parcels, beside one per nomenclature.
PARCEL_COLUMNS = ("row", "parcel_id", "status", "geometry")


def with_defaults(register: Path, options: Options) -> Options:
    """Fill in what a register that follows fiboa says by itself: its ids and crops."""
    found = fiboa_columns(register)
    if found is None:
        return options.model_copy(update={"id": options.id or "ID_PARCEL"})
    labels = dict(options.labels)
    if not labels and "crop:code" in found:
        name = "crop:name" if "crop:name" in found else None
        labels["crop"] = Label(column="crop:code", class_name=name)
    return options.model_copy(update={"id": options.id or "id", "labels": labels})


def read_named(register: Path, options: LabelColumns) -> gpd.GeoDataFrame:
    """Read the register; refuse one without rows or without a column that the settings name.

    Parameters
    ----------
    options
        As `with_defaults` gives them.

    Raises
    ------
    InputError
        Also if a nomenclature is called as a column of the accepted parcels.
    """
    table = read_register(register, options.layer)
    if table.empty:
        raise InputError(f"{register} has no rows. Check parcels.path and parcels.layer.")
    feature_ids = _feature_ids(register, table, options)
    if feature_ids is not None:
        table[feature_ids.name] = feature_ids
    _refuse_missing(register, table, options)
    taken = sorted(set(options.labels) & set(PARCEL_COLUMNS))
    if taken:
        raise InputError(
            f"parcels.labels has a nomenclature called {', '.join(taken)}, which is the name of "
            "another column of the accepted parcels. Give it another name."
        )
    return table


def read_named_parts(
    register: Path, options: LabelColumns, n_rows: int
) -> Iterator[tuple[gpd.GeoDataFrame, pd.DataFrame]]:
    """Read the register part by part, and beside it the columns that the settings name.

    Parameters
    ----------
    options
        As `with_defaults` gives them.

    Yields
    ------
    part, named
        No more than `n_rows` rows, as `read_register_parts` gives them, and of the same rows the
        columns of `named_columns`.

    Raises
    ------
    InputError
        As `read_named`.
    """
    feature_ids = None
    for part in read_register_parts(register, options.layer, n_rows):
        named = pd.DataFrame(part.drop(columns=part.geometry.name))
        if feature_ids is None:
            feature_ids = _feature_ids(register, named, options)
        if feature_ids is not None:
            named[feature_ids.name] = feature_ids.reindex(named.index)
        _refuse_missing(register, named, options)
        yield part, named[list(dict.fromkeys(named_columns(options).values()))]


def named_columns(options: LabelColumns) -> dict[str, str]:
    """List the columns that the settings name, ids and declared codes: {setting: column}."""
    named = {"parcels.id": str(options.id)}
    for name, label in options.labels.items():
        named[f"parcels.labels.{name}"] = label.column
        if label.table is None and label.class_name is not None:
            named[f"parcels.labels.{name}.class_name"] = label.class_name
    return named


def row_checksums(
    outlines: gpd.GeoSeries, named: pd.DataFrame, options: LabelColumns
) -> NDArray[np.uint64]:
    """Compute a checksum of every row: its id, declared codes and outline, uint64 (P,).

    A row keeps it wherever it stands and however its register is read. Rows of one checksum are
    the same parcel twice.

    Parameters
    ----------
    outlines
        In two dimensions, with their coordinate system.
    named
        The columns of `named_columns`, of the same rows.
    """
    start = hashlib.blake2b(outlines.crs.to_wkt().encode(), digest_size=8)
    texts = [as_text(named[column]) for column in named_columns(options).values()]
    shapes = shapely.to_wkb(outlines.to_numpy())
    checksums = np.empty(len(shapes), np.uint64)
    for i, (shape, *values) in enumerate(zip(shapes, *texts, strict=True)):
        row = start.copy()
        row.update("\0".join(values).encode(errors="surrogatepass") + b"\0" + (shape or b""))
        checksums[i] = int.from_bytes(row.digest())
    return checksums


def _feature_ids(
    register: Path, table: pd.DataFrame, options: LabelColumns
) -> pd.Series[int] | None:
    """Read the feature ids of a register whose columns do not hold the ids; None for any other."""
    return None if options.id in table else read_feature_ids(register, options.layer)


def _refuse_missing(register: Path, table: pd.DataFrame, options: LabelColumns) -> None:
    """Raise if the register lacks a column that the settings name."""
    outlines = table.geometry.name if isinstance(table, gpd.GeoDataFrame) else None
    known = [str(c) for c in table.columns if c != outlines]
    for key, column in named_columns(options).items():
        if column not in known:
            lower = {name.lower(): name for name in known}
            near = difflib.get_close_matches(column.lower(), lower, n=1)
            hint = f" Did you mean {lower[near[0]]!r}?" if near else ""
            raise InputError(
                f"{key} is {column!r}, which is not a column of {register}.{hint} "
                f"Its columns are: {', '.join(known)}."
            )


def numbered(ids: Iterable[str], usable: NDArray[np.bool_]) -> NDArray[Any]:
    """Make ids unique: of the usable rows that share one, the later get <id>-2, <id>-3 ...

    Returns
    -------
    str (P,); ids that are missing, "", stay so.
    """
    unique = np.array(list(ids), object)
    taken, seen = set(unique), set()
    counts: dict[str, int] = {}
    for place in np.flatnonzero(usable & (unique != "")):
        name = unique[place]
        if name in seen:
            number = counts.get(name, 1) + 1
            while f"{name}-{number}" in taken:
                number += 1
            counts[name] = number
            unique[place] = f"{name}-{number}"
            taken.add(unique[place])
        seen.add(unique[place])
    return unique
