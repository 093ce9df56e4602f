"""Parcels that must be in the same fold: the groups of a column, such as farms, and blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geo.errors import InputError, did_you_mean
from geo.register.columns import as_text
from pipeline.classes.ledger import FROM_REGISTER
from pipeline.dataset.metadata import read_object
from pipeline.workflow.artefacts import artefact


def read_register_groups(register: Path, column: str) -> dict[str, str]:
    """Read the groups of the usable parcels from clean's table of the register.

    Parameters
    ----------
    register
        Parquet, every row of the register with its own columns.
    column
        Column of the register.

    Returns
    -------
    dict
        {parcel id: group}, "" where the register has no value.

    Raises
    ------
    InputError
        If the register has no such column.
    """
    with artefact(register, "a table of parcels"):
        rows = pd.read_parquet(register)
        usable = rows.loc[rows["reason"] == ""]
        own = [name for name in map(str, rows) if name.startswith(FROM_REGISTER)]
        names = [name.removeprefix(FROM_REGISTER) for name in own]
    check_column(column, names, "the register", "column")
    groups = as_text(usable[f"{FROM_REGISTER}{column}"])
    return dict(zip(usable["parcel_id"], groups, strict=True))


def read_dataset_groups(path: Path, column: str) -> dict[str, str]:
    """Read the groups of an existing dataset from META/groups.json, {column: {id: value}}.

    Parameters
    ----------
    path
        The file.
    column
        A key of it.

    Returns
    -------
    dict
        {parcel id: group}, "" where the value is null or a blank.

    Raises
    ------
    InputError
        If the file is missing or has another form, or has no such key.
    """
    return column_of(path, read_object(path), column)


def column_of(path: Path, columns: Mapping[str, Any], column: str) -> dict[str, str]:
    """Return the groups of a column; the path is for messages. See `read_dataset_groups`."""
    if not columns and not path.is_file():
        read_object(path)  # says that the file is missing
    for name, values in columns.items():
        of_right_type = isinstance(values, dict) and all(
            isinstance(value, int | float | str | None) for value in values.values()
        )
        if not of_right_type:
            raise InputError(
                f"{path}: expected {{column: {{id: value}}}}, found others in {name!r}."
            )
    check_column(column, list(columns), str(path), "key")
    values = pd.Series(columns[column], dtype=object)
    return dict(zip(values.index, as_text(values), strict=True))


def check_column(column: str, known: Sequence[str], where: str, what: str) -> None:
    """Refuse a column of groups that is not among those known."""
    if column not in known:
        raise InputError(
            f"split.column is {column!r}, which is not a {what} of {where}."
            f"{did_you_mean(column, known)} Its {what}s are: {', '.join(known)}."
        )


def check_number(values: Sequence[str] | NDArray[Any], column: str, n_folds: int) -> int:
    """Refuse fewer groups than folds; return the number of groups.

    Parameters
    ----------
    values
        The group of every parcel, str (N,); "" for a group by itself.
    column
        Name of the groups.
    n_folds
        Number of folds.
    """
    present = pd.Series(values, dtype=object)
    n_groups = present[present != ""].nunique() + int((present == "").sum())
    if n_groups < n_folds:
        raise InputError(
            f"split.column: {len(present)} parcels have {n_groups} different values in {column!r}, "
            f"fewer than split.folds ({n_folds}). Lower split.folds, or name another column."
        )
    return n_groups


def number_groups(values: Sequence[str] | NDArray[Any]) -> tuple[NDArray[np.int64], int]:
    """Assign a number to every group; each parcel without a group is a group by itself.

    Parameters
    ----------
    values
        The group of every parcel, str (N,); "" where a parcel has none.

    Returns
    -------
    numbers, n_without
        int64 (N,), equal for parcels of the same group; and the number of parcels without one.
    """
    names = pd.Series(values, dtype=object)
    numbers = pd.factorize(names)[0].astype(np.int64)
    without = np.flatnonzero(names == "")
    numbers[without] = len(names) + np.arange(len(without))
    return numbers, len(without)


def blocks_of(positions: NDArray[np.float64], block_m: float) -> NDArray[np.int64]:
    """Return the number of the square block, of side `block_m`, of every position, int64 (N,)."""
    squares = np.floor(positions / block_m).astype(np.int64)
    return np.unique(squares, axis=0, return_inverse=True)[1].ravel().astype(np.int64)
