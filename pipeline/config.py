"""Settings: typed, checked before any work starts, and cut to what each stage may see."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal, cast, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from pipeline.paths import RunPaths

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
Band = Literal[BANDS]  # type: ignore[valid-type]
Code = str | int
Positive = Annotated[int, Field(ge=1)]
Widths = Annotated[list[Positive], Field(min_length=2)]


class SettingsError(ValueError):
    """Settings that cannot be used; the message says which, and what to write instead."""


class Section(BaseModel):
    """A part of the settings: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Imagery(Section):
    """What to read, and how."""

    path: Path | None = None
    format: Literal["auto", "safe", "geotiff", "stack"] = "auto"
    bands: Annotated[list[Band], Field(min_length=1)] = [
        *("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
    ]
    tile: str | None = None
    start: date | None = None
    end: date | None = None
    max_cloud_fraction: Annotated[float, Field(ge=0, le=1)] = 0.8
    resampling: Literal["nearest", "bilinear", "cubic"] = "bilinear"
    file_bands: list[str] | None = None
    reflectance_scale: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Imagery:
        if len(set(self.bands)) < len(self.bands):
            raise ValueError(f"a band is named twice in {self.bands}")
        if self.start and self.end and self.start > self.end:
            raise ValueError(f"start {self.start} lies after end {self.end}")
        return self


class Clouds(Section):
    """Which observations count, and what becomes of the others."""

    mask: Literal["auto", "none"] = "auto"
    classes: list[Annotated[int, Field(ge=0, le=11)]] = [0, 1, 3, 8, 9, 10]
    fill: Literal["linear", "none"] = "linear"


class FrequentClasses(Section):
    """Classes that are frequent enough to be trained on."""

    min_parcels: Positive = 30


class Parcels(Section):
    """The register, and which pixels a parcel has."""

    path: Path | None = None
    layer: str | None = None
    id: str = "ID_PARCEL"
    labels: dict[str, str] = {}
    nomenclature: str | None = None
    names: Path | None = None
    classes: FrequentClasses | Annotated[list[Code], Field(min_length=2)] = FrequentClasses()
    all_touched: bool = False
    buffer_m: float = 0.0
    min_pixels: Positive = 1
    partly_outside: Literal["reject", "keep"] = "reject"

    @model_validator(mode="after")
    def _check(self) -> Parcels:
        if self.nomenclature is not None and self.nomenclature not in self.labels:
            raise ValueError(
                f"nomenclature {self.nomenclature!r} is not one of labels: {sorted(self.labels)}"
            )
        return self

    @property
    def trained_nomenclature(self) -> str | None:
        """The nomenclature to train on: the one named, else the first of labels."""
        return self.nomenclature or next(iter(self.labels), None)


class Dataset(Section):
    """An existing Pixel-Set dataset in place of imagery and parcels."""

    path: Path | None = None
    bands: Annotated[list[str], Field(min_length=1)] | None = None
    nomenclature: str | None = None
    names: Path | None = None
    classes: FrequentClasses | Annotated[list[Code], Field(min_length=2)] = FrequentClasses()


class Assemble(Section):
    """How the dataset is put together."""

    memory_mb: Positive = 1000


class Normalise(Section):
    """What the normalisation pools over."""

    by: Literal["all", "channel", "date_channel"] = "channel"


class Split(Section):
    """How the folds are made."""

    folds: Annotated[int, Field(ge=2)] = 5
    by: Literal["random", "stratified", "block"] = "random"
    block_m: Annotated[float, Field(gt=0)] = 2000.0
    seed: int = 1


class Model(Section):
    """Architecture, under the names of the papers."""

    name: Literal["psetae", "pseltae"] = "psetae"
    geometric_features: bool = True
    pooling: str = "mean_std"
    mlp1: Widths = [10, 32, 64]
    mlp2: Widths = [132, 128]
    mlp3: Widths | None = None
    mlp4: Widths = [128, 64, 32, 20]
    n_head: Positive | None = None
    d_k: Positive | None = None
    d_model: Positive | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    T: Positive = 1000
    positions: Literal["days", "order"] = "days"
    season_start: Annotated[str, Field(pattern=r"^(0\d|1[0-2])-[0-3]\d$")] | None = None

    @model_validator(mode="after")
    def _check(self) -> Model:
        unknown = set(self.pooling.split("_")) - {"mean", "std", "min", "max"}
        if unknown:
            raise ValueError(f"pooling joins mean, std, min and max by _, found {self.pooling!r}")
        if self.season_start is not None:
            # A day that every year has: 2019 is no leap year.
            date.fromisoformat(f"2019-{self.season_start}")
        return self


class Train(Section):
    """How a fold is trained; the defaults are the recipe `default`."""

    recipe: Literal["default", "paper"] = "default"
    epochs: Positive = 100
    batch_size: Annotated[int, Field(ge=2)] = 64
    pixels: Positive = 64
    members: Positive = 3
    optimizer: Literal["adam", "adamw"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 0.002
    schedule: Literal["constant", "onecycle", "cosine"] = "onecycle"
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    gamma: Annotated[float, Field(ge=0)] = 1.0
    class_weighting: Literal["none", "balanced"] = "none"
    initialisation: Literal["paper", "torch"] = "torch"
    jitter_sigma: Annotated[float, Field(ge=0)] = 0.01
    jitter_clip: Annotated[float, Field(ge=0)] = 0.05
    date_dropping: Annotated[float, Field(ge=0, lt=1)] = 0.0
    shift_days: Annotated[int, Field(ge=0)] = 0
    patience: Positive | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    tensorboard: bool = False
    seed: Annotated[int, Field(ge=0)] = 1
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _follow_recipe(cls, values: Any) -> Any:
        """Fill in what is not set, or null, by the recipe."""
        if not isinstance(values, dict):
            return values
        recipe = PAPER if values.get("recipe") == "paper" else {}
        return {**recipe, **{key: value for key, value in values.items() if value is not None}}


# Garnot et al., arXiv 1911.07757, section 4, and its code: all that may differ from `default`.
PAPER: dict[str, Any] = {
    "epochs": 100,
    "batch_size": 128,
    "pixels": 64,
    "members": 1,
    "optimizer": "adam",
    "learning_rate": 0.001,
    "schedule": "constant",
    "weight_decay": 0.0,
    "gamma": 1.0,
    "class_weighting": "none",
    "initialisation": "paper",
    "jitter_sigma": 0.01,
    "jitter_clip": 0.05,
    "date_dropping": 0.0,
    "shift_days": 0,
}


class Predict(Section):
    """How classes are predicted."""

    weights: Path | None = None
    batch_size: Positive = 512


class Report(Section):
    """What the report shows beside the run."""

    compare: list[str] = []


class Simulate(Section):
    """Size of the simulated scene."""

    size_m: Annotated[int, Field(ge=1280)] = 5120
    acquisitions: Annotated[int, Field(ge=3)] = 24
    parcels: Annotated[int, Field(ge=50)] = 1000
    seed: int = 1


class Settings(Section):
    """Every setting of a run; configs/default.yaml says what each means."""

    run: Annotated[str, Field(pattern=r"^[\w.-]+$")] = "default"
    imagery: Imagery = Imagery()
    clouds: Clouds = Clouds()
    parcels: Parcels = Parcels()
    dataset: Dataset = Dataset()
    assemble: Assemble = Assemble()
    normalise: Normalise = Normalise()
    split: Split = Split()
    model: Model = Model()
    train: Train = Train()
    predict: Predict = Predict()
    report: Report = Report()
    simulate: Simulate | None = None

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


# What each stage may see. Snakemake reruns a stage when one of these changes, and nothing else
# can have an effect on it: the other settings are not there when it runs.
USED_BY: dict[str, tuple[str, ...]] = {
    "simulate": ("simulate",),
    "index": ("imagery", "clouds.mask", "clouds.classes"),
    # The path and the tile fix the grid.
    "clean": ("parcels", "split.folds", "imagery.path", "imagery.tile"),
    "rasterise": ("parcels.all_touched", "parcels.buffer_m"),
    "extract": (
        *(f"imagery.{key}" for key in ("format", "bands", "resampling")),
        *("imagery.file_bands", "imagery.reflectance_scale"),
        *("clouds.mask", "clouds.classes"),
    ),
    "assemble": ("imagery.bands", "clouds", "parcels.labels", "parcels.nomenclature", "assemble"),
    "normalise": ("normalise",),
    "features": (),
    "adopt": ("dataset", "imagery.bands", "normalise", "split.folds", "predict.weights"),
    "split": ("split",),
    "train": ("model", "train"),
    "evaluate": ("train.device", "predict.batch_size", "split.seed"),
    "predict": ("model", "train.device", "train.pixels", "predict", "parcels.layer"),
    "report": ("report",),
}


def load(values: Mapping[str, Any]) -> Settings:
    """Check raw settings, as read from YAML.

    Raises
    ------
    SettingsError
        If a key is unknown or a value out of range; the message names every one.
    """
    try:
        return Settings.model_validate(dict(values))
    except ValidationError as error:
        lines = [_explain(item) for item in error.errors()]
        raise SettingsError("These settings cannot be used:\n  " + "\n  ".join(lines)) from None


def read(path: Path) -> Settings:
    """Read the resolved settings of a run.

    Raises
    ------
    SettingsError
        If the file is missing or its settings cannot be used.
    """
    if not path.is_file():
        raise SettingsError(f"There is no settings file {path}. `snakemake -n` writes it.")
    return load(yaml.safe_load(path.read_text()) or {})


def for_stage(settings: Settings, stage: str) -> dict[str, Any]:
    """Cut settings to what a stage may see, as plain values: its rerun trigger."""
    values = settings.model_dump(mode="json")
    cut: dict[str, Any] = {}
    for key in USED_BY[stage]:
        section, _, name = key.partition(".")
        if name:
            cut.setdefault(section, {})[name] = values[section][name]
        else:
            cut[section] = values[section]
    return cut


def view(settings: Settings, stage: str) -> Settings:
    """Give only the settings that a stage may see; any other raises AttributeError on access."""
    visible = SimpleNamespace()
    for key in USED_BY[stage]:
        section, _, name = key.partition(".")
        whole = getattr(settings, section)
        if not name:
            setattr(visible, section, whole)
            continue
        if not hasattr(visible, section):
            setattr(visible, section, SimpleNamespace())
        setattr(getattr(visible, section), name, getattr(whole, name))
    return cast(Settings, visible)


def check_inputs(settings: Settings) -> None:
    """Check that the inputs are named and there, unless the run simulates them.

    Raises
    ------
    SettingsError
        If a path is not set, does not exist, or is an empty folder.
    """
    inputs: dict[str, tuple[Path | None, str]] = {}
    if settings.dataset.path is not None:
        inputs["dataset.path"] = settings.dataset.path, "a Pixel-Set dataset: a folder with DATA"
    elif settings.simulate is None:
        imagery = "a folder of SAFE products or GeoTIFFs, or a stack"
        if settings.imagery.path is None and settings.parcels.path is None:
            imagery += "; or set dataset.path, to start from a Pixel-Set dataset"
        inputs["imagery.path"] = settings.imagery.path, imagery
        inputs["parcels.path"] = settings.parcels.path, "the parcel register"
    if settings.predict.weights is not None:
        weights = "the folder of Fold_1/model.pth.tar, Fold_2/model.pth.tar, ..."
        inputs["predict.weights"] = settings.predict.weights, weights
    for key, (path, what) in inputs.items():
        if path is None:
            raise SettingsError(f"{key} is not set: give the path of {what}.")
        if not path.exists():
            raise SettingsError(f"{key}: there is no {path}. Give the path of {what}.")
        if path.is_dir() and not any(path.iterdir()):
            raise SettingsError(f"{key}: the folder {path} is empty. Give the path of {what}.")
    _check_dataset(settings)


def _check_dataset(settings: Settings) -> None:
    """Check that an existing dataset has what the settings ask of it."""
    path = settings.dataset.path
    if path is None:
        return
    if not (path / "DATA").is_dir():
        raise SettingsError(
            f"dataset.path: {path} has no folder DATA. Give the folder of a Pixel-Set dataset, "
            "with DATA and META in it."
        )
    blocks = settings.split.by == "block" and settings.predict.weights is None
    if blocks and not (path / "META" / "positions.json").is_file():
        raise SettingsError(
            f"split.by is block, but {path} has no META/positions.json, {{id: [x, y]}} in metres, "
            "which says where the parcels are. Add it, or set split.by to random or stratified."
        )


def watched(path: Path) -> list[Path]:
    """List the files whose change means that the imagery changed: a folder and what it holds."""
    if not path.is_dir():
        return [path]
    return [path, *sorted(p for p in path.iterdir() if not p.name.startswith("."))]


def watched_dataset(path: Path) -> list[Path]:
    """List the files whose change means that an existing dataset changed, and its DATA folder."""
    meta = sorted((path / "META").glob("*.json"))
    return [path / "DATA", *meta, *sorted(path.glob("*.pkl"))]


def weights(folder: Path) -> list[Path]:
    """List the files of models that were trained elsewhere."""
    return sorted(p for p in folder.glob("Fold_*/model*") if p.is_file())


def write_resolved(settings: Settings, paths: RunPaths) -> None:
    """Write the resolved settings to the run's folder, only if their text changed."""
    text = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)
    if paths.config.is_file() and paths.config.read_text() == text:
        return
    paths.config.parent.mkdir(parents=True, exist_ok=True)
    temporary = paths.config.with_name(f".{paths.config.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(paths.config)


def has_gpu() -> bool:
    """Tell whether an NVIDIA GPU is there, without importing torch."""
    return Path("/dev/nvidia0").exists()


def _explain(error: ErrorDetails) -> str:
    """Say one validation error with its key, what was found, and what is known."""
    location = ".".join(str(part) for part in error["loc"] if not str(part).startswith("Frequent"))
    if error["type"] == "extra_forbidden":
        known = _known_keys(error["loc"][:-1])
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
        return f"{location}: unknown setting; {hint}"
    message = error["msg"].removeprefix("Value error, ")
    found = "" if isinstance(error["input"], dict) else f", found {error['input']!r}"
    return f"{location or 'settings'}: {message}{found}"


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """List the keys of the section at a location."""
    section: type[BaseModel] = Settings
    for part in location:
        field = section.model_fields.get(str(part))
        models = [field.annotation] if field else []
        models += list(get_args(field.annotation)) if field else []
        section = next(
            (m for m in models if isinstance(m, type) and issubclass(m, BaseModel)), section
        )
    return list(section.model_fields)
