"""The files of a fold's models, as far as they can be read without torch.

A folder Fold_<k> holds `model.pth.tar`, a checkpoint in the reference's format, and `model.json`
beside it, all that is needed to use the model; `model.safetensors`, both in one file; and
`trainlog.json`. Where a fold has several members, the second one's files are `model_2.pth.tar` and
so on.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.errors import InputError
from models.model_description import ModelDescription, check_alike

WEIGHTS_FILE = "model.pth.tar"
DESCRIPTION_FILE = "model.json"
PORTABLE_FILE = "model.safetensors"
TRAINLOG_FILE = "trainlog.json"

_ZIP = b"PK\3\4"
# Start of a file of torch before 1.6, which is not an archive and has no checksums.
_BEFORE_1_6 = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def write_description(folder: Path, description: ModelDescription) -> None:
    """Write `model.json`."""
    text = json.dumps(description.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(folder / DESCRIPTION_FILE, text.encode())


def read_description(folder: Path) -> ModelDescription:
    """Read `model.json`.

    Raises
    ------
    InputError
        If it is not there, or does not say what a model expects.
    """
    path = folder / DESCRIPTION_FILE
    if not path.is_file():
        raise InputError(f"{path} is not there: it says what the model beside it expects")
    return parse_description(path.read_bytes(), path)


def parse_description(text: str | bytes, path: Path) -> ModelDescription:
    """Read back the JSON of `ModelDescription.to_json`; the path is that of its file.

    Raises
    ------
    InputError
        If it is something else.
    """
    try:
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested too deeply
            raise InputError(str(error)) from error
        return ModelDescription.from_json(values)
    except InputError as error:
        raise InputError(
            f"{path} does not describe a model: {error}. Take the file that lay beside the weights "
            "when they were trained."
        ) from None


def member_file(name: str, member: int) -> str:
    """Name a file of a fold's member: model.json is model_2.json for the second."""
    stem, dot, suffix = name.partition(".")
    return name if member == 1 else f"{stem}_{member}{dot}{suffix}"


def fold_folders(folder: Path) -> dict[int, Path]:
    """Find the folders `Fold_<k>`, in order of k; anything else beside them is ignored.

    Raises
    ------
    InputError
        If there is none, or one has no model in it.
    """
    folds = _numbered(folder)
    if not folds:
        raise InputError(f"{folder}: expected folders Fold_1, Fold_2, ...; found none")
    if missing := [path.name for path in folds.values() if not (path / WEIGHTS_FILE).is_file()]:
        raise InputError(f"{folder}: no {WEIGHTS_FILE} in {', '.join(missing[:5])}")
    return folds


def check_folds(folder: Path) -> dict[str, ModelDescription]:
    """Check that the models of all folds are whole and alike, before anything is computed.

    Returns
    -------
    dict
        {path of Fold_<k>: what its models expect}, of those of this project.

    Raises
    ------
    InputError
        If a file is missing or damaged, or the models are not of one training.
    """
    folds = list(_numbered(folder).values())
    for fold in folds:
        for file in [fold / WEIGHTS_FILE, *sorted(fold.glob(WEIGHTS_FILE.replace(".", "_*.", 1)))]:
            read_archive(file)
    described = {str(f): read_description(f) for f in folds if (f / DESCRIPTION_FILE).is_file()}
    check_alike(described)
    return described


def read_archive(path: Path) -> bytes:
    """Return the content of a file that torch.save wrote, if it is whole by its own checksums.

    torch.load ignores the checksums.

    Raises
    ------
    InputError
        If the file is not there, is something else, or differs from its checksums.
    """
    if not path.is_file():
        raise InputError(f"{path} is not there")
    content = path.read_bytes()
    if content.startswith(_ZIP):
        if reason := _damage(content):
            raise InputError(f"{path} is damaged: {reason}. Copy it again from where it came from.")
    elif not content.startswith(_BEFORE_1_6):
        raise InputError(f"{path} is not a file that torch.save wrote")
    return content


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and its folder where it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(content)
        # A rename can reach the disk before the content does, and a power cut come between.
        os.fsync(file.fileno())
    temporary.replace(path)


@contextmanager
def replacing_models(folder: Path) -> Iterator[Path]:
    """Yield an empty temporary folder, whose files take the place of a fold's models in the end.

    Files of members that the new models lack are removed; other files, such as scores, stay. If the
    block raises, nothing in `folder` changes.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        folder.mkdir(exist_ok=True)
        written = {path.name for path in temporary.iterdir()}
        for name in sorted(written):
            (temporary / name).replace(folder / name)
        for name in (WEIGHTS_FILE, PORTABLE_FILE, TRAINLOG_FILE):
            for path in folder.glob(name.replace(".", "_*.", 1)):
                if path.name not in written:
                    path.unlink()
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _numbered(folder: Path) -> dict[int, Path]:
    """Find the folders Fold_<k>: {k: folder}, in order of k."""
    numbered = {
        int(match[1]): path
        for path in folder.glob("Fold_*")
        if (match := re.fullmatch(r"Fold_(\d+)", path.name)) and path.is_dir()
    }
    return dict(sorted(numbered.items()))


def _damage(content: bytes) -> str | None:
    """Return what is wrong with an archive of torch.save; None if it is whole."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            # torch.save compresses nothing, so reading takes no more memory than the file's size.
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                return "its content is compressed, expected it as torch.save writes it"
            if sum(entry.file_size for entry in entries) > len(content):
                return "it states more content than it has"
            for entry in entries:
                archive.read(entry)  # which compares the checksum
    # What zipfile raises where a damaged field makes no sense: also for encryption, features of
    # later versions, names that are not text, and places outside the file.
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError) as error:
        return str(error)
    return None
