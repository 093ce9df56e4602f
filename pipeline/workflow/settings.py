"""The settings of a run, and the part of them that each stage gets.

Every stage has a type of settings. Its rule passes exactly the fields of that type as JSON: the
stage runs with them, and a change of them triggers a rerun. There is no file between rule and stage
that a second call of Snakemake could overwrite during a run. This module defines which part of a
section a stage gets. `sections` defines default, range, unit and description of every setting.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from geo.errors import InputError, did_you_mean, nearest
from pipeline.workflow.sections.imagery import CloudMasks, Clouds, Imagery
from pipeline.workflow.sections.models import (
    Assemble,
    Dataset,
    Model,
    Normalise,
    Predict,
    Report,
    Simulate,
    Split,
    Train,
    known_recipe,
    read_recipe,
)
from pipeline.workflow.sections.parcels import (
    FrequentClasses,
    IndexedParcels,
    ParcelClasses,
    Parcels,
    RegisterColumns,
    RegisterParcels,
)
from pipeline.workflow.sections.values import Band, Damaged, Resampling, Section

AnySettings = TypeVar("AnySettings", bound=Section)


class Settings(Section):
    """Every setting of a run, as described in configs/default.yaml."""

    run: str = Field(default="default", pattern=r"^\w[\w.-]*$", max_length=100)
    """results go to results/<run>/; letters, digits, _ . and -"""
    imagery: Imagery = Imagery()
    clouds: Clouds = Clouds()
    parcels: Parcels = Parcels()
    dataset: Dataset = Dataset()
    assemble: Assemble = Assemble()
    normalise: Normalise = Normalise()
    split: Split = Split()
    model: Model = Field(
        default_factory=lambda: Model.model_validate(read_recipe("default")["model"])
    )
    train: Train = Field(default_factory=lambda: Train.model_validate({}))
    predict: Predict = Predict()
    report: Report = Report()
    simulate: Simulate | None = None
    """Write a simulated raw scene first, to imagery.path and parcels.path (see configs/demo.yaml).
    null: off.
    """

    @model_validator(mode="before")
    @classmethod
    def _follow_recipe(cls, values: Any) -> Any:
        """Take the model of the training recipe if model.name is not set, or null."""
        if not isinstance(values, dict):
            return values
        # A section whose lines are all comments is null in YAML.
        values = {key: value for key, value in values.items() if value is not None or key == "run"}
        model, train = values.get("model", {}), values.get("train", {})
        if not isinstance(model, dict) or model.get("name") is not None:
            return values
        recipe = known_recipe(train) if isinstance(train, dict) else "default"
        return {**values, "model": {**model, **read_recipe(recipe)["model"]}}

    @model_validator(mode="after")
    def _check(self) -> Settings:
        for section in ("parcels", "dataset"):
            classes = getattr(self, section).classes
            if isinstance(classes, FrequentClasses) and classes.min_parcels < self.split.folds:
                raise ValueError(
                    f"{section}.classes.min_parcels is {classes.min_parcels} and split.folds "
                    f"{self.split.folds}: a class needs at least one parcel in every fold"
                )
        others = (self.imagery.path, self.parcels.path, self.simulate)
        if self.dataset.path is not None and any(other is not None for other in others):
            raise ValueError(
                "dataset.path takes the place of imagery.path, parcels.path and simulate: set "
                "it, or them"
            )
        return self


# Parts of sections. Their settings have no defaults, because a rule passes all of them.


class RegisterLayer(Section):
    """The layer of the register."""

    layer: str | None


class MinPixels(Section):
    """The minimum number of pixels of a parcel."""

    min_pixels: int


class ClassNames(Section):
    """The names of the classes."""

    names: Path | None
    encoding: str | None


class ImageryBands(Section):
    """The channels."""

    bands: list[Band]


class AssembledImagery(ImageryBands):
    """The channels, and what happens to acquisitions that cannot be read."""

    damaged: Damaged


class BandReading(ImageryBands):
    """How the bands of an acquisition are read."""

    resampling: Resampling


class NpyFiles(Section):
    """Whether the dataset is also written as one file per parcel."""

    npy_files: bool


class SplitFolds(Section):
    """The number of folds."""

    folds: int


class SplitSeed(Section):
    """The seed of the folds."""

    seed: int


class ExistingWeights(Section):
    """Existing weights, used instead of training."""

    weights: Path | None


class InferenceBatch(Section):
    """The number of parcels in a batch of predictions."""

    batch_size: int


class TrainDevice(Section):
    """The device of the model."""

    device: str


class InferenceOptions(TrainDevice):
    """The device of the model, and the number of pixels drawn from a parcel."""

    pixels: int


# The stages.


class SimulateSettings(Section):
    """Settings of the command that simulates the demo's scene."""

    simulate: Simulate | None


class IndexSettings(Section):
    """Settings of stage index."""

    imagery: Imagery
    clouds: CloudMasks
    parcels: RegisterLayer


