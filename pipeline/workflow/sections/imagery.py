"""The sections imagery and clouds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    Field,
    model_validator,
)

from pipeline.workflow.sections.values import (
    BANDS,
    TEN_BANDS,
    Band,
    Damaged,
    Day,
    Fraction,
    ImageryFormat,
    LocalPath,
    Location,
    Resampling,
    Section,
    Signing,
    is_address,
)


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
    """GeoTIFFs of other archives than those in docs/guide/imagery.md: {date: _%d%m%Y_, band:
    ..., tile: ..., bands: {sr_band4: B04}, ignore: ..., mask: {name: QA, clear: [0, 1]}, nodata:
    ..., offset: ..., period: month}; the schema explains them
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
