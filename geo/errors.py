"""The error for everything that a user can correct: imagery, registers, settings, datasets."""

from __future__ import annotations

import csv
import errno
import re
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
# Errors of the machine, whatever the file contains: no memory, too many open files, a failing disk.
_MACHINE_ERRORS = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE)


class InputError(Exception):
    """Input or settings that cannot be used; the message says what, where, and what to do."""


class UnavailableError(InputError):
    """A service or a folder that cannot be reached now: the files in it may be intact."""


class AccessError(InputError):
    """Access to a file is refused: the credentials are wrong or expired, or it does not exist."""


# The last sentence about one acquisition of many that cannot be read.
SET_ASIDE = "To leave out acquisitions that cannot be read, set imagery.damaged to set_aside."


def first_five(names: Iterable[object]) -> str:
    """Join the first five names for a message, with ", ..." if there are more."""
    texts = [str(name) for name in names]
    return ", ".join(texts[:5]) + ", ..." * (len(texts) > 5)


def nearest(name: str, known: Iterable[object]) -> str | None:
    """Return the known name that is most like a name, whatever their case; None if none is.

    Names are also alike if all words of one are words of the other, such as ID and ID_PARCEL.
    """
    # Imported here, because few runs have an error.
    import difflib

    name, plain = _plain(name), {_plain(str(other)): str(other) for other in known}
    if close := difflib.get_close_matches(name, plain, n=1):
        return plain[close[0]]
    own = set(name.split())
    for other in sorted(plain, key=len):
        shared = own & set(other.split())
        if shared and shared in (own, set(other.split())):
            return plain[other]
    return None


def _plain(name: str) -> str:
    """Return the words of a name in small letters: parcel id of PARCEL_ID, and 7 of 007."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|[\W_]+", " ", name).lower()
    return re.sub(r"(?<!\d)0+(?=\d)", "", words).strip()


def did_you_mean(name: str, known: Iterable[object]) -> str:
    """Return " Did you mean 'X'?" for the known name that is most like a name, or ""."""
    near = nearest(name, known)
    return "" if near is None else f" Did you mean {near!r}?"


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
        if isinstance(error, OSError) and error.errno in _MACHINE_ERRORS:
            raise
        found = str(error).strip().splitlines() or [type(error).__name__]
        if isinstance(error, KeyError):
            found = [f"it lacks {error}"]
        if isinstance(error, RecursionError):
            found = ["its brackets are nested too deeply"]
        raise InputError(f"{path} is not {expected}: {found[0]}. {remedy}") from error
