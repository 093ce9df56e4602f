"""From the codes in the register to the classes to train on, by tables of codes."""

from __future__ import annotations

import numbers
from collections import Counter
from collections.abc import Container, Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
from pandas.api.types import is_integer_dtype

from geo.errors import InputError, did_you_mean, first_five
from geo.register.columns import LARGEST_EXACT, as_text
from geo.register.tables import read_csv
from pipeline.classes.crop_class import alike_codes
from pipeline.workflow.sections.parcels import Label, LabelColumns
from pipeline.workflow.sections.values import Code

# HCAT codes have ten digits: level 2 is the first two, each further level adds two (EuroCrops).
HCAT_DIGITS = 10


def nomenclatures(
    options: LabelColumns, columns: Container[str], *, follows_fiboa: bool
) -> dict[str, Label]:
    """Return the nomenclatures of a register: those of the settings, otherwise fiboa's crop.

    Parameters
    ----------
    options
        labels.
    columns
        Columns of the register.
    follows_fiboa
        Whether it follows fiboa.
    """
    if options.labels or not follows_fiboa or "crop:code" not in columns:
        return dict(options.labels)
    name = "crop:name" if "crop:name" in columns else None
    return {"crop": Label(column="crop:code", class_name=name)}


def read_declared(
    columns: pd.DataFrame,
    label: Label,
    nomenclature: str,
    usable: pd.Series[bool],
    unknown: Literal["refuse", "unlabelled", "other"] = "refuse",
    other: Code | None = None,
    encoding: str | None = None,
) -> tuple[pd.Series[Any], dict[str, str]]:
    """Read the classes that parcels declare in a nomenclature.

    Parameters
    ----------
    columns
        The register's columns, P rows.
    label
        The column of the codes, and the table from codes to classes.
    nomenclature
        Name of the nomenclature, for messages.
    usable
        Which parcels are usable: codes of other parcels need not be in the table.
    unknown
        How codes are treated that the table lacks: they are refused, or the parcels have no label,
        or they have the class `other`.
    encoding
        Encoding of a table that is not UTF-8.

    Returns
    -------
    codes
        Class codes (P,) as `read_codes` returns them, missing if no class is declared.
    names
        {class code as text: name}, for codes that have a name.

    Raises
    ------
    InputError
        If the table cannot be used, or lacks a code.
    """
    if label.table is None:
        codes, names = read_codes(columns[label.column]), {}
        if label.class_name is not None:
            class_names = pd.Series(as_text(columns[label.class_name]), index=columns.index)
            named = class_names[codes.notna() & (class_names != "")]
            # In reverse, so that the first name of a code wins.
            names = dict(zip(codes[named.index][::-1].astype(str), named[::-1], strict=True))
    else:
        table, names = _read_table(label, nomenclature, encoding)
        texts = pd.Series(as_text(columns[label.column]), index=columns.index)
        lacking = usable & (texts != "") & ~texts.isin(list(table))
        if unknown == "refuse" and lacking.any():
            raise _unknown_codes(texts[lacking], table, label, nomenclature)
        classes = texts.map(table).astype(object)
        if unknown == "other":
            classes[lacking] = str(other)
        codes = read_codes(classes)
    if label.hcat_level is not None:
        codes = _at_level(codes, label.hcat_level, nomenclature)
    return codes, names


def _read_table(
    label: Label, nomenclature: str, encoding: str | None
) -> tuple[dict[str, str], dict[str, str]]:
    """Read a table of codes, CSV: {code: class code} and {class code: name}.

    A code with an empty class is not a class: its parcels have no label.
    """
    path, key = label.table, f"parcels.labels.{nomenclature}"
    if path is None or not path.is_file():
        raise InputError(f"There is no table of codes {path}. Check {key}.table.")
    columns, table = read_csv(path, "a table of codes", label.code, encoding)
    class_code = label.class_code or ("class" if "class" in columns else label.code)
    plain = "name" if class_code == label.code else "class_name"
    class_name = label.class_name or (plain if plain in columns else class_code)
    wanted = {"code": label.code, "class_code": class_code, "class_name": class_name}
    for setting, column in wanted.items():
        if column not in columns:
            raise InputError(
                f"{path} has no column {column!r}, which is {key}.{setting}."
                f"{did_you_mean(column, columns)} Its columns, "
                f"separated by commas, semicolons or tabs, are: {', '.join(columns) or 'none'}."
            )
    # EuroCrops has rows for classes without a code.
    rows = [(r[label.code], r[class_code], r[class_name]) for r in table if r[label.code]]
    classes: dict[str, str] = {}
    ambiguous = {code for code, own, _ in rows if classes.setdefault(code, own) != own}
    if ambiguous:
        raise InputError(
            f"{path} has more than one class for {len(ambiguous)} codes: {_quoted(ambiguous)}. "
            f"Keep one class per code, or read another column: {key}.column and {key}.code."
        )
    # In reverse, so that the first name of a class wins.
    return classes, {own: name for _, own, name in reversed(rows) if own and name}


def _unknown_codes(
    codes: pd.Series[Any], table: Mapping[str, str], label: Label, nomenclature: str
) -> InputError:
    """Say which codes the table lacks, and how many parcels declare each."""
    counts = Counter(codes.tolist()).most_common()
    most = ", ".join(f"{code!r} ({n} parcels)" for code, n in counts[:10])
    more = f" and {len(counts) - 10} more" if len(counts) > 10 else ""
    alike = alike_codes((code for code, _ in counts), table)
    hint = f" It has {alike[1]!r}: write codes alike." if alike is not None else ""
    return InputError(
        f"{label.table} lacks {len(counts)} codes of column {label.column!r} in its column "
        f"{label.code!r}: {most}{more}.{hint} Add them, or set parcels.unknown_codes to "
        f"unlabelled or other (nomenclature {nomenclature})."
    )


def _at_level(codes: pd.Series[Any], level: int, nomenclature: str) -> pd.Series[Any]:
    """Cut HCAT codes to a level of their hierarchy: the digits below it become 0."""
    texts = codes.dropna().astype(str)
    wrong = texts[~texts.str.fullmatch(rf"\d{{{HCAT_DIGITS}}}")]
    if len(wrong):
        raise InputError(
            f"parcels.labels.{nomenclature}.hcat_level is set, but {wrong.nunique()} classes are "
            f"not HCAT codes of {HCAT_DIGITS} digits: {_quoted(set(wrong))}."
        )
    digits = 2 * (level - 1)
    cut = texts.str.slice(0, digits).str.pad(HCAT_DIGITS, side="right", fillchar="0")
    if is_integer_dtype(codes.dtype):
        return cut.astype(np.int64).astype("Int64").reindex(codes.index)
    return cut.astype("string").reindex(codes.index)


def _quoted(codes: set[str]) -> str:
    """List the first five codes in quotes."""
    return first_five(repr(code) for code in sorted(codes))


def read_codes(column: pd.Series[Any]) -> pd.Series[Any]:
    """Read the class codes of a column.

    Returns
    -------
    Series
        Int64 if every code is a whole number, even if gaps made the column one of floats; otherwise
        string, without surrounding blanks. Missing where the code is missing or empty.
    """
    present = column.dropna().astype(object)
    if all(_is_whole(value) for value in present):
        return present.astype(float).astype("Int64").reindex(column.index)
    texts = pd.Series(as_text(column), index=column.index, dtype="string")
    return texts.where(texts != "")


def _is_whole(value: Any) -> bool:
    """Return whether a value is a number without decimals."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        return False
    return float(value).is_integer() and abs(float(value)) <= LARGEST_EXACT
