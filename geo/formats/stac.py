"""Sentinel-2 items of SpatioTemporal Asset Catalogs (STAC), one JSON file each."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from geo.errors import InputError
from geo.formats.conventions import ITEM_ENDINGS, files_ending, tile_name
from geo.formats.stac_assets import band_of, best_assets
from geo.imagery.acquisition import BANDS, MASKS, UNNAMED_TILE, Acquisition, Damaged, read_each

Item = Mapping[str, Any]


def find(
    path: Path,
    bands: Sequence[str] | None,
    signed_by: str | None = None,
    damaged: list[Damaged] | None = None,
) -> list[Acquisition]:
    """Find the items of a folder, or one of them; see `geo.imagery.discovery.find_acquisitions`.

    Parameters
    ----------
    path
        Item, or folder of items, as `geo.formats.stac_search.save_items` writes them.
    bands
        Bands to look at; None: all there are.
    signed_by
        Service whose signature the assets' addresses need: planetary_computer.
    damaged
        Items that cannot be read are added here; None: they are refused.
    """
    files = list(files_ending(path, ITEM_ENDINGS))
    if not files:
        raise InputError(f"There is no STAC item (.json) in {path}.")
    return read_each(files, partial(_read_file, bands=bands, signed_by=signed_by), damaged)


def baseline(item: Item) -> str | None:
    """Give the processing baseline of an item ("04.00"), where it tells."""
    value = _first(
        item["properties"],
        "s2:processing_baseline",
        "processing:version",
        "sentinel:processing_baseline",
        "sentinel2:processing_baseline",
    )
    match = re.fullmatch(r"0?(\d+)\.(\d+)", str(value).strip())
    return f"{int(match[1]):02}.{match[2]:0<2}" if match else None


def _read_file(path: Path, bands: Sequence[str] | None, signed_by: str | None) -> Acquisition:
    """Read one item."""
    try:
        item = json.loads(path.read_text(encoding="utf-8"))
        if item.get("type") != "Feature":
            raise InputError(
                f"{path} is a STAC {item.get('type')}, expected an item (type Feature)."
            )
        return _acquisition(item, path, bands, signed_by)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a STAC item ({error!r}).") from error


def _acquisition(
    item: Item, path: Path, bands: Sequence[str] | None, signed_by: str | None
) -> Acquisition:
    """Describe what an item holds."""
    properties = item["properties"]
    sensed = _time(_first(properties, "datetime", "start_datetime"))
    if sensed is None:
        raise InputError(f"{path}: item {item['id']} has no datetime.")
    version = baseline(item)
    wanted = {*(BANDS if bands is None else bands), *MASKS}
    found = {
        name: band_of(name, asset, item, path.parent, signed_by, _unstated_offset(version))
        for name, asset in best_assets(item).items()
        if name in wanted
    }
    cloudy = _first(properties, "eo:cloud_cover")
    empty = _first(properties, "s2:nodata_pixel_percentage")
    if empty is None:
        empty = properties.get("statistics", {}).get("nodata")
    # S2B_OPER_MSI_L2A_DS_2BPS_20230912T174059_S20230912T133836_N05.09: S is the start of sensing.
    strip = re.search(
        r"_S(\d{8}T\d{6})", str(_first(properties, "s2:datastrip_id", "eopf:datastrip_id"))
    )
    return Acquisition(
        id=path.stem,  # the item's id; where two collections share it, a number tells them apart
        tile=_tile(item),
        date=sensed.date(),
        product=path,
        format="stac",
        baseline=version,
        platform=_first(properties, "platform"),
        cloud_fraction=None if cloudy is None else float(cloudy) / 100,
        bands={name: found[name] for name in BANDS if name in found},
        masks={name: found[name] for name in MASKS if name in found},
        sensed=sensed,
        valid_fraction=None if empty is None else 1 - float(empty) / 100,
        generated=_first(properties, "s2:generation_time", "processing:datetime", "created"),
        datastrip=strip[1] if strip else None,
    )


def _unstated_offset(version: str | None) -> float:
    """Give the offset, in digital numbers, of assets that state none.

    From processing baseline 04.00 on, products hold digital numbers raised by 1000 in every band
    (ESA, "Copernicus Sentinel-2: Major Products Upgrade Upcoming", 2021). A catalogue that copies
    them as they are and says nothing of it leaves it to its readers: so does the Planetary
    Computer ("Baseline Change" of its sentinel-2-l2a; microsoft/PlanetaryComputer, issue 134).
    """
    return -1000.0 if version is not None and version >= "04.00" else 0.0


def _tile(item: Item) -> str:
    """Give the MGRS tile of an item."""
    properties = item["properties"]
    parts = [properties.get(f"mgrs:{part}") for part in ("utm_zone", "latitude_band")]
    square = properties.get("mgrs:grid_square")
    if square and all(parts):
        return f"{int(parts[0]):02}{parts[1]}{square}"
    code = _first(properties, "s2:mgrs_tile", "grid:code", "s2:tile")
    match = re.fullmatch(r"(?:MGRS-)?T?(\d{1,2})([A-Z]{3})", str(code))
    if match:
        return f"{int(match[1]):02}{match[2]}"
    for text in (properties.get("s2:product_uri"), item["id"]):
        tile = tile_name(str(text))
        if tile is not None:
            return tile
    return UNNAMED_TILE


def _first(properties: Mapping[str, Any], *names: str) -> Any:
    """Give the first of several properties that is there."""
    return next((properties[n] for n in names if properties.get(n) is not None), None)


def _time(text: object) -> datetime | None:
    """Read a time of RFC 3339, to UTC without saying so."""
    if not isinstance(text, str):
        return None
    time = datetime.fromisoformat(text)
    return time if time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None)
