"""What is said about settings that cannot be used: where, what was found, and what to write."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from geo.errors import did_you_mean, nearest
from pipeline.workflow.sections.values import Section, descriptions

# Words for errors of pydantic that do not say what to write.
_EXPECTED = {
    "model_type": "Input should be settings, `key: value`",
    "dict_type": "Input should be settings, `key: value`",
    "path_type": "Input should be a path",
}
_DATE = "Input should be a date of the calendar, YYYY-MM-DD"


def explain(
    errors: Sequence[ErrorDetails], values: Mapping[str, Any], kind: type[Section]
) -> list[str]:
    """Describe errors of validation, a line each: the key, the value found, and those expected.

    A value that may have several types has an error for each of them: the descriptions are joined,
    and left out if a part of the value has an error.
    """
    found: dict[tuple[str, ...], list[ErrorDetails]] = {}
    for error in errors:
        found.setdefault(_place_of(error, values), []).append(error)
    return [
        _describe(place, own, kind)
        for place, own in found.items()
        if not any(other[: len(place)] == place and other != place for other in found)
        or any(error["type"] == "value_error" for error in own)
    ]


def _place_of(error: ErrorDetails, values: Any) -> tuple[str, ...]:
    """Return the keys that lead to an error, without pydantic's names of alternative types."""
    place = []
    for part in error["loc"]:
        within = isinstance(values, Mapping) and part in values
        if within or (isinstance(values, list) and isinstance(part, int)):
            place.append(str(part))
            values = values[part]
    return (*place, str(error["loc"][-1])) if error["type"] == "missing" else tuple(place)


def _describe(place: Sequence[str], errors: Sequence[ErrorDetails], kind: type[Section]) -> str:
    """Describe the errors of one setting."""
    location = ".".join(place) or "settings"
    first = errors[0]
    if first["type"] == "extra_forbidden":
        return f"{location}: unknown setting; {_known_like(place, kind)}"
    if isinstance(first["input"], list):  # it may also be settings, but is meant as a list
        errors = [error for error in errors if error["type"] != "model_type"] or errors
    expected = list(dict.fromkeys(map(_expected, errors)))
    text = " or ".join([expected[0], *(e.removeprefix("Input should be ") for e in expected[1:])])
    if first["type"] == "string_pattern_mismatch":
        described = descriptions(_section_at(place[:-1], kind))
        text = f"it has not the expected form ({described[place[-1]]})"
    value = first["input"]
    if isinstance(value, dict):
        return f"{location}: {text}"
    found = repr(value)
    found = f"{found[:60]}..." if len(found) > 60 else found
    return f"{location}: {text}, found {found}{_remedy(value, errors)}"


def _expected(error: ErrorDetails) -> str:
    """Describe the expected value."""
    if error["type"].startswith("date_"):
        return _DATE
    return _EXPECTED.get(error["type"], error["msg"].removeprefix("Value error, "))


def _remedy(value: object, errors: Sequence[ErrorDetails]) -> str:
    """Say what to write in place of a value of a wrong type."""
    types = {error["type"] for error in errors}
    if value is None:
        return ": there is no value behind the colon. Write one, or remove the line"
    if "string_type" in types and isinstance(value, int | float):
        return f". YAML reads this as a number: for text, write it in quotes, '{value}'"
    if "list_type" in types and isinstance(value, str | int):
        return f". Write a list: [{value}]"
    if "dict_type" in types and isinstance(value, str):
        return f". Write a name before it, such as {{crop: {value}}}"
    if "model_type" in types and isinstance(value, str):
        return ". Write them in the lines below, indented"
    if "literal_error" in types and isinstance(value, str):
        choices = re.findall(r"'([^']*)'", " ".join(map(_expected, errors)))
        return f".{hint}" if (hint := did_you_mean(value, choices)) else ""
    return ""


def _known_like(place: Sequence[str], kind: type[Section]) -> str:
    """Say which setting an unknown one may be: one of its section, or of another one."""
    *sections, key = place
    of, dot, name = key.partition(".")
    if dot and not sections and of in kind.model_fields:
        return f"in a file, write `{of}:`, and below it, indented, `{name}: ...`"
    known = list(_section_at(sections, kind).model_fields)
    elsewhere = [
        f"{name}.{key}"
        for name, field in kind.model_fields.items()
        if (section := _section_of(field)) and key in section.model_fields
    ]
    if sections and key in kind.model_fields:
        elsewhere = [f"{key}, without indentation"]
    near = nearest(key, known)
    if elsewhere and (near is None or near.lower() != key.lower()):
        return f"did you mean {' or '.join(map(repr, elsewhere))}?"
    return f"known here: {', '.join(known)}" if near is None else f"did you mean {near!r}?"


def _section_at(location: Sequence[str], section: type[Section]) -> type[Section]:
    """Return the section at a location such as ["parcels", "labels"]."""
    for part in location:
        section = _section_of(section.model_fields.get(part)) or section
    return section


def _section_of(field: FieldInfo | None) -> type[Section] | None:
    """Return the section that a field is, or can be; None if it is a value."""
    kinds = [field.annotation, *get_args(field.annotation)] if field else []
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, Section)), None)
