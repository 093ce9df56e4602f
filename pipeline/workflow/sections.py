"""The sections of the settings: every setting with its type, range, default, unit and description.

`make configs` writes configs/default.yaml and configs/schema.json from this module. The defaults of
settings that depend on the training recipe are in recipes/<recipe>.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
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

    # The string below a setting is its description.
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

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


class MaskMeaning(Section):
    """A cloud mask, and the meaning of its values: clear, cloudy or cloudy_bits."""

    name: str
    """its name in place of a band's, in the name of the file or the description of the layer"""

    clear: list[int] = []
    """values that are clear; all others are cloudy"""

    cloudy: list[int] = []
    """values that are cloudy; all others are clear"""

    cloudy_bits: list[Annotated[int, Field(ge=0, le=15)]] = []
    """bits of which one is set where it is cloudy"""

    nodata: list[int] = []
    """values without data"""

    @model_validator(mode="after")
    def _check(self) -> MaskMeaning:
        if sum(map(bool, (self.clear, self.cloudy, self.cloudy_bits))) != 1:
            raise ValueError("set one of clear, cloudy and cloudy_bits")
        return self


class NamingConvention(Section):
    """How GeoTIFFs and their layers are named, in place of what is recognised."""

    date: str | None = None
    """where the date is in a path, as a regular expression with %Y, %y, %m, %b, %d and %j"""

    band: str | None = None
    """where the name of the band is in the name of a file, as a regular expression with a group"""

    tile: str | None = None
    """where the tile is in a path, as a regular expression with a group"""

    bands: dict[str, Band] = {}
    """band by the name that the files use, such as {sr_band4: B04}. A band that Sentinel-2 does not
    have can have any other name, {Yellow: yellow}, which imagery.bands can contain
    """

    ignore: str | None = None
    """names of files that are left out, as a regular expression"""

    mask: MaskMeaning | None = None
    """cloud mask, such as {name: QA, clear: [0, 1]}"""

    nodata: float | None = None
    """raw value without data, if the files state none"""

    offset: Literal["none", "from_2022"] | None = None
    """additive offset of baseline 04.00 in the pixels: none | from_2022 (in all images since 25
    January 2022); null: by the baseline in names and metadata
    """

    period: Literal["month", "ten_days"] | Annotated[int, Field(ge=1, le=366)] | None = None
    """the images are composites of periods: month | ten_days | a number of days that begin at the
    date in the name, or any of these if the name contains the first and the last day. Their date is
    the middle
    """

    @model_validator(mode="after")
    def _check(self) -> NamingConvention:
        for name in ("band", "tile", "ignore", "date"):
            _check_expression(name, getattr(self, name))
        if masks := {"SCL", "CLDPRB", "CLM", "MASK"} & set(self.bands.values()):
            raise ValueError(f"bands: {sorted(masks)} are masks: set mask")
        return self


def _check_expression(name: str, text: str | None) -> None:
    """Check that the text of a setting is a regular expression, and has what it needs."""
    if text is None:
        return
    try:
        expression = re.compile(text)
    except re.error as error:
        raise ValueError(f"{name}: {text!r} is not a regular expression ({error})") from error
    if name in ("band", "tile") and expression.groups < 1:
        raise ValueError(f"{name}: {text!r} has no group: write ( ) around the {name}")
    if name == "date" and not (re.search("%[Yy]", text) and re.search("%[mbj]", text)):
        raise ValueError(f"date: {text!r} must contain %Y or %y, and %m and %d, or %j: _%Y%m%d_")


