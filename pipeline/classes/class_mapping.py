"""The classes that parcels declare, by tables of codes, and those that are trained on."""

from __future__ import annotations

import csv
import numbers
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from pandas.api.types import is_integer_dtype

from geo.errors import InputError, reading
from geo.register.columns import LARGEST_EXACT, as_text
from pipeline.classes.crop_class import Classes, CropClass
from pipeline.classes.ledger import class_reasons, set_aside
from pipeline.classes.reasons import ClassReason, Reason
from pipeline.workflow.sections import Code, FrequentClasses, Label, LabelColumns, ParcelClasses

# HCAT codes have ten digits: level 2 is the first two, each further level two more (EuroCrops).
HCAT_DIGITS = 10


@dataclass(frozen=True)
class Declared:
    """The classes that parcels declare in one nomenclature.

    Attributes
    ----------
    codes
        Class codes (P,) as `read_codes` gives them, missing where there is none.
    names
        Names of class codes written as text, as far as they are known.
    """

    codes: pd.Series[Any]
    names: dict[str, str]


@dataclass(frozen=True)
class _Table:
    """A table of codes: {code: class code}, and the names of the class codes."""

    classes: dict[str, str]
    names: dict[str, str]


def read_declared(
    columns: pd.DataFrame,
    label: Label,
    nomenclature: str,
    usable: pd.Series[bool],
    unknown: Literal["refuse", "unlabelled", "other"] = "refuse",
    other: Code | None = None,
) -> Declared:
    """Read the classes that parcels declare in a nomenclature.

    Parameters
    ----------
    columns
        The register's columns, P rows.
    label
        Which column has the codes, and which table says what classes they are.
    nomenclature
        Its name, for the messages.
    usable
        Which parcels matter: codes of others may be unknown to the table.
    unknown
        What becomes of codes that the table does not know: they are refused, or the parcels count
        as not labelled, or as of the class `other`.

    Raises
    ------
    InputError
        If the table cannot be used, or does not know a code.
    """
    if label.table is None:
        codes = read_codes(columns[label.column])
        names = _names_in(columns, label, codes)
    else:
        table = _read_table(label, nomenclature)
        texts = pd.Series(as_text(columns[label.column]), index=columns.index)
        strange = usable & (texts != "") & ~texts.isin(list(table.classes))
        if unknown == "refuse":
            _refuse_unknown(texts[strange], table.classes, label, nomenclature)
        classes = texts.map(table.classes).astype(object)
        if unknown == "other":
            classes[strange] = str(other)
        codes, names = read_codes(classes), table.names
    if label.hcat_level is not None:
        codes = _at_level(codes, label.hcat_level, nomenclature)
    return Declared(codes, names)


def _names_in(columns: pd.DataFrame, label: Label, codes: pd.Series[Any]) -> dict[str, str]:
    """Read the names of codes from the register itself: the first that stands beside each."""
    if label.class_name is None:
        return {}
    names = pd.Series(as_text(columns[label.class_name]), index=columns.index)
    named = names[codes.notna() & (names != "")]
    return dict(zip(codes[named.index][::-1].astype(str), named[::-1], strict=True))


def _read_table(label: Label, nomenclature: str) -> _Table:
    """Read a table of codes, a CSV with columns as the label says.

    A row without a class says that its code is none: parcels of it are not labelled.
    """
    path, key = label.table, f"parcels.labels.{nomenclature}"
    if path is None or not path.is_file():
        raise InputError(f"There is no table of codes {path}. Check {key}.table.")
    expected, remedy = "a table of codes", "Save it as CSV in UTF-8."
    with (
        reading(path, expected, remedy),
        path.open(newline="", encoding="utf-8-sig") as file,
    ):
        table = csv.DictReader(file)
        found = list(table.fieldnames or [])
        class_code = label.class_code or ("class" if "class" in found else label.code)
        plain = "name" if class_code == label.code else "class_name"
        class_name = label.class_name or (plain if plain in found else class_code)
        wanted = {"code": label.code, "class_code": class_code, "class_name": class_name}
        for setting, column in wanted.items():
            if column not in found:
                raise InputError(
                    f"{path} has no column {column!r}, which is {key}.{setting}. Its columns, "
                    f"separated by commas, are: {', '.join(found) or 'none'}."
                )
        rows = [tuple((row[c] or "").strip() for c in wanted.values()) for row in table]
    # EuroCrops names classes that have no code of their own.
    rows = [row for row in rows if row[0]]
    classes: dict[str, str] = {}
    several = set()
    for code, own_class, _ in rows:
        if classes.setdefault(code, own_class) != own_class:
            several.add(code)
    if several:
        raise InputError(
            f"{path} gives {len(several)} codes more than one class: {_list(several)}. Let a code "
            f"have one, or read another column: {key}.column and {key}.code."
        )
    names = {own_class: name for _, own_class, name in reversed(rows) if own_class and name}
    return _Table(classes, names)


