"""The columns of a register: ids and codes as text, and by what a row is known again.

Neither GDAL nor geopandas is imported: ids and codes are also those of datasets without outlines.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geo.errors import InputError

if TYPE_CHECKING:
    import geopandas as gpd

# Whole numbers up to here are exact in float64.
LARGEST_EXACT = 2**53

Checksums = NDArray[np.uint64]


@dataclass(frozen=True)
class RegisterColumns:
    """The columns of a register that are read by name.

    Attributes
    ----------
    id
        Column of the parcels' ids, or the name of the register's feature ids.
    codes
        {setting: column}: declared codes, and names of classes.
    """

    id: str
    codes: Mapping[str, str]

    @property
    def named(self) -> dict[str, str]:
        """Every column by the setting that names it."""
        return {"parcels.id": self.id, **self.codes}

    @property
    def declared(self) -> list[str]:
        """The columns of declared codes and names, each once."""
        return list(dict.fromkeys(self.codes.values()))


def as_text(column: pd.Series[Any]) -> NDArray[np.object_]:
    """Express the ids or codes of a column as text, str (P,); "" where there is none.

    Whole numbers have no decimals, also where gaps made the column one of floats; text loses the
    blanks around it and keeps its leading zeros.
    """
    values = column.astype(object).where(column.notna(), "")
    return np.array([str(_whole(value)).strip() for value in values], object)


def _whole(value: Any) -> Any:
    """Turn a float that is a whole number into an integer."""
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST_EXACT
    return int(value) if is_whole else value


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


def row_checksums(outlines: gpd.GeoSeries, ids: pd.Series[Any]) -> Checksums:
    """Compute a checksum of every row: its id and outline, uint64 (P,).

    A row keeps it wherever it stands and however its register is read.

    Parameters
    ----------
    outlines
        In two dimensions, with their coordinate system.
    ids
        The ids of the same rows.
    """
    start = hashlib.blake2b(outlines.crs.to_wkt().encode(), digest_size=8)
    shapes = outlines.to_wkb().to_numpy()
    return _digests(start, [_encoded(as_text(ids)), [shape or b"" for shape in shapes]])


def with_codes(checksums: Checksums, columns: Sequence[pd.Series[Any]]) -> Checksums:
    """Compute the checksum of every row from that of `row_checksums` and its declared codes.

    Rows of one checksum are the same parcel twice.
    """
    start = hashlib.blake2b(digest_size=8)
    parts = [[checksum.tobytes() for checksum in checksums]]
    return _digests(start, [*parts, *(_encoded(as_text(column)) for column in columns)])


def _encoded(texts: NDArray[np.object_]) -> list[bytes]:
    return [text.encode(errors="surrogatepass") for text in texts]


def _digests(start: hashlib.blake2b, parts: Sequence[Sequence[bytes]]) -> Checksums:
    """Compute the digest of every row's parts, uint64 (P,)."""
    digests = np.empty(len(parts[0]), np.uint64)
    for i, row in enumerate(zip(*parts, strict=True)):
        digest = start.copy()
        digest.update(b"\0".join(row))
        digests[i] = int.from_bytes(digest.digest())
    return digests


def refuse_missing(register: Path, known: Sequence[str], named: Mapping[str, str]) -> None:
    """Refuse a register that lacks a column.

    Parameters
    ----------
    register
        Its file, for the message.
    known
        Its columns.
    named
        {setting: column that it names}.
    """
    for key, column in named.items():
        if column not in known:
            lower = {name.lower(): name for name in known}
            near = difflib.get_close_matches(column.lower(), lower, n=1)
            hint = f" Did you mean {lower[near[0]]!r}?" if near else ""
            raise InputError(
                f"{key} is {column!r}, which is not a column of {register}.{hint} "
                f"Its columns are: {', '.join(known)}."
            )
