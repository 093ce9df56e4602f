"""The crop classes, and the tables that list them."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

from geo.errors import InputError, first_five
from geo.register.tables import read_csv
from geo.register.text import SETTING
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


def read_names(
    path: Path, encoding: str | None = None, setting: str | None = SETTING
) -> dict[str, str]:
    """Read the names of classes, {code as text: name}, from a CSV with columns code and name.

    Parameters
    ----------
    path
        The table.
    encoding
        Encoding of a table that is not UTF-8; None if it is not known.
    setting
        The setting of the encoding, for messages; None if there is none for this table.

    Raises
    ------
    InputError
        If the file is missing or lacks one of the columns.
    """
    if not path.is_file():
        raise InputError(f"There is no table of class names {path}. Check parcels.names.")
    columns, rows = read_csv(path, "a table of class names", "code", encoding, setting)
    if not {"code", "name"} <= set(columns):
        raise InputError(
            f"{path} has the columns {', '.join(columns) or 'none'}, expected code and name, "
            "separated by commas, semicolons or tabs. Rename the columns, or leave parcels.names "
            "unset."
        )
    if columns.count("name") > 1:
        raise InputError(f"{path} has two columns 'name'. Remove or rename one.")
    return {row["code"]: row["name"] for row in rows}


def with_names(table: Classes, names: Path | None, encoding: str | None = None) -> Classes:
    """Replace the names of the classes that a table of names contains.

    Raises
    ------
    InputError
        As in `read_names`; if the table has none of the classes.
    """
    if names is None:
        return table
    by_code = read_names(names, encoding)
    refuse_other_codes(by_code, [c.code for c in table.classes], names)
    named = [replace(c, name=by_code.get(str(c.code)) or c.name) for c in table.classes]
    return table._replace(classes=named)


def refuse_other_codes(names: Mapping[str, str], codes: Collection[Code], path: Path) -> None:
    """Refuse a table of names that has none of the codes, if there are any."""
    if not codes or any(str(code) in names for code in codes):
        return
    known = [repr(code) for code in names]
    hint = ""
    if alike := alike_codes(map(str, codes), names):
        own, other = alike
        hint = f" Write {other!r} as {own!r} there."
    raise InputError(
        f"{path} has none of the {len(codes)} declared codes, such as "
        f"{first_five(repr(str(code)) for code in codes)}; it has {first_five(known) or 'none'}."
        f"{hint} Correct its column code, or leave the table of names unset."
    )


def alike_codes(codes: Iterable[str], others: Iterable[str]) -> tuple[str, str] | None:
    """Find the first code that another one equals except for its spelling.

    Spellings differ in leading zeros, decimals of whole numbers, case, blanks, and the form in
    which Unicode writes accents.
    """
    spelled = {spelling(code): code for code in others}
    return next(((c, spelled[spelling(c)]) for c in codes if spelling(c) in spelled), None)


def spelling(code: str) -> str:
    """Return a code without what may differ in its spelling, see `alike_codes`."""
    plain = "".join(unicodedata.normalize("NFKC", code).casefold().split())
    return re.sub(r"[.,]0+$", "", plain).lstrip("0")
