"""The section parcels: the register, its classes, and which pixels belong to a parcel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    model_validator,
)

from pipeline.workflow.sections.values import Code, LocalPath, Positive, Section


class FrequentClasses(Section):
    """Train on the classes that are frequent enough."""

    min_parcels: Positive = 30
    """minimum number of parcels of a class"""


Classes = FrequentClasses | Annotated[list[Code], Field(min_length=2)]


def _or_column(schema: dict[str, Any]) -> None:
    """Allow the name of the column alone in the JSON schema of a label."""
    whole = dict(schema)
    schema.clear()
    schema["anyOf"] = [{"type": "string"}, whole]


class Label(Section):
    """The column of a nomenclature in the register, and the classes of its codes."""

    model_config = ConfigDict(json_schema_extra=_or_column)

    column: str
    """column of the codes in the register"""

    table: LocalPath | None = None
    """CSV with a row for every code"""

    code: str = "code"
    """column of the codes in the table"""

    class_code: str | None = None
    """column of the class codes in the table; null: class, if it exists, otherwise the code itself;
    parcels whose cell is empty are not labelled
    """

    class_name: str | None = None
    """column of the class names in the table; null: class_name or name; without a table: a column
    of the register
    """

    hcat_level: Annotated[int, Field(ge=3, le=6)] | None = None
    """level to which HCAT codes are shortened (EuroCrops)"""

    @model_validator(mode="before")
    @classmethod
    def _from_column(cls, values: Any) -> Any:
        """Interpret a text as the column."""
        return {"column": values} if isinstance(values, str) else values

    @model_validator(mode="after")
    def _check(self) -> Label:
        if self.table is None and (self.class_code is not None or self.code != "code"):
            raise ValueError("code and class_code are columns of a table: set table")
        return self


def _known_encoding(name: str) -> str:
    """Check that Python has an encoding of text with this name."""
    try:
        "".encode(name)
    except LookupError:
        raise ValueError(
            "unknown encoding; examples are utf-8, cp1252 (Windows, Western Europe), cp1250 "
            "(Central Europe), cp1251 (Cyrillic), iso8859-1 and utf-16"
        ) from None
    return name


class TextEncoding(Section):
    """The encoding of text that is not UTF-8."""

    encoding: Annotated[str, AfterValidator(_known_encoding)] | None = None
    """encoding of text in the register and its tables that is not UTF-8, such as cp1252 (Western
    Europe) or cp1250 (Central Europe); null: that which a shapefile states
    """


class RegisterFile(Section):
    """The register, and the ids of its rows."""

    path: LocalPath | None = None
    """file that GDAL reads, or GeoParquet"""

    layer: str | None = None
    """layer, if the file has several"""

    id: str | None = None
    """column of the parcel ids; null: ID_PARCEL, or id in a fiboa file"""


class LabelColumns(TextEncoding):
    """The nomenclatures and their columns."""

    labels: dict[str, Label] = {}
    """nomenclatures and their columns, such as {crop: CODE_CULTU}. Empty: no labels; in a fiboa
    file {crop: crop:code}. A table maps codes to classes, and there may be several nomenclatures:
      group: {column: CODE, table: crops.csv, class_code: GROUP}
      table       CSV with a row for every code of the register
      code        column of the codes in the table (default: code)
      class_code  column of the class codes in the table (default:
                  class, if it exists, otherwise the code itself);
                  parcels whose cell is empty are not labelled
      class_name  column of the class names in the table (default:
                  class_name or name); without a table: a column
                  of the register
      hcat_level  3 to 6: shorten HCAT codes to this level (EuroCrops)
    """


class RegisterColumns(LabelColumns, RegisterFile):
    """The register, its ids and its declared codes."""


class ParcelClasses(LabelColumns):
    """The declared classes, and the classes to train on."""

    nomenclature: str | None = None
    """nomenclature to train on; null: the first of labels"""

    classes: Classes = Field(default_factory=lambda: FrequentClasses())
    """classes to train on: {min_parcels: n} (those with at least n parcels) | a list of codes, in
    order of the class index. Parcels of other classes are only predicted, or ...
    """

    other_class: Code | None = None
    """... form one class with this code, such as other"""

    unknown_codes: Literal["refuse", "unlabelled", "other"] = "refuse"
    """codes that are not in the table: refuse | unlabelled | other"""

    @model_validator(mode="after")
    def _check_classes(self) -> Self:
        if self.nomenclature is not None and self.nomenclature not in self.labels:
            raise ValueError(
                f"nomenclature {self.nomenclature!r} is not one of labels: {sorted(self.labels)}"
            )
        if self.unknown_codes == "other" and self.other_class is None:
            raise ValueError("unknown_codes is other: set other_class, the code of that class")
        return self

    @property
    def code_tables(self) -> dict[str, Path]:
        """The tables of codes: {key of the setting: path}."""
        return {
            f"parcels.labels.{name}.table": label.table
            for name, label in self.labels.items()
            if label.table is not None
        }


def named_columns(labels: Mapping[str, Label]) -> dict[str, str]:
    """Return the columns of the register that labels use: {setting: column}."""
    columns = {}
    for name, label in labels.items():
        columns[f"parcels.labels.{name}"] = label.column
        if label.table is None and label.class_name is not None:
            columns[f"parcels.labels.{name}.class_name"] = label.class_name
    return columns


class PixelChoice(Section):
    """Which pixels belong to a parcel."""

    all_touched: bool = Field(
        default=False,
        json_schema_extra={
            "above": "A pixel belongs to a parcel if its centre is inside. These settings change "
            "that:"
        },
    )
    """true: all pixels that the parcel touches"""

    min_covered_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """pixels that the parcel covers by at least this fraction, such as 0.5"""

    buffer_m: float = 0.0
    """metres by which to buffer the outline first; negative: inward"""

    @model_validator(mode="after")
    def _check_pixels(self) -> Self:
        if self.all_touched and self.min_covered_fraction is not None:
            raise ValueError(
                "all_touched selects all pixels that a parcel touches, and min_covered_fraction "
                "fewer: set one of them"
            )
        return self


class RegisterParcels(PixelChoice, TextEncoding, RegisterFile):
    """How the rows of the register become parcels."""

    duplicate_ids: Literal["reject", "number"] = "reject"
    """further rows with the id of an earlier row: reject | number (they become <id>-2, <id>-3 ...)

    """

    min_area_m2: Annotated[float, Field(ge=0)] = 0.0
    """square metres: smaller parcels are rejected; the area of the outline without buffer_m"""

    partly_outside: Literal["reject", "keep"] = "reject"
    """parcels that cross the edge of the imagery: reject | keep (the part inside)"""

    point_buffer_m: Annotated[float, Field(ge=0)] | None = None
    """points: null (rejected) | 0 (the pixel under the point) | metres (radius of a disc around the
    point). min_area_m2 does not apply to them
    """

    @model_validator(mode="after")
    def _check_points(self) -> Self:
        if self.point_buffer_m is not None and self.buffer_m:
            raise ValueError(
                "buffer_m buffers polygons and point_buffer_m points: set one of them, and put the "
                "points of a mixed register into a run of their own"
            )
        if self.point_buffer_m == 0 and self.all_touched:
            raise ValueError(
                "all_touched adds the pixels around the one under a point: with point_buffer_m, "
                "set it to false, or point_buffer_m to a small radius such as 0.1"
            )
        return self


class IndexedParcels(PixelChoice):
    """Which parcels have enough pixels."""

    min_pixels: Positive = 1
    """minimum number of pixels that are clear on at least one date; parcels with fewer are rejected

    """


class Parcels(IndexedParcels, RegisterParcels, ParcelClasses, RegisterColumns):
    """The register, its classes, and which pixels belong to a parcel."""

    names: LocalPath | None = None
    """CSV with columns code,name: class names of the nomenclature"""

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        if self.point_buffer_m == 0 and self.min_pixels > 1:
            raise ValueError(
                f"min_pixels is {self.min_pixels}, and a point has 1 pixel with point_buffer_m 0: "
                "set min_pixels to 1, or point_buffer_m to the radius of a disc"
            )
        return self

    @property
    def tables(self) -> dict[str, Path]:
        """The tables of codes and names: {key of the setting: path}."""
        names = {"parcels.names": self.names} if self.names is not None else {}
        return self.code_tables | names
