"""What sections are made of: types of values, and how they are checked."""

from __future__ import annotations

import re
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
TEN_BANDS = ["B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"]
# A name of the user for a band of another sensor. Names like those of Sentinel-2 are mistakes: B13.
_OWN_BAND = "^(B[A-Za-z_][A-Za-z0-9_]*|[AC-Za-z][A-Za-z0-9_]*)$"


def _own_band(name: str) -> str:
    """Check that a name can be that of a band of another sensor."""
    if re.fullmatch(_OWN_BAND, name) is None:
        raise ValueError("a name of convention: {bands: {...}}")
    return name


_OwnBand = Annotated[
    str, AfterValidator(_own_band), WithJsonSchema({"type": "string", "pattern": _OWN_BAND})
]
_KnownBand = Literal[BANDS]  # type: ignore[valid-type]
Band = _KnownBand | _OwnBand
Code = str | int
Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Widths = Annotated[list[Positive], Field(min_length=2)]
ImageryFormat = Literal["auto", "safe", "theia", "geotiff", "stack", "stac"]
Resampling = Literal["nearest", "bilinear", "cubic"]
Signing = Literal["planetary_computer"]
Damaged = Literal["refuse", "set_aside"]


def is_address(location: object) -> bool:
    """Return whether a location is an address (https://...), not a local path."""
    return isinstance(location, str) and "://" in location


def _location(value: object) -> object:
    """Turn local paths into `Path`. An address stays text, as `Path` would drop a slash."""
    return value if is_address(value) and not _is_file(value) else _local(value)


def _local(value: object) -> object:
    """Replace ~ of a local path by the home folder; refuse an address."""
    if is_address(value):
        what = "write a path of this machine without file://" if _is_file(value) else "download it"
        raise ValueError(f"an address is not opened here: {what}")
    if value == "":
        raise ValueError("the path is empty: write one, or remove the line")
    if not isinstance(value, str):
        return value
    try:
        return Path(value).expanduser()
    except RuntimeError:  # there is no such user
        return Path(value)


def _is_file(address: object) -> bool:
    return str(address).lower().startswith("file:")


def _day(value: object) -> object:
    """Refuse numbers, which pydantic would take for seconds since 1970."""
    if isinstance(value, int | float):
        raise ValueError("expected a date, YYYY-MM-DD")
    return value


LocalPath = Annotated[Path, BeforeValidator(_local)]
Location = Annotated[Path | str, BeforeValidator(_location)]
Day = Annotated[date, BeforeValidator(_day)]


class Section(BaseModel):
    """A part of the settings. Unknown keys, NaN and infinity are refused."""

    # A stage builds only the types that it uses, when it reads its settings: that of all takes
    # longer than many an extraction.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_truth(cls, value: object, info: ValidationInfo) -> object:
        """Refuse true and false in place of numbers and codes, as which pydantic would take them.

        YAML 1.1, which Snakemake reads, also means them by NO, yes, on and off without quotes.
        """
        kind = cls.model_fields[str(info.field_name)].annotation
        takes_truth = bool in (kind, *get_args(kind))
        if not takes_truth and any(isinstance(v, bool) for v in _values(value)):
            raise ValueError(
                "true and false are not expected here. If they are codes or names, such as NO, "
                "write them in quotes"
            )
        return value


def _values(value: object) -> list[object]:
    """Return the values of a list, or a value alone."""
    return value if isinstance(value, list) else [value]


def descriptions(kind: type[Section]) -> dict[str, str]:
    """Return the description of every setting of a type: the string below it in the source.

    Only messages and generated files show them, and pydantic would read the source at every start.
    """
    import ast
    import inspect
    import textwrap

    found: dict[str, str] = {}
    for base in reversed([cls for cls in kind.__mro__ if issubclass(cls, Section)]):
        # The fields of a type that is made by a call describe themselves.
        for name, field in base.model_fields.items():
            if field.description is not None:
                found[name] = field.description
        try:
            source = textwrap.dedent(inspect.getsource(base))
        except (OSError, TypeError):
            continue
        (definition,) = ast.parse(source).body
        assert isinstance(definition, ast.ClassDef)  # noqa: S101 (the source of a class)
        for setting, below in pairwise(definition.body):
            match setting, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    found[name] = inspect.cleandoc(text)
    return found
