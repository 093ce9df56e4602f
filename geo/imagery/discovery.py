"""Discover acquisitions in any supported format, and order those of one tile and day."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from geo.errors import InputError
from geo.imagery.acquisition import Acquisition, first_five
from geo.imagery.listing import (
    ITEM_ENDINGS,
    TIFF_ENDINGS,
    Damaged,
    Format,
    files_ending,
    is_eopf,
    refuse_damaged,
    stack_files,
    theia_folders,
    tiff_files,
)

# Shares of sensed pixels of two halves of a tile add up to 1; so much more is taken for rounding
# and for the lines that both data strips hold.
OVERLAP = 0.02


def find_acquisitions(
    path: Path,
    format: Format = "auto",  # noqa: A002
    *,
    bands: Sequence[str] | None = None,
    file_bands: Sequence[str] | None = None,
    reflectance_scale: float | None = None,
    signed_by: str | None = None,
    damaged: list[Damaged] | None = None,
) -> list[Acquisition]:
    """Find the acquisitions of a folder, product or file, without reading more than a few pixels.

    Parameters
    ----------
    path
        Folder of products (SAFE, THEIA, EOPF), of GeoTIFFs, of stacks (NetCDF, Zarr) or of STAC
        items, or one of them.
    format
        Reader to use; "auto" looks at what is there.
    bands
        Bands that every acquisition must have; others are not looked at. None: all there are.
    file_bands
        Band names of GeoTIFFs without band descriptions, in order.
    reflectance_scale
        Reflectance of one raw unit of GeoTIFFs and stacks, in place of what the files say.
    signed_by
        Service whose signature the addresses of STAC items need: planetary_computer.
    damaged
        Products that cannot be read, or lack bands, are added here; None: they are refused, as
        they are where no other is left.

    Returns
    -------
    list of Acquisition
        In order of date, tile and id.

    Raises
    ------
    InputError
        If nothing is found, a file is damaged or says too little, or a band is missing.
    """
    if not path.exists():
        raise InputError(f"There is no {path}. Give the path of the imagery.")
    if format == "auto":
        format = detect_format(path)  # noqa: A001
    if format != "geotiff" and file_bands is not None:
        raise InputError(f"file_bands names bands of GeoTIFFs, {path} is {format}: leave it out.")
    if format in ("safe", "theia", "stac") and reflectance_scale is not None:
        raise InputError(
            f"The {format} products of {path} state their scale: leave out reflectance_scale."
        )

    # Imported by format: only stacks need xarray, which takes a second to import.
    if format == "safe":
        from geo.formats import safe

        found = safe.find(path, bands, damaged)
    elif format == "theia":
        from geo.formats import theia

        found = theia.find(path, bands, damaged)
    elif format == "geotiff":
        from geo.formats import geotiff

        found = geotiff.find(path, bands, file_bands, reflectance_scale, damaged)
    elif format == "stac":
        from geo.formats import stac

        found = stac.find(path, bands, signed_by, damaged)
    else:
        found = _find_stacks(path, bands, reflectance_scale, damaged)
    found = _with_bands(found, bands, damaged)
    _check_metres(found)
    if not found:
        refuse_damaged(damaged or [], len(damaged or []))
    if format in ("geotiff", "stack") and reflectance_scale is None:
        from geo.imagery.radiometry import check_float_scale

        check_float_scale(found)
    return sorted(_with_unique_ids(found), key=lambda item: (item.date, item.tile, item.id))


def _find_stacks(
    path: Path,
    bands: Sequence[str] | None,
    reflectance_scale: float | None,
    damaged: list[Damaged] | None,
) -> list[Acquisition]:
    """Find the products of EOPF, which are Zarr folders, or the times of other stacks."""
    from geo.formats import eopf, stack

    files = stack_files(path)
    products = [file for file in files if is_eopf(file)]
    if not products:
        return stack.find(path, files, bands, reflectance_scale)
    if len(products) == len(files):
        return eopf.read_products(products, bands, reflectance_scale, damaged)
    raise InputError(
        f"{path} mixes {len(products)} products of EOPF with {len(files) - len(products)} other "
        "stacks: keep one kind in a folder. Products: "
        f"{first_five([product.name for product in products])}."
    )


def detect_format(path: Path) -> Literal["safe", "theia", "geotiff", "stack", "stac"]:
    """Tell the format of imagery from what lies at a path.

    Raises
    ------
    InputError
        If nothing is recognised, or more than one format is there.
    """
    from geo.formats.safe import find_products

    found: list[Literal["safe", "theia", "geotiff", "stack", "stac"]] = []
    damaged: list[Damaged] = []
    if any(find_products(path, damaged)) or damaged:
        found.append("safe")
    of_theia = theia_folders(path)
    if of_theia:
        found.append("theia")
    stacks = stack_files(path)
    if any(file in (path, path / file.name) for file in stacks):
        found.append("stack")
    if path not in of_theia and any(files_ending(path, TIFF_ENDINGS)):
        found.append("geotiff")
    # Beside imagery of another format, JSON files are something else; and stacks and GeoTIFFs in
    # folders below may belong to products.
    if not found and any(files_ending(path, ITEM_ENDINGS)):
        found.append("stac")
    if not found and stacks:
        found.append("stack")
    if not found and tiff_files(path):
        found.append("geotiff")
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(
            f"{path} holds imagery of several formats: {', '.join(found)}. "
            "Name the one to read as the format, or keep one in a folder of its own."
        )
    raise InputError(
        f"No imagery was recognised at {path}: neither products in SAFE (MTD_MSIL2A.xml or "
        "MTD_MSIL1C.xml inside) or of THEIA (..._MTD_ALL.xml inside), nor GeoTIFFs (.tif), nor "
        "stacks (NetCDF .nc, Zarr folders), nor STAC items (.json)."
    )


def _with_bands(
    found: Sequence[Acquisition], bands: Sequence[str] | None, damaged: list[Damaged] | None
) -> list[Acquisition]:
    """Return the acquisitions with every requested band; refuse the others, or set them aside."""
    whole, lacking = [], []
    for item in found:
        missing = [band for band in bands or () if band not in item.bands]
        if not missing:
            whole.append(item)
        else:
            there = ", ".join(item.bands) or "none of those asked for"
            problem = f"{item.product}: no {', '.join(missing)} (it has {there})"
            lacking.append(Damaged(item.product, problem))
    if lacking and damaged is None:
        problems = first_five([item.problem for item in lacking], "\n  ")
        raise InputError(
            f"{len(lacking)} of {len(found)} acquisitions lack bands:\n  {problems}\n"
            "Complete them, or ask for fewer bands."
        )
    if damaged is not None:
        damaged += lacking
    return whole


def _check_metres(found: Sequence[Acquisition]) -> None:
    """Check that grids are in metres, as sizes, buffers and resolutions are."""
    from rasterio.crs import CRS

    for crs in {item.grid.crs for item in found}:
        unit, _ = CRS.from_user_input(crs).units_factor
        if unit not in ("metre", "meter"):
            products = [str(item.product) for item in found if item.grid.crs == crs]
            raise InputError(
                f"{len(products)} of {len(found)} acquisitions have pixels in units of {unit}, not "
                f"metres: {first_five(products)}. Warp them to the UTM zone of the tile: gdalwarp "
                "-t_srs EPSG:326.. -tr 10 10."
            )


def _with_unique_ids(found: Sequence[Acquisition]) -> list[Acquisition]:
    """Append a number to ids that occur twice; the acquisition to prefer keeps the id as it is."""
    unique, times = [], dict[str, int]()
    # Stable, so that equals keep their order.
    for item in sorted(found, key=lambda item: item.preference, reverse=True):
        number = times[item.id] = times.get(item.id, 0) + 1
        unique.append(item if number == 1 else replace(item, id=f"{item.id}_{number}"))
    return unique


def in_order_of_use(found: Iterable[Acquisition]) -> list[Acquisition]:
    """Sort acquisitions by date and tile; those of one day in the order in which they are merged.

    The one with most sensed pixels comes first, among equals the newest processing.
    """
    by_preference = sorted(found, key=lambda item: (item.preference, item.id), reverse=True)
    return sorted(by_preference, key=lambda item: (item.date, item.tile))


def same_day_reasons(same_day: Sequence[Acquisition]) -> dict[str, str]:
    """Give, by id, why acquisitions of one tile and day are not used; parts of the tile all are.

    Of one sensing processed several times the preferred one stays, the others are `superseded`.
    What is sensed at another time of the day, and is no other part of the tile, is set aside as
    `same_day`. Clouds do not take part: what stays must not depend on settings.
    """
    reasons: dict[str, str] = {}
    kept: list[Acquisition] = []
    for item in in_order_of_use(same_day):
        if any(is_reprocessing(item, other) for other in kept):
            reasons[item.id] = "superseded"
        elif all(is_other_part(item, other) for other in kept):
            kept.append(item)
        else:
            reasons[item.id] = "same_day"
    return reasons


def is_reprocessing(item: Acquisition, other: Acquisition) -> bool:
    """Tell whether two acquisitions of one tile and day are the same sensing, processed twice.

    A data strip is sensed once. Where it is not known, the same time of sensing and the same share
    of sensed pixels tell: the two halves of a tile that a change of data strip cuts apart share
    their time, too, but not that share.
    """
    if item.datastrip is not None and other.datastrip is not None:
        return item.datastrip == other.datastrip
    is_same_time = item.sensed is not None and item.sensed == other.sensed
    return is_same_time and item.preference[0] == other.preference[0]


def is_other_part(item: Acquisition, other: Acquisition) -> bool:
    """Tell whether two acquisitions of one tile and day, no reprocessings, complete each other.

    Those of different data strips do; where these are not known, those of different extent, and
    those whose shares of sensed pixels add up to no more than the tile.
    """
    if item.datastrip is not None and other.datastrip is not None:
        return True
    if not item.grid.matches(other.grid):
        return True
    shares = [1.0 if a.valid_fraction is None else a.valid_fraction for a in (item, other)]
    return sum(shares) <= 1 + OVERLAP
