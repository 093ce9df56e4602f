"""Sentinel-2 products of EOPF (Earth Observation Processor Framework): Zarr folders of groups.

Reflectance is in measurements/reflectance/r10m, r20m and r60m, the scene classification in
conditions/mask/l2a_classification, and the cloud probability in quality/probability. See the EOPF
Product Structure and Format Definition, and the products of the EOPF Sentinel Zarr Samples Service.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import xarray as xr
import zarr

from geo.errors import InputError
from geo.formats.conventions import finest, tile_name
from geo.formats.stack import describe
from geo.imagery.acquisition import UNNAMED_TILE, Acquisition, Band, bands_and_masks
from geo.imagery.array_reading import is_consolidated
from geo.imagery.damaged import Damaged, read_each, refuse_two_levels
from geo.imagery.file_cache import cached

_REFLECTANCE = "measurements/reflectance"
_CLASSIFICATION = "conditions/mask/l2a_classification"
_PROBABILITY = "quality/probability"

_AGAIN = "download it again."
# Errors of zarr and xarray for damaged metadata.
_DAMAGED = (
    *(OSError, RuntimeError, LookupError, TypeError, ValueError, AttributeError),
    ZeroDivisionError,
)


def read_products(
    products: Sequence[Path],
    bands: Sequence[str] | None,
    reflectance_scale: float | None,
    damaged: list[Damaged] | None,
) -> list[Acquisition]:
    """Read the products, which must be of one level.

    Raises
    ------
    InputError
        If level 1C and 2A are mixed, or a product cannot be read.
    """
    level_2a = [path for path in products if (path / _CLASSIFICATION).is_dir()]
    refuse_two_levels(level_2a, [path for path in products if path not in level_2a])

    def read(path: Path) -> Acquisition:
        return cached(
            *(("eopf", path, bands, reflectance_scale), [path], Acquisition),
            lambda: _read_product(path, bands, reflectance_scale),
        )

    return read_each(products, read, damaged)


def _read_product(
    path: Path, bands: Sequence[str] | None, reflectance_scale: float | None
) -> Acquisition:
    """Read the metadata of one product; see `finest` for bands at several resolutions."""
    try:
        attributes: Mapping[str, Any] = dict(zarr.open_group(path, mode="r").attrs)
        properties = attributes["stac_discovery"]["properties"]
        sensing_start = datetime.fromisoformat(properties["start_datetime"]).replace(tzinfo=None)
        outer = {**attributes.get("other_metadata", {}), **properties}
        tile = _tile(path, attributes)
        cloud_cover = properties.get("eo:cloud_cover")
        cloud_fraction = None if cloud_cover is None else float(cloud_cover) / 100
        baseline, created = (_text(properties.get(n)) for n in ("eopf:baseline", "created"))
    except _DAMAGED as error:
        raise InputError(
            f"{path} is not a product of EOPF: its attributes have no stac_discovery with "
            f"properties and start_datetime ({error}): {_AGAIN}"
        ) from error
    wanted, masks = bands_and_masks(finest(_layers(path, outer, reflectance_scale)), bands)
    return Acquisition(
        # The name contains tile, times, orbit and baseline.
        id=path.name.removesuffix(".zarr"),
        tile=tile,
        date=sensing_start.date(),
        product=path,
        format="stack",
        baseline=baseline,
        platform=str(properties.get("platform", "")).title() or None,
        cloud_fraction=cloud_fraction,
        bands=wanted,
        masks=masks,
        sensing_start=sensing_start,
        generated=created,
    )


def _text(value: object) -> str | None:
    """Return a property that must be a text; None if it is not stated."""
    if value is None or isinstance(value, str):
        return value
    raise TypeError(f"{value!r} is not a text")


def _layers(
    path: Path, outer: Mapping[str, Any], reflectance_scale: float | None
) -> Iterator[Band]:
    """Yield the bands and masks of every resolution."""
    for place in (_REFLECTANCE, _CLASSIFICATION, _PROBABILITY):
        for folder in sorted((path / place).glob("r*m")):
            group = f"{place}/{folder.name}"
            with _open(path, group) as data:
                for variable in data.data_vars.values():
                    for band, _ in describe(path, group, data, variable, outer, reflectance_scale):
                        yield band


def _tile(path: Path, attributes: Mapping[str, Any]) -> str:
    """Return the tile in the product's name or, if the product was renamed, in its metadata."""
    names = (
        path.stem,
        str(attributes["stac_discovery"].get("id")),
        str(attributes.get("other_metadata", {}).get("UTM_zone_identification")),
    )
    return next((tile for name in names if (tile := tile_name(name))), UNNAMED_TILE)


def _open(path: Path, group: str) -> xr.Dataset:
    """Open one group; values are not decoded."""
    try:
        return xr.open_dataset(
            path,
            engine="zarr",
            group=group,
            consolidated=is_consolidated(path),
            mask_and_scale=False,
            create_default_indexes=False,
            chunks=None,
        )
    except _DAMAGED as error:
        raise InputError(f"{path}: {group} cannot be opened ({error}): {_AGAIN}") from error
