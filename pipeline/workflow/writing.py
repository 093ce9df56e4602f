"""Write artefacts whole or not at all: under a temporary name, then renamed."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, renamed to it once everything is written.

    The suffix is kept, as GDAL and numpy choose the format by it. If the block raises, the
    temporary file goes and what was at `path` stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`, renamed to it once everything is written.

    If the block raises, the temporary folder goes and what was at `path` stays.
    """
    with _temporary_folder(path) as temporary:
        yield temporary
        # A folder that is not empty cannot be renamed over: a kill between these two lines
        # leaves no folder, which no later run takes for a whole one.
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all; NaN and infinity are refused."""
    write_text(path, json.dumps(value, ensure_ascii=False, allow_nan=False))


def finite_or_null(values: Mapping[str, float]) -> dict[str, float | None]:
    """Return the values with None, JSON's null, for those that are not finite."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


@contextmanager
def _temporary_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside a path, which is removed in the end unless it was renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary(path: Path) -> Path:
    """Name a hidden neighbour of a path that no other process uses."""
    return path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
