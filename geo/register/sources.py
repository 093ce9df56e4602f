"""The sources of a register that GDAL may open: files and archives, and nothing that they name.

GDAL has drivers that follow a file to other files, addresses and databases (VRT, WFS, ...). Only
the drivers of files that contain their parcels are kept, for the whole process.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from tempfile import NamedTemporaryFile
from typing import IO

import pyogrio
from pyogrio._ogr import _register_drivers

from geo.documents import open_member, zip_members
from geo.errors import InputError
from geo.register import archives
from geo.register.views import check_views

# MEM is for what is written; the others contain outlines, and open no further file or address.
DRIVERS = frozenset(
    (
        *("GPKG", "ESRI Shapefile", "FlatGeobuf", "GML", "OpenFileGDB", "MapInfo File"),
        *("GeoJSON", "GeoJSONSeq", "ESRIJSON", "TopoJSON", "KML", "LIBKML", "CSV", "MEM"),
    )
)
# The key "crs" of GeoJSON, also with letters written as \\u0063. Its object is a few words long.
_CRS = re.compile(rb'"(?:c|\\u0063)(?:r|\\u0072)(?:s|\\u0073)"')
_CRS_LETTERS = (b'crs"', b"\\u0063", b"\\u0072", b"\\u0073")
_LONGEST_CRS = 65_536
_PART = 4 * 2**20

_SQLITE = b"SQLite format 3\0"


def _keep_drivers() -> None:
    """Remove all drivers from pyogrio's GDAL that are not in `DRIVERS`."""
    others = sorted(set(pyogrio.list_drivers()) - DRIVERS)
    pyogrio.set_gdal_config_options({"OGR_SKIP": ",".join(others)})
    _register_drivers()  # GDAL reads the option whenever it registers its drivers


_keep_drivers()


def shapefile_part(path: Path, layer: str, suffix: str) -> bytes | None:
    """Read the first bytes of a file that belongs to a shapefile, in a folder or a zip archive.

    Parameters
    ----------
    path
        The .shp file, its folder, or an archive.
    layer
        Name of the shapefile.
    suffix
        "cpg" or "dbf".

    Returns
    -------
    At most 64 bytes; None if there is no such file.
    """
    wanted = f"{layer}.{suffix}".lower()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if PurePosixPath(name).name.lower() == wanted:
                    with archive.open(name) as content:
                        return content.read(64)
        return None
    for file in sorted((path if path.is_dir() else path.parent).iterdir()):
        if file.name.lower() == wanted and file.is_file():
            with file.open("rb") as content:
                return content.read(64)
    return None


def find_sources(path: Path) -> Iterator[str]:
    """Yield the sources to try: the file itself, then the register inside a zip archive.

    A folder with several shapefiles is one source, and each shapefile is a layer.

    Raises
    ------
    InputError
        If an archive contains several registers, or a file would unpack or reach beyond itself.
    """
    check_files(path)
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.suffix.lower() == ".shp":
            _check_shapefile(file)
        elif file.suffix.lower() == ".tab":
            _check_tab(file)
    if not zipfile.is_zipfile(path):
        if path.is_file():
            with path.open("rb") as content:
                _check_content(content, str(path), path)
        yield str(path)
        return
    # GDAL opens the only member of an archive whatever its name is, so the contents decide.
    for name in archives.names_in_zip(path):
        with open_member(path, str(name)) as content:
            _check_content(content, f"{path}: {name}")
    register = archives.zipped_register(path)
    # GDAL opens an archive by itself if the files are at its root.
    yield str(path)
    if register is not None:
        yield f"/vsizip/{path}/{register}"


def check_files(path: Path) -> None:
    """Check that a register, and the files that are read with it, are files: a pipe has no end."""
    # Those of the same name are read, too: the table of a shapefile, the schema of GML.
    beside = (file for file in path.parent.iterdir() if file.name.startswith(f"{path.stem}."))
    for file in sorted(path.iterdir() if path.is_dir() else beside):
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise InputError(f"{file} is a pipe or a device, expected a file.")


