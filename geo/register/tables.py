"""Tables that users wrote: CSV with any usual separator, in any encoding."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from geo.errors import InputError, reading
from geo.register.text import RAW, SETTING, decode_document, not_decoded

SEPARATORS = (",", ";", "\t", "|")
# First bytes of XLSX, ODS and zip archives, XLS, Parquet, and GeoPackages.
BINARY = (b"PK\3\4", b"\xd0\xcf\x11\xe0", b"PAR1", b"SQLite format 3")


def read_csv(
    path: Path,
    expected: str,
    key: str,
    encoding: str | None = None,
    setting: str | None = SETTING,
) -> tuple[list[str], list[dict[str, str]]]:
    """Read a CSV that a user wrote: its columns, and its rows without surrounding blanks.

    Parameters
    ----------
    path
        The file.
    expected
        Expected content, for messages.
    key
        A column that it must have: the separator is the first one that separates it. Whether it
        is there is checked by the caller.
    encoding
        Encoding of a file that is not UTF-8 and has no byte order mark; None if it is not known.
    setting
        The setting of the encoding, for messages; None if there is none for this file.

    Raises
    ------
    InputError
        If the file cannot be read or decoded, or if a row has more values than columns.
    """
    with reading(path, expected, "Save it as CSV in UTF-8."):
        content = path.read_bytes()
        if content.startswith(BINARY):
            raise ValueError("it is not text, but a spreadsheet, an archive or a database")
        text = decode_document(content, encoding)
        if text is None:
            raise _not_decoded(path, content, key, encoding, setting)
        columns, rows = _parse(text, key)
    if repeated := {c for c in columns if c == key and columns.count(c) > 1}:
        raise InputError(f"{path} has two columns {repeated.pop()!r}. Remove or rename one.")
    # Without the key, the first line is not that of the columns, as the caller says.
    for number, row in rows if key in columns else ():
        if any(value.strip() for value in row[len(columns) :]):
            raise InputError(
                f"{path}: line {number} has {len(row)} values, but there are {len(columns)} "
                f"columns ({', '.join(columns)}). Put text that contains the separator in quotes."
            )
    # Missing values at the end of a row are empty.
    empty = [""] * len(columns)
    return columns, [
        dict(zip(columns, map(str.strip, row + empty), strict=False)) for _, row in rows
    ]


def _parse(text: str, key: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the columns, and every row that is not blank with the number of its line."""
    begin = text.lstrip().partition("\n")[0].strip()
    # Excel reads the separator from such a line.
    stated = begin[4] if len(begin) == 5 and begin.lower().startswith("sep=") else None
    first = None
    for separator in SEPARATORS if stated is None else (stated,):
        table = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        found = ((table.line_num, row) for row in table if row)
        if stated is not None:
            next(found)
        header = [name.strip() for name in next(found, (0, []))[1]]
        parsed = header, list(found)
        if key in header:
            return parsed
        first = first or parsed
    return first or ([], [])


def _not_decoded(
    path: Path, content: bytes, key: str, encoding: str | None, setting: str | None
) -> InputError:
    """Name the first value of a table that is neither UTF-8 nor of the encoding."""
    columns, rows = _parse(content.decode(RAW), key)
    for number, row in [(1, columns), *rows]:
        for i, value in enumerate(row):
            if decode_document(value.encode(RAW), encoding) is None:
                name = columns[i] if i < len(columns) else i + 1
                tried = ["utf-8", *filter(None, [encoding])]
                at = f"line {number}, column {name!r}"
                return not_decoded(str(path), at, value.encode(RAW), tried, setting)
    return InputError(f"{path} is not text in UTF-8, UTF-16 or {encoding}. Save it in UTF-8.")
