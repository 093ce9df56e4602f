"""Readers of imagery, one a format: each finds acquisitions and never reads their pixels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from geo.acquisitions import AcquisitionError
from geo.readers.safe import product_folders

TIFF_ENDINGS = (".tif", ".tiff")
STACK_ENDINGS = (".nc", ".nc4")


def detect_format(path: Path) -> Literal["safe", "geotiff", "stack"]:
    """Tell the format of imagery from what lies at a path.

    Raises
    ------
    AcquisitionError
        If nothing is recognised, or more than one format is there.
    """
    found: list[Literal["safe", "geotiff", "stack"]] = []
    if product_folders(path):
        found.append("safe")
    if any(files_ending(path, TIFF_ENDINGS)):
        found.append("geotiff")
    if any(files_ending(path, STACK_ENDINGS)):
        found.append("stack")
    if len(found) == 1:
        return found[0]
    if found:
        raise AcquisitionError(
            f"{path} holds imagery of several formats: {', '.join(found)}. "
            "Name the one to read as the format, or keep one in a folder of its own."
        )
    zipped = sum(1 for _ in files_ending(path, (".zip",)))
    hint = f" There are {zipped} zip files: unpack them." if zipped else ""
    raise AcquisitionError(
        f"No imagery was recognised at {path}: neither SAFE products (MTD_MSIL2A.xml or "
        f"MTD_MSIL1C.xml inside), nor GeoTIFFs (.tif), nor a NetCDF stack (.nc).{hint}"
    )


def files_ending(path: Path, endings: tuple[str, ...]) -> Iterator[Path]:
    """Give the files with one of the endings: the path itself, or those in the folder, sorted."""
    candidates = sorted(path.iterdir()) if path.is_dir() else [path]
    for file in candidates:
        if file.suffix.lower() in endings and not file.name.startswith(".") and file.is_file():
            yield file
