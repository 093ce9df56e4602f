"""Points of CSV files: the columns of their coordinates."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from geo.errors import InputError

TABLE_SUFFIXES = (".csv", ".tsv", ".psv")

# Names of the columns in lower case.
DEGREES = (
    ("lon", "lat"),
    ("long", "lat"),
    ("lng", "lat"),
    ("longitude", "latitude"),
    ("decimallongitude", "decimallatitude"),
)
OTHERS = (("x", "y"), ("easting", "northing"))


def coordinate_columns(columns: Iterable[str]) -> tuple[str, str] | None:
    """Return the columns of longitude and latitude, or of x and y; None if there are none."""
    names = {name.lower(): name for name in columns}
    for x, y in (*DEGREES, *OTHERS):
        if x in names and y in names:
            return names[x], names[y]
    return None


def crs_of_columns(path: Path, x: str, y: str) -> str:
    """Return the coordinate system that the names of two columns of a file imply.

    Raises
    ------
    InputError
        If they are not those of longitude and latitude.
    """
    if (x.lower(), y.lower()) in DEGREES:
        return "EPSG:4326"
    raise InputError(
        f"{path} does not say the coordinate system of its columns {x} and {y}. If they are "
        "degrees, rename them to lon and lat. Otherwise convert the file with the code of the "
        f"system: `ogr2ogr -a_srs EPSG:32631 -oo X_POSSIBLE_NAMES={x} -oo Y_POSSIBLE_NAMES={y} "
        f"points.gpkg {path.name}`."
    )