def _refuse_unknown(
    codes: pd.Series[Any], known: Mapping[str, str], label: Label, nomenclature: str
) -> None:
    """Refuse codes that the table does not know, with the parcels behind each."""
    if codes.empty:
        return
    counts = Counter(codes.tolist()).most_common()
    most = ", ".join(f"{code!r} ({n} parcels)" for code, n in counts[:10])
    more = f" and {len(counts) - 10} more" if len(counts) > 10 else ""
    bare = {code.lstrip("0"): code for code in known}
    alike = next((bare[c.lstrip("0")] for c, _ in counts if c.lstrip("0") in bare), None)
    hint = f" It has {alike!r}: write codes alike." if alike is not None else ""
    raise InputError(
        f"{label.table} lacks {len(counts)} codes of column {label.column!r} in its column "
        f"{label.code!r}: {most}{more}.{hint} Add them, or set parcels.unknown_codes to "
        f"unlabelled or other (nomenclature {nomenclature})."
    )


def _at_level(codes: pd.Series[Any], level: int, nomenclature: str) -> pd.Series[Any]:
    """Truncate HCAT codes to a level of their hierarchy; the digits below become 0."""
    texts = codes.dropna().astype(str)
    wrong = texts[~texts.str.fullmatch(rf"\d{{{HCAT_DIGITS}}}")]
    if len(wrong):
        raise InputError(
            f"parcels.labels.{nomenclature}.hcat_level is set, but {wrong.nunique()} classes are "
            f"no HCAT codes of {HCAT_DIGITS} digits: {_list(set(wrong))}."
        )
    digits = 2 * (level - 1)
    truncated = texts.str.slice(0, digits).str.pad(HCAT_DIGITS, side="right", fillchar="0")
    if pd.api.types.is_integer_dtype(codes.dtype):
        return truncated.astype(np.int64).astype("Int64").reindex(codes.index)
    return truncated.astype("string").reindex(codes.index)


def _list(codes: set[str]) -> str:
    """List the first five codes."""
    return ", ".join(repr(c) for c in sorted(codes)[:5]) + (", ..." if len(codes) > 5 else "")


def nomenclatures(options: LabelColumns, columns: Collection[str]) -> dict[str, Label]:
    """Return the nomenclatures of a register: those of the settings, else the crop of fiboa.

    Parameters
    ----------
    options
        labels.
    columns
        Columns of a register that follows fiboa; none for other registers.
    """
    if options.labels or "crop:code" not in columns:
        return dict(options.labels)
    name = "crop:name" if "crop:name" in columns else None
    return {"crop": Label(column="crop:code", class_name=name)}


def classify(
    rows: pd.DataFrame,
    columns: pd.DataFrame,
    labels: Mapping[str, Label],
    options: ParcelClasses,
    folds: int | None,
) -> tuple[pd.DataFrame, Classes]:
    """Choose the classes, and set parcels of other classes and of none aside for prediction.

    Parameters
    ----------
    rows
        Rows of the ledger. Completed: code, declared and reason.
    columns
        The register's own columns, of the same rows.
    labels
        As `nomenclatures` gives them.
    options
        nomenclature, classes, other_class, unknown_codes.
    folds
        Number of folds; None where nothing is trained.

    Returns
    -------
    codes
        Class codes of the parcels, a column a nomenclature.
    classes
        Of the nomenclature to train on.
    """
    usable = rows["reason"] == ""
    strange = options.unknown_codes, options.other_class
    declared = {
        name: read_declared(columns, label, name, usable, *strange)
        for name, label in labels.items()
    }
    codes = pd.DataFrame({name: d.codes for name, d in declared.items()}, index=rows.index)
    trained = options.nomenclature or next(iter(labels), None)
    if trained is None:
        rows["code"], rows["declared"] = pd.Series(pd.NA, rows.index, "string"), ""
        set_aside(rows, rows.index >= 0, Reason.NO_LABEL)
        return codes, Classes(None, [])
    chosen = options.classes
    if options.other_class is not None:
        codes[trained], chosen = with_other(codes[trained], usable, chosen, options.other_class)
    rows["code"] = codes[trained]
    rows["declared"] = as_text(columns[labels[trained].column])
    names = declared[trained].names
    classes = choose_classes(rows["code"].where(usable), chosen, names, folds)
    rows["reason"] = rows["reason"].where(~usable, class_reasons(rows["code"], classes))
    return codes, Classes(trained, classes)


def read_codes(column: pd.Series[Any]) -> pd.Series[Any]:
    """Read the class codes of a register's column.

    Returns
    -------
    Series
        Int64 if every code is a whole number, also where gaps made the column one of floats; else
        string, without the blanks around it. Missing where there is no code or an empty one.
    """
    present = column.dropna().astype(object)
    if all(_is_whole(value) for value in present):
        return present.astype(float).astype("Int64").reindex(column.index)
    texts = pd.Series(as_text(column), index=column.index, dtype="string")
    return texts.where(texts != "")


