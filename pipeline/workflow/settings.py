"""The settings of a run, and the part of them that each stage gets.

Every stage has a type of settings. Its rule passes exactly the fields of that type as JSON: the
stage runs with them, and a change of them triggers a rerun. There is no file between rule and stage
that a second call of Snakemake could overwrite during a run. This module defines which part of a
section a stage gets. `sections` defines default, range, unit and description of every setting.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from geo.errors import InputError
from pipeline.workflow.sections.cluster import Dask
from pipeline.workflow.sections.imagery import CloudMasks, Clouds, Imagery
from pipeline.workflow.sections.models import (
    Areas,
    Assemble,
    Check,
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
from pipeline.workflow.setting_errors import explain

AnySettings = TypeVar("AnySettings", bound=Section)

# What is used of these sections if a run starts from an existing dataset.
_USED_WITH_DATASET: dict[str, set[str]] = {
    "imagery": {"bands"},
    "clouds": set(),
    "parcels": set(),
    "assemble": set(),
    "predict": {"weights", "batch_size", "set_error", "false_alarms"},
    # An existing dataset has no outlines.
    "areas": set(),
}


class Settings(Section):
    """Every setting of a run, as described in configs/default.yaml."""

    run: str = Field(default="default", pattern=r"^\w[\w.-]*$", max_length=100)
    """results go to results/<run>/; letters, digits, _ . and -"""
    imagery: Imagery = Field(default_factory=Imagery)
    clouds: Clouds = Field(default_factory=Clouds)
    parcels: Parcels = Field(default_factory=Parcels)
    dataset: Dataset = Field(default_factory=Dataset)
    assemble: Assemble = Field(default_factory=Assemble)
    normalise: Normalise = Field(default_factory=Normalise)
    split: Split = Field(default_factory=Split)
    model: Model = Field(
        default_factory=lambda: Model.model_validate(read_recipe("default")["model"])
    )
    train: Train = Field(default_factory=lambda: Train.model_validate({}))
    predict: Predict = Field(default_factory=Predict)
    areas: Areas = Field(default_factory=Areas)
    check: Check = Field(default_factory=Check)
    report: Report = Field(default_factory=Report)
    dask: Dask = Field(default_factory=Dask)
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

    @model_validator(mode="before")
    @classmethod
    def _follow_datasets(cls, values: Any) -> Any:
        """Make a fold for each dataset if these are left out in turn, and folds are not set."""
        if not isinstance(values, dict):
            return values
        split, dataset = values.get("split"), values.get("dataset")
        if not isinstance(split, dict) or not isinstance(dataset, dict):
            return values
        paths = dataset.get("paths")
        follows = "dataset" in (split.get("by"), split.get("also")) and split.get("folds") is None
        if not follows or not isinstance(paths, list):
            return values
        return {**values, "split": {**split, "folds": len(paths)}}

    @model_validator(mode="after")
    def _check(self) -> Settings:
        existing = bool(self.dataset.sources)
        if self.dataset.path is not None and self.dataset.paths is not None:
            raise ValueError("dataset.path and dataset.paths are set: set one of them")
        others = (self.imagery.path, self.parcels.path, self.simulate)
        has_others = any(other is not None for other in others)
        if "dataset" in self.split.ways and len(self.dataset.paths or ()) != self.split.folds:
            raise ValueError(
                "split: dataset means that each of dataset.paths is the test part of one fold. "
                "List them there, and leave out split.folds (dataset.paths: "
                f"{len(self.dataset.paths or ())}, split.folds: {self.split.folds})"
            )
        if self.dataset.paths is not None and self.normalise.by == "date_channel":
            raise ValueError(
                "normalise.by is date_channel, but several datasets have dates of their own: set "
                "it to channel or all"
            )
        if existing and has_others:
            key = "dataset.path" if self.dataset.paths is None else "dataset.paths"
            raise ValueError(
                f"{key} takes the place of imagery.path, parcels.path and simulate: set it, or them"
            )
        if existing:
            self._refuse_unused(_USED_WITH_DATASET, "if dataset.path is set", ("dataset",))
        elif has_others:
            used = {"dataset": {"npy_files"}}
            self._refuse_unused(used, "unless dataset.path is set", ("parcels", "imagery"))
        if self.train.start is not None and self.predict.weights is not None:
            raise ValueError(
                "train.from is without effect if predict.weights is set, as nothing is trained. "
                "Remove one of them"
            )
        self._check_split()
        if self.predict.weights is not None and self.areas.sample != "unknown":
            raise ValueError(
                "areas.sample: without effect if predict.weights is set, because it is not known "
                "which parcels the weights were trained on. Remove it"
            )
        if self.predict.weights is not None and self.report.mlflow:
            raise ValueError(
                "report.mlflow: without effect if predict.weights is set, as nothing is trained. "
                "Remove it"
            )
        if self.predict.weights is not None and self.check != Check():
            raise ValueError(
                "check: without effect if predict.weights is set, because no declaration is judged "
                "by models that may have been trained on it. Remove it"
            )
        for section, is_used in (("parcels", not existing), ("dataset", not has_others)):
            classes = getattr(self, section).classes
            is_few = isinstance(classes, FrequentClasses) and classes.min_parcels < self.split.folds
            if is_used and is_few:
                raise ValueError(
                    f"{section}.classes.min_parcels is {classes.min_parcels} and split.folds "
                    f"{self.split.folds}: a class needs at least one parcel in every fold"
                )
        return self

    def _check_split(self) -> None:
        """Check that the ways of dividing differ, and have the settings that they need."""
        options = self.split
        if options.also == options.by:
            raise ValueError(
                f"split.by and split.also are both {options.by}: choose another way, or remove "
                "split.also"
            )
        if "group" in options.ways and options.column is None:
            raise ValueError(
                "split.by or split.also is group, but split.column is not set: name the column "
                "whose values are the groups, such as {by: group, column: FARM_ID}"
            )
        if "group" not in options.ways and options.column is not None:
            raise ValueError(
                "split.column: without effect unless split.by or split.also is group. Remove it, "
                "or set one of them"
            )

    def _refuse_unused(
        self, used: Mapping[str, set[str]], when: str, instead: Sequence[str]
    ) -> None:
        """Refuse settings of some sections that no stage would use, unless they are the default.

        Parameters
        ----------
        used
            {section: its settings that are used}.
        when
            When the others have no effect.
        instead
            Sections that may have a setting of the same name to use instead.
        """
        unused = [
            (section, key)
            for section, keys in used.items()
            for key, default in type(getattr(self, section))()
            if key not in keys and getattr(getattr(self, section), key) != default
        ]
        if not unused:
            return
        others = [
            f"{other}.{key}"
            for _, key in unused
            for other in instead
            if key in type(getattr(self, other)).model_fields
        ]
        hint = f", and set {', '.join(others)} instead" if others else ""
        raise ValueError(
            f"{', '.join(map('.'.join, unused))}: without effect {when}. Remove it{hint}"
        )


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


class VariogramFolds(SplitFolds):
    """The number of folds, and the seed of the sample."""

    seed: int


class SplitSeed(Section):
    """The seed of the folds."""

    seed: int


class ExistingWeights(Section):
    """Existing weights, used instead of training."""

    weights: Path | None


class InferenceBatch(Section):
    """The number of parcels in a batch of predictions."""

    batch_size: int


class SetError(Section):
    """The error rate of the prediction sets."""

    set_error: float


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


class VariogramSettings(Section):
    """Settings of stage variogram."""

    split: VariogramFolds


class SplitSettings(Section):
    """Settings of stage split."""

    split: Split


class TrainSettings(Section):
    """Settings of stage train."""

    model: Model
    train: Train


class CalibrateSettings(Section):
    """Settings of stage calibrate."""

    train: TrainDevice
    predict: InferenceBatch


class EvaluateSettings(Section):
    """Settings of stage evaluate."""

    split: SplitSeed
    predict: SetError


class SeasonSettings(Section):
    """Settings of stage evaluate_season."""

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


class ExplainSettings(Section):
    """Settings of stage explain."""

    split: SplitSeed
    model: Model
    train: InferenceOptions
    predict: InferenceBatch


class AreasSettings(Section):
    """Settings of stage areas."""

    areas: Areas


class WorklistSettings(Section):
    """Settings of stage worklist."""

    check: Check


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
    "variogram": VariogramSettings,
    "split": SplitSettings,
    "train": TrainSettings,
    "calibrate": CalibrateSettings,
    "evaluate": EvaluateSettings,
    "evaluate_season": SeasonSettings,
    "predict": PredictSettings,
    "explain": ExplainSettings,
    "areas": AreasSettings,
    "worklist": WorklistSettings,
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
        lines = explain(error.errors(), values, kind)
        if len(lines) == 1:
            raise InputError(f"This setting cannot be used: {lines[0]}") from None
        raise InputError("These settings cannot be used:\n  " + "\n  ".join(lines)) from None