class CleanSettings(Section):
    """Settings of stage clean."""

    parcels: RegisterParcels


class RasteriseSettings(Section):
    """Settings of stage rasterise."""

    parcels: IndexedParcels


class ExtractSettings(Section):
    """Settings of stage extract."""

    imagery: BandReading
    clouds: CloudMasks


class AssembleSettings(Section):
    """Settings of stage assemble."""

    imagery: AssembledImagery
    clouds: Clouds
    parcels: MinPixels
    assemble: Assemble


class LabelSettings(Section):
    """Settings of stage label."""

    parcels: ParcelClasses
    split: SplitFolds
    predict: ExistingWeights


class NamesSettings(Section):
    """Settings of stage names."""

    parcels: ClassNames


class ExportSettings(Section):
    """Settings of stage export."""

    dataset: NpyFiles
    assemble: Assemble


class IngestSettings(Section):
    """Settings of stage ingest."""

    dataset: Dataset
    imagery: ImageryBands
    split: SplitFolds
    predict: ExistingWeights


class NormaliseSettings(Section):
    """Settings of stage normalise."""

    normalise: Normalise


class SplitSettings(Section):
    """Settings of stage split."""

    split: Split


class TrainSettings(Section):
    """Settings of stage train."""

    model: Model
    train: Train


class EvaluateSettings(Section):
    """Settings of stage evaluate."""

    split: SplitSeed
    train: TrainDevice
    predict: InferenceBatch


class PredictSettings(Section):
    """Settings of stage predict."""

    run: str
    parcels: RegisterColumns
    split: SplitFolds
    model: Model
    train: InferenceOptions
    predict: Predict


class ReportSettings(Section):
    """Settings of stage report."""

    report: Report


# {rule: type of its settings}, for all rules that have settings.
STAGE_SETTINGS: dict[str, type[Section]] = {
    "simulate": SimulateSettings,
    "index": IndexSettings,
    "clean": CleanSettings,
    "rasterise": RasteriseSettings,
    "extract": ExtractSettings,
    "assemble": AssembleSettings,
    "label": LabelSettings,
    "names": NamesSettings,
    "export": ExportSettings,
    "ingest": IngestSettings,
    "normalise": NormaliseSettings,
    "split": SplitSettings,
    "train": TrainSettings,
    "evaluate": EvaluateSettings,
    "predict": PredictSettings,
    "report": ReportSettings,
}


def part_of(settings: Settings, kind: type[AnySettings]) -> AnySettings:
    """Return the settings that belong to a type."""
    return kind.model_validate(settings.model_dump(mode="json", include=_fields(kind)))


def _fields(kind: type[BaseModel]) -> dict[str, Any]:
    """Return the fields of a type of settings as pydantic's argument `include`."""
    return {
        name: _fields(field.annotation)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        else True
        for name, field in kind.model_fields.items()
    }


def from_json(text: str, kind: type[AnySettings]) -> AnySettings:
    """Read settings of a type from JSON, as a rule passes them.

    Raises
    ------
    InputError
        If the text is not a JSON object, or its settings cannot be used.
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"--settings is not JSON ({error}): {text[:50]!r}") from None
    if not isinstance(values, dict):
        raise InputError(f"--settings is not a JSON object: {text[:50]!r}")
    return checked(values, kind)


def checked(values: dict[str, Any], kind: type[AnySettings]) -> AnySettings:
    """Check raw settings of a type, as read from YAML or JSON.

    Raises
    ------
    InputError
        If a key is unknown or a value out of range. The message names every one.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = _explain(error.errors(), values, kind)
        if len(lines) == 1:
            raise InputError(f"This setting cannot be used: {lines[0]}") from None
        raise InputError("These settings cannot be used:\n  " + "\n  ".join(lines)) from None


# Words for errors of pydantic that do not say what to write.
_EXPECTED = {
    "model_type": "Input should be settings, `key: value`",
    "dict_type": "Input should be settings, `key: value`",
    "path_type": "Input should be a path",
}
_DATE = "Input should be a date of the calendar, YYYY-MM-DD"


def _explain(
    errors: Sequence[ErrorDetails], values: Mapping[str, Any], kind: type[BaseModel]
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


def _describe(place: Sequence[str], errors: Sequence[ErrorDetails], kind: type[BaseModel]) -> str:
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
        setting = _section_at(place[:-1], kind).model_fields[place[-1]]
        text = f"it has not the expected form ({setting.description})"
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


def _known_like(place: Sequence[str], kind: type[BaseModel]) -> str:
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


def _section_at(location: Sequence[str], section: type[BaseModel]) -> type[BaseModel]:
    """Return the section at a location such as ["parcels", "labels"]."""
    for part in location:
        section = _section_of(section.model_fields.get(part)) or section
    return section


def _section_of(field: FieldInfo | None) -> type[BaseModel] | None:
    """Return the section that a field is, or can be; None if it is a value."""
    kinds = [field.annotation, *get_args(field.annotation)] if field else []
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
