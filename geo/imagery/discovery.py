"""Discover acquisitions in any supported format, and the files that belong to them.

Neither numpy nor rasterio is imported at once: the Snakefile watches the files that are listed
here.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Literal, TypeVar

from geo.errors import SET_ASIDE, InputError, UnavailableError
from geo.formats.archives import NOT_A_BAND, Convention
from geo.imagery.acquisition import Acquisition, Band, Plane, first_five, local_file

logger = logging.getLogger(__name__)

_Item = TypeVar("_Item")
_Read = TypeVar("_Read")

Format = Literal["auto", "safe", "theia", "geotiff", "stack", "stac"]

TIFF_ENDINGS = (".tif", ".tiff")
_JP2_ENDINGS = (".jp2",)
IMAGE_ENDINGS = (*TIFF_ENDINGS, *_JP2_ENDINGS)
ITEM_ENDINGS = (".json", ".geojson")
_NETCDF_ENDINGS = (".nc", ".nc4")

# Landsat 1 took the first images that are still used.
FIRST_YEAR = 1972

# Files that readers open: images, stacks, archives, and the metadata of SAFE and THEIA. GDAL's
# side-car files (.aux.xml) and most of the masks of SAFE are not among them.
_READ = re.compile(
    r"(?!MSK_(?!CLDPRB|CLASSI)).*\.(?:tiff?|jp2|nc4?|zip)|manifest\.safe|.*MTD.*(?<!\.aux)\.xml",
    re.IGNORECASE,
)
# Files that are not read: packed, of other formats of rasters, and incomplete.
_PACKED = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
_RASTERS = (".img", ".dim", ".vrt", ".hdf", ".h5", ".he5", ".bil", ".bsq", ".dat", ".grib")
_UNFINISHED = (".part", ".crdownload", ".partial", ".download", ".tmp", ".aria2")
# Metadata beside images, of AWS and of Sentinel Hub; none is a STAC item.
_SIDECAR = re.compile(r"(?:tileInfo|productInfo|request)\.json|(?:product_?)?metadata\.xml", re.I)
# Names of products and of files that readers open.
_IMAGERY = re.compile(
    rf"(?!\.)(?:{_READ.pattern}|.*\.(?:safe|zarr|ovr|msk|xml|tfw|wld))", re.IGNORECASE
)
_THEIA_METADATA = re.compile(r"SENTINEL2\w_.*_L2A_.*_MTD_ALL\.xml", re.IGNORECASE)
_ZARR_ROOT = frozenset({"zarr.json", ".zgroup", ".zmetadata"})
# Metadata of Zarr versions 3 and 2, and chunks: c/0/1, c.0.1, 0.1, and c of an array without axes.
_IN_ZARR = re.compile(r"zarr\.json|\.z(?:group|array|attrs|metadata)|c|(?:c\.)?\d+(?:\.\d+)*")


def find_acquisitions(
    path: Path,
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
    _warn_of_unread(path, {item.product for item in (*found, *(damaged or ()))})
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
    items = (f for f in files_ending(path, ITEM_ENDINGS) if not _SIDECAR.fullmatch(f.name))
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
        f"{_found_instead(path)}"
    )


def _found_instead(path: Path) -> str:
    """Return which files are at a path that has no imagery, and what to do with them."""
    files = [file.lower() for _, _, names in walk(path) for file in names if file[0] != "."]
    endings = Counter(Path(file).suffix for file in files or [path.name.lower()])
    if not files and path.is_dir():
        return " It is empty."
    remedies = {
        " Unpack archives.": _PACKED,
        " Convert other rasters (gdal_translate to GeoTIFF, with the date in the name).": _RASTERS,
        " Some downloads have not ended.": _UNFINISHED,
    }
    listing = first_five([f"{n} {ending or 'without ending'}" for ending, n in endings.items()])
    fitting = (text for text, kinds in remedies.items() if not endings.keys().isdisjoint(kinds))
    return f" It has {listing}.{''.join(fitting)}"


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


def _warn_of_unread(path: Path, products: Container[Path]) -> None:
    """Warn once of archives and incomplete downloads that are not read beside the imagery."""
    unread = [
        folder / name
        for folder, subfolders, files in walk(path)
        for name in files
        if name.lower().endswith((*_PACKED, *_UNFINISHED)) and name[0] != "."
        # An archive whose content lies beside it, and one that is read.
        if name.split(".")[0] not in {subfolder.split(".")[0] for subfolder in subfolders}
        and folder / name not in products
    ]
    if unread:
        logger.warning(
            "%d files are not read: %s. If they are imagery, unpack them, or end the downloads.",
            *(len(unread), first_five([file.name for file in unread])),
        )


def _with_unique_ids(found: Sequence[Acquisition]) -> list[Acquisition]:
    """Append a number to ids that occur twice; the preferred acquisition keeps its id."""
    unique: list[Acquisition] = []
    taken: set[str] = set()
    # The sort is stable: equally preferred acquisitions keep their order.
    for item in sorted(found, key=lambda item: item.preference, reverse=True):
        name = unused_name(item.id, taken)
        unique.append(item if name == item.id else replace(item, id=name))
    return unique


def unused_name(name: str, taken: set[str]) -> str:
    """Return a name, with a number if it is taken, and take it.

    Names that differ only in case count as the same, as their files are one on some disks.
    """
    numbered = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
    unused = next(text for text in numbered if text.lower() not in taken)
    taken.add(unused.lower())
    return unused


@dataclass(frozen=True)
class Damaged:
    """A product that cannot be used, and the reason."""

    product: Path
    problem: str


def read_each(
    items: Iterable[_Item],
    read: Callable[[_Item], _Read],
    damaged: list[Damaged] | None = None,
    product: Callable[[_Item], Path] = Path,  # type: ignore[assignment]
) -> list[_Read]:
    """Read every item; report all failures in one error, or set the failed ones aside.

    Parameters
    ----------
    items
        Items to read.
    read
        Function that reads one item.
    damaged
        Items that cannot be read are appended to this list; None: they are refused.
    product
        Function that returns the product of an item. By default, the item is the product's path.

    Raises
    ------
    InputError
        If an item is refused; the message contains the first five.
    """
    found, failed = [], []
    for item in items:
        try:
            found.append(read(item))
        except UnavailableError:
            raise
        except InputError as error:
            failed.append(Damaged(product(item), str(error)))
    if damaged is None:
        refuse_damaged(failed, len(found) + len(failed))
    else:
        damaged += failed
    return found


@contextmanager
def setting_aside(name: str, unreadable: dict[str, str] | None) -> Iterator[None]:
    """Note an acquisition whose pixels cannot be read, {name: problem}, or refuse it (None).

    Raises
    ------
    InputError
        If it is refused, or if nothing can be read now.
    """
    try:
        yield
    except UnavailableError:
        raise
    except InputError as error:
        if unreadable is None:
            raise InputError(f"{error}\n{SET_ASIDE}") from error
        unreadable[name] = str(error)


def refuse_damaged(damaged: Sequence[Damaged], total: int) -> None:
    """Raise one error about all products that cannot be used, if there are any."""
    if damaged:
        text = f"{len(damaged)} of {total} acquisitions cannot be read:\n  "
        problems = first_five([item.problem for item in damaged], "\n  ")
        remedy = f"\n{SET_ASIDE}" if len(damaged) < total else ""
        raise InputError((text if total > 1 else "") + problems + remedy)


def refuse_two_levels(level_2a: Sequence[Path], level_1c: Sequence[Path]) -> None:
    """Raise an error if there are products of both levels: their reflectances differ."""
    if level_2a and level_1c:
        raise InputError(
            f"{len(level_2a)} products of level 2A are mixed with {len(level_1c)} of level 1C, "
            "whose reflectances differ: keep one level. "
            f"Level 1C: {first_five([str(path) for path in level_1c])}."
        )


def walk(path: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield a folder and all its subfolders, with the sorted names of their folders and files.

    Hidden folders are left out, and files that are none: links to nothing, pipes and devices (see
    `unreadable_files`). Links are followed, but no folder is entered twice, so a link to a parent
    folder does not cause an endless loop. Names that the caller removes from the list of folders
    are not entered.
    """
    entered: set[tuple[int, int]] = set()
    waiting = [str(path)] if path.is_dir() else []
    while waiting:
        folder = waiting.pop()
        state = os.stat(folder)  # noqa: PTH116 (3 times as fast, for ten thousand folders)
        if (state.st_dev, state.st_ino) in entered:
            continue
        entered.add((state.st_dev, state.st_ino))
        subfolders, files = _list_folder(folder)
        yield Path(folder), subfolders, files
        waiting += (os.path.join(folder, name) for name in reversed(subfolders))  # noqa: PTH118


