"""Registers in archives (zip, tar, single packed files), and text files in UTF-16.

GDAL reads most formats within zip archives. Others are unpacked into a temporary folder, and text
is written there in UTF-8.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import IO, Any, cast

from geo.documents import zip_members
from geo.errors import InputError, first_five, reading
from geo.register.fiboa import PARQUET_SUFFIXES
from geo.register.point_tables import TABLE_SUFFIXES
from geo.register.text import decode_document

# Suffixes of files that can contain parcels.
SUFFIXES = (
    *(".shp", ".gpkg", ".fgb", ".gml", ".geojson", ".json", ".geojsonl", ".kml", ".tab", ".mif"),
    *PARQUET_SUFFIXES,
    *TABLE_SUFFIXES,
)
# Files that GDAL does not read within an archive as it reads them outside.
UNPACKED_SUFFIXES = (*PARQUET_SUFFIXES, *TABLE_SUFFIXES)
# A file geodatabase is a folder.
GEODATABASE = ".gdb"
TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
# Suffixes of single packed files.
UNPACKERS: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}
JSON_SUFFIXES = (".json", ".geojson")
WIDE_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
# First bytes of archives that are not opened.
OTHERS = {b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!\x1a\x07": "RAR", b"\x28\xb5\x2f\xfd": "Zstandard"}

# Members of archives may be larger than this if they were packed by no more than `_MOST_PACKED`.
_LARGE = 2**30
_MOST_PACKED = 200

_folders: list[TemporaryDirectory[str]] = []


def unpacked(path: Path) -> Path:
    """Return the file to read: the path itself, or a copy that is unpacked, and in UTF-8.

    The copy exists until the process ends.

    Raises
    ------
    InputError
        If an archive contains several registers or none, is damaged, or of a kind that is not
        opened.
    """
    if not path.is_file():
        return path
    status = path.stat()
    return _unpacked(path, status.st_mtime_ns, status.st_size)


@cache
def _unpacked(path: Path, time_ns: int, size: int) -> Path:  # noqa: ARG001 (other files)
    with path.open("rb") as file:
        begin = file.read(8)
    for mark, kind in OTHERS.items():
        if begin.startswith(mark):
            raise InputError(
                f"{path} is a {kind} archive, which is not opened. Unpack it, and set parcels.path "
                "to the file of the parcels."
            )
    with _unpacking(path):
        if path.name.lower().endswith(TAR_ENDINGS):
            return _from_tar(path)
        if path.suffix.lower() in UNPACKERS:
            with UNPACKERS[path.suffix.lower()](path) as content:
                return _in_utf8(_copy(content, PurePosixPath(path.stem), path, _folder()))
    if zipfile.is_zipfile(path):
        found = zipped_register(path)
        if found is not None and found.suffix.lower() in UNPACKED_SUFFIXES:
            with _unpacking(path):
                return _from_zip(path, found)
    return _in_utf8(path)


def _in_utf8(path: Path) -> Path:
    """Return the path, or a copy of a text file that GDAL cannot read as it is.

    These are files in UTF-16 or UTF-32, and tables in which Excel states the separator.
    """
    is_table = path.suffix.lower() in TABLE_SUFFIXES
    with path.open("rb") as file:
        begin = file.read(8)
    is_wide = b"\0" in begin or begin.startswith(WIDE_MARKS)
    states_separator = begin.removeprefix(codecs.BOM_UTF8).lower().startswith(b"sep=")
    is_text = is_table or path.suffix.lower() in JSON_SUFFIXES
    if not ((is_text and is_wide) or (is_table and states_separator)):
        return path
    text = decode_document(path.read_bytes(), None)
    if text is None:
        return path
    if is_table:
        text = re.sub(r"^sep=.\r?\n", "", text, flags=re.IGNORECASE)
    folder = _folder()
    for beside in (path.with_suffix(".csvt"), path.with_suffix(".prj")):
        if beside.is_file():
            _copy(io.BytesIO(beside.read_bytes()), PurePosixPath(beside.name), path, folder)
    return _copy(io.BytesIO(text.encode()), PurePosixPath(path.name), path, folder)


@contextmanager
def _unpacking(path: Path) -> Iterator[None]:
    """Name an archive that cannot be unpacked."""
    remedy = "Copy it again from its source."
    try:
        with reading(path, "an archive that can be unpacked", remedy):
            yield
    except (tarfile.TarError, lzma.LZMAError) as error:
        reason = str(error).splitlines()[0].rstrip(":")
        raise InputError(
            f"{path} is not an archive that can be unpacked: {reason}. {remedy}"
        ) from error


def _from_zip(path: Path, found: PurePosixPath) -> Path:
    """Copy the register in a zip archive, with the files in its folder that belong to it."""
    folder = _folder()
    with zipfile.ZipFile(path) as archive:
        for name in names_in_zip(path):
            if _belongs_to(name, found):
                with archive.open(str(name)) as content:
                    _copy(content, name, path, folder)
    return _in_utf8(folder / path.name / _inside(found))


def _belongs_to(name: PurePosixPath, register: PurePosixPath) -> bool:
    """Return whether a member of an archive is a register, or one of the files beside it."""
    beside = name.parent == register.parent and name.name.startswith(f"{register.stem}.")
    return beside or register in (name, *name.parents)


def _from_tar(path: Path) -> Path:
    """Copy the register in a tar archive, with the files in its folder that belong to it."""
    with tarfile.open(path) as archive:
        members = {PurePosixPath(m.name): m for m in archive if m.isreg()}
        found = _register_among(list(members), path)
        if found is None:
            raise InputError(
                f"{path} contains no file of parcels, but: {first_five(members) or 'nothing'}. "
                "Unpack it, and set parcels.path to the file of the parcels."
            )
        folder = _folder()
        for name, member in members.items():
            if _belongs_to(name, found):
                with closing(cast("IO[bytes]", archive.extractfile(member))) as content:
                    _copy(content, name, path, folder)
    copied = folder / path.name / _inside(found)
    return _in_utf8(copied) if copied.is_file() else copied


def _folder() -> Path:
    """Make a temporary folder that is removed when the process ends."""
    _folders.append(TemporaryDirectory(prefix="parcelwise-"))
    return Path(_folders[-1].name)


def _inside(name: PurePosixPath) -> PurePosixPath:
    """Return a path without what leads out of its folder."""
    return PurePosixPath(*(part for part in name.parts if part not in ("/", "..")))


def _copy(content: IO[bytes], name: PurePosixPath, archive: Path, folder: Path) -> Path:
    """Copy a member to <folder>/<name of the archive>/<name>, for messages that name both."""
    path = folder / archive.name / _inside(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    limit = max(_LARGE, _MOST_PACKED * archive.stat().st_size)
    with path.open("wb") as copy:
        while part := content.read(16 * 2**20):
            copy.write(part)
            if copy.tell() > limit:
                shutil.rmtree(folder)
                raise _refuse_packed(archive, str(name), archive.stat().st_size, copy.tell())
    return path


def _refuse_packed(archive: Path, name: str, packed: int, size: int) -> InputError:
    return InputError(
        f"{archive}: {name} unpacks from {packed:,} bytes to {size:,}, more than {_MOST_PACKED} "
        "times as many. It is not a register, or unpack it yourself, if you trust it."
    )


def names_in_zip(path: Path) -> list[PurePosixPath]:
    """List the files of a zip archive, and refuse one that unpacks to much more."""
    members = zip_members(path)
    for member in members:
        if member.file_size > max(_LARGE, _MOST_PACKED * member.compress_size):
            raise _refuse_packed(path, member.filename, member.compress_size, member.file_size)
    return [PurePosixPath(member.filename) for member in members if not member.is_dir()]


def zipped_register(path: Path) -> PurePosixPath | None:
    """Return what can contain parcels in a zip archive: a file or a folder; None without any."""
    return _register_among(names_in_zip(path), path)


def is_hidden(name: PurePosixPath) -> bool:
    """Return whether a file is hidden: macOS adds such files, as __MACOSX/._parcels.shp."""
    return name.name.startswith(".")


def _register_among(names: Sequence[PurePosixPath], archive: Path) -> PurePosixPath | None:
    """Return a file, a folder of shapefiles or a file geodatabase; None without any."""
    found: dict[PurePosixPath, None] = {}
    for name in names:
        geodatabases = [f for f in (name, *name.parents) if f.suffix.lower() == GEODATABASE]
        if geodatabases and "__MACOSX" not in name.parts:
            found[geodatabases[-1]] = None
        elif name.suffix.lower() in SUFFIXES and not is_hidden(name):
            found[name] = None
    # Tables and JSON beside other files describe them.
    for described in ((*TABLE_SUFFIXES, ".json"), (".json",), ()):
        several = [name for name in found if name.suffix.lower() not in described]
        if several:
            break
    shapefiles = {(name.parent, name.suffix.lower()) for name in several}
    if len(several) > 1 and shapefiles == {(several[0].parent, ".shp")}:
        return several[0].parent
    if len(several) > 1:
        raise InputError(
            f"{archive} contains {len(several)} files: {first_five(several)}. Unpack it, and "
            "set parcels.path to the file of the parcels."
        )
    return several[0] if several else None