def with_other(
    codes: pd.Series[Any],
    usable: pd.Series[bool],
    chosen: FrequentClasses | list[Code],
    other: Code,
) -> tuple[pd.Series[Any], FrequentClasses | list[Code]]:
    """Make one class of all that would not be trained on.

    Parameters
    ----------
    codes
        Declared codes, as `read_codes` gives them.
    usable
        Which parcels count where the least number of parcels decides.
    chosen
        The least number of parcels, or the codes in order of their class index.
    other
        Code of the class, which parcels may declare as well. Codes become text if it is one.

    Returns
    -------
    codes
        With `other` in place of the codes that are too rare or not listed.
    chosen
        With `other` in the list, if it is one and a usable parcel has it; as text, if codes are.
    """
    if isinstance(chosen, FrequentClasses):
        counts = codes[usable].value_counts()
        kept = set(counts.index[counts >= chosen.min_parcels])
    else:
        kept = set(chosen)
    lost = codes.notna() & ~codes.isin(kept)
    if lost.sum() == codes.notna().sum():
        # Nothing to learn beside it: which is refused later, with the codes that there are.
        return codes, chosen
    replaced = read_codes(codes.astype(object).mask(lost, other))
    if isinstance(chosen, FrequentClasses):
        return replaced, chosen
    listed = [*chosen] if other in chosen or not (lost & usable).any() else [*chosen, other]
    whole = is_integer_dtype(replaced)
    return replaced, [code if whole else str(code) for code in listed]


def choose_classes(
    codes: pd.Series[Any],
    chosen: FrequentClasses | Sequence[Code],
    names: Mapping[str, str],
    folds: int | None,
    section: str = "parcels",
) -> list[CropClass]:
    """Choose the classes to train on.

    Parameters
    ----------
    codes
        Declared codes of the accepted parcels, as `read_codes` gives them.
    chosen
        The least number of parcels, or the codes in order of their class index.
    names
        Names of codes written as text; a code without one is its own name.
    folds
        Number of folds: a listed class needs at least a parcel in each. None where nothing is
        trained: then any class will do.
    section
        Of the settings that `chosen` is from, for the messages.

    Returns
    -------
    list of CropClass
        Those trained on in order of the class index, then the others in order of their codes.

    Raises
    ------
    InputError
        If a listed class does not occur or has fewer parcels than folds, or if fewer than two
        classes are left.
    """
    counts: Counter[Code] = Counter(codes.dropna().astype(object))
    if isinstance(chosen, FrequentClasses):
        used = sorted(code for code, n in counts.items() if n >= chosen.min_parcels)
        reason = ClassReason.TOO_RARE
        if len(used) < 2 and folds is not None:
            raise InputError(
                f"{len(used)} classes have at least {chosen.min_parcels} parcels, and a model "
                f"needs two: {_with_counts(counts)}. Lower {section}.classes.min_parcels."
            )
    else:
        used, reason = list(chosen), ClassReason.NOT_LISTED
        _check_listed(used, counts, folds, f"{section}.classes")
    unused = sorted(set(counts) - set(used))
    return [
        CropClass(code, names.get(str(code)) or str(code), counts[code], index, "")
        for index, code in enumerate(used)
    ] + [
        CropClass(code, names.get(str(code)) or str(code), counts[code], None, str(reason))
        for code in unused
    ]


def _check_listed(
    listed: Sequence[Code], counts: Mapping[Code, int], folds: int | None, key: str
) -> None:
    """Refuse listed classes that are doubled, do not occur, or cannot be in every fold."""
    doubled = [code for code, n in Counter(listed).items() if n > 1]
    if doubled:
        raise InputError(f"{key} lists {doubled[:5]} twice. List a class once.")
    if folds is None:
        return
    absent = [code for code in listed if code not in counts]
    if absent:
        texts = {str(code): code for code in counts}
        same = [texts[str(code)] for code in absent if str(code) in texts]
        hint = f" The parcels have {same[:5]!r}: write them like that." if same else ""
        raise InputError(
            f"{key} lists {absent[:5]!r}, which no usable parcel declares; declared are "
            f"{_with_counts(counts)}.{hint} Change {key}."
        )
    few = {code: counts[code] for code in listed if counts[code] < folds}
    if few:
        raise InputError(
            f"{key} lists classes with fewer parcels than split.folds ({folds}): "
            f"{_with_counts(few)}. Leave them out or use fewer folds."
        )


def _with_counts(counts: Mapping[Code, int]) -> str:
    """List classes with their numbers of parcels, the most frequent ten of them."""
    most = Counter(counts).most_common(10)
    more = f" and {len(counts) - len(most)} more" if len(counts) > len(most) else ""
    return (", ".join(f"{code!r} ({n})" for code, n in most) or "no class at all") + more


def _is_whole(value: Any) -> bool:
    """Tell whether a value is a number without decimals."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        return False
    return float(value).is_integer() and abs(float(value)) <= LARGEST_EXACT
