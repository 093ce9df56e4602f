"""Acquisitions: what was sensed of a tile on one day, and where each of its bands lies."""

from __future__ import annotations

import datetime
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from geo.errors import InputError
from geo.grid import Grid

# In the order of the band ids 0 to 12 of the Sentinel-2 product specification.
BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
SCENE_CLASSIFICATION = "SCL"
# What tells clouds: classes, cloud probability in percent, the bits of THEIA's cloud mask, and a
# mask of the user's own (not 0: not observed).
MASKS = (SCENE_CLASSIFICATION, "CLDPRB", "CLM", "MASK")
# Of imagery whose file names and attributes name no MGRS tile.
UNNAMED_TILE = "scene"

_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")

_Item = TypeVar("_Item")
_Read = TypeVar("_Read")

Format = Literal["auto", "safe", "theia", "geotiff", "stack", "stac"]


@dataclass(frozen=True)
class Plane:
    """A plane of an array of a NetCDF or Zarr stack: rows and columns, all other axes fixed.

    Parameters
    ----------
    variable
        Name of the array, with the groups it lies in: B02, measurements/reflectance/r10m/b02.
    axes
        What to read along each axis of the array: "y", "x", or the one place on any other axis.
    height
        Rows of the array.
    south_up
        Whether the array's first row is its southernmost. It is read north up all the same.
    missing
        Raw values that mean no data, besides the band's `nodata`.
    valid_range
        Least and greatest raw value that are data, where the file says so.
    """

    variable: str
    axes: tuple[int | Literal["y", "x"], ...]
    height: int
    south_up: bool = False
    missing: tuple[float, ...] = ()
    valid_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Band:
    """One band of one acquisition: where it lies and how its numbers are meant.

    Reflectance x 10,000 is (raw + `offset`) x `scale`.

    Parameters
    ----------
    name
        B01 to B12, B8A or one of `MASKS`.
    source
        Where it lies: a local file, /vsizip/{archive}/member as GDAL names it, an address
        (https://..., s3://...); the file or Zarr folder of a stack.
    layer
        Band of a raster, counted from 1, or plane of a stack.
    grid
        The band's own pixels.
    block_shape
        Rows and columns that are decoded together; None: as the file says, which is not opened
        before its pixels are needed.
    scale
        Reflectance x 10,000 of one raw unit.
    offset
        Raw units, added before scaling.
    nodata
        Raw value of pixels that were not sensed, None where there is none. NaN always means so,
        too.
    """

    name: str
    source: str
    layer: int | Plane
    grid: Grid
    block_shape: tuple[int, int] | None
    scale: float
    offset: float
    nodata: float | None

    @property
    def is_remote(self) -> bool:
        """Whether it is read over the network."""
        return is_address(self.source)


@dataclass(frozen=True)
class Acquisition:
    """What was sensed of one tile at one time.

    Parameters
    ----------
    id
        Unique. It comes from the names and metadata of files, so `safe_name` makes it safe.
    tile
        MGRS tile without the leading T, such as 31UDS, or `UNNAMED_TILE`; made safe, too.
    date
        Day of sensing, UTC.
    product
        What `find_acquisitions` finds it in again: a SAFE folder, a GeoTIFF, a stack.
    format
        Reader that found it.
    baseline, platform
        Processing baseline ("04.00") and spacecraft, where the product tells.
    cloud_fraction
        Share of cloudy pixels by the product's own metadata, 0 to 1, where it tells.
    bands
        By name, in order of wavelength.
    masks
        By name, those of `MASKS` that there are.
    sensed
        Start of sensing, UTC, where the product tells the time of day.
    valid_fraction
        Share of the tile's pixels that were sensed, where the product tells.
    generated
        Time of processing, ISO 8601, where the product tells.
    datastrip
        Start of the data strip, YYYYMMDDTHHMMSS, where the product tells: a reprocessing keeps it,
        the other half of a tile that lies across two strips has another.
    """

    id: str
    tile: str
    date: datetime.date
    product: Path
    format: str
    baseline: str | None
    platform: str | None
    cloud_fraction: float | None
    bands: Mapping[str, Band]
    masks: Mapping[str, Band]
    sensed: datetime.datetime | None = None
    valid_fraction: float | None = None
    generated: str | None = None
    datastrip: str | None = None

    def __post_init__(self) -> None:
        """Make the id and the tile safe: they come from files, and name files and jobs."""
        object.__setattr__(self, "id", safe_name(self.id))
        object.__setattr__(self, "tile", safe_name(self.tile))

    @property
    def grid(self) -> Grid:
        """Pixel grid of the finest band."""
        grids = [band.grid for band in self.bands.values()]
        return min(grids, key=lambda grid: grid.pixel_width * grid.pixel_height)

    @property
    def preference(self) -> tuple[float, str, str]:
        """Sort key among acquisitions of one tile and day: most pixels, then newest processing.

        Pixels count in whole percent: reprocessings differ by a few of them.
        """
        valid = 1.0 if self.valid_fraction is None else self.valid_fraction
        return round(valid, 2), self.baseline or "", self.generated or ""


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
    """Tell an address (https://..., s3://...) from a local file."""
    return isinstance(source, str) and "://" in source


@dataclass(frozen=True)
class Damaged:
    """A product that cannot be used, and why."""

    product: Path
    problem: str


def read_each(
    items: Iterable[_Item],
    read: Callable[[_Item], _Read],
    damaged: list[Damaged] | None = None,
    product: Callable[[_Item], Path] = Path,  # type: ignore[assignment]
) -> list[_Read]:
    """Read every item, and report all that fail in one error, or set them aside.

    Parameters
    ----------
    items
        What to read.
    read
        Reads one of them.
    damaged
        Those that fail are added here; None: they are refused.
    product
        Gives the product of an item, which is a path if not told otherwise.

    Raises
    ------
    InputError
        If any fails; the message gives the first five.
    """
    found, failed = [], []
    for item in items:
        try:
            found.append(read(item))
        except InputError as error:
            failed.append(Damaged(product(item), str(error)))
    if damaged is None:
        refuse_damaged(failed, len(found) + len(failed))
    else:
        damaged += failed
    return found


def refuse_damaged(damaged: Sequence[Damaged], total: int) -> None:
    """Raise an error of all the products that cannot be used, if there are any."""
    if damaged:
        text = f"{len(damaged)} of {total} acquisitions cannot be read:\n  "
        problems = [item.problem for item in damaged]
        raise InputError((text if total > 1 else "") + first_five(problems, "\n  "))


def first_five(items: Sequence[str], separator: str = ", ") -> str:
    """List the first five items, and how many more there are."""
    rest = [f"... and {len(items) - 5} more"] if len(items) > 5 else []
    return separator.join([*items[:5], *rest])
