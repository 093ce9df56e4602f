"""Files that are no imagery that can be read: packed, of other formats, and incomplete."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Container
from pathlib import Path

from geo.imagery.acquisition import first_five
from geo.imagery.imagery_files import walk

logger = logging.getLogger(__name__)

_PACKED = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
_RASTERS = (".img", ".dim", ".vrt", ".hdf", ".h5", ".he5", ".bil", ".bsq", ".dat", ".grib")
_UNFINISHED = (".part", ".crdownload", ".partial", ".download", ".tmp", ".aria2")


def found_instead(path: Path) -> str:
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


def warn_of_unread(path: Path, products: Container[Path]) -> None:
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
