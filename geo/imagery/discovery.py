"""Find the acquisitions in imagery of any supported format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Literal

from geo.errors import InputError
from geo.formats.archives import Convention
from geo.imagery.acquisition import FIRST_YEAR, Acquisition, first_five
from geo.imagery.damaged import Damaged, refuse_damaged
from geo.imagery.imagery_files import (
    ITEM_ENDINGS,
    SIDECAR,
    TIFF_ENDINGS,
    Format,
    files_ending,
    image_files,
    is_eopf,
    listing_once,
    stack_files,
    theia_folders,
    unreadable_files,
    unused_name,
)
from geo.imagery.unread_files import found_instead, warn_of_unread


@listing_once()
def find_acquisitions(
    path: Path | str,
    format: Format = "auto",  # noqa: A002
    *,
    bands: Sequence[str] | None = None,
    file_bands: Sequence[str] | None = None,
    reflectance_scale: float | None = None,
    convention: Convention | None = None,
    signed_by: str | None = None,
    damaged: list[Damaged] | None = None,
) -> list[Acquisition]:
    """Find the acquisitions at a path; only metadata, headers and a few pixels are read.

    Parameters
    ----------
    path
        Folder of products (SAFE, THEIA, EOPF), of GeoTIFFs, of stacks (NetCDF, Zarr) or of STAC
        items, or one of them.
    format
        Reader to use; "auto" detects the format.
    bands
        Bands that every acquisition must have; other bands are ignored. None: all bands.
    file_bands
        Names of the bands of GeoTIFFs without band descriptions, in order.
    reflectance_scale
        Reflectance of one raw unit of GeoTIFFs and stacks, in place of what the files state.
    convention
        How GeoTIFFs are named, in place of what is recognised; see `geo.formats.archives`.
    signed_by
        Service that signs the addresses of STAC items: planetary_computer.
    damaged
        Products that cannot be read or lack bands are appended to this list. If it is None, or
        no other product is left, they are refused.

    Returns
    -------
    list of Acquisition
        Sorted by date, tile and id.

    Raises
    ------
    InputError
        If nothing is found, a file is damaged or lacks information, or a band is missing.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"There is no {path}. Give the path of the imagery.")
    if format == "auto":
        format = detect_format(path)  # noqa: A001
    unreadable = list(unreadable_files(path, format))
    if damaged is None:
        refuse_damaged(unreadable, len(unreadable))
    else:
        damaged += unreadable
    for name, value in (("file_bands", file_bands), ("convention", convention)):
        if format != "geotiff" and value is not None:
            raise InputError(
                f"{name} names bands of GeoTIFFs, but {path} is {format}: leave it out."
            )
    if format in ("safe", "theia", "stac") and reflectance_scale is not None:
        raise InputError(
            f"The {format} products of {path} state their scale: leave out reflectance_scale."
        )

    # Only the reader of the format is imported: xarray, for instance, takes a second to import.
    if format == "safe":
        from geo.formats import safe

        found = safe.find(path, bands, damaged)
    elif format == "theia":
        from geo.formats import theia

        found = theia.find(path, bands, damaged)
    elif format == "geotiff":
        from geo.formats import geotiff

        found = geotiff.find(path, bands, file_bands, reflectance_scale, damaged, convention)
    elif format == "stac":
        from geo.formats import stac

        found = stac.find(path, bands, signed_by, damaged)
    else:
        found = _find_stacks(path, bands, reflectance_scale, damaged)
    found = _with_bands(found, bands, damaged)
    found = _in_metres(found, damaged)
    found = _of_satellites(found, damaged)
    found = _in_one_place(found, damaged)
    warn_of_unread(path, {item.product for item in (*found, *(damaged or ()))})
    if not found:
        refuse_damaged(damaged or [], len(damaged or []))
    if format in ("geotiff", "stack"):
        from geo.imagery.valid_values import check_scale, with_fill_values

        is_refused = damaged is None
        found = with_fill_values(found, is_refused=is_refused)
        check_scale(found, is_stated=reflectance_scale is not None, is_refused=is_refused)
    return sorted(_with_unique_ids(found), key=lambda item: (item.date, item.tile, item.id))


def detect_format(path: Path) -> Literal["safe", "theia", "geotiff", "stack", "stac"]:
    """Return the format of the imagery at a path.

    Raises
    ------
    InputError
        If no format is recognised, or more than one.
    """
    from geo.formats.safe import find_products

    found: list[Literal["safe", "theia", "geotiff", "stack", "stac"]] = []
    damaged: list[Damaged] = []
    if any(find_products(path, damaged)) or damaged:
        found.append("safe")
    theia = theia_folders(path)
    if theia:
        found.append("theia")
    stacks = stack_files(path)
    if any(file in (path, path / file.name) for file in stacks):
        found.append("stack")
    if path not in theia and any(files_ending(path, TIFF_ENDINGS)):
        found.append("geotiff")
    # JSON files beside other imagery are not items. Stacks and GeoTIFFs in subfolders may be part
    # of products.
    items = (f for f in files_ending(path, ITEM_ENDINGS) if not SIDECAR.fullmatch(f.name))
    if not found and any(items):
        found.append("stac")
    if not found and stacks:
        found.append("stack")
    if not found and image_files(path):
        found.append("geotiff")
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(
            f"{path} holds imagery of several formats: {', '.join(found)}. "
            "Name the format to read, or move the others to another folder."
        )
    raise InputError(
        f"No imagery was recognised at {path}: neither products in SAFE (MTD_MSIL2A.xml or "
        "MTD_MSIL1C.xml inside) or of THEIA (..._MTD_ALL.xml inside), nor GeoTIFFs (.tif) or "
        "JPEG 2000 (.jp2), nor stacks (NetCDF .nc, Zarr folders), nor STAC items (.json)."
        f"{found_instead(path)}"
    )


