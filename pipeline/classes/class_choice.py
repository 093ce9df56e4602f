"""The classes of the models of a run: to train on, or those of existing weights."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import pandas as pd
from pandas.api.types import is_integer_dtype

from geo.errors import InputError, did_you_mean, first_five
from geo.register.columns import as_text
from models.model_files import first_description
from pipeline.classes.class_mapping import read_codes, read_declared
from pipeline.classes.crop_class import Classes, CropClass, spelling
from pipeline.classes.ledger import class_reasons, set_aside
from pipeline.classes.reasons import ClassReason, Reason
from pipeline.workflow.sections.models import Dataset
from pipeline.workflow.sections.parcels import FrequentClasses, Label, ParcelClasses
from pipeline.workflow.sections.values import Code

logger = logging.getLogger(__name__)


class Models(NamedTuple):
    """The models of a run, as far as they determine its classes.

    Attributes
    ----------
    folds
        Number of folds to train; None for existing weights: then classes need no parcels.
    known
        Classes of existing weights in order of the class index; None if models are trained, and for
        weights of the reference, which do not contain their classes.
    """

    folds: int | None
    known: list[CropClass] | None = None

    @classmethod
    def of(cls, folds: int, weights: Path | None) -> Self:
        """Return the models of the settings split.folds and predict.weights."""
        if weights is None:
            return cls(folds)
        about = first_description(weights)  # all folds have the same classes
        if about is None:
            return cls(None)
        pairs = zip(about.class_codes, about.class_names, strict=True)
        return cls(None, [CropClass(code, name) for code, name in pairs])


def classify(
    rows: pd.DataFrame,
    columns: pd.DataFrame,
    labels: Mapping[str, Label],
    options: ParcelClasses,
    models: Models,
) -> tuple[pd.DataFrame, Classes]:
    """Choose the classes of the models; parcels without such a class are predicted only.

    Parameters
    ----------
    rows
        Rows of the ledger. Added: code and declared. Changed: reason.
    columns
        The register's own columns, of the same rows.
    labels
        Nomenclatures, as `nomenclatures` returns them.
    options
        nomenclature, classes, other_class, unknown_codes.
    models
        The models of the run.

    Returns
    -------
    codes
        Class codes of the parcels, one column per nomenclature.
    classes
        Classes of the nomenclature to train on.
    """
    usable = rows["reason"] == ""
    unknown = options.unknown_codes, options.other_class
    declared = {
        name: read_declared(columns, label, name, usable, *unknown, encoding=options.encoding)
        for name, label in labels.items()
    }
    by_name = {name: class_codes for name, (class_codes, _) in declared.items()}
    codes = pd.DataFrame(by_name, index=rows.index)
    trained = options.nomenclature or next(iter(labels), None)
    if trained is None:
        rows["code"], rows["declared"] = pd.Series(pd.NA, rows.index, "string"), ""
        set_aside(rows, rows.index >= 0, Reason.NO_LABEL)
        return codes, Classes(None, [])
    _, names = declared[trained]
    codes[trained], classes = assign(codes[trained], usable, options, names, models, "parcels")
    rows["code"] = codes[trained]
    rows["declared"] = as_text(columns[labels[trained].column])
    reasons = class_reasons(rows["code"], classes, is_trained=models.folds is not None)
    rows["reason"] = rows["reason"].where(~usable, reasons)
    return codes, Classes(trained, classes)


def assign(
    codes: pd.Series[Any],
    usable: pd.Series[bool],
    options: ParcelClasses | Dataset,
    names: Mapping[str, str],
    models: Models,
    section: str,
) -> tuple[pd.Series[Any], list[CropClass]]:
    """Choose the classes of the models among the declared codes, and merge others if it is set.

    Parameters
    ----------
    codes
        Declared codes, as `read_codes` returns them.
    usable
        Which parcels are counted.
    options
        classes, other_class.
    names
        {code as text: name}.
    models
        The models of the run.
    section
        Section of the settings that `options` are from, for messages.

    Returns
    -------
    codes
        With other_class in place of the codes that are merged.
    classes
        As `choose_classes` or `known_classes` returns them.
    """
    other, chosen = options.other_class, options.classes
    _say_alike(codes[usable], section)
    if models.known is not None:
        codes = _with_known_other(codes, models.known, other)
        return codes, known_classes(codes.where(usable), models.known, names)
    if other is not None:
        codes, chosen = with_other(codes, usable, chosen, other)
    return codes, choose_classes(codes.where(usable), chosen, names, models.folds, section)


def _say_alike(codes: pd.Series[Any], section: str) -> None:
    """Say which codes are classes of their own only because a number is written differently."""
    spellings: dict[str, list[str]] = {}
    for code in sorted(map(str, codes.dropna().unique())):
        spellings.setdefault(spelling(code), []).append(code)
    alike = [" and ".join(map(repr, own)) for own in spellings.values() if len(own) > 1]
    if alike:
        logger.warning(
            "%s: these codes are different classes, but only differ in how they are written: %s. "
            "If they are the same, write them alike",
            section,
            first_five(alike),
        )


def with_other(
    codes: pd.Series[Any],
    usable: pd.Series[bool],
    chosen: FrequentClasses | list[Code],
    other: Code,
) -> tuple[pd.Series[Any], FrequentClasses | list[Code]]:
    """Merge all classes that are not trained on into the class `other`.

    Parameters
    ----------
    codes
        Declared codes, as `read_codes` returns them.
    usable
        Which parcels are counted where a least number of parcels is required.
    chosen
        The least number of parcels, or the codes in the order of their class index.
    other
        Code of the class; parcels may also declare it. If it is text, all codes become text.

    Returns
    -------
    codes
        With `other` in place of codes that are too rare or not listed.
    chosen
        If it is a list: with `other`, if a usable parcel has that class, and as text if the codes
        are text.
    """
    if isinstance(chosen, FrequentClasses):
        counts = codes[usable].value_counts()
        trained = set(counts.index[counts >= chosen.min_parcels])
    else:
        trained = set(chosen)
    merged = codes.notna() & ~codes.isin(trained)
    if merged.sum() == codes.notna().sum():
        # No class would be left beside `other`. `choose_classes` refuses this, naming the codes.
        return codes, chosen
    replaced = read_codes(codes.astype(object).mask(merged, other))
    if isinstance(chosen, FrequentClasses):
        return replaced, chosen
    listed = [*chosen] if other in chosen or not (merged & usable).any() else [*chosen, other]
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
        Declared codes of the accepted parcels, as `read_codes` returns them.
    chosen
        The least number of parcels, or the codes in the order of their class index.
    names
        {code as text: name}; a class without a name is named by its code.
    folds
        Number of folds: a listed class needs at least one parcel in each. None if nothing is
        trained: then every class is accepted.
    section
        Section of the settings that `chosen` is from, for messages.

    Returns
    -------
    list of CropClass
        Classes to train on in the order of the class index, then the others by code.

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
    described = [(code, names.get(str(code)) or str(code), counts[code]) for code in used + unused]
    return [
        CropClass(*crop, index, "") if index < len(used) else CropClass(*crop, None, str(reason))
        for index, crop in enumerate(described)
    ]


def _check_listed(
    listed: Sequence[Code], counts: Mapping[Code, int], folds: int | None, key: str
) -> None:
    """Refuse listed classes that are repeated, do not occur, or cannot be in every fold."""
    repeated = [code for code, n in Counter(listed).items() if n > 1]
    if repeated:
        raise InputError(f"{key} lists {repeated[:5]} twice. List a class once.")
    if folds is None:
        return
    absent = [code for code in listed if code not in counts]
    if absent:
        # A common mistake: 12 is listed, and the register has "12".
        texts = {str(code): code for code in counts}
        same = [texts[str(code)] for code in absent if str(code) in texts]
        hint = f" The parcels have {same[:5]!r}: write them like that." if same else ""
        hint = hint or did_you_mean(str(absent[0]), counts)
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
    """List the ten most frequent classes with their numbers of parcels."""
    most = Counter(counts).most_common(10)
    more = f" and {len(counts) - len(most)} more" if len(counts) > len(most) else ""
    return (", ".join(f"{code!r} ({n})" for code, n in most) or "no class at all") + more


def known_classes(
    codes: pd.Series[Any], known: Sequence[CropClass], names: Mapping[str, str]
) -> list[CropClass]:
    """Return the classes of existing weights in order of the class index, then the unknown ones.

    Codes are compared as text, because the same register is numbers in one format and text in
    another. A code is returned as the parcels declare it.

    Parameters
    ----------
    codes
        Declared codes of the accepted parcels, as `read_codes` returns them.
    known
        Classes of the weights.
    names
        {code as text: name} of the register, for classes that the weights do not know.
    """
    counts: Counter[Code] = Counter(codes.dropna().astype(object))
    declared = {str(code): code for code in counts}
    own = [(declared.get(str(crop.code), crop.code), crop.name) for crop in known]
    # One type for all of them: a class that no parcel declares may have another one.
    if counts and not is_integer_dtype(codes.dtype):
        own = [(str(code), name) for code, name in own]
    unknown = sorted(set(counts) - {code for code, _ in own})
    return [
        CropClass(code, name, counts[code], index) for index, (code, name) in enumerate(own)
    ] + [
        CropClass(code, names.get(str(code)) or str(code), counts[code], None, ClassReason.UNKNOWN)
        for code in unknown
    ]


def _with_known_other(
    codes: pd.Series[Any], known: Sequence[CropClass], other: Code | None
) -> pd.Series[Any]:
    """Replace codes that existing weights do not know by `other`, if they know that."""
    texts = {str(crop.code) for crop in known}
    if str(other) not in texts:
        return codes
    is_unknown = codes.notna() & ~codes.astype(str).isin(texts)
    return read_codes(codes.astype(object).mask(is_unknown, other))