def _list_folder(folder: str) -> tuple[list[str], list[str]]:
    """Return the sorted names of the visible folders and of the files in a folder."""
    subfolders: list[str] = []
    files: list[str] = []
    # The entries know their types, without a call for each file. An unreadable folder is left out.
    with suppress(PermissionError), os.scandir(folder) as entries:
        for entry in entries:
            if _is_folder(entry):
                if not entry.name.startswith("."):
                    subfolders.append(entry.name)
            elif _is_file(entry):
                files.append(entry.name)
    return sorted(subfolders), sorted(files)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder, or a link to one; a link to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a regular file, or a link to one."""
    try:
        return entry.is_file()
    except OSError:
        return False


def unreadable_files(path: Path, format: Format) -> Iterator[Damaged]:  # noqa: A002
    """Yield what has the name of imagery in a folder, but is not a file: broken links, pipes."""
    for folder, _, _ in walk(path):
        with suppress(PermissionError), os.scandir(folder) as entries:
            names = sorted(e.name for e in entries if not _is_folder(e) and not _is_file(e))
            for name in names:
                is_item = format == "stac" and name.lower().endswith(ITEM_ENDINGS)
                if is_item or _IMAGERY.fullmatch(name) or _IN_ZARR.fullmatch(name):
                    file = folder / name
                    target = f"a link to {file.readlink()}, which" if file.is_symlink() else ""
                    found = f"{target} does not exist" if target else "a pipe or a device"
                    problem = f"{file} is {found}: correct or remove it."
                    yield Damaged(file, problem)


def files_ending(path: Path, endings: tuple[str, ...]) -> Iterator[Path]:
    """Yield the files with one of the endings: the path itself, or those in the folder, sorted."""
    candidates = sorted(path.iterdir()) if path.is_dir() else [path]
    for file in candidates:
        if file.suffix.lower() in endings and not file.name.startswith(".") and file.is_file():
            yield file


def image_files(path: Path) -> list[Path]:
    """Return images: the path itself, those in the folder, or else those in its subfolders.

    If there are GeoTIFFs, JPEG 2000 files are ignored.
    """
    for endings in (TIFF_ENDINGS, _JP2_ENDINGS):
        if files := list(files_ending(path, endings)):
            return files
    below = images_below(path)
    return [file for file in below if file.suffix.lower() in TIFF_ENDINGS] or below


def images_below(path: Path) -> list[Path]:
    """Return the GeoTIFFs and JPEG 2000 files in a folder and its subfolders."""
    return [file for folder, _, _ in walk(path) for file in files_ending(folder, IMAGE_ENDINGS)]


def stack_files(path: Path) -> list[Path]:
    """Return NetCDF files and Zarr folders: the path itself, or those at any depth, sorted.

    EOPF products are found at any depth. Other stacks contain the times of one scene: if the
    folder itself contains some, subfolders are ignored.
    """
    if not path.is_dir():
        return list(files_ending(path, _NETCDF_ENDINGS))
    found: list[Path] = []
    for folder, subfolders, files in walk(path):
        if not _ZARR_ROOT.isdisjoint(files):
            found.append(folder)
            subfolders.clear()
            continue
        found += files_ending(folder, _NETCDF_ENDINGS)
    direct = [file for file in found if file.parent == path]
    return sorted(found if all(map(is_eopf, direct)) else direct)


def theia_folders(path: Path) -> list[Path]:
    """Return the THEIA products at a path, at any depth, sorted."""
    found = []
    for folder, subfolders, files in walk(path):
        if any(map(_THEIA_METADATA.fullmatch, files)):
            found.append(folder)
            subfolders.clear()
    return sorted(found)


def is_eopf(path: Path) -> bool:
    """Return whether a Zarr folder is a Sentinel-2 product of EOPF."""
    return (path / "measurements" / "reflectance").is_dir()


def watched_files(path: Path, format: Format = "auto") -> list[str]:  # noqa: A002
    """Return the files at a path, at any depth, whose change may change the acquisitions.

    Parameters
    ----------
    path
        As in `find_acquisitions`.
    format
        If "auto", JSON files are watched only if there is no other imagery.
    """
    if not path.is_dir():
        if path.suffix.lower() in IMAGE_ENDINGS:  # files beside it may contain its other bands
            return list(map(str, files_ending(path.parent, IMAGE_ENDINGS)))
        if path.suffix.lower() not in ITEM_ENDINGS or path.stem not in ("catalog", "collection"):
            return [str(path)]
        path = path.parent  # by convention, the linked items are here
    found: list[str] = []
    sidecars: list[str] = []
    items: list[str] = []
    for folder, subfolders, files in walk(path):
        if not _ZARR_ROOT.isdisjoint(files):
            for below, _, names in walk(folder):
                found += (str(below / name) for name in names if _IN_ZARR.fullmatch(name))
            subfolders.clear()
            continue
        # As text, not as Path: a thousand products have a hundred thousand files, and they are
        # listed at every start of Snakemake.
        for name in files:
            if name.startswith("."):
                continue
            if _READ.fullmatch(name) and not NOT_A_BAND.search(name):
                found.append(f"{folder}/{name}")
            elif _SIDECAR.fullmatch(name):
                sidecars.append(f"{folder}/{name}")
            elif name.lower().endswith(ITEM_ENDINGS):
                items.append(f"{folder}/{name}")
    if format == "stac" or (format == "auto" and not found):
        found += items
    return found + sidecars


def one_product(path: Path, format: Format = "auto") -> Path | None:  # noqa: A002
    """Return one product, GeoTIFF or stack of the imagery, to look at before all are read."""
    first = next(iter(watched_files(path, format)), None)
    if first is None:
        return None
    file = Path(first)
    if any(_THEIA_METADATA.fullmatch(other.name) for other in file.parent.iterdir()):
        return file.parent
    if file.suffix.lower() in (*IMAGE_ENDINGS, *_NETCDF_ENDINGS, ".zip"):
        return file
    roots = [p for p in file.parents if not _ZARR_ROOT.isdisjoint(os.listdir(p))]  # noqa: PTH208
    return roots[-1] if roots else file.parent


def digest_of(files: Iterable[Path | str]) -> str:
    """Return a digest of the names, sizes and times of files; it changes if one is replaced.

    Times are compared to the nanosecond, so a file that is replaced by an older one is noticed,
    too. A file that does not exist is included by its name.
    """
    digest = hashlib.sha256()
    for file in sorted(map(str, files)):
        try:
            state = os.stat(file)  # noqa: PTH116 (as in `walk`)
            line = f"{file}\0{state.st_size}\0{state.st_mtime_ns}\n"
        except FileNotFoundError:
            line = f"{file}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def digests(acquisitions: Iterable[Acquisition]) -> dict[str, str]:
    """Return, by id, the digest of the local files of an acquisition's bands and masks.

    For a Zarr stack, these are the chunks that contain the acquisition's time: a time that is
    added does not change the digests of the others.
    """
    from geo.imagery.array_reading import ChunkFiles

    chunks = ChunkFiles()

    def files_of(band: Band) -> list[Path]:
        if band.is_remote:
            return []
        path = local_file(band.source)
        if not isinstance(band.layer, Plane) or not path.is_dir():
            return [path]
        return chunks.of(path, band.layer)

    found: dict[str, str] = {}
    for item in acquisitions:
        layers = (*item.bands.values(), *item.masks.values())
        found[item.id] = digest_of({file for layer in layers for file in files_of(layer)})
    return found
