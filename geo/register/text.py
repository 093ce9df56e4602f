"""Text in any encoding: decoded where the encoding is stated or certain, otherwise asked for.

Text that is valid UTF-8 is UTF-8: in other encodings, the same bytes are no words. Encodings of one
byte per letter, such as Windows-1252 and Windows-1250, cannot be told from each other.
"""

from __future__ import annotations

import codecs
import logging
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from geo.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

SETTING = "parcels.encoding"
# Every byte is a letter: text that was decoded by it can be encoded to its bytes again.
RAW = "iso8859-1"
# Byte order marks; that of UTF-32 begins with that of UTF-16.
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Encodings to suggest, with the text as it would be read.
SUGGESTED = {
    "cp1252": "Western Europe",
    "cp1250": "Central Europe",
    "cp1251": "Cyrillic",
}

# The code page of the Windows that wrote a table. Mostly it is that of Western Europe.
ANSI = 0x57
# Language driver of a dBASE table (byte 29), as GDAL knows them.
LANGUAGE_DRIVERS = (
    {0x01: 437, 0x02: 850, 0x03: 1252, 0x08: 865, 0x0D: 437, 0x13: 932, 0x4D: 936, 0x4E: 949}
    | {0x4F: 950, 0x50: 874, 0x58: 1252, 0x59: 1252, 0x64: 852, 0x65: 866, 0x66: 865, 0x67: 861}
    | {0x6A: 737, 0x6B: 857, 0x78: 950, 0x79: 949, 0x7A: 936, 0x7B: 932, 0x7C: 874, 0x7D: 1255}
    | {0x7E: 1256, ANSI: 1252, 0xC8: 1250, 0xC9: 1251, 0xCA: 1254, 0xCB: 1253, 0xCC: 1257}
)


def decode_document(content: bytes, encoding: str | None) -> str | None:
    """Decode a whole document by its byte order mark, as UTF-8, or by an encoding.

    Parameters
    ----------
    content
        Bytes of the document.
    encoding
        Encoding of a document that has no mark and is not UTF-8; None if it is not known.

    Returns
    -------
    The text without a byte order mark; None if it cannot be decoded.
    """
    marked = next((name for mark, name in MARKS.items() if content.startswith(mark)), None)
    candidates = [marked] if marked else ["utf-8", encoding]
    if marked is None and b"\0" in content:
        # UTF-16 without a mark: half of the bytes of plain text are 0.
        high = content[1::2].count(0) > content[::2].count(0)
        candidates = ["utf-16-le" if high else "utf-16-be"]
    return _decode(content, [name for name in candidates if name])


def stated_encoding(code_page: str | None, language_driver: int) -> str | None:
    """Return the encoding that a shapefile states: in its .cpg, otherwise in its table.

    Parameters
    ----------
    code_page
        Content of the .cpg file, such as "UTF-8", "1252", "ANSI 1252" or "ISO 88591"; None if
        there is none.
    language_driver
        Byte 29 of the table.

    Returns
    -------
    Name of an encoding of Python; None if none is stated, or one that Python does not have.
    """
    stated = "" if code_page is None else code_page.strip().upper()
    number = re.fullmatch(r"(?:ANSI|OEM|CP|MS|WINDOWS)?[ _-]*(\d{3,5})", stated)
    latin = re.fullmatch(r"(?:ISO)?[ _-]*8859[ _-]*(\d{1,2})", stated)
    if latin:
        stated = f"iso8859-{latin[1]}"
    elif number:
        stated = "utf-8" if number[1] == "65001" else f"cp{number[1]}"
    elif code_page is None and language_driver in LANGUAGE_DRIVERS:
        stated = f"cp{LANGUAGE_DRIVERS[language_driver]}"
    try:
        "".encode(stated or "utf-8")  # some codecs are not of text
        return codecs.lookup(stated).name if stated else None
    except (LookupError, ValueError):
        return None


