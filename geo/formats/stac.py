"""Read Sentinel-2 items of SpatioTemporal Asset Catalogs (STAC), one JSON file per item."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from affine import Affine
from pyproj import CRS
from pyproj.exceptions import CRSError

from geo.documents import read_json
from geo.errors import InputError, UnavailableError, reading
from geo.formats.conventions import (
    band_name,
    baseline_in,
    offset_of_baseline,
    scale_and_offset,
    stated_nodata,
    tile_name,
)
from geo.grid import Grid
from geo.imagery.acquisition import (
    BANDS,
    COMMON_NAMES,
    MASKS,
    NATIVE_RESOLUTION_M,
    PLANETARY_COMPUTER,
    SCHEMES,
    UNNAMED_TILE,
    Acquisition,
    Band,
    is_address,
)
from geo.imagery.damaged import Damaged, read_each
from geo.imagery.imagery_files import ITEM_ENDINGS, files_ending
from geo.imagery.raster_header import block_shape, crs_text, read_header

Item = Mapping[str, Any]

# Properties with the name of the product.
_PRODUCT_NAMES = ("s2:product_uri", "sentinel:product_id")

# Headers of remote files that are requested at the same time.
_REQUESTS_AT_ONCE = 8


def find(
    path: Path,
    bands: Sequence[str] | None,
    signed_by: str | None = None,
    damaged: list[Damaged] | None = None,
) -> list[Acquisition]:
    """Read an item or all items of a folder; see `geo.imagery.discovery.find_acquisitions`.

    Parameters
    ----------
    path
        Item, or folder of items, as `geo.formats.stac_search.search_items` returns them.
    bands
        Bands to read; None: all bands of the items.
    signed_by
        Service that signs the addresses of the assets: planetary_computer.
    damaged
        Items that cannot be read are added to this list; None: they are refused.
    """
    files = list(files_ending(path, ITEM_ENDINGS))
    if not files:
        raise InputError(f"There is no STAC item (.json) in {path}.")
    return read_each(files, partial(_read_file, bands=bands, signed_by=signed_by), damaged)


def unlike_files(found: Sequence[Acquisition], threads: int) -> dict[str, str]:
    """Return, by id, how files differ from what their items state of them; their headers are read.

    Of remote files, one of each grid is read, as every header is a request.
    """

    def problem(item: Acquisition) -> str | None:
        stated: dict[object, Band] = {}
        for band in (*item.bands.values(), *item.masks.values()):
            stated.setdefault(band.grid if band.is_remote else band.name, band)
        try:
            for band in stated.values():
                block_shape(band)
        except UnavailableError:
            raise
        except InputError as error:
            return f"{item.product}: {error}"
        return None

    with ThreadPoolExecutor(max(threads, _REQUESTS_AT_ONCE)) as pool:
        problems = zip(found, pool.map(problem, found), strict=True)
        return {item.id: text for item, text in problems if text is not None}


def _baseline(item: Item) -> str | None:
    """Return the processing baseline of an item ("04.00"), or None if the item states none.

    Items of older catalogues have it only in the name of the product.
    """
    value = _first(
        item["properties"],
        "s2:processing_baseline",
        "processing:version",
        "sentinel:processing_baseline",
        "sentinel2:processing_baseline",
    )
    match = re.fullmatch(r"0?(\d+)\.(\d+)", str(value).strip())
    if match:
        return f"{int(match[1]):02}.{match[2]:0<2}"
    names = (*(item["properties"].get(name) for name in _PRODUCT_NAMES), item["id"])
    return next(filter(None, (baseline_in(str(name)) for name in names)), None)


def _read_file(path: Path, bands: Sequence[str] | None, signed_by: str | None) -> Acquisition:
    """Read one item."""
    remedy = "Search the imagery again, or remove the file."
    item = read_json(path, "a STAC item", remedy)
    with reading(path, "a STAC item", remedy):
        if item.get("type") != "Feature":
            raise InputError(
                f"{path} is a STAC {item.get('type')}, expected an item (type Feature)."
            )
        return _acquisition(item, path, bands, signed_by)


def _acquisition(
    item: Item, path: Path, bands: Sequence[str] | None, signed_by: str | None
) -> Acquisition:
    """Convert an item into an acquisition."""
    properties = item["properties"]
    sensed = _time(_first(properties, "datetime", "start_datetime", "dtr:start_datetime"))
    if sensed is None:
        raise InputError(f"{path}: item {item['id']} has no datetime.")
    version = _baseline(item)
    names = {*(BANDS if bands is None else bands), *MASKS}
    found = {
        name: _band(name, asset, item, path.parent, signed_by, offset_of_baseline(version))
        for name, asset in _best_assets(item).items()
        if name in names
    }
    cloud_percent = _first(properties, "eo:cloud_cover")
    nodata_percent = _first(properties, "s2:nodata_pixel_percentage")
    if nodata_percent is None:
        nodata_percent = properties.get("statistics", {}).get("nodata")
    if nodata_percent is None and properties.get("sentinel:data_coverage") is not None:
        nodata_percent = 100 - float(properties["sentinel:data_coverage"])
    # S2B_OPER_MSI_L2A_DS_2BPS_20230912T174059_S20230912T133836_N05.09: the time behind S is the
    # start of sensing.
    datastrip = re.search(
        r"_S(\d{8}T\d{6})", str(_first(properties, "s2:datastrip_id", "eopf:datastrip_id"))
    )
    return Acquisition(
        id=path.stem,  # the item's id, with a number if two collections use the same id
        tile=_tile(item),
        date=sensed.date(),
        product=path,
        format="stac",
        baseline=version,
        platform=_first(properties, "platform", "eo:platform"),
        cloud_fraction=None if cloud_percent is None else float(cloud_percent) / 100,
        bands={name: found[name] for name in BANDS if name in found},
        masks={name: found[name] for name in MASKS if name in found},
        sensing_start=sensed,
        valid_fraction=None if nodata_percent is None else 1 - float(nodata_percent) / 100,
        generated=_first(properties, "s2:generation_time", "processing:datetime", "created"),
        datastrip=datastrip[1] if datastrip else None,
    )


def _tile(item: Item) -> str:
    """Return the MGRS tile of an item."""
    properties = item["properties"]
    for prefix in ("mgrs", "sentinel"):
        names = ("utm_zone", "latitude_band", "grid_square")
        zone, *letters = (properties.get(f"{prefix}:{name}") for name in names)
        if zone and all(letters):
            return f"{int(zone):02}{''.join(letters)}"
    code = _first(properties, "s2:mgrs_tile", "grid:code", "s2:tile")
    match = re.fullmatch(r"(?:MGRS-)?T?(\d{1,2})([A-Z]{3})", str(code))
    if match:
        return f"{int(match[1]):02}{match[2]}"
    for text in (*(properties.get(name) for name in _PRODUCT_NAMES), item["id"]):
        tile = tile_name(str(text))
        if tile is not None:
            return tile
    return UNNAMED_TILE


def _first(properties: Mapping[str, Any], *names: str) -> Any:
    """Return the value of the first property that exists, or None."""
    return next((properties[n] for n in names if properties.get(n) is not None), None)


def _time(text: object) -> datetime | None:
    """Convert a time of RFC 3339 to a naive datetime in UTC; return None for anything else."""
    if not isinstance(text, str):
        return None
    time = datetime.fromisoformat(text)
    return time if time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None)


# Common names of the extension eo, and names of assets in Earth Search. "rededge" without a number
# is left out, because catalogues use it for three bands.
_BAND_OF = {
    **{common: band for band, common in COMMON_NAMES.items()},
    **{"rededge1": "B05", "rededge2": "B06", "rededge3": "B07"},
}
_CLOUD_PROBABILITY = re.compile(r"(MSK_)?CLD(PRB)?(_\d\dm)?", re.IGNORECASE)
_IMAGE = re.compile(r"image/(tiff|jp2|jpeg2000|x\.geotiff|vnd\.stac\.geotiff)")
_IMAGE_ENDINGS = (".tif", ".tiff", ".jp2")
# Roles of images for people, and of files that are not images.
_OTHER_ROLES = frozenset({"visual", "overview", "thumbnail", "metadata"})


@dataclass(frozen=True)
class _Asset:
    """One layer of one asset.

    Parameters
    ----------
    key
        Name of the asset in the item.
    fields
        The asset's JSON object.
    layer
        Number of the layer in the file, counted from 1.
    layers
        Number of layers in the file according to the item; 1 if it lists none.
    """

    key: str
    fields: Mapping[str, Any]
    layer: int
    layers: int

    def get(self, name: str, *older: str) -> Any:
        """Return a field of the layer, or else of the asset; `older` are its earlier names.

        STAC 1.1 describes layers in `bands`, STAC 1.0 in `eo:bands` and `raster:bands`.
        """
        places = [
            self.fields[group][self.layer - 1]
            for group in ("bands", "raster:bands", "eo:bands")
            if len(self.fields.get(group) or ()) >= self.layer
        ]
        for place in (*places, self.fields):
            for spelling in (name, *older):
                if place.get(spelling) is not None:
                    return place[spelling]
        return None


def _best_assets(item: Mapping[str, Any]) -> dict[str, _Asset]:
    """Choose an asset for every band and mask.

    Files of one band are preferred to files of several bands, the native resolution to others, and
    GeoTIFF to JPEG 2000, because JPEG 2000 needs more bytes for the same pixels.
    """
    best: dict[str, _Asset] = {}
    for name, asset in _images(item):
        if name not in best or _rank(name, asset) > _rank(name, best[name]):
            best[name] = asset
    return best


def _images(item: Mapping[str, Any]) -> Iterator[tuple[str, _Asset]]:
    """Yield the names and layers of all bands and masks."""
    listed = item["properties"].get("eo:bands") or ()
    for key, stated in item["assets"].items():
        fields = _with_listed_bands(stated, listed)
        href = fields["href"].partition("?")[0].lower()
        is_image = _IMAGE.match(fields.get("type") or "") or href.endswith(_IMAGE_ENDINGS)
        if not is_image or not _OTHER_ROLES.isdisjoint(fields.get("roles") or ()):
            continue
        layers = max(len(fields.get(g) or ()) for g in ("bands", "raster:bands", "eo:bands"))
        for layer in range(1, max(layers, 1) + 1):
            asset = _Asset(key, fields, layer, max(layers, 1))
            name = _band_name(asset)
            if name is not None:
                yield name, asset


def _with_listed_bands(
    fields: Mapping[str, Any], listed: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any]:
    """Return an asset whose `eo:bands` are objects.

    Before STAC 1.0, they could be numbers of the bands that the item lists.
    """
    bands = fields.get("eo:bands") or ()
    if not any(isinstance(band, int) for band in bands):
        return fields
    known = dict(enumerate(listed))
    objects = [known.get(band, {}) if isinstance(band, int) else band for band in bands]
    return {**fields, "eo:bands": objects}


def _band_name(asset: _Asset) -> str | None:
    """Return the band or mask that a layer is, by the asset's key, its names or the file's name."""
    texts = [asset.get("name"), asset.get("eo:common_name", "common_name")]
    if asset.layers == 1:
        file = asset.fields["href"].partition("?")[0].rpartition("/")[2]
        texts = [asset.key, *texts, file.rpartition(".")[0]]
    for text in filter(None, texts):
        name = band_name(text) or _BAND_OF.get(text.lower())
        if name is None and _CLOUD_PROBABILITY.fullmatch(text):
            name = "CLDPRB"
        if name is not None:
            return name
    return None


def _rank(name: str, asset: _Asset) -> tuple[bool, float, bool]:
    """Return the sort key of the assets of one band, the best one last."""
    transform = asset.get("proj:transform")
    metres = abs(transform[0]) if transform else asset.get("gsd") or 0
    is_jp2 = asset.fields["href"].partition("?")[0].lower().endswith(".jp2")
    return asset.layers == 1, -abs(metres - NATIVE_RESOLUTION_M.get(name, 20)), not is_jp2


def _band(
    name: str,
    asset: _Asset,
    item: Mapping[str, Any],
    folder: Path,
    signed_by: str | None,
    unstated_offset: float,
) -> Band:
    """Convert an asset into a band. The file is opened only if the item does not state its grid.

    Parameters
    ----------
    name
        Name of the band or mask.
    asset
        Asset and layer.
    item
        The item of the asset.
    folder
        Base of relative paths.
    signed_by
        planetary_computer, or None.
    unstated_offset
        Digital numbers to add if the asset states no offset.
    """
    source = asset.fields["href"]
    scheme = urlsplit(source).scheme.lower()
    if scheme == "file" or (is_address(source) and scheme not in SCHEMES):
        raise InputError(
            f"Asset {asset.key} of {item['id']} is {source}, which is not opened. Supported are "
            "https://, http:// and s3://, and files only in a catalogue on this machine."
        )
    if not is_address(source):
        source = str(folder / source)
    elif signed_by == "planetary_computer":
        source = PLANETARY_COMPUTER + source
    grid = _grid(asset, item)
    header = None
    if grid is None:
        header = read_header(source)
        grid = header.grid
    dtype = np.dtype(
        asset.get("data_type") or (header.dtypes[asset.layer - 1] if header else "uint16")
    )
    scale, offset = 1.0, 0.0
    if name in BANDS:
        scale, offset = _radiometry(asset, item, dtype, unstated_offset)
    nodata = asset.get("nodata")
    stated = None if nodata is None else stated_nodata(float(nodata), dtype)
    return Band(
        name=name,
        source=source,
        layer=asset.layer,
        grid=grid,
        block_shape=None,
        scale=scale,
        offset=offset,
        nodata=0.0 if stated is None else stated,  # 0 in every Sentinel-2 product
    )


def _radiometry(
    asset: _Asset, item: Mapping[str, Any], dtype: np.dtype[Any], unstated_offset: float
) -> tuple[float, float]:
    """Return the scale and offset of an asset, as in `geo.imagery.acquisition.Band`.

    Earth Search subtracts the offset from the pixels of its sentinel-2-l2a, and states that in
    earthsearch:boa_offset_applied (formerly sentinel:boa_offset_applied). Its assets still state
    the offset (cirrus-geo/cirrus-earth-search, issues 21 and 33), which must then be ignored.
    """
    is_integer = dtype.kind in "iu"
    scale = asset.get("scale", "raster:scale")
    if scale is None:
        scale = 0.0001 if is_integer else 1.0
    offset = asset.get("offset", "raster:offset")
    if offset is None:
        offset = scale * unstated_offset if is_integer else 0.0
    applied = (f"{prefix}:boa_offset_applied" for prefix in ("earthsearch", "sentinel"))
    if any(item["properties"].get(flag) is True for flag in applied):
        offset = 0.0
    return scale_and_offset(float(scale), float(offset), is_integer, None)


def _grid(asset: _Asset, item: Mapping[str, Any]) -> Grid | None:
    """Return the grid that the item states by the extension projection, or None."""
    properties = item["properties"]

    def stated(name: str) -> Any:
        value = asset.get(name)
        return properties.get(name) if value is None else value

    transform, shape = stated("proj:transform"), stated("proj:shape")
    crs = stated("proj:code") or stated("proj:epsg") or stated("eo:epsg")
    crs = crs or stated("proj:wkt2") or stated("proj:projjson")
    if transform is None or shape is None or crs is None:
        return None
    metres = asset.get("gsd", "eo:gsd")
    if asset.get("proj:transform") is None and metres not in (None, abs(transform[0])):
        return None  # the item states the grid of assets of another resolution
    try:
        code = f"EPSG:{crs}" if str(crs).isdecimal() else crs
        name = crs_text(CRS.from_user_input(code))
        return Grid.from_transform(name, Affine(*transform[:6]), int(shape[0]), int(shape[1]))
    except (CRSError, ValueError, TypeError) as error:
        raise InputError(f"Asset {asset.key} of {item['id']}: {error}") from error
