"""Open local and remote rasters: only GeoTIFF and JPEG 2000, and nothing that they name."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rasterio
from rasterio.errors import NotGeoreferencedWarning

from geo.documents import LARGEST_XML
from geo.errors import InputError
from geo.imagery.acquisition import is_address, local_file

# Every block is read once, so GDAL's cache needs to hold only the blocks of the current windows.
# GDAL's default is 5 % of the memory. GDAL reads this variable at its first read; a value that the
# user has set is kept.
os.environ.setdefault("GDAL_CACHEMAX", "64")  # MB
# GDAL itself never opens an address: side-car files and tags could name one. `remote` reads
# addresses.
os.environ["CPL_VSIL_CURL_ALLOWED_FILENAME"] = "none"

# A file without a place on the ground is refused by name (see `raster_header`).
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)

# The caller starts the threads, so GDAL is to start none.
_GDAL = {"GDAL_NUM_THREADS": "1"}
# JPEG 2000 and products in archives have no side-car files. To look for them, GDAL would list the
# folder at every opening.
_NO_SIDECARS = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}


class OpenRasters:
    """Open files that are kept from one window to the next; all are closed at the end.

    To open a file for every window would cost as much as to decode a small window. In GDAL, only
    one thread at a time may use an open file, so every thread gets a separate one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[str, list[Any]] = {}

    def __enter__(self) -> OpenRasters:
        return self

    def __exit__(self, *_: object) -> None:
        for rasters in self._idle.values():
            for raster in rasters:
                raster.close()

    @contextmanager
    def use(self, source: str) -> Iterator[Any]:
        """Yield an open raster to this thread; it stays open for others, unless reading fails."""
        if is_address(source):
            from geo.imagery.remote import open_raster  # not needed for local files

            # Closing it checks that everything that was read is complete.
            with open_raster(source, driver_of(source), **_GDAL) as raster:
                _check_overviews(source, raster)
                yield raster
            return
        in_archive = str(local_file(source)) != source
        options = {**_GDAL, **(_NO_SIDECARS if is_jp2(source) or in_archive else {})}
        with rasterio.Env(**options):
            with self._lock:
                idle = self._idle.setdefault(source, [])
                raster = idle.pop() if idle else None
            raster = raster or _open(source)
            try:
                yield raster
            except BaseException:
                raster.close()
                raise
            idle.append(raster)


def is_jp2(source: str) -> bool:
    """Return whether a source is JPEG 2000, by its name."""
    name = source.partition("?")[0] if is_address(source) else source
    return name.lower().endswith(".jp2")


def driver_of(source: str) -> str:
    """Return the only driver of GDAL that may open a source.

    Others, such as VRT and WMS, open further files and addresses, which their files name.
    """
    return "JP2OpenJPEG" if is_jp2(source) else "GTiff"


def _open(source: str) -> Any:
    """Open a local raster, or a member of an archive.

    Raises
    ------
    InputError
        If the file has another format, or names files from which GDAL would read overviews.
    OSError, RasterioError
        If there is no such file, or it is damaged.
    """
    file = local_file(source)
    # GDAL would also take a name for a connection, or for the content of a file.
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not a file")
    driver = driver_of(source)
    if str(file) == source:
        _check_format(file, driver)
        if driver == "GTiff":
            for side_car in (".ovr", ".msk"):
                beside = file.with_name(file.name + side_car)
                if beside.exists():
                    _check_format(beside, driver)
            _check_size(file.with_name(f"{file.name}.aux.xml"))
    raster = rasterio.open(source, driver=driver, sharing=False)
    _check_overviews(source, raster)
    return raster


# First bytes of TIFF and BigTIFF, and of JPEG 2000 as a file and as a bare codestream.
_BEGINNINGS = {
    "GTiff": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "JP2OpenJPEG": (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
}
_FORMATS = {"GTiff": "GeoTIFF", "JP2OpenJPEG": "JPEG 2000"}


def _check_format(file: Path, driver: str) -> None:
    """Check by its first bytes that a file has the format of a driver; an empty file is damaged."""
    with file.open("rb") as content:
        begin = content.read(12)
    if begin and not begin.startswith(_BEGINNINGS[driver]):
        raise InputError(
            f"{file} cannot be opened as {_FORMATS[driver]}: it begins with {begin!r}. Download it "
            "again. Other formats, such as VRT, can name further files and addresses and are not "
            "opened: write the pixels into a GeoTIFF with gdal_translate."
        )


def _check_size(side_car: Path) -> None:
    """Check that a side-car file of metadata is small: GDAL reads it at every opening."""
    if side_car.is_file() and side_car.stat().st_size > LARGEST_XML:
        raise InputError(
            f"{side_car} has {side_car.stat().st_size:,} bytes, at most {LARGEST_XML:,} are read. "
            "Remove it: GDAL writes it again."
        )


def _check_overviews(source: str, raster: Any) -> None:
    """Check that no tag names another file, from which GDAL would read overviews."""
    named = raster.tags(ns="OVERVIEWS").get("OVERVIEW_FILE")
    if named is not None:
        raise InputError(
            f"{source} takes its overviews from {named} (OVERVIEW_FILE in its tags or its "
            ".aux.xml), which is not opened: remove the tag, or write the file again with "
            "gdal_translate."
        )


DAMAGED = "The file is damaged or incomplete: download or copy it again."
