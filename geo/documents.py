"""Read what others wrote (XML, JSON, the lists of zip archives) within bounds of memory.

A small file can describe a large one: XML by entities, zip archives by compression or by long lists
of members. Every limit here is far above what products and catalogues need.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

from geo.errors import InputError, reading

# The metadata of a product are at most 1 MB. 16 MB of empty elements take 400 MB of memory.
LARGEST_XML = 16 * 2**20
# Ten thousand STAC items with their links.
LARGEST_JSON = 512 * 2**20
# A product has about 200 files, so 60 kB of names.
LARGEST_ZIP_LIST = 16 * 2**20

_AGAIN = "Download it again."


class _WithoutDoctype(ElementTree.TreeBuilder):
    """Builder of elements that refuses document types: only they can declare entities."""

    def doctype(self, name: str, pubid: str, system: str) -> None:  # noqa: ARG002 (names of expat)
        raise ValueError("it declares a document type or entities, which no product does")


def parse_xml(content: bytes, place: str) -> ElementTree.Element:
    """Parse XML without entities, of at most `LARGEST_XML` bytes.

    Parameters
    ----------
    content
        The document, as `read_limited` or `read_member` returns it.
    place
        Path of the file for messages.

    Raises
    ------
    InputError
        If the document is damaged or declares a document type.
    """
    parser = ElementTree.XMLParser(target=_WithoutDoctype())  # noqa: S314 (no entities)
    try:
        # LookupError: the encoding is unknown.
        return ElementTree.fromstring(content, parser)  # noqa: S314 (no entities)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise InputError(f"{place} is damaged or incomplete ({error}). {_AGAIN}") from error


def read_limited(path: Path, limit: int) -> bytes:
    """Read a file of at most `limit` bytes.

    Raises
    ------
    InputError
        If the file is larger, or not a regular file that can be read.
    """
    try:
        if not path.is_file():  # a pipe would be waited for
            raise InputError(f"{path} is not a file. {_AGAIN}")
        with path.open("rb") as file:
            return _read(file, limit, str(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}). {_AGAIN}") from error


def read_json(path: Path, expected: str, remedy: str) -> Any:
    """Read a JSON file of at most `LARGEST_JSON` bytes; see `geo.errors.reading`."""
    content = read_limited(path, LARGEST_JSON)
    with reading(path, expected, remedy):
        return json.loads(content)


def zip_members(archive: Path) -> list[zipfile.ZipInfo]:
    """Return the members of a zip archive; its list is at the end, so truncation is noticed.

    Raises
    ------
    InputError
        If the file is not an archive, or its list of members is longer than `LARGEST_ZIP_LIST`.
    """
    try:
        if not archive.is_file():
            raise InputError(f"{archive} is not a file. {_AGAIN}")
        with archive.open("rb") as file:
            # zipfile keeps every member in memory, so the length of the list is read first.
            record = zipfile._EndRecData(file)  # type: ignore[attr-defined]
            if record is not None and record[zipfile._ECD_SIZE] > LARGEST_ZIP_LIST:  # type: ignore[attr-defined]
                raise InputError(
                    f"{archive} lists its members in {record[zipfile._ECD_SIZE]:,} bytes, "  # type: ignore[attr-defined]
                    f"at most {LARGEST_ZIP_LIST:,} are read. It is not an archive of products or "
                    "parcels: remove it, or unpack what is needed."
                )
            with zipfile.ZipFile(file) as content:
                return content.infolist()
    # The others: names that are not text, versions and fields of zip that do not exist.
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(
            f"{archive} is not a zip archive, or is truncated ({error}). {_AGAIN}"
        ) from error


def read_member(archive: Path, name: str, limit: int) -> bytes:
    """Read a member of a zip archive that unpacks to at most `limit` bytes.

    Raises
    ------
    InputError
        If it is larger, damaged or encrypted.
    """
    with open_member(archive, name) as file:
        return _read(file, limit, f"{archive}: {name}")


@contextmanager
def open_member(archive: Path, name: str) -> Iterator[IO[bytes]]:
    """Open a member of a zip archive to read it.

    Raises
    ------
    InputError
        If it is damaged or encrypted.
    """
    try:
        with zipfile.ZipFile(archive) as content, content.open(name) as file:
            yield file
    # RuntimeError: the member is encrypted, or its compression is not supported.
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, KeyError, RuntimeError) as error:
        place = f"{archive}: {name}"
        raise InputError(f"{place} is damaged or incomplete ({error}). {_AGAIN}") from error


def _read(file: IO[bytes], limit: int, place: str) -> bytes:
    """Read a whole file, but refuse one of more than `limit` bytes."""
    content: bytes = file.read(limit + 1)
    if len(content) > limit:
        raise InputError(
            f"{place} has more than {limit:,} bytes, the most that is read of such a file. It is "
            f"damaged or of another kind. {_AGAIN}"
        )
    return content