class Imagery(Section):
    """The imagery, and how to read it."""

    path: Location | None = None
    """folder of products (SAFE, THEIA, EOPF), GeoTIFFs or stacks, or a STAC source (item
    collection, catalog.json or API) as a file or an address
    """

    format: ImageryFormat = "auto"
    """auto | safe | theia | geotiff | stack (NetCDF, Zarr) | stac"""

    bands: Annotated[list[Band], Field(min_length=1)] = TEN_BANDS
    """channels, in this order: B01 to B12, B8A, or names of convention.bands"""

    tile: str | Annotated[list[str], Field(min_length=1)] | None = None
    """MGRS tile or list of tiles to use; null: all tiles"""

    start: Day | None = None
    """first date to use, YYYY-MM-DD; null: no limit"""

    end: Day | None = None
    """last date to use; null: no limit"""

    max_cloud_fraction: Fraction = 0.8
    """acquisitions with a larger cloud cover are not used (0 to 1)"""

    resampling: Resampling = "bilinear"
    """how 20 and 60 m bands are resampled to 10 m: nearest | bilinear | cubic"""

    file_bands: list[str] | None = None
    """bands of GeoTIFFs without band descriptions, in file order"""

    convention: NamingConvention | None = None
    """GeoTIFFs of other archives than those in README: {date: _%d%m%Y_, band: ..., tile: ...,
    bands: {sr_band4: B04}, ignore: ..., mask: {name: QA, clear: [0, 1]}, nodata: ..., offset: ...,
    period: month}; the schema explains them
    """

    reflectance_scale: Annotated[float, Field(gt=0)] | None = None
    """GeoTIFFs and stacks: factor from stored values to reflectance; null: the scale in the file,
    otherwise 0.0001 for integers and 1 for floats
    """

    radiometry: Literal["check", "set_aside", "warn", "trust"] = "check"
    """additive offset (processing baseline 04.00) in the metadata, if the pixels contradict it:
    check (stop) | set_aside (leave out those acquisitions and those in doubt; acquisitions.csv
    lists them) | warn (use all) | trust (do not look)
    """

    damaged: Damaged = "refuse"
    """products that cannot be read or lack bands: refuse (stop) | set_aside (leave them out;
    acquisitions.csv lists them, and the log of index gives the reasons; the report lists those
    whose damage shows only when their pixels are read)
    """

    collections: list[str] = []
    """STAC API: collections to search, such as [sentinel-2-l2a]"""

    bbox: Annotated[list[float], Field(min_length=4, max_length=4)] | None = None
    """STAC API: area to search, [west, south, east, north] in degrees; null: bounds of the
    register
    """

    sign: Signing | None = None
    """service that signs the addresses of assets: planetary_computer; null: none"""

    @property
    def is_stac(self) -> bool:
        """Whether the imagery is an item collection, a catalogue or an API."""
        if self.format != "auto":
            return self.format == "stac"
        return is_address(self.path) or Path(self.path or "").suffix in (".json", ".geojson")

    @model_validator(mode="after")
    def _check(self) -> Imagery:
        if is_address(self.path) and not self.is_stac:
            raise ValueError(f"only STAC can be an address, not {self.format}: {self.path}")
        if self.bbox and not (self.bbox[0] < self.bbox[2] and self.bbox[1] < self.bbox[3]):
            raise ValueError(f"bbox is west, south, east, north in degrees, found {self.bbox}")
        own = () if self.convention is None else self.convention.bands.values()
        if unknown := [band for band in self.bands if band not in BANDS and band not in own]:
            raise ValueError(
                f"bands: {', '.join(unknown)} is none of {', '.join(BANDS)}, and no name in "
                "convention: {bands: {...}}"
            )
        if len(set(self.bands)) < len(self.bands):
            raise ValueError(f"a band is named twice in {self.bands}")
        if self.start and self.end and self.start > self.end:
            raise ValueError(f"start {self.start} is after end {self.end}")
        return self


class CloudMasks(Section):
    """The masks of pixels that are not clear."""

    mask: (
        Literal["auto", "none"]
        | Annotated[list[Literal["scl", "cldprb", "theia", "files"]], Field(min_length=1)]
    ) = "auto"
    """auto (all masks of an acquisition, and the masks set below) | none | a list of scl, cldprb,
    theia, files (every acquisition must have these masks). Masks of other archives (Fmask, QAI,
    QA60, ...) are read as scl
    """

    classes: list[Annotated[int, Field(ge=0, le=11)]] = [0, 1, 3, 8, 9, 10]
    """SCL classes that are not clear, also in masks of other archives; the default is no data,
    saturated, cloud shadow, cloud (medium and high probability), thin cirrus
    """

    theia_bits: list[Annotated[int, Field(ge=0, le=7)]] = [0, 1, 2, 3, 4, 5, 6, 7]
    """bits of THEIA's cloud mask (CLM) that are not clear; 2 and 3 are shadows, 6 is the thinnest
    clouds, 7 is cirrus
    """

    max_probability: Annotated[float, Field(ge=0, le=100)] | None = None
    """per cent: pixels with a larger cloud probability (MSK_CLDPRB) are not clear; null: ignore the
    cloud probability
    """

    files: LocalPath | None = None
    """folder of your own masks: one raster per acquisition, with the date (and the tile) in its
    name; values other than 0 are not clear
    """

    dilation_m: Annotated[float, Field(ge=0, le=10_000)] = 0.0
    """metres by which to grow the cloud mask (0: off; nodata areas are not grown)"""

    @model_validator(mode="after")
    def _check(self) -> CloudMasks:
        for name, needed in (("cldprb", "max_probability"), ("files", "files")):
            if name in self.mask and getattr(self, needed) is None:
                raise ValueError(f"mask names {name}: set {needed}, too")
        return self


