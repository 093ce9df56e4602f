"""The sections of the settings: every setting with its type, range, default, unit and description.

This is the only place that states them. configs/default.yaml and configs/schema.json are written
from it (`python -m pipeline.workflow.generate_configs`). What a training recipe decides has its
default in recipes/<recipe>.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
Band = Literal[BANDS]  # type: ignore[valid-type]
Code = str | int
Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Widths = Annotated[list[Positive], Field(min_length=2)]
ImageryFormat = Literal["auto", "safe", "theia", "geotiff", "stack", "stac"]
Resampling = Literal["nearest", "bilinear", "cubic"]
Signing = Literal["planetary_computer"]

_RECIPES = Path(__file__).with_name("recipes")
RECIPES = tuple(sorted(path.stem for path in _RECIPES.glob("*.yaml")))
Recipe = Literal[RECIPES]  # type: ignore[valid-type]


@cache
def read_recipe(name: str) -> dict[str, dict[str, Any]]:
    """Read a recipe: {"model": {"name": ...}, "train": {setting: value}}."""
    recipe: dict[str, dict[str, Any]] = yaml.safe_load(
        (_RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    )
    return recipe


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

    path: Location | None = Field(
        default=None,
        description="folder of products (SAFE, THEIA, EOPF), GeoTIFFs or stacks, or a STAC source: "
        "item collection, catalog.json or API, as a file or an address",
    )
    format: ImageryFormat = Field(
        default="auto",
        description="auto | safe | theia | geotiff | stack (NetCDF, Zarr) | stac",
    )
    bands: Annotated[list[Band], Field(min_length=1)] = Field(
        default=["B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"],
        description="channels, in this order",
    )
    tile: str | Annotated[list[str], Field(min_length=1)] | None = Field(
        default=None, description="only this MGRS tile, or a list of tiles; null: all there are"
    )
    start: date | None = Field(
        default=None, description="first date to use, YYYY-MM-DD; null: no limit"
    )
    end: date | None = Field(default=None, description="last date to use; null: no limit")
    max_cloud_fraction: Fraction = Field(
        default=0.8, description="acquisitions with more cloud are set aside (0 to 1)"
    )
    resampling: Resampling = Field(
        default="bilinear",
        description="how 20 and 60 m bands are resampled to 10 m: nearest | bilinear | cubic",
    )
    file_bands: list[str] | None = Field(
        default=None, description="bands, in order, of GeoTIFFs without band descriptions"
    )
    reflectance_scale: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="GeoTIFFs and stacks: reflectance of one unit; null: as the file says, "
        "otherwise 0.0001 for integers and 1 for floats",
    )
    radiometry: Literal["check", "trust"] = Field(
        default="check",
        description="check: stop if the pixels contradict the metadata about the additive offset "
        "of processing baseline 04.00 | trust: read the pixels as the metadata say",
    )
    damaged: Literal["refuse", "set_aside"] = Field(
        default="refuse",
        description="products that cannot be read or lack bands: refuse | set_aside (the table of "
        "acquisitions names them, the log of index says why)",
    )
    collections: list[str] = Field(
        default=[], description="STAC API: collections to search, such as [sentinel-2-l2a]"
    )
    bbox: Annotated[list[float], Field(min_length=4, max_length=4)] | None = Field(
        default=None,
        description="STAC API: [west, south, east, north] in degrees; null: bounds of the register",
    )
    sign: Signing | None = Field(
        default=None, description="how the addresses of assets are signed: planetary_computer"
    )

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


class CloudMasks(Section):
    """Which masks hide pixels."""

    mask: (
        Literal["auto", "none"]
        | Annotated[list[Literal["scl", "cldprb", "theia", "files"]], Field(min_length=1)]
    ) = Field(
        default="auto",
        description="auto: every mask that an acquisition has, and those that are set below | none "
        "| a list of scl, cldprb, theia, files: these, which every acquisition must have",
    )
    classes: list[Annotated[int, Field(ge=0, le=11)]] = Field(
        default=[0, 1, 3, 8, 9, 10],
        description="SCL classes that are not clear: no data, saturated, cloud shadow, cloud "
        "(medium and high probability), thin cirrus",
    )
    theia_bits: list[Annotated[int, Field(ge=0, le=7)]] = Field(
        default=[0, 1, 2, 3, 4, 5, 6, 7],
        description="bits of THEIA's cloud mask (CLM) that are not clear; 6 is the thinnest "
        "clouds, 7 is cirrus, 2 and 3 are shadows",
    )
    max_probability: Annotated[float, Field(ge=0, le=100)] | None = Field(
        default=None,
        description="percent: pixels with a larger cloud probability (MSK_CLDPRB) are not clear; "
        "null: not used",
    )
    files: Path | None = Field(
        default=None,
        description="folder of your own masks, one raster for each acquisition, with its date (and "
        "tile) in the name; values other than 0 are not clear",
    )
    dilation_m: Annotated[float, Field(ge=0, le=10_000)] = Field(
        default=0.0,
        description="metres: grow the cloud mask by this distance (0: off; nodata areas are not "
        "grown)",
    )

    @model_validator(mode="after")
    def _check(self) -> CloudMasks:
        for name, needed in (("cldprb", "max_probability"), ("files", "files")):
            if name in self.mask and getattr(self, needed) is None:
                raise ValueError(f"mask names {name}: set {needed}, too")
        return self


class Clouds(CloudMasks):
    """Which observations are clear, and what becomes of the others."""

    fill: Literal["linear", "none"] = Field(
        default="linear",
        description="linear: cloudy observations are interpolated in time, pixel by pixel | none: "
        "they are kept and masked. Pixels that are clear on no date are left out either way",
    )
    min_clear_fraction: Fraction = Field(
        default=0.0,
        description="dates with a smaller fraction of clear pixels are dropped (0 to 1) ...",
    )
    drop: Literal["run", "parcel"] = Field(
        default="run",
        description="... run: the fraction is that of all parcels of the tile together, and the "
        "date is dropped for all of them | parcel: each parcel by itself",
    )


class FrequentClasses(Section):
    """Classes that are frequent enough to be trained on."""

    min_parcels: Positive = Field(default=30, description="fewest parcels of a class")


Classes = FrequentClasses | Annotated[list[Code], Field(min_length=2)]


def _or_column(schema: dict[str, Any]) -> None:
    """Say in a JSON schema that a label may be written as the mere name of its column."""
    whole = dict(schema)
    schema.clear()
    schema["anyOf"] = [{"type": "string"}, whole]


class Label(Section):
    """Where the codes of a nomenclature stand in the register, and which classes they are."""

    model_config = ConfigDict(json_schema_extra=_or_column)

    column: str = Field(description="column of the register that holds the codes")
    table: Path | None = Field(default=None, description="CSV with a row for every code")
    code: str = Field(default="code", description="column of these codes in the table")
    class_code: str | None = Field(
        default=None,
        description="column of the class codes; null: class, if the table has it, otherwise the "
        "code itself; empty cells are not labelled",
    )
    class_name: str | None = Field(
        default=None,
        description="column of the classes' names; null: class_name or name; without a table a "
        "column of the register",
    )
    hcat_level: Annotated[int, Field(ge=3, le=6)] | None = Field(
        default=None, description="level that HCAT codes are cut to (EuroCrops)"
    )

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


class RegisterFile(Section):
    """The register, and the ids of its rows."""

    path: Path | None = Field(default=None, description="any file that GDAL reads, or GeoParquet")
    layer: str | None = Field(default=None, description="layer, where the file has several")
    id: str | None = Field(
        default=None,
        description="column that identifies a parcel; null: ID_PARCEL, or id in a fiboa file",
    )


class LabelColumns(Section):
    """The nomenclatures, and where their codes stand."""

    labels: dict[str, Label] = Field(
        default={},
        description="""\
