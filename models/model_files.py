"""The files of a fold's models, without torch.

A folder Fold_<k> contains `model.pth.tar`, a checkpoint in the reference's format; `model.json`,
all else that is needed to use the model; `model.safetensors`, both in one file; and
`trainlog.json`. If a fold has several members, the files of the second one are `model_2.pth.tar`
and so on.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.errors import InputError
from models.model_description import ModelDescription, check_alike
from models.whole_files import flush, replacing, temporary_folder

WEIGHTS_FILE = "model.pth.tar"
DESCRIPTION_FILE = "model.json"
PORTABLE_FILE = "model.safetensors"
TRAINLOG_FILE = "trainlog.json"
# Written after the training; a new model needs a new one.
CALIBRATION_FILE = "calibration.json"
TRAINED_ON_FILE = "trained_on.npy"
# Beside the folders of the folds.
OUT_OF_FOLD_FILE = "out_of_fold.parquet"

_ZIP = b"PK\3\4"
# First bytes of a file of torch before 1.6, which is not a zip archive and has no checksums.
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
        If the file does not exist or does not describe a model.
    """
    path = folder / DESCRIPTION_FILE
    if not path.is_file():
        raise InputError(f"{path} is not there: it describes the model beside it")
    return parse_description(path.read_bytes(), path)


def parse_description(text: str | bytes, path: Path) -> ModelDescription:
    """Parse the JSON of `ModelDescription.to_json`; the path is for messages.

    Raises
    ------
    InputError
        If the text does not describe a model.
    """
    try:
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested too deeply
            raise InputError(str(error)) from error
        return ModelDescription.from_json(values)
    except InputError as error:
        raise InputError(
            f"{path} does not describe a model: {error}. Use the file that was written with the "
            "weights."
        ) from None


def member_file(name: str, member: int) -> str:
    """Return the name of a member's file: model.json is model_2.json for the second member."""
    stem, dot, suffix = name.partition(".")
    return name if member == 1 else f"{stem}_{member}{dot}{suffix}"


def fold_folders(folder: Path) -> dict[int, Path]:
    """Find the folders `Fold_<k>`, in order of k; other files and folders are ignored.

    Raises
    ------
    InputError
        If there is none, or one contains no model.
    """
    folds = _numbered(folder)
    if not folds:
        raise InputError(f"{folder}: expected folders Fold_1, Fold_2, ...; found none")
    if missing := [path.name for path in folds.values() if not (path / WEIGHTS_FILE).is_file()]:
        raise InputError(f"{folder}: no {WEIGHTS_FILE} in {', '.join(missing[:5])}")
    return folds


def first_description(folder: Path) -> ModelDescription | None:
    """Read the description of the first fold that has one; None if all are of the reference."""
    described = (fold for fold in _numbered(folder).values() if (fold / DESCRIPTION_FILE).is_file())
    return next(map(read_description, described), None)


def check_folds(folder: Path) -> dict[str, ModelDescription]:
    """Check, before anything is computed, that the models of all folds are complete and alike.

    Returns
    -------
    dict
        {path of Fold_<k>: description of its models}, without models of the reference.

    Raises
    ------
    InputError
        If a file is missing or damaged, or the models are from different trainings.
    """
    folds = list(_numbered(folder).values())
    for fold in folds:
        for file in [fold / WEIGHTS_FILE, *sorted(fold.glob(WEIGHTS_FILE.replace(".", "_*.", 1)))]:
            read_archive(file)
    described = {str(f): read_description(f) for f in folds if (f / DESCRIPTION_FILE).is_file()}
    check_alike(described)
    return described


def read_archive(path: Path) -> bytes:
    """Return the content of a file that torch.save wrote, after checking its checksums.

    torch.load ignores them.

    Raises
    ------
    InputError
        If the file does not exist, is another kind of file, or differs from its checksums.
    """
    if not path.is_file():
        raise InputError(f"{path} is not there")
    content = path.read_bytes()
    if content.startswith(_ZIP):
        if reason := _damage(content):
            raise InputError(f"{path} is damaged: {reason}. Copy it again from its source.")
    elif not content.startswith(_BEFORE_1_6):
        raise InputError(f"{path} is not a file that torch.save wrote")
    return content


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file completely or not at all; its folder is created if necessary."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing_models(folder: Path) -> Iterator[Path]:
    """Yield an empty temporary folder; at the end, its files replace the models of a fold.

    Files of members that the new models do not have are removed, and so is the calibration of the
    earlier models. Other files, such as scores, stay.
    If the block raises, nothing in `folder` changes.
    """
    with temporary_folder(folder) as temporary:
        yield temporary
        folder.mkdir(exist_ok=True)
        (folder / CALIBRATION_FILE).unlink(missing_ok=True)
        # Each file was flushed to the disk when it was written.
        written = {path.name for path in temporary.iterdir()}
        for name in sorted(written):
            (temporary / name).replace(folder / name)
        for name in (WEIGHTS_FILE, PORTABLE_FILE, TRAINLOG_FILE):
            for path in folder.glob(name.replace(".", "_*.", 1)):
                if path.name not in written:
                    path.unlink()
        flush(folder)


def _numbered(folder: Path) -> dict[int, Path]:
    """Find the folders Fold_<k>: {k: folder}, in order of k."""
    numbered = {
        int(match[1]): path
        for path in folder.glob("Fold_*")
        if (match := re.fullmatch(r"Fold_(\d+)", path.name)) and path.is_dir()
    }
    return dict(sorted(numbered.items()))


def _damage(content: bytes) -> str | None:
    """Return what is wrong with an archive of torch.save; None if it is intact."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            # torch.save compresses nothing, so reading takes no more memory than the file's size.
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                return "its content is compressed, which torch.save never does"
            if sum(entry.file_size for entry in entries) > len(content):
                return "its entries are larger than the file"
            for entry in entries:
                archive.read(entry)  # checks the checksum
    # Errors of zipfile for damaged fields, such as encryption flags, later versions of the format,
    # names that are not text, and offsets outside the file.
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError) as error:
        return str(error)
    return None