class Clouds(CloudMasks):
    """Which observations are clear, and what happens to the others."""

    fill: Literal["linear", "none"] = "linear"
    """cloudy observations: linear (interpolate them in time, pixel by pixel) | none (keep and mask
    them). Pixels that are clear on no date are always left out
    """

    min_clear_fraction: Fraction = 0.0
    """drop dates with a smaller fraction of clear pixels (0 to 1) ..."""

    drop: Literal["run", "parcel"] = "run"
    """... over: run (all parcels of the tile; the date is dropped for all of them) | parcel (each
    parcel; the date is dropped for that parcel)
    """


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

    classes: Classes = FrequentClasses()
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


class Dataset(Section):
    """The Pixel-Set dataset: how to write it, or an existing one instead of imagery and parcels.

    The metadata of an existing dataset take precedence over these settings.
    """

    path: LocalPath | None = None
    """existing dataset: folder of DATA/<id>.npy, META/labels.json, dates.json ..."""

    bands: Annotated[list[str], Field(min_length=1)] | None = None
    """bands of its channels, in order; null: those in META/dataset.json, otherwise imagery.bands"""

    reflectance_scale: Annotated[float, Field(gt=0)] | None = None
    """factor from stored values to reflectance; null: 0.0001 for integers and 1 for floats"""

    nomenclature: str | None = None
    """nomenclature of its labels.json; null: the first"""

    names: LocalPath | None = None
    """CSV with columns code,name: class names of the nomenclature"""

    classes: Classes = FrequentClasses()
    """as in parcels"""

    other_class: Code | None = None
    """as in parcels"""

    npy_files: bool = True
    """write DATA and VALID with one .npy file per parcel; false: skip them, for millions of parcels

    """


class Assemble(Section):
    """How the dataset is assembled."""

    memory_mb: Positive = 1000
    """MB of pixels in memory at a time"""


class Normalise(Section):
    """How reflectance is normalised."""

    by: Literal["all", "channel", "date_channel"] = "channel"
    """one mean and standard deviation per: all (a single one) | channel | date_channel"""


class Split(Section):
    """How the folds are made."""

    folds: Annotated[int, Field(ge=2)] = 5
    """number of folds"""

    by: Literal["random", "stratified", "block"] = "random"
    """random | stratified (the same class shares in every fold) | block (whole squares of land, so
    that neighbours are in the same fold)
    """

    block_m: Annotated[float, Field(gt=0)] = 2000.0
    """metres: side of the squares"""

    seed: int = 1
    """seed of the random generator"""


class Model(Section):
    """The architecture, under the names of the papers."""

    # Its default is that of the recipe, see `Settings`.
    name: Literal["psetae", "pseltae"]
    """psetae (Pixel-Set Encoder + temporal attention, the first paper) | pseltae (with lightweight
    temporal attention, which scored higher in all our comparisons, see README). Existing weights
    name their own model
    """

    geometric_features: bool = True
    """also use perimeter, pixel count, cover ratio and perimeter over surface"""

    pooling: str = "mean_std"
    """statistics over pixels: mean, std, min, max, joined by _"""

    mlp1: Widths = Field(
        default=[10, 32, 64],
        json_schema_extra={
            "above": "Widths of the layers, as the papers print them. The first width of each MLP "
            "and the last one of mlp4 follow from the data, and these values are ignored. null: as "
            "in the paper of the model."
        },
    )
    """MLP over the channels of each pixel"""

    mlp2: Widths = [132, 128]
    """MLP after pooling"""

    mlp3: Widths | None = None
    """MLP after attention: [512, 128, 128] in psetae, [256, 128] in pseltae"""

    mlp4: Widths = [128, 64, 32, 20]
    """decoder: MLP to the classes"""

    n_head: Positive | None = None
    """attention heads: 4 in psetae, 16 in pseltae"""

    d_k: Positive | None = None
    """width of the keys: 32 in psetae, 8 in pseltae"""

    d_model: Positive | None = None
    """width of the attention: that of mlp2 in psetae, 256 in pseltae"""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """dropout rate after attention"""

    T: Positive = 1000
    """days: period of the positional encoding"""

    positions: Literal["days", "order"] = "days"
    """input of the positional encoding: days | order (1, 2, ... in order of the dates)"""

    season_start: Annotated[str, Field(pattern=r"^(0\d|1[0-2])-[0-3]\d$")] | None = None
    """MM-DD: day 0, in the year of the first date; null: the first date"""

    @model_validator(mode="after")
    def _check(self) -> Model:
        unknown = set(self.pooling.split("_")) - {"mean", "std", "min", "max"}
        if unknown:
            raise ValueError(f"pooling joins mean, std, min and max by _, found {self.pooling!r}")
        if self.season_start is not None:
            # 2019 is not a leap year: the day must exist in every year.
            date.fromisoformat(f"2019-{self.season_start}")
        return self