class RawText:
    """Decode the text of a layer that was read as `RAW`.

    Parameters
    ----------
    place
        Path of the file, for messages.
    encoding
        The setting; None if it is not set.
    is_whole
        Whether all text has one encoding, as in a shapefile: UTF-8 if all of it is valid, otherwise
        the setting, otherwise what the file states. In other files only some values are not UTF-8,
        and the setting is theirs.
    stated
        Encoding that the file states.
    is_assumed
        Whether the file only states that it is an encoding of Windows: it is used with a warning.
    """

    def __init__(
        self,
        place: str,
        encoding: str | None,
        *,
        is_whole: bool = False,
        stated: str | None = None,
        is_assumed: bool = False,
    ) -> None:
        self._place, self._encoding, self._is_whole = place, encoding, is_whole
        self._stated, self._is_assumed, self._is_said = stated, is_assumed, False

    def names(self, fields: Iterable[Any]) -> list[str]:
        """Decode the names of columns."""
        raw = [str(field) for field in fields]
        candidates = self._candidates(raw)
        return [self._decode(name, candidates, f"column {i + 1}") for i, name in enumerate(raw)]

    def decode(self, table: pd.DataFrame, first_row: int = 0) -> None:
        """Decode the columns of text in place.

        Parameters
        ----------
        table
            Rows, with decoded names of columns.
        first_row
            Number of rows of the file before them, for messages.
        """
        odd = {}
        for name, dtype in table.dtypes.items():
            if dtype == "str":
                values = table[name].dropna()
                values = values[~values.map(str.isascii).astype(bool)]
                if len(values):
                    odd[name] = values
        candidates = self._candidates([text for values in odd.values() for text in values.unique()])
        for name, values in odd.items():
            known: dict[str, str] = {}
            for text, row in zip(values, table.index.get_indexer(values.index), strict=True):
                if text not in known:
                    at = f"row {first_row + int(row) + 1}, column {name!r}"
                    known[text] = self._decode(text, candidates, at)
            if candidates != ["utf-8"]:
                self._say_encoding(candidates[0], next(iter(known.values())))
            table.loc[values.index, name] = values.map(known)

    def _say_encoding(self, used: str, example: str) -> None:
        """Warn once if the encoding is assumed, or is not the one that the file states."""
        if self._is_said or not self._is_whole:
            return
        self._is_said = True
        if self._encoding is None and self._is_assumed:
            logger.warning(
                "%s does not state which encoding of Windows it has. It is read in %s, as %r: if "
                "that is wrong, set parcels.encoding",
                *(self._place, used, example),
            )
        if self._encoding is not None and self._stated not in (None, used):
            logger.warning(
                "%s states the encoding %s, but is read in parcels.encoding, %s, as %r",
                *(self._place, self._stated, used, example),
            )

    def _candidates(self, texts: Sequence[str]) -> list[str]:
        """Return the encodings to try, in order."""
        if not self._is_whole:
            return ["utf-8", *filter(None, [self._encoding])]
        name = self._encoding or self._stated or "utf-8"
        is_utf8 = all(_decode(text.encode(RAW), ["utf-8"]) is not None for text in texts)
        return ["utf-8" if is_utf8 and not _has_wide_letters(name) else name]

    def _decode(self, text: str, candidates: Sequence[str], at: str) -> str:
        content = text.encode(RAW)
        decoded = _decode(content, candidates)
        if decoded is None:
            raise not_decoded(self._place, at, content, candidates)
        return decoded


def not_decoded(
    place: str, at: str, content: bytes, tried: Sequence[str], setting: str | None = SETTING
) -> InputError:
    """Say which text cannot be decoded, and as what it would be read in other encodings.

    Parameters
    ----------
    place
        Path of the file.
    at
        Row and column.
    content
        The bytes of the text.
    tried
        Encodings that were tried.
    setting
        The setting of the encoding; None if there is none for this file.
    """
    read = {
        name: f"{decoded!r} in {name} ({region})"
        for name, region in SUGGESTED.items()
        if (decoded := _decode(content, [name])) is not None
    }
    hint = f" It is {', '.join(read.values())}." if read else ""
    untried = [name for name in ("utf-8", *read) if name not in tried]
    example = f", such as {untried[0]}" if untried else ""
    remedy = "Write the file in UTF-8."
    if setting is not None:
        remedy = (
            f"Set {setting} to the encoding in which it was written{example}, or write the file in "
            "UTF-8."
        )
    return InputError(
        f"{place}: {at}: {str(content)[1:]} is not text in {' or '.join(tried)}.{hint} {remedy}"
    )


def _decode(content: bytes, encodings: Sequence[str]) -> str | None:
    """Decode bytes by the first encoding in which they are text; None if there is none."""
    for name in encodings:
        try:
            return content.decode(name)
        except UnicodeDecodeError:
            continue
    return None


def _has_wide_letters(encoding: str) -> bool:
    """Return whether letters of an encoding have several bytes: then text can look like UTF-8."""
    return len("中文Жñ".encode(encoding, "replace")) > 4