def _find_stacks(
    path: Path,
    bands: Sequence[str] | None,
    reflectance_scale: float | None,
    damaged: list[Damaged] | None,
) -> list[Acquisition]:
    """Find the EOPF products, which are Zarr folders, or the times of other stacks."""
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


def _with_bands(
    found: Sequence[Acquisition], bands: Sequence[str] | None, damaged: list[Damaged] | None
) -> list[Acquisition]:
    """Return the acquisitions with every requested band; refuse the others, or set them aside."""
    complete, lacking = [], []
    for item in found:
        missing = [band for band in bands or () if band not in item.bands]
        if item.bands and not missing:
            complete.append(item)
            continue
        existing = ", ".join(item.bands) or "none of those asked for"
        problem = f"{item.product}: no {', '.join(missing) or 'band'} (it has {existing})"
        lacking.append(Damaged(item.product, problem))
    if lacking and damaged is None:
        problems = first_five([item.problem for item in lacking], "\n  ")
        raise InputError(
            f"{len(lacking)} of {len(found)} acquisitions lack bands:\n  {problems}\n"
            "Complete them, or ask for fewer bands."
        )
    if damaged is not None:
        damaged += lacking
    return complete


def _in_metres(found: Sequence[Acquisition], damaged: list[Damaged] | None) -> list[Acquisition]:
    """Return the acquisitions whose grid is in metres; refuse the others, or set them aside."""
    from geo.imagery.tile_grids import problem_of_metres

    usable: list[Acquisition] = []
    others: dict[tuple[str, str], list[Path]] = {}
    for item in found:
        problem = problem_of_metres(item.grid)
        if problem is None:
            usable.append(item)
        else:
            others.setdefault(problem, []).append(item.product)
    for (what, remedy), products in others.items():
        if damaged is None:
            raise InputError(
                f"{len(products)} of {len(found)} acquisitions have {what}: "
                f"{first_five(list(map(str, products)))}. {remedy}"
            )
        damaged += (Damaged(path, f"{path} has {what}. {remedy}") for path in products)
    return usable


def _of_satellites(
    found: Sequence[Acquisition], damaged: list[Damaged] | None
) -> list[Acquisition]:
    """Return the acquisitions of past days; refuse the others, or set them aside."""
    # A day ahead, for other time zones.
    last = date.today() + timedelta(days=1)
    others = [
        Damaged(
            item.product,
            f"{item.product} has the date {item.date}, expected {FIRST_YEAR} to today. Correct it.",
        )
        for item in found
        if not date(FIRST_YEAR, 1, 1) <= item.date <= last
    ]
    if damaged is None:
        refuse_damaged(others, len(found))
    else:
        damaged += others
    return [item for item in found if date(FIRST_YEAR, 1, 1) <= item.date <= last]


def _in_one_place(found: Sequence[Acquisition], damaged: list[Damaged] | None) -> list[Acquisition]:
    """Return the acquisitions whose layers overlap; refuse the others, or set them aside."""
    usable, others = [], []
    for item in found:
        layers = (*item.bands.values(), *item.masks.values())
        other = next((layer for layer in layers if not item.grid.overlaps(layer.grid)), None)
        if other is None:
            usable.append(item)
            continue
        problem = (
            f"{other.name} of {other.source} has its corner at {other.grid.x_min:.10g}, "
            f"{other.grid.y_max:.10g} ({other.grid.crs}), but other layers of {item.id} at "
            f"{item.grid.x_min:.10g}, {item.grid.y_max:.10g} ({item.grid.crs}): warp it to that "
            "(gdalwarp -t_srs), or get the right one."
        )
        others.append(Damaged(item.product, problem))
    if damaged is None:
        refuse_damaged(others, len(found))
    else:
        damaged += others
    return usable


def _with_unique_ids(found: Sequence[Acquisition]) -> list[Acquisition]:
    """Append a number to ids that occur twice; the preferred acquisition keeps its id."""
    unique: list[Acquisition] = []
    taken: set[str] = set()
    # The sort is stable: equally preferred acquisitions keep their order.
    for item in sorted(found, key=lambda item: item.preference, reverse=True):
        name = unused_name(item.id, taken)
        unique.append(item if name == item.id else replace(item, id=name))
    return unique
