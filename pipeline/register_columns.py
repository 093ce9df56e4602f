"""The columns of a register that the settings name: ids and declared codes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
from numpy.typing import NDArray

from geo.fiboa import fiboa_columns
from geo.register import RegisterError, read_feature_ids, read_register
from pipeline.settings import Label, Parcels

# Columns of the accepted parcels, beside one per nomenclature.
PARCEL_COLUMNS = ("row", "parcel_id", "status", "geometry")


def with_defaults(register: Path, options: Parcels) -> Parcels:
    """Fill in what a register that follows fiboa says by itself: its ids and crops."""
    found = fiboa_columns(register)
    if found is None:
        return options.model_copy(update={"id": options.id or "ID_PARCEL"})
    labels = dict(options.labels)
    if not labels and "crop:code" in found:
        name = "crop:name" if "crop:name" in found else None
        labels["crop"] = Label(column="crop:code", class_name=name)
    return options.model_copy(update={"id": options.id or "id", "labels": labels})


def read_named(register: Path, options: Parcels) -> gpd.GeoDataFrame:
    """Read the register; refuse one without rows or without a column that the settings name.

    Parameters
    ----------
    options
        As `with_defaults` gives them.

    Raises
    ------
    RegisterError
        Also if a nomenclature is called as a column of the accepted parcels.
    """
    table = read_register(register, options.layer)
    if table.empty:
        raise RegisterError(f"{register} has no rows. Check parcels.path and parcels.layer.")
    known = [str(c) for c in table.columns if c != table.geometry.name]
    wanted = {"parcels.id": str(options.id)}
    if options.id not in known:
        feature_ids = read_feature_ids(register, options.layer)
        if feature_ids is not None:
            known.append(str(feature_ids.name))
            table[feature_ids.name] = feature_ids
    for name, label in options.labels.items():
        wanted[f"parcels.labels.{name}"] = label.column
        if label.table is None and label.class_name is not None:
            wanted[f"parcels.labels.{name}.class_name"] = label.class_name
    for key, column in wanted.items():
        if column not in known:
            lower = {name.lower(): name for name in known}
            near = difflib.get_close_matches(column.lower(), lower, n=1)
            hint = f" Did you mean {lower[near[0]]!r}?" if near else ""
            raise RegisterError(
                f"{key} is {column!r}, which is not a column of {register}.{hint} "
                f"Its columns are: {', '.join(known)}."
            )
    taken = sorted(set(options.labels) & set(PARCEL_COLUMNS))
    if taken:
        raise RegisterError(
            f"parcels.labels has a nomenclature called {', '.join(taken)}, which is the name of "
            "another column of the accepted parcels. Give it another name."
        )
    return table


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
