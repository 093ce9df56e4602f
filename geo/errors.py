"""The error for everything that a user can correct: imagery, registers, settings, datasets."""

from __future__ import annotations

import csv
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

# Errors of json, csv, numpy, pandas and pyarrow for a file that is damaged or has another format.
# UnicodeDecodeError, JSONDecodeError and ArrowInvalid are ValueErrors; errors of GDAL, of JSON that
# is nested too deeply and of unknown kinds of zip archives are RuntimeErrors. A header of numpy is
# parsed as Python. A damaged length ends in a MemoryError or OverflowError. pyarrow raises OSError
# for a damaged Parquet file.
_CONTENT_ERRORS = (
    *(ValueError, LookupError, TypeError, AttributeError, EOFError, RuntimeError, OSError),
    *(MemoryError, OverflowError, SyntaxError, tokenize.TokenError),
    *(csv.Error, zipfile.BadZipFile, zlib.error, struct.error),
)


class InputError(Exception):
    """Input or settings that cannot be used; the message says what, where, and what to do."""


class UnavailableError(InputError):
    """A service or a folder that cannot be reached now: the files in it may be intact."""


# The last sentence about one acquisition of many that cannot be read.
SET_ASIDE = "To leave out acquisitions that cannot be read, set imagery.damaged to set_aside."


def first_five(names: Iterable[object]) -> str:
    """Join the first five names for a message, with ", ..." if there are more."""
    texts = [str(name) for name in names]
    return ", ".join(texts[:5]) + ", ..." * (len(texts) > 5)


@contextmanager
def reading(path: Path | str, expected: str, remedy: str) -> Iterator[None]:
    """Raise an error that names the file if it is missing or a library cannot read it.

    Only the reading and parsing of the file belongs into the block: every other error of these
    types would be blamed on the file.

    Parameters
    ----------
    path
        The file that is read, or its address.
    expected
        Expected content, such as "a JSON object of grids".
    remedy
        One sentence about the action that the user can take.

    Raises
    ------
    InputError
        If the file is missing or does not have the expected content.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"There is no {path}. {remedy}") from error
    except PermissionError:
        raise  # It names the file itself, which is not damaged.
    except _CONTENT_ERRORS as error:
        found = str(error).strip().splitlines() or [type(error).__name__]
        if isinstance(error, KeyError):
            found = [f"it lacks {error}"]
        if isinstance(error, RecursionError):
            found = ["its brackets are nested too deeply"]
        raise InputError(f"{path} is not {expected}: {found[0]}. {remedy}") from error
