"""Check the archive that torch.save writes by its checksums, which torch.load ignores."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from models.errors import InputError

_ZIP = b"PK\3\4"
# Start of a file of torch before 1.6, which is not an archive and has no checksums.
_BEFORE_1_6 = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def read_archive(path: Path) -> bytes:
    """Return the content of a file that torch.save wrote, if it is whole.

    Raises
    ------
    InputError
        If the file is not there, is something else, or differs from its checksums.
    """
    if not path.is_file():
        raise InputError(f"{path} is not there")
    content = path.read_bytes()
    if content.startswith(_ZIP):
        try:
            _check(content)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError) as error:
            raise InputError(
                f"{path} is damaged: {error}. Copy it again from where it came from."
            ) from None
    elif not content.startswith(_BEFORE_1_6):
        raise InputError(f"{path} is not a file that torch.save wrote")
    return content


def _check(content: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        # torch.save compresses nothing, so reading takes no more memory than the file's size.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("its content is compressed, expected it as torch.save writes it")
        if sum(entry.file_size for entry in entries) > len(content):
            raise ValueError("it states more content than it has")
        for entry in entries:
            archive.read(entry)  # which compares the checksum
