"""The rows of the register and those of the ledger: which are the same, wherever they stand."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geo.errors import InputError
from pipeline.classes.ids_as_text import as_text
from pipeline.classes.ledger import read_ledger
from pipeline.workflow.sections import LabelColumns

logger = logging.getLogger(__name__)

Checksums = NDArray[np.uint64]
# How many ids an error names.
NAMED = 5


@dataclass(frozen=True)
class RegisterRows:
    """The rows of a register, each with its row of the ledger.

    Attributes
    ----------
    path, options
        The register, and the settings to read it by.
    checksums
        uint64 (N,), of its rows.
    places
        int64 (N,), row of the ledger that was made from each.
    outlines
        {type of geometry: number of rows}, as `outline_types` gives them.
    """

    path: Path
    options: LabelColumns
    checksums: Checksums
    places: NDArray[np.int64]
    outlines: Mapping[str, int]

    def parts(self, n_rows: int) -> Iterator[tuple[Any, NDArray[np.int64]]]:
        """Read the register again: GeoDataFrames of at most `n_rows`, and the rows' places.

        Raises
        ------
        InputError
            If it has changed since.
        """
        first = 0
        for part, checksums, _ in _read_parts(self.path, self.options, n_rows):
            rows = slice(first, first + len(part))
            if not np.array_equal(checksums, self.checksums[rows]):
                raise self._changed()
            yield part, self.places[rows]
            first = rows.stop
        if first != len(self.checksums):
            raise self._changed()

    def _changed(self) -> InputError:
        return InputError(
            f"{self.path} was changed while it was read. Run again once it stays as it is."
        )


def match_rows(register: Path, ledger: Path, options: LabelColumns, n_rows: int) -> RegisterRows:
    """Find the row of the ledger of every row of the register, by its id, codes and outline.

    Where rows are equal in all of these, they are matched in their order.

    Parameters
    ----------
    register
        Read part by part.
    ledger
        What clean wrote of it.
    options
        The settings that clean had.
    n_rows
        Rows to read at once.

    Raises
    ------
    InputError
        If they are not the same rows: the register is not the one that was cleaned.
    """
    # GDAL is needed only here: a machine without it can still train and evaluate.
    from geo.register.geopackage import outline_types
    from pipeline.classes.register_columns import with_defaults

    options = with_defaults(register, options)
    known = _read_checksums(register, ledger)
    outlines: Counter[str] = Counter()
    found = [np.empty(0, np.uint64)]
    for part, checksums, _ in _read_parts(register, options, n_rows):
        outlines.update(outline_types(part.geometry))
        found.append(checksums)
    checksums = np.concatenate(found)
    # Equal ones stay in their order.
    ours, theirs = np.argsort(checksums, kind="stable"), np.argsort(known, kind="stable")
    if not np.array_equal(checksums[ours], known[theirs]):
        raise InputError(
            f"{register} has not the rows of {ledger}, one for one: it is not the register that "
            f"was cleaned. {_differences(register, ledger, options, checksums, known, n_rows)} "
            "Give that register, or clean this one: snakemake -R clean."
        )
    places = np.empty(len(known), np.int64)
    places[ours] = theirs
    if not np.array_equal(ours, theirs):
        logger.info("the rows of %s stand in another order than when it was cleaned", register)
    return RegisterRows(register, options, checksums, places, outlines)


def _read_parts(
    register: Path, options: LabelColumns, n_rows: int
) -> Iterator[tuple[Any, Checksums, pd.DataFrame]]:
    """Read parts of the register with their checksums and the columns that the settings name."""
    # GDAL is needed only here: a machine without it can still train and evaluate.
    from pipeline.classes.register_columns import read_named_parts, row_checksums

    for part, named in read_named_parts(register, options, n_rows):
        yield part, row_checksums(part.geometry, named, options), named


def _read_checksums(register: Path, ledger: Path) -> Checksums:
    texts = read_ledger(ledger, ["parcel_id", "checksum"])["checksum"]
    if (texts == "").any():
        raise InputError(
            f"{ledger} does not tell which rows of {register} it was made from. "
            "Clean it again: snakemake -R clean."
        )
    return np.array([int(text, 16) for text in texts], np.uint64)


def _differences(
    register: Path,
    ledger: Path,
    options: LabelColumns,
    checksums: Checksums,
    known: Checksums,
    n_rows: int,
) -> str:
    """Say which rows the register has more, which it lacks, and which are others."""
    rows = read_ledger(ledger, ["parcel_id"])
    of_ledger = _named(rows["parcel_id"].to_numpy(object)[~_is_in(known, checksums)])
    parts = _read_parts(register, options, n_rows)
    ids = np.concatenate([as_text(named[str(options.id)]) for _, _, named in parts])
    of_register = _named(ids[~_is_in(checksums, known)])
    changed = of_ledger & of_register
    told = {
        "not in the ledger": of_register - changed,
        "of the ledger missing": of_ledger - changed,
        "with another outline, coordinate system or declared code": changed,
    }
    return " ".join(f"Rows {what}: {_count(ids)}." for what, ids in told.items() if ids)


def _is_in(these: Checksums, those: Checksums) -> NDArray[np.bool_]:
    """Return which of `these` are in `those`, where equal values count one for one."""

    def numbered(checksums: Checksums) -> pd.MultiIndex:
        series = pd.Series(checksums)
        return pd.MultiIndex.from_arrays([series, series.groupby(series).cumcount()])

    found: NDArray[np.bool_] = numbered(these).isin(numbered(those))
    return found


def _named(ids: NDArray[Any]) -> Counter[str]:
    """Count rows by id."""
    return Counter(parcel_id or "(without id)" for parcel_id in ids)


def _count(ids: Counter[str]) -> str:
    """Say how many rows there are, and the first ids."""
    first = ", ".join(list(ids)[:NAMED])
    return f"{ids.total()} ({first}{', ...' if len(ids) > NAMED else ''})"
