"""Views of GeoPackages: queries whose rows GDAL computes, which can be endless or of any size."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from geo.errors import InputError

# Steps of SQLite's machine for the views of a file: about 10 s, ten million simple rows.
MOST_STEPS = 500_000_000
# Bytes of a cell, and of all cells: so many for every byte of the file, or at least a number.
_LONGEST_CELL = 100_000_000
_MOST_GROWN, _LARGE = 200, 2**30

_STEPS_A_CALL = 100_000


def check_views(path: Path, place: str) -> None:
    """Check that every view of an SQLite file has an end, and cells of a bounded size.

    GDAL evaluates views while it lists the layers. The tables cannot be larger than the file.

    Parameters
    ----------
    path
        The file.
    place
        Its name for messages.

    Raises
    ------
    InputError
        If its rows need more than `MOST_STEPS` steps, are too large, or need functions or tables
        that neither SQLite nor GDAL has.
    """
    calls = iter(range(MOST_STEPS // _STEPS_A_CALL))
    view = ""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_CELL)
            for name in ("printf", "format"):
                database.create_function(name, -1, _printf, deterministic=True)
            database.set_progress_handler(lambda: next(calls, None) is None, _STEPS_A_CALL)
            schema = "SELECT name FROM sqlite_master WHERE type = 'view' OR sql LIKE '%view%'"
            found = "SELECT name FROM pragma_table_list WHERE type = 'view' AND schema = 'main'"
            if not database.execute(schema).fetchall():
                return
            for (view,) in database.execute(found).fetchall():
                _check_size(database, view, path.stat().st_size)
    except (sqlite3.Error, ValueError) as error:
        reason = "it is endless" if "interrupted" in str(error) else str(error)
        where = f"{place}: the view {view!r}" if view else place
        raise InputError(
            f"{where} cannot be read ({reason}). Write the layer of the parcels to a file without "
            "views, for example with ogr2ogr."
        ) from None


def _check_size(database: sqlite3.Connection, view: str, size: int) -> None:
    """Compute the bytes of all cells of a view, which must be in proportion to the file."""
    nothing = f"SELECT * FROM {_quoted(view)} LIMIT 0"  # noqa: S608 (quoted)
    columns = _execute(database, nothing).description
    cells = " + ".join(f"ifnull(length({_quoted(column[0])}), 0)" for column in columns)
    query = f"SELECT total({cells}) FROM {_quoted(view)}"  # noqa: S608 (quoted)
    (n_bytes,) = _execute(database, query).fetchone()
    if n_bytes > max(_LARGE, _MOST_GROWN * size):
        raise ValueError(f"its cells have {n_bytes:,.0f} bytes, the file {size:,}")


def _printf(*values: Any) -> Any:
    """Return what SQLite's function returns, but fail where it returns NULL for a long text."""
    with closing(sqlite3.connect(":memory:")) as database:
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_CELL)
        query = f"SELECT printf({', '.join('?' * len(values))})"
        (text,) = database.execute(query, values).fetchone()
    if text is None and values and values[0] is not None:
        raise ValueError("the text is too long")
    return text


def _execute(database: sqlite3.Connection, query: str) -> sqlite3.Cursor:
    """Run a query; functions of GDAL about geometries (ST_...) return NULL in it."""
    while True:
        try:
            return database.execute(query)
        except sqlite3.OperationalError as error:
            missing = re.fullmatch(r"no such function: (ST_\w+)", str(error), re.IGNORECASE)
            if missing is None:
                raise
            database.create_function(missing[1], -1, lambda *_: None, deterministic=True)


def _quoted(name: str) -> str:
    """Return a name of SQL in quotes."""
    return '"' + name.replace('"', '""') + '"'
