"""What a user can mend: the one error of imagery, registers, settings and datasets."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

# What json, csv, numpy, pandas and pyarrow raise for a file that is damaged or holds something else
# (UnicodeDecodeError, JSONDecodeError and ArrowInvalid are ValueErrors).
_OF_CONTENT = (
    *(ValueError, LookupError, TypeError, AttributeError, EOFError),
    *(csv.Error, zipfile.BadZipFile),
)


class InputError(Exception):
    """Input or settings that cannot be used; the message says what, where, and what to do."""


def first_five(names: Iterable[object]) -> str:
    """Join the first five names for a message, with ", ..." if there are more."""
    texts = [str(name) for name in names]
    return ", ".join(texts[:5]) + ", ..." * (len(texts) > 5)


@contextmanager
def reading(path: Path, expected: str, remedy: str) -> Iterator[None]:
    """Name the file in the error of a library that cannot read it.

    Only the reading and parsing of the file belongs into the block: any other error there would be
    taken for the file's.

    Parameters
    ----------
    path
        The file that is read.
    expected
        What it should be, such as "a JSON object of grids".
    remedy
        What the user can do about it, one sentence.

    Raises
    ------
    InputError
        If the content of the file is not what is expected.
    """
    try:
        yield
    except _OF_CONTENT as error:
        found = str(error).strip().splitlines() or [type(error).__name__]
        if isinstance(error, KeyError):
            found = [f"it lacks {error}"]
        raise InputError(f"{path} is not {expected}: {found[0]}. {remedy}") from error