def check_number_of_rows(path: Path, n_rows: int) -> None:
    """Check that a file is large enough for the rows that it states, at least a byte for each."""
    if not path.is_file():
        return
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        size = sum(member.file_size for member in zip_members(path))
    if n_rows > size:
        raise InputError(
            f"{path} states {n_rows:,} rows, but has only {size:,} bytes. It is damaged: copy it "
            "again from its source."
        )


def _check_shapefile(path: Path) -> None:
    """Check that outlines and table are complete; GDAL leaves out rows of a truncated file."""
    with path.open("rb") as file:
        begin = file.read(28)
    if not begin.startswith(b"\0\0\x27\x0a"):  # GDAL says that it is not a shapefile
        return
    # ESRI Shapefile Technical Description: bytes 24 to 27, in words of two bytes.
    stated = {path: 2 * int.from_bytes(begin[24:28], "big")}
    for table in (path.with_suffix(".dbf"), path.with_suffix(".DBF")):
        if table.is_file():
            with table.open("rb") as file:
                # dBASE: number of rows, bytes before the rows, bytes of a row.
                n_rows, start, size = struct.unpack_from("<IHH", file.read(12).ljust(12, b"\0"), 4)
            stated[table] = start + n_rows * size
    for file_, n_bytes in stated.items():
        if file_.stat().st_size < n_bytes:
            raise InputError(
                f"{file_} has {file_.stat().st_size:,} bytes, by its header {n_bytes:,}. It is "
                "incomplete: copy it again from its source."
            )


def _check_tab(path: Path) -> None:
    """Check that a table of MapInfo is not a list of other tables, which GDAL would open."""
    with path.open("rb") as file:
        text = file.read(65_536).lower()
    if b"isseamless" in text or b"create view" in text or b"open table" in text:
        raise InputError(
            f"{path} lists other tables, and no file that a file names is opened. Set parcels.path "
            "to the table of the parcels, or convert it with ogr2ogr."
        )


def _check_content(content: IO[bytes], place: str, path: Path | None = None) -> None:
    """Check that a file, or a member of an archive, is neither endless nor names an address."""
    begin = content.read(1024)
    content.seek(0)
    if begin.lstrip(b"\xef\xbb\xbf\x1e \t\r\n").startswith(b"{"):
        _check_crs(content, place)
    elif begin.startswith(_SQLITE):
        if path is not None:
            check_views(path, place)
            return
        with NamedTemporaryFile() as unpacked:
            shutil.copyfileobj(content, unpacked)
            unpacked.flush()
            check_views(Path(unpacked.name), place)


def _check_crs(content: IO[bytes], place: str) -> None:
    """Check that GeoJSON does not link to its coordinate system: GDAL would fetch the address."""
    text, at_end = b"", False
    while not at_end:
        part = content.read(_PART)
        at_end = not part
        text = text[-_LONGEST_CRS:] + part
        # Searching these is much faster than the pattern.
        if any(letters in text for letters in _CRS_LETTERS):
            for key in _CRS.finditer(text):
                ahead = text[key.end() : key.end() + _LONGEST_CRS]
                # A key near the end of a part is found again in the next one.
                if (at_end or len(ahead) == _LONGEST_CRS) and _is_link(ahead):
                    raise InputError(
                        f"{place} links to its coordinate system, and no address that a file names "
                        'is opened. Write its code: "crs": {"type": "name", "properties": '
                        '{"name": "EPSG:2154"}}.'
                    )


def _is_link(behind_key: bytes) -> bool:
    """Return whether a key has a link as its value, or an object that is not understood."""
    before, colon, value = behind_key.partition(b":")
    value = value.lstrip()
    if before.strip() or not colon or (value and not value.startswith(b"{")):
        return False  # the text is not a key, or its value not an object
    try:
        crs, _ = json.JSONDecoder().raw_decode(value.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return True
    return str(crs.get("type")).lower() in ("link", "url")
