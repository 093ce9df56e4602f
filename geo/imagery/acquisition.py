"""The acquisition: one tile at one time, with the file and the encoding of every band.

The stage index finds the acquisitions once and writes a STAC item for each. The item contains
everything that is needed to read the pixels, so the later stages read nothing but the item.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from geo.errors import InputError, reading
from geo.grid import Grid

if TYPE_CHECKING:
    import xarray

_Found = TypeVar("_Found")

# Rules (bits, value, class): a raw value with raw & bits == value has this class of the SCL. The
# first rule that applies counts.
ClassRules = tuple[tuple[int, int, int], ...]

# Landsat 1 took the first images that are still used.
FIRST_YEAR = 1972

# In the order of the band ids 0 to 12 of the Sentinel-2 product specification.
BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
SCENE_CLASSIFICATION = "SCL"
# Resolution of the instrument in metres. Level 2A adds coarser and finer copies of some bands.
NATIVE_RESOLUTION_M = {
    **dict.fromkeys(("B02", "B03", "B04", "B08"), 10),
    **dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12", SCENE_CLASSIFICATION), 20),
    **dict.fromkeys(("B01", "B09", "B10"), 60),
}
# Reflectance beyond these is not data. Snow, clouds and sun glint reach 1.9; atmospheric correction
# makes dark surfaces slightly negative.
PLAUSIBLE_REFLECTANCE = (-0.2, 2.0)
# Cloud masks: scene classification, cloud probability in percent, the bits of THEIA's cloud mask,
# and the user's mask (every value but 0 is cloudy).
MASKS = (SCENE_CLASSIFICATION, "CLDPRB", "CLM", "MASK")
# The tile of imagery whose file names and attributes contain no MGRS tile.
UNNAMED_TILE = "scene"
# Prefix of addresses that need a token of the Planetary Computer: planetary-computer+https://...
PLANETARY_COMPUTER = "planetary-computer+"
# Schemes of the addresses that are read.
SCHEMES = ("https", "http", "s3")

_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
# A member of a zip archive as GDAL names it. The braces mark where the archive's name ends:
# https://gdal.org/user/virtual_file_systems.html
_IN_ARCHIVE = re.compile(r"/vsizip/\{(.*)\}/(.*)", re.DOTALL)

# Common names of the bands in the STAC extension eo.
COMMON_NAMES = {
    **{"B01": "coastal", "B02": "blue", "B03": "green", "B04": "red"},
    **{"B05": "rededge071", "B06": "rededge075", "B07": "rededge078"},
    **{"B08": "nir", "B8A": "nir08", "B09": "nir09", "B10": "cirrus"},
    **{"B11": "swir16", "B12": "swir22"},
}
_EXTENSIONS = (
    "https://stac-extensions.github.io/eo/v2.0.0/schema.json",
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
)
# Attributes of an acquisition that an item contains under the same names, if they are not None.
_STATED = ("baseline", "valid_fraction", "generated", "datastrip")
_MEDIA_TYPES = {
    **dict.fromkeys((".tif", ".tiff"), "image/tiff; application=geotiff"),
    ".jp2": "image/jp2",
    **dict.fromkeys((".nc", ".nc4"), "application/x-netcdf"),
    ".zarr": "application/vnd.zarr",
}


@dataclass(frozen=True)
class Plane:
    """One image in an array of a NetCDF or Zarr stack: all axes but rows and columns are fixed.

    Parameters
    ----------
    variable
        Path of the array in its groups: B02, measurements/reflectance/r10m/b02.
    axes
        One item for each axis of the array: "y", "x", or the index on any other axis.
    height
        Number of rows of the array.
    south_up
        Whether the first row is the southernmost. Windows are read north-up in either case.
    missing
        Raw values that are nodata, besides the band's `nodata`.
    valid_range
        Lowest and highest raw value that is data, None if the file states no range.
    read_as
        Data type of the raw values if it is not that of the file: NetCDF files can store unsigned
        integers as signed ones of the same size.
    """

    variable: str
    axes: tuple[int | Literal["y", "x"], ...]
    height: int
    south_up: bool = False
    missing: tuple[float, ...] = ()
    valid_range: tuple[float, float] | None = None
    read_as: str | None = None


@dataclass(frozen=True)
class Band:
    """One band of one acquisition: its file and layer, its grid and its encoding.

    Reflectance x 10,000 is (raw + `offset`) x `scale`.

    Parameters
    ----------
    name
        B01 to B12, B8A, a name of the user (of another sensor's band), or one of `MASKS`.
    source
        A local file, a member of an archive (/vsizip/{archive}/member, as GDAL names it), an
        address (https://..., s3://...), or the file or Zarr folder of a stack.
    layer
        Band of a raster, counted from 1, or plane of a stack.
    grid
        Pixel grid of the band.
    block_shape
        Rows and columns of the blocks that are decoded as a whole. None: the file states them, and
        it is not opened before its pixels are needed.
    scale
        Reflectance x 10,000 of one raw unit.
    offset
        Raw units that are added before scaling.
    nodata
        Raw value of pixels without data, None if there is none. NaN is always nodata, too.
    classes
        Rules by which the values of another archive's mask (bits, codes) become classes of the
        scene classification when they are read. Empty: the file contains classes, or no mask.
    """

    name: str
    source: str
    layer: int | Plane
    grid: Grid
    block_shape: tuple[int, int] | None
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    classes: ClassRules = ()

    def __post_init__(self) -> None:
        """Check scale and offset, which come from files."""
        if not (math.isfinite(self.scale) and math.isfinite(self.offset)) or self.scale <= 0:
            raise InputError(
                f"{self.source}: {self.name} has the scale {self.scale / 10_000:g} and the offset "
                f"{self.offset:g}, expected a positive and a finite number. Correct its metadata, "
                "or download it again."
            )

    @property
    def is_remote(self) -> bool:
        """Whether the band is read over the network."""
        return is_address(self.source)


@dataclass(frozen=True)
class Acquisition:
    """The bands and masks of one tile at one time.

    Parameters
    ----------
    id
        Unique. It comes from the names and metadata of files, so `safe_name` is applied to it.
    tile
        MGRS tile without the leading T, such as 31UDS, or `UNNAMED_TILE`. `safe_name` is applied
        to it, too.
    date
        Day of sensing, UTC.
    product
        The SAFE folder, GeoTIFF, stack, ... in which `find_acquisitions` finds it.
    format
        Reader that found it.
    bands
        Bands by name, those of Sentinel-2 in order of wavelength.
    masks
        Cloud masks by name, those of `MASKS` that the acquisition has.
    baseline, platform
        Processing baseline ("04.00") and spacecraft, None if the product does not state them.
    cloud_fraction
        Cloudy fraction of the pixels by the product's metadata, 0 to 1, None if not stated.
    sensing_start
        Start of sensing, UTC, None if the product does not state the time of day.
    valid_fraction
        Fraction of the tile's pixels that are not nodata, None if not stated.
    generated
        Time of processing, ISO 8601, None if not stated.
    datastrip
        Start of the data strip, YYYYMMDDTHHMMSS, None if not stated. A reprocessed product keeps
        it. The two halves of a tile that lies across two data strips differ in it.
    """

    id: str
    tile: str
    date: datetime.date
    product: Path
    format: str
    bands: Mapping[str, Band]
    masks: Mapping[str, Band]
    baseline: str | None = None
    platform: str | None = None
    cloud_fraction: float | None = None
    sensing_start: datetime.datetime | None = None
    valid_fraction: float | None = None
    generated: str | None = None
    datastrip: str | None = None

    def __post_init__(self) -> None:
        """Make id and tile safe: they come from files, and become names of files and jobs."""
        object.__setattr__(self, "id", safe_name(self.id))
        object.__setattr__(self, "tile", safe_name(self.tile))
        for name in ("cloud_fraction", "valid_fraction"):
            value = getattr(self, name)
            # NaN, -1 and 9999 state nothing. Real products state up to 100.1 %.
            if value is not None and not -0.001 <= value <= 1.01:
                object.__setattr__(self, name, None)

    @property
    def grid(self) -> Grid:
        """Pixel grid of the band with the smallest pixels."""
        grids = [band.grid for band in self.bands.values()]
        return min(grids, key=lambda grid: grid.pixel_width * grid.pixel_height)

    @property
    def preference(self) -> tuple[float, str, str]:
        """Sort key among acquisitions of one tile and day: most pixels, then newest processing.

        Pixels are compared in whole percent, because reprocessed products differ by a few pixels.
        """
        fraction = 1.0 if self.valid_fraction is None else self.valid_fraction
        return round(fraction, 2), self.baseline or "", self.generated or ""

    def to_xarray(
        self,
        bands: Sequence[str] | None = None,
        *,
        resampling: str = "bilinear",
        clear: bool = False,
        chunk_pixels: int = 1024,
    ) -> xarray.DataArray:
        """Return the reflectance as an array of xarray, backed by dask: no pixel is read yet.

        Values are those that a run extracts for parcels: offset and scale are applied, and coarser
        bands are resampled to the grid of the finest of `bands`.

        Parameters
        ----------
        bands
            Names of the bands, in this order; None: all.
        resampling
            nearest, bilinear or cubic: for bands whose pixels are larger than the grid's.
        clear
            Whether pixels that a cloud mask hides are NaN, too. They stay if the acquisition has no
            mask.
        chunk_pixels
            Rows and columns of the chunks. Each chunk is one band; its files are opened for it.

        Returns
        -------
        xarray.DataArray
            float32 (band, y, x): reflectance, 0 to 1 for most surfaces, NaN where there is no data.
            Coordinates: band; y and x of the pixel centres in metres; time; and spatial_ref with
            the coordinate system, as rioxarray and GDAL read it.

        Raises
        ------
        InputError
            If a band is unknown. When pixels are computed: if a file cannot be read.
        """
        from geo.imagery.lazy_arrays import to_xarray

        return to_xarray(self, bands, resampling=resampling, clear=clear, chunk_pixels=chunk_pixels)


def bands_and_masks(
    found: Mapping[str, _Found], wanted: Sequence[str] | None
) -> tuple[dict[str, _Found], dict[str, _Found]]:
    """Return the wanted bands (None: all), those of Sentinel-2 by wavelength, and the masks."""
    own = (name for name in found if name not in BANDS and name not in MASKS)
    return (
        {
            name: found[name]
            for name in (*BANDS, *own)
            if name in found and (wanted is None or name in wanted)
        },
        {name: found[name] for name in MASKS if name in found},
    )


def safe_name(text: str) -> str:
    """Return a name that is safe in a path and a shell: ASCII letters, digits, "_", "-" and ".".

    In any other text, unsafe characters become "_", and a digest of the whole text is appended, so
    that different texts keep different names: "X (1)" becomes X_1_-a0066ad3. The same is done to
    texts that begin with "." or "-" and to those of more than 200 characters.
    """
    if _SAFE_NAME.fullmatch(text):
        return text
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "_", text).lstrip(".-")[:100]
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{readable or 'unnamed'}-{digest}"


def is_address(source: object) -> bool:
    """Return whether a source is an address (https://..., s3://...), not a local file."""
    return isinstance(source, str) and "://" in source


def first_five(items: Sequence[str], separator: str = ", ") -> str:
    """Return the first five items and the number of further ones as text."""
    rest = [f"... and {len(items) - 5} more"] if len(items) > 5 else []
    return separator.join([*items[:5], *rest])


def local_file(source: str) -> Path:
    """Return the file of a local source; for a member of an archive, this is the archive."""
    in_archive = _IN_ARCHIVE.fullmatch(source)
    return Path(in_archive[1] if in_archive else source)


def to_item(acquisition: Acquisition, folder: Path, digest: str) -> dict[str, Any]:
    """Return an acquisition as a STAC item that contains all that is needed to read its pixels.

    Fields that are not part of a STAC extension begin with `parcelwise:`. `read_item` returns the
    same acquisition again.

    Parameters
    ----------
    acquisition
        The acquisition.
    folder
        Folder of the item. Relative paths in the item start from there.
    digest
        Digest of the acquisition's files, from `geo.imagery.imagery_files.digests`.
    """
    time = acquisition.sensing_start
    # If only the day is stated, the acquisition lasts from midnight to midnight.
    first = time or datetime.datetime.combine(acquisition.date, datetime.time.min)
    last = time or datetime.datetime.combine(acquisition.date, datetime.time(23, 59, 59))
    cloudy = acquisition.cloud_fraction
    footprint = _footprint(acquisition.grid)
    properties = {
        "datetime": None if time is None else f"{time.isoformat()}Z",
        "start_datetime": f"{first:%FT%TZ}",
        "end_datetime": f"{last:%FT%TZ}",
        "platform": acquisition.platform,
        "eo:cloud_cover": None if cloudy is None else round(100 * cloudy, 10),
        "parcelwise:tile": acquisition.tile,
        "parcelwise:format": acquisition.format,
        "parcelwise:product": _href(str(acquisition.product), folder),
        **{f"parcelwise:{name}": getattr(acquisition, name) for name in _STATED},
        "parcelwise:digest": digest,
    }
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": list(_EXTENSIONS),
        "id": acquisition.id,
        "geometry": {"type": "Polygon", "coordinates": [footprint]},
        "bbox": [f(place[i] for place in footprint) for f in (min, max) for i in (0, 1)],
        "properties": {
            name: value
            for name, value in properties.items()
            if value is not None or name == "datetime"
        },
        "links": [],
        "assets": {
            name: _asset(band, folder)
            for group in (acquisition.bands, acquisition.masks)
            for name, band in group.items()
        },
    }


def read_item(path: Path) -> Acquisition:
    """Read an acquisition from the item that the stage index wrote; open none of its files.

    Raises
    ------
    InputError
        If the file is not such an item.
    """
    remedy = "Write it again: snakemake -R index."
    with reading(path, "an acquisition as the stage index writes it", remedy):
        item = json.loads(path.read_text(encoding="utf-8"))
        properties = item["properties"]
        time, cloudy = properties["datetime"], properties.get("eo:cloud_cover")
        layers = {name: _band(name, asset, path.parent) for name, asset in item["assets"].items()}
        return Acquisition(
            id=item["id"],
            tile=properties["parcelwise:tile"],
            date=datetime.date.fromisoformat(properties["start_datetime"][:10]),
            product=Path(_source(properties["parcelwise:product"], path.parent)),
            format=properties["parcelwise:format"],
            bands={name: band for name, band in layers.items() if name not in MASKS},
            masks={name: band for name, band in layers.items() if name in MASKS},
            platform=properties.get("platform"),
            cloud_fraction=None if cloudy is None else cloudy / 100,
            sensing_start=None if time is None else datetime.datetime.fromisoformat(time[:-1]),
            **{name: properties.get(f"parcelwise:{name}") for name in _STATED},
        )


def _asset(band: Band, folder: Path) -> dict[str, Any]:
    """Return a band or mask as a STAC asset.

    `raster:scale` and `raster:offset` are for other software. They are rounded, because `Band`
    states scale and offset in other units.
    """
    in_archive = _IN_ARCHIVE.fullmatch(band.source)
    is_mask = band.name in MASKS
    grid = band.grid
    asset = {
        "href": _href(in_archive[1] if in_archive else band.source, folder),
        "type": _MEDIA_TYPES.get(Path(band.source).suffix.lower()),
        "roles": ["data-mask" if is_mask else "reflectance"],
        "bands": [{"name": band.name}],
        "nodata": _as_json(band.nodata),
        "raster:scale": None if is_mask else float(f"{band.scale / 10_000:.12g}"),
        "raster:offset": None if is_mask else float(f"{band.offset * band.scale / 10_000:.12g}"),
        "proj:code" if grid.crs.startswith("EPSG:") else "proj:wkt2": grid.crs,
        "proj:shape": list(grid.shape),
        "proj:transform": [
            *(grid.pixel_width, 0.0, grid.x_min),
            *(0.0, -grid.pixel_height, grid.y_max),
        ],
        "parcelwise:member": in_archive[2] if in_archive else None,
        # Such an address is signed when it is read, because a signature expires.
        "parcelwise:signed_by": (
            "planetary_computer" if band.source.startswith(PLANETARY_COMPUTER) else None
        ),
        "parcelwise:block_shape": None if band.block_shape is None else list(band.block_shape),
        "parcelwise:scale": band.scale,
        "parcelwise:offset": band.offset,
        "parcelwise:classes": [list(rule) for rule in band.classes] or None,
    }
    if band.name in COMMON_NAMES:
        asset["bands"] = [{"name": band.name, "eo:common_name": COMMON_NAMES[band.name]}]
    if isinstance(band.layer, Plane):
        asset |= _plane_fields(band.layer)
    else:
        asset["parcelwise:layer"] = band.layer
    return {name: value for name, value in asset.items() if value is not None}


def _plane_fields(plane: Plane) -> dict[str, Any]:
    """Return the fields of an asset that describe a plane of a stack."""
    limits = plane.valid_range
    return {
        "parcelwise:variable": plane.variable,
        "parcelwise:axes": list(plane.axes),
        "parcelwise:south_up": plane.south_up,
        "parcelwise:missing": [_as_json(value) for value in plane.missing],
        "parcelwise:valid_range": None if limits is None else [_as_json(v) for v in limits],
        "parcelwise:read_as": plane.read_as,
    }


def _band(name: str, asset: Mapping[str, Any], folder: Path) -> Band:
    """Return the band or mask that an asset describes."""
    source = _source(asset["href"], folder)
    if "parcelwise:member" in asset:
        source = f"/vsizip/{{{source}}}/{asset['parcelwise:member']}"
    if "parcelwise:signed_by" in asset:
        source = PLANETARY_COMPUTER + source
    (width, _, left, _, down, top), shape = asset["proj:transform"], asset["proj:shape"]
    crs = asset.get("proj:code") or asset["proj:wkt2"]
    block, nodata = asset.get("parcelwise:block_shape"), asset.get("nodata")
    return Band(
        name=name,
        source=source,
        layer=asset["parcelwise:layer"] if "parcelwise:layer" in asset else _plane(asset),
        grid=Grid(crs, left, top, width, -down, *shape),
        block_shape=None if block is None else (block[0], block[1]),
        scale=asset["parcelwise:scale"],
        offset=asset["parcelwise:offset"],
        nodata=None if nodata is None else float(nodata),
        classes=tuple((b, v, c) for b, v, c in asset.get("parcelwise:classes", ())),
    )


def _plane(asset: Mapping[str, Any]) -> Plane:
    """Return the plane of a stack that an asset describes."""
    limits = asset.get("parcelwise:valid_range")
    return Plane(
        variable=asset["parcelwise:variable"],
        axes=tuple(asset["parcelwise:axes"]),
        height=asset["proj:shape"][0],
        south_up=asset["parcelwise:south_up"],
        missing=tuple(map(float, asset["parcelwise:missing"])),
        valid_range=None if limits is None else (float(limits[0]), float(limits[1])),
        read_as=asset.get("parcelwise:read_as"),
    )


def _href(source: str, folder: Path) -> str:
    """Return a source as written in an item of a folder; addresses are written unsigned."""
    if is_address(source):
        return source.removeprefix(PLANETARY_COMPUTER)
    return source if Path(source).is_absolute() else os.path.relpath(source, folder)


def _source(href: str, folder: Path) -> str:
    """Return the path or address of an `href` in an item of a folder."""
    if is_address(href) or Path(href).is_absolute():
        return href
    return os.path.normpath(folder / href)


def _as_json(value: float | None) -> float | str | None:
    """Return a number as STAC writes it: as "nan", "inf" and "-inf" where JSON has no number."""
    return value if value is None or math.isfinite(value) else str(value)


@lru_cache(maxsize=64)
def _footprint(grid: Grid) -> list[list[float]]:
    """Return the outline of a grid as longitude and latitude, counter-clockwise and closed."""
    from rasterio.warp import transform

    x_min, y_min, x_max, y_max = grid.bounds
    x, y = [x_min, x_max, x_max, x_min], [y_min, y_min, y_max, y_max]
    longitudes, latitudes = transform(grid.crs, "OGC:CRS84", x, y)
    ring = [[round(lon, 7), round(lat, 7)] for lon, lat in zip(longitudes, latitudes, strict=True)]
    return [*ring, ring[0]]
