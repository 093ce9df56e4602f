"""JSON objects with an entry for every parcel, read and written in parts.

As a whole, such a file takes half a kilobyte a parcel in Python; a part takes some megabytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import ijson
import numpy as np

from pipeline.workflow.artefacts import artefact, read_json
from pipeline.workflow.writing import as_json, replacing

ENTRIES_AT_A_TIME = 10_000
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_json_parts(
    path: Path, within: str | None = None, expected: str = "valid JSON"
) -> Iterator[dict[str, Any]]:
    """Read a JSON object in parts, in the order of the file; a byte order mark is skipped.

    Parameters
    ----------
    path
        The file.
    within
        Read the object under this key of the file; {} if the file has no key. None: the object that
        the file is.
    expected
        Expected content, for the message.

    Yields
    ------
    Some of the entries; {} for an object without any.

    Raises
    ------
    InputError
        If the file is missing, is not such an object, repeats a key, or lacks `within`. What was
        yielded before must be discarded then.
    """
    hashes = []
    parts = _parts(path, within)
    while True:
        # Errors of what is done with a part are not those of the file.
        with artefact(path, expected):
            try:
                part = next(parts, None)
            except ijson.JSONError as error:
                raise ValueError(str(error).partition("\n")[0]) from error
        if part is None:
            break
        hashes.append(np.fromiter((hash(key) for key, _ in part), np.int64, len(part)))
        yield dict(part)
    if not hashes:  # the object is empty, or is none
        yield read_json(path, lambda values: _empty(values, within), expected)
        return
    found = np.sort(np.concatenate(hashes))
    if (found[1:] == found[:-1]).any():
        read_json(path)  # refuses the file, if the keys are equal and not only their hashes


def _parts(path: Path, within: str | None) -> Iterator[list[tuple[str, Any]]]:
    with path.open("rb") as file:
        if file.read(3) != _BYTE_ORDER_MARK:
            file.seek(0)
        entries = ijson.kvitems(file, within or "", use_float=True)
        while part := list(islice(entries, ENTRIES_AT_A_TIME)):
            yield part


def _empty(values: Any, within: str | None) -> dict[str, Any]:
    """Return {}; refuse values that are not an object without entries, or without keys."""
    if within is not None and values:
        if within not in values:
            raise ValueError(f"it has no key {within!r}")
        values = values[within]
    if values != {}:
        raise ValueError(f"expected an object, found {values!r:.50}")
    return {}


def write_json_parts(
    path: Path, entries: Iterable[tuple[str, Any]] | Mapping[str, Iterable[tuple[str, Any]]]
) -> None:
    """Write an object whole or not at all, with the bytes that `write_json` writes of it.

    Parameters
    ----------
    path
        The file.
    entries
        Pairs of key and value; or {name: such pairs}, for an object of objects.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        if not isinstance(entries, Mapping):
            _write_object(file.write, entries)
            return
        before = "{"
        for name, own in entries.items():
            file.write(f"{before}{as_json(name)}: ")
            _write_object(file.write, own)
            before = ", "
        file.write("}" if entries else "{}")


def _write_object(write: Callable[[str], Any], entries: Iterable[tuple[str, Any]]) -> None:
    iterator, before = iter(entries), "{"
    while part := dict(islice(iterator, ENTRIES_AT_A_TIME)):
        write(before + as_json(part)[1:-1])
        before = ", "
    write("{}" if before == "{" else "}")