class Train(Section):
    """How a fold is trained."""

    recipe: Recipe = "default"
    """default (for your own data, chosen by experiments) | paper (the protocol of the PSE+TAE
    paper, and its model if model.name is null)
    """
    # The settings up to ema_decay have no default here, because the recipe has one.
    epochs: Positive
    """passes over the training parcels"""

    batch_size: Annotated[int, Field(ge=2)]
    """parcels in a batch"""

    pixels: Positive
    """pixels drawn from a parcel in each step; if all training parcels have fewer, recipe default
    pads to the largest of them, and recipe paper to this number
    """

    members: Positive
    """models per fold; their log-probabilities are averaged"""

    optimizer: Literal["adam", "adamw"]
    """adam | adamw"""

    learning_rate: Annotated[float, Field(gt=0)]
    """constant learning rate, peak of onecycle, or start of cosine"""

    schedule: Literal["constant", "onecycle", "cosine"]
    """learning rate over the epochs: constant | onecycle | cosine"""

    weight_decay: Annotated[float, Field(ge=0)]
    """weight decay of the optimizer"""

    gamma: Annotated[float, Field(ge=0)]
    """exponent of the focal loss; 0 is cross-entropy"""

    class_weighting: Literal["none", "balanced"]
    """weights of classes in the loss: none | balanced (inverse to their frequency)"""

    initialisation: Literal["paper", "torch"]
    """initial weights: torch (PyTorch's defaults) | paper (as in the reference)"""

    jitter_sigma: Annotated[float, Field(ge=0)]
    """standard deviation of the noise added to normalised reflectance, ..."""

    jitter_clip: Annotated[float, Field(ge=0)]
    """... and its maximum"""

    date_dropping: Annotated[float, Field(ge=0, lt=1)]
    """probability of leaving out a date in a training step"""

    shift_days: Annotated[int, Field(ge=0)]
    """maximum number of days by which the dates of a parcel are shifted"""

    ema_decay: Annotated[float, Field(ge=0, lt=1)]
    """decay of the moving average of weights over the steps, such as 0.99; 0: off"""

    patience: Positive | None = None
    """stop after this many epochs without a better one; null: train all epochs"""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """on a GPU: auto | float32 | bfloat16; a CPU always uses float32"""

    tensorboard: bool = False
    """true: write results/<run>/tensorboard for TensorBoard"""

    seed: Annotated[int, Field(ge=0)] = 1
    """seed of the random generators"""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """auto | cpu | cuda | cuda:1 ...; on a cluster, only cuda requests a GPU"""

    @model_validator(mode="before")
    @classmethod
    def _follow_recipe(cls, values: Any) -> Any:
        """Take the value of the recipe for each setting that is absent or null."""
        if not isinstance(values, dict):
            return values
        stated = {key: value for key, value in values.items() if value is not None}
        return {**read_recipe(known_recipe(stated))["train"], **stated}


def known_recipe(train: dict[str, Any]) -> str:
    """Return the recipe of the section `train`, or "default": a wrong one is refused elsewhere."""
    recipe = train.get("recipe")
    return recipe if recipe in RECIPES else "default"


class Predict(Section):
    """How classes are predicted."""

    weights: LocalPath | None = None
    """existing weights to use instead of training: folder of Fold_<k>/model.pth.tar, ours or the
    reference's. For the reference's, set model and train.pixels accordingly
    """

    batch_size: Positive = 256
    """parcels in a batch"""

    code_list: str | None = None
    """address of a CSV of the class codes, for the crop extension of fiboa"""


class Report(Section):
    """The report."""

    compare: list[str] = []
    """names of other runs to compare this run's scores with"""


class Simulate(Section):
    """The simulated scene."""

    size_m: Annotated[int, Field(ge=1280)] = 5120
    """metres: side of the square scene, a multiple of 20"""

    acquisitions: Annotated[int, Field(ge=3)] = 24
    """number of dates between March and October"""

    parcels: Annotated[int, Field(ge=50)] = 1000
    """number of parcels without defects; some with defects are added"""

    seed: int = 1
    """seed of the random generators"""