nomenclatures and their columns, such as {crop: CODE_CULTU}; empty: no labels, except for a fiboa \
file, where it is {crop: crop:code}. A table turns codes into classes, and there may be several \
nomenclatures:
  group: {column: CODE, table: crops.csv, class_code: GROUP}
  table       CSV with a row for every code of the register
  code        its column of these codes (default: code)
  class_code  its column of class codes (default: class, if
              it has one, otherwise the code itself);
              empty cells are not labelled
  class_name  its column of the classes' names (default:
              class_name or name); without a table a column
              of the register
  hcat_level  3 to 6: cut HCAT codes to that level (EuroCrops)""",
    )


class RegisterColumns(LabelColumns, RegisterFile):
    """The register, its ids and its declared codes."""


class ParcelClasses(LabelColumns):
    """The classes that parcels have, and those that are trained on."""

    nomenclature: str | None = Field(
        default=None, description="the nomenclature to train on; null: the first of labels"
    )
    classes: Classes = Field(
        default=FrequentClasses(),
        description="{min_parcels: n}: classes with at least n parcels; or a list of codes, in the "
        "order of the class index. The other classes are only predicted, or ...",
    )
    other_class: Code | None = Field(
        default=None, description="... become one class with this code, such as other"
    )
    unknown_codes: Literal["refuse", "unlabelled", "other"] = Field(
        default="refuse", description="codes that a table lacks: refuse | unlabelled | other"
    )

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
        """The tables of codes that are read: {key of the setting: path}."""
        return {
            f"parcels.labels.{name}.table": label.table
            for name, label in self.labels.items()
            if label.table is not None
        }


def named_columns(labels: Mapping[str, Label]) -> dict[str, str]:
    """List the columns of the register that labels name: {setting: column}."""
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
        description="true: every pixel that the parcel touches",
        json_schema_extra={
            "above": "A pixel belongs to a parcel if its centre lies inside, unless one of these "
            "is set:"
        },
    )
    min_covered_fraction: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="pixels of which the parcel covers at least this fraction, such as 0.5",
    )
    buffer_m: float = Field(
        default=0.0,
        description="metres: buffer the outline before the pixels are chosen; negative: inward",
    )

    @model_validator(mode="after")
    def _check_pixels(self) -> Self:
        if self.all_touched and self.min_covered_fraction is not None:
            raise ValueError(
                "all_touched takes every pixel that a parcel touches, min_covered_fraction only "
                "some of these: set one of them"
            )
        return self


class RegisterParcels(PixelChoice, RegisterFile):
    """How the rows of the register become parcels."""

    duplicate_ids: Literal["reject", "number"] = Field(
        default="reject",
        description="reject: the first row keeps its id, the others are set aside | number: the "
        "others become <id>-2, <id>-3 ...",
    )
    min_area_m2: Annotated[float, Field(ge=0)] = Field(
        default=0.0,
        description="square metres: smaller parcels are set aside; of the outline as it is drawn, "
        "without the buffer",
    )
    partly_outside: Literal["reject", "keep"] = Field(
        default="reject",
        description="parcels that cross the edge of the imagery: reject | keep (the part inside)",
    )


class IndexedParcels(PixelChoice):
    """Which parcels have enough pixels."""

    min_pixels: Positive = Field(
        default=1,
        description="parcels with fewer pixels are set aside, and those with fewer pixels that are "
        "clear on at least one date",
    )


class Parcels(IndexedParcels, RegisterParcels, ParcelClasses, RegisterColumns):
    """The register, its classes, and which pixels belong to a parcel."""

    names: Path | None = Field(
        default=None, description="CSV with columns code,name: the classes of that nomenclature"
    )

    @property
    def tables(self) -> dict[str, Path]:
        """The tables of codes and names that are read: {key of the setting: path}."""
        names = {"parcels.names": self.names} if self.names is not None else {}
        return self.code_tables | names


class Dataset(Section):
    """The Pixel-Set dataset: how it is written, or an existing one in place of imagery and parcels.

    What an existing dataset says about itself comes first.
    """

    path: Path | None = Field(
        default=None,
        description="an existing dataset: folder with DATA/<id>.npy, META/labels.json, dates.json "
        "...",
    )
    bands: Annotated[list[str], Field(min_length=1)] | None = Field(
        default=None,
        description="names of its channels, in order; null: as it says, otherwise imagery.bands",
    )
    nomenclature: str | None = Field(
        default=None, description="which of its labels.json; null: the first"
    )
    names: Path | None = Field(
        default=None, description="CSV with columns code,name: the classes of that nomenclature"
    )
    classes: Classes = Field(default=FrequentClasses(), description="as in parcels")
    other_class: Code | None = Field(default=None, description="as in parcels")
    npy_files: bool = Field(
        default=True,
        description="write DATA and VALID, one .npy file for each parcel; false: leave them out, "
        "for millions of parcels",
    )


class Assemble(Section):
    """How the dataset is put together."""

    memory_mb: Positive = Field(default=1000, description="MB of pixels held at once")


class Normalise(Section):
    """What the normalisation pools over."""

    by: Literal["all", "channel", "date_channel"] = Field(
        default="channel",
        description="one mean and standard deviation for each: all | channel | date_channel",
    )


class Split(Section):
    """How the folds are made."""

    folds: Annotated[int, Field(ge=2)] = Field(default=5, description="number of folds")
    by: Literal["random", "stratified", "block"] = Field(
        default="random",
        description="random | stratified (by class) | block (whole squares of land)",
    )
    block_m: Annotated[float, Field(gt=0)] = Field(
        default=2000.0, description="metres: side of a square"
    )
    seed: int = Field(default=1, description="seed of the random generator")


class Model(Section):
    """The architecture, under the names of the papers."""

    # Its default is that of the recipe, see `Settings`.
    name: Literal["psetae", "pseltae"] = Field(
        description="psetae is the Pixel-Set Encoder + temporal attention of the first paper, "
        "pseltae that with lightweight temporal attention, which was better where both were "
        "measured (README). Weights that are given say themselves which of the two they are",
    )
    geometric_features: bool = Field(
        default=True,
        description="use perimeter, pixels, cover ratio and perimeter over surface",
    )
    pooling: str = Field(
        default="mean_std", description="some of mean, std, min and max, joined by _"
    )
    mlp1: Widths = Field(
        default=[10, 32, 64],
        description="of every pixel",
        json_schema_extra={
            "above": "Widths of the layers, as the papers print them. The first of each, and the "
            "last of mlp4, follow from the data whatever stands here. null: as in the paper of the "
            "model."
        },
    )
    mlp2: Widths = Field(default=[132, 128], description="after pooling")
    mlp3: Widths | None = Field(
        default=None,
        description="after attention: [512, 128, 128] for psetae, [256, 128] for pseltae",
    )
    mlp4: Widths = Field(default=[128, 64, 32, 20], description="decoder")
    n_head: Positive | None = Field(
        default=None, description="attention heads: 4 for psetae, 16 for pseltae"
    )
    d_k: Positive | None = Field(
        default=None, description="width of keys: 32 for psetae, 8 for pseltae"
    )
    d_model: Positive | None = Field(
        default=None,
        description="width of attention: that of mlp2 for psetae, 256 for pseltae",
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.2, description="dropout rate after attention"
    )
    T: Positive = Field(default=1000, description="days: period of the positional encoding")
    positions: Literal["days", "order"] = Field(
        default="days", description="days | order (1, 2, ... in order of the dates)"
    )
    season_start: Annotated[str, Field(pattern=r"^(0\d|1[0-2])-[0-3]\d$")] | None = Field(
        default=None,
        description="MM-DD: day 0, in the year of the first date; null: the first date",
    )

    @model_validator(mode="after")
    def _check(self) -> Model:
        unknown = set(self.pooling.split("_")) - {"mean", "std", "min", "max"}
        if unknown:
            raise ValueError(f"pooling joins mean, std, min and max by _, found {self.pooling!r}")
        if self.season_start is not None:
            # A day that every year has: 2019 is not a leap year.
            date.fromisoformat(f"2019-{self.season_start}")
        return self


class Train(Section):
    """How a fold is trained."""

    recipe: Recipe = Field(
        default="default",
        description="default: for your own data, chosen by measurement | paper: the protocol of "
        "the PSE+TAE paper, and its model where model.name is null",
    )
    # No default down to ema_decay: the recipe has it.
    epochs: Positive = Field(description="passes over the training parcels")
    batch_size: Annotated[int, Field(ge=2)] = Field(description="parcels in a batch")
    pixels: Positive = Field(
        description="pixels drawn from a parcel in each step; if all training parcels are smaller, "
        "default pads to the largest of them, paper to this number"
    )
    members: Positive = Field(description="models per fold, whose log-probabilities are averaged")
    optimizer: Literal["adam", "adamw"] = Field(description="one of adam, adamw")
    learning_rate: Annotated[float, Field(gt=0)] = Field(
        description="with onecycle the peak, with cosine the start"
    )
    schedule: Literal["constant", "onecycle", "cosine"] = Field(
        description="of the learning rate: constant, onecycle or cosine"
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        description="decay of the weights by the optimizer"
    )
    gamma: Annotated[float, Field(ge=0)] = Field(
        description="exponent of the focal loss; 0 is cross-entropy"
    )
    class_weighting: Literal["none", "balanced"] = Field(
        description="none, or balanced: by the inverse of the classes' frequencies"
    )
    initialisation: Literal["paper", "torch"] = Field(
        description="how the weights start: as in paper, or torch"
    )
    jitter_sigma: Annotated[float, Field(ge=0)] = Field(
        description="standard deviation of the noise added to normalised reflectance ..."
    )
    jitter_clip: Annotated[float, Field(ge=0)] = Field(description="... and its largest value")
    date_dropping: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="probability with which a date is left out"
    )
    shift_days: Annotated[int, Field(ge=0)] = Field(
        description="days by which a parcel's season is moved at most"
    )
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="keep a moving average of the weights over the steps, with this decay, such as "
        "0.99; 0: off"
    )
    patience: Positive | None = Field(
        default=None, description="stop after this many epochs without a better one; null: never"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="on a GPU: auto | float32 | bfloat16; a CPU uses float32"
    )
    tensorboard: bool = Field(
        default=False, description="true: write logs for TensorBoard to results/<run>/tensorboard"
    )
    seed: Annotated[int, Field(ge=0)] = Field(
        default=1, description="seed of the random generators"
    )
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = Field(
        default="auto",
        description="auto | cpu | cuda | cuda:1 ...; on a cluster, only cuda asks for a GPU",
    )

    @model_validator(mode="before")
    @classmethod
    def _follow_recipe(cls, values: Any) -> Any:
        """Fill in what is not set, or null, by the recipe."""
        if not isinstance(values, dict):
            return values
        stated = {key: value for key, value in values.items() if value is not None}
        return {**read_recipe(known_recipe(stated))["train"], **stated}


def known_recipe(train: dict[str, Any]) -> str:
    """Return the recipe that the section `train` names; an unknown one is refused elsewhere."""
    recipe = train.get("recipe")
    return recipe if recipe in RECIPES else "default"


class Predict(Section):
    """How classes are predicted."""

    weights: Path | None = Field(
        default=None,
        description="folder of Fold_<k>/model.pth.tar in place of training, ours or the "
        "reference's; for the reference's, model and train.pixels say what they are",
    )
    batch_size: Positive = Field(default=256, description="parcels in a batch")
    code_list: str | None = Field(
        default=None,
        description="address of the CSV of class codes, for the crop extension of fiboa",
    )


class Report(Section):
    """What the report shows beside the run."""

    compare: list[str] = Field(
        default=[], description="names of other runs, whose scores are shown beside this run's"
    )


class Simulate(Section):
    """The size of the simulated scene."""

    size_m: Annotated[int, Field(ge=1280)] = Field(
        default=5120, description="metres: side of the square scene, a multiple of 20"
    )
    acquisitions: Annotated[int, Field(ge=3)] = Field(
        default=24, description="number of dates between March and October"
    )
    parcels: Annotated[int, Field(ge=50)] = Field(
        default=1000, description="number of sound parcels; defective ones come on top"
    )
    seed: int = Field(default=1, description="seed of the random generators")
