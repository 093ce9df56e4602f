"""The files of SAFE products, in folders or in zip archives that are never unpacked."""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from geo.errors import InputError
from geo.imagery.acquisition import Damaged, refuse_damaged

# MTD_MSIL2A.xml, and before December 2016 S2A_OPER_MTD_SAFL1C_PDMC_<times>.xml; what Sen2Cor wrote
# from those begins with S2A_USER. The product's level is in either.
_METADATA = re.compile(r"(?:MTD_MSI|S2\w_\w+_MTD_SAF)L(1C|2A)\w*\.xml", re.IGNORECASE)

# A RuntimeError is an encrypted member, or one packed in a way that is not known.
_DAMAGES = (ElementTree.ParseError, zipfile.BadZipFile, zlib.error, OSError, RuntimeError)

_AGAIN = "Download it again."


@dataclass(frozen=True)
class SafeFiles:
    """The files of one product.

    Names are those inside the product, with slashes: "GRANULE/L2A_T31UDS_.../MTD_TL.xml".

    Parameters
    ----------
    path
        Folder of the product, or zip archive that holds it.
    root
        Folder of the product inside its archive, with a slash at its end; empty in a folder, and
        where the archive has no folder around the product.
    metadata
        Name of the product's metadata file.
    """

    path: Path
    root: str
    metadata: str

    @property
    def level(self) -> str:
        """1C or 2A."""
        match = _METADATA.fullmatch(self.metadata)
        assert match is not None  # noqa: S101 (it was found by this pattern)
        return match[1].upper()

    @cached_property
    def is_zipped(self) -> bool:
        """Whether the product lies in an archive."""
        return self.path.is_file()

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of every file, by name."""
        if self.is_zipped:
            return {
                member.filename.removeprefix(self.root): member.file_size
                for member in _members(self.path)
                if member.filename.startswith(self.root) and not member.is_dir()
            }
        files = (file for file in self.path.rglob("*") if file.is_file())
        return {file.relative_to(self.path).as_posix(): file.stat().st_size for file in files}

    @cached_property
    def by_stem(self) -> Mapping[str, str]:
        """Names by what is left of them without folder and ending, which are unique for images."""
        images = (name for name in self.sizes if name.endswith((".jp2", ".tif")))
        return {PurePosixPath(name).stem: name for name in sorted(images)}

    @cached_property
    def listed_sizes(self) -> Mapping[str, int]:
        """Bytes that the files should have by manifest.safe, empty where there is none."""
        if "manifest.safe" not in self.sizes:
            return {}
        sizes = {}
        for stream in self.parse("manifest.safe").iter("byteStream"):
            location = stream.find("fileLocation")
            if location is not None and "href" in location.attrib and "size" in stream.attrib:
                sizes[location.attrib["href"].removeprefix("./")] = int(stream.attrib["size"])
        return sizes

    def place(self, name: str) -> str:
        """Say where a file is, for people."""
        return f"{self.path}: {self.root}{name}" if self.is_zipped else str(self.path / name)

    def source(self, name: str) -> str:
        """Name a file as GDAL does."""
        # Braces end the name of the archive, whatever its ending:
        # https://gdal.org/user/virtual_file_systems.html
        return f"/vsizip/{{{self.path}}}/{self.root}{name}" if self.is_zipped else self.place(name)

    def parse(self, name: str) -> ElementTree.Element:
        """Read an XML file.

        Raises
        ------
        InputError
            If the file is damaged.
        """
        try:
            if self.is_zipped:
                with zipfile.ZipFile(self.path) as archive:
                    content = archive.read(self.root + name)
            else:
                content = (self.path / name).read_bytes()
            return ElementTree.fromstring(content)  # noqa: S314 (the user's own product)
        except _DAMAGES as error:
            raise InputError(
                f"{self.place(name)} is damaged or incomplete ({error}). {_AGAIN}"
            ) from error


def find_products(path: Path, damaged: list[Damaged] | None = None) -> Iterator[SafeFiles]:
    """Find the products at a path and below it, whatever their folders and archives are called.

    Parameters
    ----------
    path
        Folder or archive.
    damaged
        Damaged archives and .SAFE folders without metadata are added here; None: they are refused.

    Raises
    ------
    InputError
        If a zip archive is damaged, or a .SAFE folder holds no product.
    """
    damages: list[Damaged] = []
    if path.is_file():
        yield from _products_in(path, damages)
    bare: list[Path] = []
    found: list[Path] = []
    for folder, subfolders, files in os.walk(path, followlinks=True):
        metadata = sorted(filter(_METADATA.fullmatch, files))
        if metadata:
            found.append(Path(folder))
            yield SafeFiles(found[-1], "", metadata[0])
            subfolders.clear()
            continue
        if folder.upper().endswith(".SAFE"):
            bare.append(Path(folder))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield from _products_in(Path(folder, name), damages)
    damages += [
        Damaged(folder, f"{folder} has no MTD_MSIL2A.xml or MTD_MSIL1C.xml in it. {_AGAIN}")
        for folder in bare
        # Some programs unpack X.zip to X.SAFE/X.SAFE.
        if not any(product.is_relative_to(folder) for product in found)
    ]
    if damaged is None:
        refuse_damaged(damages, len(damages))
    else:
        damaged += damages


def _products_in(archive: Path, damaged: list[Damaged]) -> Iterator[SafeFiles]:
    """Find the products in a zip archive; other files hold none."""
    if archive.suffix.lower() != ".zip":
        return
    try:
        members = _members(archive)
    except InputError as error:
        damaged.append(Damaged(archive, str(error)))
        return
    for member in members:
        name = PurePosixPath(member.filename)
        if _METADATA.fullmatch(name.name):
            yield SafeFiles(archive, member.filename.removesuffix(name.name), name.name)


def _members(archive: Path) -> list[zipfile.ZipInfo]:
    """List the members of an archive; its directory is at its end, and lost if it is cut off."""
    try:
        with zipfile.ZipFile(archive) as content:
            return content.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(
            f"{archive} is no zip archive, or was cut off ({error}). {_AGAIN}"
        ) from error
