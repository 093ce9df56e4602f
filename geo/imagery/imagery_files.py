"""The files of imagery: which there are in a folder, and when they change.

Neither numpy nor rasterio is imported: the Snakefile watches the files that are listed here.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from geo.formats.archives import NOT_A_BAND
from geo.imagery.acquisition import Acquisition, Plane, local_file
from geo.imagery.damaged import Damaged

if TYPE_CHECKING:
    from geo.imagery.array_reading import ChunkFiles

Format = Literal["auto", "safe", "theia", "geotiff", "stack", "stac"]

TIFF_ENDINGS = (".tif", ".tiff")
_JP2_ENDINGS = (".jp2",)
IMAGE_ENDINGS = (*TIFF_ENDINGS, *_JP2_ENDINGS)
ITEM_ENDINGS = (".json", ".geojson")
_NETCDF_ENDINGS = (".nc", ".nc4")

# Files that readers open: images, stacks, archives, and the metadata of SAFE and THEIA. GDAL's
# side-car files (.aux.xml) and most of the masks of SAFE are not among them.
_READ = re.compile(
    r"(?!MSK_(?!CLDPRB|CLASSI)).*\.(?:tiff?|jp2|nc4?|zip)|manifest\.safe|.*MTD.*(?<!\.aux)\.xml",
    re.IGNORECASE,
)
# Metadata beside images, of AWS and of Sentinel Hub; none is a STAC item.
SIDECAR = re.compile(r"(?:tileInfo|productInfo|request)\.json|(?:product_?)?metadata\.xml", re.I)
# Names of products and of files that readers open.
_IMAGERY = re.compile(
    rf"(?!\.)(?:{_READ.pattern}|.*\.(?:safe|zarr|ovr|msk|xml|tfw|wld))", re.IGNORECASE
)
_THEIA_METADATA = re.compile(r"SENTINEL2\w_.*_L2A_.*_MTD_ALL\.xml", re.IGNORECASE)
_ZARR_ROOT = frozenset({"zarr.json", ".zgroup", ".zmetadata"})
# Metadata of Zarr versions 3 and 2, and chunks: c/0/1, c.0.1, 0.1, and c of an array without axes.
_IN_ZARR = re.compile(r"zarr\.json|\.z(?:group|array|attrs|metadata)|c|(?:c\.)?\d+(?:\.\d+)*")


def unused_name(name: str, taken: set[str]) -> str:
    """Return a name, with a number if it is taken, and take it.

    Names that differ only in case count as the same, as their files are one on some disks.
    """
    numbered = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
    unused = next(text for text in numbered if text.lower() not in taken)
    taken.add(unused.lower())
    return unused


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


_Listing = tuple[list[str], list[str]]
_listings: ContextVar[dict[str, _Listing] | None] = ContextVar("_listings", default=None)


@contextmanager
def listing_once() -> Iterator[None]:
    """List each folder once within the block, in which nothing may be added or removed.

    The readers of all formats look through the same folders.
    """
    token = _listings.set({})
    try:
        yield
    finally:
        _listings.reset(token)


def _list_folder(folder: str) -> _Listing:
    """Return the sorted names of the visible folders and of the files in a folder."""
    listings = _listings.get()
    if listings is None:
        return _read_folder(folder)
    if folder not in listings:
        listings[folder] = _read_folder(folder)
    subfolders, files = listings[folder]
    return list(subfolders), list(files)  # the caller may change them


def _read_folder(folder: str) -> _Listing:
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
            elif SIDECAR.fullmatch(name):
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
    return {item.id: digest_of(files_of(item, chunks)) for item in acquisitions}


def files_of(item: Acquisition, chunks: ChunkFiles) -> set[Path]:
    """Return the local files of an acquisition's bands and masks."""
    files: set[Path] = set()
    for layer in (*item.bands.values(), *item.masks.values()):
        path = local_file(layer.source)
        if isinstance(layer.layer, Plane) and path.is_dir():
            files.update(chunks.of(path, layer.layer))
        elif not layer.is_remote:
            files.add(path)
    return files
