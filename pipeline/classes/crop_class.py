"""The crop classes, and the tables that list them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

from geo.errors import InputError, reading
from pipeline.workflow.artefacts import read_json
from pipeline.workflow.writing import write_json, write_text

Code = int | str
COLUMNS = ("class_index", "code", "name", "n_parcels", "used", "reason")


@dataclass(frozen=True)
class CropClass:
    """A class of the nomenclature.

    Parameters
    ----------
    code, name
        The code has the type that it has in the register or the table of codes: 12 is not "12".
    n_parcels
        Number of accepted parcels that declare the class.
    class_index
        Index among the classes that are trained on; None for other classes.
    reason
        Why the class is not trained on, a `ClassReason`; "" if it is.
    """

    code: Code
    name: str
    n_parcels: int = 0
    class_index: int | None = None
    reason: str = ""


class Classes(NamedTuple):
    """The declared classes: those to train on in order of the class index, then the others.

    `nomenclature` is the name of their nomenclature; None if the parcels have no labels.
    """

    nomenclature: str | None
    classes: list[CropClass]

    @property
    def trained(self) -> list[CropClass]:
        """The classes to train on, in order of the class index."""
        return [c for c in self.classes if c.class_index is not None]


def write_classes(path: Path, table: Classes) -> None:
    """Write the table of classes as JSON, in which codes keep their type."""
    write_json(
        path, {"nomenclature": table.nomenclature, "classes": [asdict(c) for c in table.classes]}
    )


def read_classes(path: Path) -> Classes:
    """Read the table of classes that `write_classes` wrote."""
    return read_json(
        path,
        lambda table: Classes(table["nomenclature"], [CropClass(**c) for c in table["classes"]]),
        "a table of classes",
    )


def write_classes_csv(path: Path, classes: Sequence[CropClass]) -> None:
    """Write the classes as CSV, for people; no stage reads it."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for c in classes:
        index = "" if c.class_index is None else c.class_index
        table.writerow([index, c.code, c.name, c.n_parcels, c.class_index is not None, c.reason])
    write_text(path, text.getvalue())


def read_csv(path: Path, expected: str) -> tuple[list[str], list[dict[str, str]]]:
    """Read a CSV that a user wrote: its columns, and its rows without surrounding blanks.

    `expected` says what the file should be, for the message if it cannot be read.
    """
    with (
        reading(path, expected, "Save it as CSV in UTF-8."),
        path.open(newline="", encoding="utf-8-sig") as file,
    ):
        table = csv.DictReader(file)
        columns = list(table.fieldnames or [])
        return columns, [{c: (row[c] or "").strip() for c in columns} for row in table]


def read_names(path: Path) -> dict[str, str]:
    """Read the names of classes, {code as text: name}, from a CSV with columns code and name.

    Raises
    ------
    InputError
        If the file is missing or lacks one of the columns.
    """
    if not path.is_file():
        raise InputError(f"There is no table of class names {path}. Check parcels.names.")
    columns, rows = read_csv(path, "a table of class names")
    if not {"code", "name"} <= set(columns):
        raise InputError(
            f"{path} has the columns {', '.join(columns) or 'none'}, expected code and name, "
            "separated by commas. Rename the columns, or leave parcels.names unset."
        )
    return {row["code"]: row["name"] for row in rows}


def with_names(table: Classes, names: Path | None) -> Classes:
    """Replace the names of the classes that a table of names contains."""
    if names is None:
        return table
    by_code = read_names(names)
    named = [replace(c, name=by_code.get(str(c.code)) or c.name) for c in table.classes]
    return table._replace(classes=named)
