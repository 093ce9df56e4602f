"""Ids and codes of a register as text, and a checksum for every row.

Neither GDAL nor geopandas is imported here: datasets without outlines have ids and codes, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

if TYPE_CHECKING:
    import geopandas as gpd

# Integers up to this one are exact in float64.
LARGEST_EXACT = 2**53
# Rows whose outlines and ids are in memory as bytes together.
ROWS_AT_A_TIME = 20_000

Checksums = NDArray[np.uint64]


def as_text(column: pd.Series[Any]) -> NDArray[np.object_]:
    """Convert the ids or codes of a column to text, str (P,); "" where the value is missing.

    A column of integers with gaps may arrive as floats: whole numbers are written without decimals.
    Surrounding blanks are removed, leading zeros are kept.
    """
    values = column.astype(object).where(column.notna(), "")
    return np.array([str(_whole(value)).strip() for value in values], object)


def _whole(value: Any) -> Any:
    """Convert a float without decimals to an integer; return other values unchanged."""
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST_EXACT
    return int(value) if is_whole else value


def numbered(ids: Iterable[str], usable: NDArray[np.bool_]) -> NDArray[Any]:
    """Make ids unique: repetitions of an id among the usable rows become <id>-2, <id>-3 ...

    Returns
    -------
    str (P,); missing ids, "", and ids of other rows are unchanged.
    """
    unique = np.array(list(ids), object)
    taken, assigned = set(unique), set()
    counts: dict[str, int] = {}
    for row in np.flatnonzero(usable & (unique != "")):
        name = unique[row]
        if name in assigned:
            number = counts.get(name, 1) + 1
            # The register may contain an id that looks like a numbered one.
            while f"{name}-{number}" in taken:
                number += 1
            counts[name] = number
            unique[row] = f"{name}-{number}"
            taken.add(unique[row])
        assigned.add(unique[row])
    return unique


def row_checksums(outlines: gpd.GeoSeries, ids: pd.Series[Any]) -> Checksums:
    """Compute a checksum of the id and the outline of every row, uint64 (P,).

    It depends neither on the order of the rows nor on the file format.

    Parameters
    ----------
    outlines
        In two dimensions, with their coordinate system.
    ids
        The ids of the same rows.
    """
    # Equal coordinates in another coordinate system are another outline.
    start = hashlib.blake2b(outlines.crs.to_wkt().encode(), digest_size=8)
    digests = np.empty(len(ids), np.uint64)
    for first in range(0, len(ids), ROWS_AT_A_TIME):
        rows = slice(first, first + ROWS_AT_A_TIME)
        shapes = [shape or b"" for shape in outlines.iloc[rows].to_wkb()]
        digests[rows] = _digests(start, [_encoded(as_text(ids.iloc[rows])), shapes])
    return digests


def with_codes(checksums: Checksums, columns: Sequence[pd.Series[Any]]) -> Checksums:
    """Add the declared codes to the checksums of `row_checksums`.

    Rows with the same checksum are the same parcel twice.
    """
    start = hashlib.blake2b(digest_size=8)
    digests = np.empty(len(checksums), np.uint64)
    for first in range(0, len(checksums), ROWS_AT_A_TIME):
        rows = slice(first, first + ROWS_AT_A_TIME)
        parts = [[checksum.tobytes() for checksum in checksums[rows]]]
        parts += [_encoded(as_text(column.iloc[rows])) for column in columns]
        digests[rows] = _digests(start, parts)
    return digests


def _encoded(texts: NDArray[np.object_]) -> list[bytes]:
    # Damaged text in a register can contain surrogates, which plain UTF-8 refuses.
    return [text.encode(errors="surrogatepass") for text in texts]


def _digests(start: hashlib.blake2b, parts: Sequence[Sequence[bytes]]) -> Checksums:
    """Compute the digest of every row's parts, uint64 (P,)."""
    digests = np.empty(len(parts[0]), np.uint64)
    for i, row in enumerate(zip(*parts, strict=True)):
        digest = start.copy()
        digest.update(b"\0".join(row))
        digests[i] = int.from_bytes(digest.digest())
    return digests


def storable(column: pd.Series[Any]) -> pd.Series[Any]:
    """Convert a column of mixed types, which Parquet cannot store, to text."""
    types = set(map(type, column.dropna())) if column.dtype == object else set()
    if len(types) < 2:
        return column
    return pd.Series(as_text(column), index=column.index).where(column.notna())
