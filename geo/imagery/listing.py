"""The files of imagery: what lies in a folder, whose it is, and whether it has changed.

Neither numpy nor rasterio is imported: the Snakefile watches the files that are listed here.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from geo.errors import InputError
from geo.imagery.acquisition import Acquisition, Band, Plane, first_five, local_file

_Item = TypeVar("_Item")
_Read = TypeVar("_Read")

Format = Literal["auto", "safe", "theia", "geotiff", "stack", "stac"]

TIFF_ENDINGS = (".tif", ".tiff")
IMAGE_ENDINGS = (*TIFF_ENDINGS, ".jp2")
ITEM_ENDINGS = (".json", ".geojson")
_NETCDF_ENDINGS = (".nc", ".nc4")

# What products hold besides bands: true colour, aerosol, water vapour, preview, snow probability.
NO_BAND = re.compile(r"(?:^|[-_. ])(TCI|AOT|WVP|PVI|SNWPRB)(?=[-_. ]|$)", re.IGNORECASE)

# What readers look into: images, stacks, archives, and the metadata of SAFE and of THEIA. The notes
# of GDAL beside either (.aux.xml) are not among them, nor are most of the masks of SAFE.
_READ = re.compile(
    r"(?!MSK_(?!CLDPRB|CLASSI)).*\.(?:tiff?|jp2|nc4?|zip)|manifest\.safe|.*MTD.*(?<!\.aux)\.xml",
    re.IGNORECASE,
)
_THEIA_METADATA = re.compile(r"SENTINEL2\w_.*_L2A_.*_MTD_ALL\.xml", re.IGNORECASE)
_ZARR_ROOT = frozenset({"zarr.json", ".zgroup", ".zmetadata"})
# Metadata of versions 3 and 2, and chunks: c/0/1, c.0.1, 0.1, and c of an array without axes.
_IN_ZARR = re.compile(r"zarr\.json|\.z(?:group|array|attrs|metadata)|c|(?:c\.)?\d+(?:\.\d+)*")


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


def walk(path: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield a folder and every one below it, with the sorted names of its folders and files.

    Hidden folders are left out. Links are followed, but no folder is entered twice: a link to a
    folder above does not lead around for ever. Names that the caller removes from the list of
    folders are not entered.
    """
    entered: set[tuple[int, int]] = set()
    for folder, subfolders, files in os.walk(path, followlinks=True):
        state = os.stat(folder)  # noqa: PTH116 (a third of the time, for ten thousand folders)
        if (state.st_dev, state.st_ino) in entered:
            subfolders.clear()
            continue
        entered.add((state.st_dev, state.st_ino))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield Path(folder), subfolders, sorted(files)


def files_ending(path: Path, endings: tuple[str, ...]) -> Iterator[Path]:
    """Yield the files with one of the endings: the path itself, or those in the folder, sorted."""
    candidates = sorted(path.iterdir()) if path.is_dir() else [path]
    for file in candidates:
        if file.suffix.lower() in endings and not file.name.startswith(".") and file.is_file():
            yield file


def tiff_files(path: Path) -> list[Path]:
    """List GeoTIFFs: the path itself, or those in the folder; if it has none, those below it."""
    files = list(files_ending(path, TIFF_ENDINGS))
    if files:
        return files
    return [file for folder, _, _ in walk(path) for file in files_ending(folder, TIFF_ENDINGS)]


def stack_files(path: Path) -> list[Path]:
    """List NetCDF files and Zarr folders: the path itself, or those in it and below, sorted.

    Products of EOPF are taken at any depth. Other stacks are the times of one scene: where the
    folder itself has some, those below it are something else.
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
    """List the products of THEIA at a path and below it, sorted."""
    found = []
    for folder, subfolders, files in walk(path):
        if any(map(_THEIA_METADATA.fullmatch, files)):
            found.append(folder)
            subfolders.clear()
    return sorted(found)


def is_eopf(path: Path) -> bool:
    """Tell whether a Zarr folder is a Sentinel-2 product of EOPF."""
    return (path / "measurements" / "reflectance").is_dir()


def watched_files(path: Path, format: Format = "auto") -> list[str]:  # noqa: A002
    """List the files at a path, at any depth, whose change may change what is found there.

    Parameters
    ----------
    path
        As in `find_acquisitions`.
    format
        Of "auto", files that only STAC reads count where nothing else is there.
    """
    if not path.is_dir():
        if path.suffix.lower() in TIFF_ENDINGS:  # files beside it may hold its other bands
            return list(map(str, files_ending(path.parent, TIFF_ENDINGS)))
        if path.suffix.lower() not in ITEM_ENDINGS or path.stem not in ("catalog", "collection"):
            return [str(path)]
        path = path.parent  # where the items that it links to are, by custom
    found: list[str] = []
    items: list[str] = []
    for folder, subfolders, files in walk(path):
        if not _ZARR_ROOT.isdisjoint(files):
            found += map(str, zarr_files(folder))
            subfolders.clear()
            continue
        # Texts: a thousand products have a hundred thousand files, and this is done at every start.
        for name in files:
            if name.startswith("."):
                continue
            if _READ.fullmatch(name) and not NO_BAND.search(name):
                found.append(f"{folder}/{name}")
            elif name.lower().endswith(ITEM_ENDINGS):
                items.append(f"{folder}/{name}")
    if format == "stac" or (format == "auto" and not found):
        found += items
    return found


def zarr_files(folder: Path) -> Iterator[Path]:
    """Yield the metadata and the chunks of a Zarr store, or of a group or an array in it."""
    for below, _, files in walk(folder):
        yield from (below / name for name in files if _IN_ZARR.fullmatch(name))


def digest_of(files: Iterable[Path | str]) -> str:
    """Compute a digest of the names, sizes and times of files, which tells when one was replaced.

    The times count to the nanosecond, and older ones as well as newer ones. Files that are not
    there count by their names.
    """
    found = hashlib.sha256()
    for file in sorted(map(str, files)):
        try:
            state = os.stat(file)  # noqa: PTH116 (as in `walk`)
            line = f"{file}\0{state.st_size}\0{state.st_mtime_ns}\n"
        except FileNotFoundError:
            line = f"{file}\n"
        found.update(line.encode("utf-8", "surrogateescape"))
    return found.hexdigest()


def digests(acquisitions: Iterable[Acquisition]) -> dict[str, str]:
    """Compute, by id, the digest of the local files that an acquisition's bands and masks name.

    Of a Zarr stack these are the chunks that hold its time: one more time does not change others.
    """
    from geo.imagery.array_reading import chunks_by_place, place_of

    arrays: dict[Path, dict[tuple[int, ...], list[Path]]] = {}

    def files_of(band: Band) -> list[Path]:
        if band.is_remote:
            return []
        path = local_file(band.source)
        if not isinstance(band.layer, Plane) or not path.is_dir():
            return [path]
        array = path / band.layer.variable
        if array not in arrays:
            arrays[array] = chunks_by_place(array, band.layer)
        return arrays[array].get(place_of(array, band.layer), [])

    found: dict[str, str] = {}
    for item in acquisitions:
        layers = (*item.bands.values(), *item.masks.values())
        found[item.id] = digest_of({file for layer in layers for file in files_of(layer)})
    return found
