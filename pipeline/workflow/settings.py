"""The settings of a run: every key with its type, range and default.

configs/default.yaml says what each means; a test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
Band = Literal[BANDS]  # type: ignore[valid-type]
Code = str | int
Positive = Annotated[int, Field(ge=1)]
Widths = Annotated[list[Positive], Field(min_length=2)]


def is_address(location: object) -> bool:
    """Tell an address (https://...) from a local path."""
    return isinstance(location, str) and "://" in location


def _location(value: object) -> object:
    """Keep addresses as text: as paths they would lose a slash."""
    return Path(value) if isinstance(value, str) and not is_address(value) else value


Location = Annotated[Path | str, BeforeValidator(_location)]


class Section(BaseModel):
    """A part of the settings: unknown keys, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Imagery(Section):
    """What to read, and how."""

    path: Location | None = None
    format: Literal["auto", "safe", "theia", "geotiff", "stack", "stac"] = "auto"
    bands: Annotated[list[Band], Field(min_length=1)] = [
        *("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
    ]
    tile: str | Annotated[list[str], Field(min_length=1)] | None = None
    start: date | None = None
    end: date | None = None
    max_cloud_fraction: Annotated[float, Field(ge=0, le=1)] = 0.8
    resampling: Literal["nearest", "bilinear", "cubic"] = "bilinear"
    file_bands: list[str] | None = None
    reflectance_scale: Annotated[float, Field(gt=0)] | None = None
    radiometry: Literal["check", "trust"] = "check"
    damaged: Literal["refuse", "set_aside"] = "refuse"
    collections: list[str] = []
    bbox: Annotated[list[float], Field(min_length=4, max_length=4)] | None = None
    sign: Literal["planetary_computer"] | None = None

    @property
    def is_stac(self) -> bool:
        """Whether the imagery is an item collection, a catalogue or an API."""
        if self.format != "auto":
            return self.format == "stac"
        return is_address(self.path) or Path(self.path or "").suffix in (".json", ".geojson")

    @model_validator(mode="after")
    def _check(self) -> Imagery:
        if is_address(self.path) and not self.is_stac:
            raise ValueError(f"only STAC is read from an address, not {self.format}: {self.path}")
        if self.bbox and not (self.bbox[0] < self.bbox[2] and self.bbox[1] < self.bbox[3]):
            raise ValueError(f"bbox is west, south, east, north in degrees, found {self.bbox}")
        if len(set(self.bands)) < len(self.bands):
            raise ValueError(f"a band is named twice in {self.bands}")
        if self.start and self.end and self.start > self.end:
            raise ValueError(f"start {self.start} lies after end {self.end}")
        return self


class Clouds(Section):
    """Which observations count, and what becomes of the others."""

    mask: (
        Literal["auto", "none"]
        | Annotated[list[Literal["scl", "cldprb", "theia", "files"]], Field(min_length=1)]
    ) = "auto"
    classes: list[Annotated[int, Field(ge=0, le=11)]] = [0, 1, 3, 8, 9, 10]
    theia_bits: list[Annotated[int, Field(ge=0, le=7)]] = [0, 1, 2, 3, 4, 5, 6, 7]
    max_probability: Annotated[float, Field(ge=0, le=100)] | None = None
    files: Path | None = None
    dilation_m: Annotated[float, Field(ge=0, le=10_000)] = 0.0
    fill: Literal["linear", "none"] = "linear"
    min_clear_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    drop: Literal["run", "parcel"] = "run"

    @model_validator(mode="after")
    def _check(self) -> Clouds:
        for name, needed in (("cldprb", "max_probability"), ("files", "files")):
            if name in self.mask and getattr(self, needed) is None:
                raise ValueError(f"mask names {name}: set {needed}, too")
        return self


class FrequentClasses(Section):
    """Classes that are frequent enough to be trained on."""

    min_parcels: Positive = 30


class Label(Section):
    """Where the codes of a nomenclature stand in the register, and what classes they are."""

    column: str
    table: Path | None = None
    code: str = "code"
    class_code: str | None = None
    class_name: str | None = None
    hcat_level: Annotated[int, Field(ge=3, le=6)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_column(cls, values: Any) -> Any:
        """Take a mere text for the column."""
        return {"column": values} if isinstance(values, str) else values

    @model_validator(mode="after")
    def _check(self) -> Label:
        if self.table is None and (self.class_code is not None or self.code != "code"):
            raise ValueError("code and class_code are columns of a table: set table")
        return self


def named_columns(labels: Mapping[str, Label]) -> dict[str, str]:
    """List the columns of the register that labels name: {setting: column}."""
    columns = {}
    for name, label in labels.items():
        columns[f"parcels.labels.{name}"] = label.column
        if label.table is None and label.class_name is not None:
            columns[f"parcels.labels.{name}.class_name"] = label.class_name
    return columns


class Parcels(Section):
    """The register, and which pixels a parcel has."""

    path: Path | None = None
    layer: str | None = None
    id: str | None = None
    labels: dict[str, Label] = {}
    nomenclature: str | None = None
    names: Path | None = None
    classes: FrequentClasses | Annotated[list[Code], Field(min_length=2)] = FrequentClasses()
    other_class: Code | None = None
    unknown_codes: Literal["refuse", "unlabelled", "other"] = "refuse"
    duplicate_ids: Literal["reject", "number"] = "reject"
    all_touched: bool = False
    min_covered_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    buffer_m: float = 0.0
    min_area_m2: Annotated[float, Field(ge=0)] = 0.0
    min_pixels: Positive = 1
    partly_outside: Literal["reject", "keep"] = "reject"

    @model_validator(mode="after")
    def _check(self) -> Parcels:
        if self.nomenclature is not None and self.nomenclature not in self.labels:
            raise ValueError(
                f"nomenclature {self.nomenclature!r} is not one of labels: {sorted(self.labels)}"
            )
        if self.unknown_codes == "other" and self.other_class is None:
            raise ValueError("unknown_codes is other: set other_class, the code of that class")
        if self.all_touched and self.min_covered_fraction is not None:
            raise ValueError(
                "all_touched takes every pixel that a parcel touches, min_covered_fraction only "
                "some of these: set one of them"
            )
        return self

    @property
    def code_tables(self) -> dict[str, Path]:
        """The tables of codes that are read: {key of the setting: path}."""
        return {
            f"parcels.labels.{name}.table": label.table
            for name, label in self.labels.items()
            if label.table is not None
        }

    @property
    def tables(self) -> dict[str, Path]:
        """The tables of codes and names that are read: {key of the setting: path}."""
        names = {"parcels.names": self.names} if self.names is not None else {}
        return self.code_tables | names

    @property
    def register_labels(self) -> dict[str, Label]:
        """The labels as far as they name columns of the register, each column once."""
        found: dict[str, Label] = {}
        columns: set[str | None] = {None}
        for name, label in self.labels.items():
            class_name = label.class_name if label.table is None else None
            if not {label.column, class_name} <= columns:
                found[name] = Label(column=label.column, class_name=class_name)
                columns |= {label.column, class_name}
        return found

    @property
    def trained_nomenclature(self) -> str | None:
        """The nomenclature to train on: the one named, else the first of labels."""
        return self.nomenclature or next(iter(self.labels), None)


class Dataset(Section):
    """An existing Pixel-Set dataset in place of imagery and parcels, and what is written of it."""

    path: Path | None = None
    bands: Annotated[list[str], Field(min_length=1)] | None = None
    nomenclature: str | None = None
    names: Path | None = None
    classes: FrequentClasses | Annotated[list[Code], Field(min_length=2)] = FrequentClasses()
    other_class: Code | None = None
    npy_files: bool = True


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
    """Architecture, under the names of the papers; the default name is that of recipe `default`."""

    name: Literal["psetae", "pseltae"] = "pseltae"
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
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
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
PAPER_MODEL = "psetae"
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
    "ema_decay": 0.0,
}


class Predict(Section):
    """How classes are predicted."""

    weights: Path | None = None
    batch_size: Positive = 256
    code_list: str | None = None


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

    run: Annotated[str, Field(pattern=r"^\w[\w.-]*$")] = "default"
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

    @model_validator(mode="before")
    @classmethod
    def _follow_recipe(cls, values: Any) -> Any:
        """Choose the model by the recipe of the training if it is not named, or null."""
        if not isinstance(values, dict):
            return values
        model, train = values.get("model", {}), values.get("train", {})
        if not isinstance(model, dict) or model.get("name") is not None:
            return values
        chosen = {key: value for key, value in model.items() if key != "name"}
        if isinstance(train, dict) and train.get("recipe") == "paper":
            chosen["name"] = PAPER_MODEL
        return {**values, "model": chosen}

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
