"""The rows of the register and those of the ledger: which are the same, wherever they stand."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geo.errors import InputError
from geo.register.columns import Checksums, as_text, row_checksums, with_codes
from pipeline.workflow.sections import RegisterColumns

logger = logging.getLogger(__name__)

# How many ids an error names.
NAMED = 5


def matched_parts(
    register: Path, ledger: pd.DataFrame, options: RegisterColumns, n_rows: int
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
    # GDAL is needed only here: a machine without it can still train and evaluate.
    from geo.register.reading import read_register_parts
    from pipeline.classes.register import columns_of

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
