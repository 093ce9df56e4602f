"""Class codes, their names, and the classes that a model is trained on."""

from __future__ import annotations

import numbers
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_integer_dtype

from geo.errors import InputError
from geo.register.columns import LARGEST_EXACT, as_text
from pipeline.classes.crop_class import CropClass
from pipeline.classes.reasons import ClassReason
from pipeline.workflow.sections import Code, FrequentClasses


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
                f"needs two: {_list(counts)}. Lower {section}.classes.min_parcels."
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
            f"{_list(counts)}.{hint} Change {key}."
        )
    few = {code: counts[code] for code in listed if counts[code] < folds}
    if few:
        raise InputError(
            f"{key} lists classes with fewer parcels than split.folds ({folds}): "
            f"{_list(few)}. Leave them out or use fewer folds."
        )


def _list(counts: Mapping[Code, int]) -> str:
    """List classes with their numbers of parcels, the most frequent ten of them."""
    most = Counter(counts).most_common(10)
    more = f" and {len(counts) - len(most)} more" if len(counts) > len(most) else ""
    return (", ".join(f"{code!r} ({n})" for code, n in most) or "no class at all") + more


def _is_whole(value: Any) -> bool:
    """Tell whether a value is a number without decimals."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        return False
    return float(value).is_integer() and abs(float(value)) <= LARGEST_EXACT
