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
    """Yield a temporary path beside `path`, which is renamed to `path` once it is written.

    Its suffix is the same, because GDAL and numpy choose the format by the suffix. If the block
    raises, the temporary file is deleted, and an earlier file at `path` stays.
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
    """Yield an empty temporary folder beside `path`, which is renamed to `path` once it is written.

    If the block raises, the temporary folder is deleted, and an earlier folder at `path` stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        # A rename cannot replace a folder that is not empty. If the process is killed between these
        # lines, there is no folder, which is safer than an incomplete one.
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all. NaN and infinity raise ValueError."""
    write_text(path, json.dumps(value, ensure_ascii=False, allow_nan=False))


def finite_or_null(values: Mapping[str, float]) -> dict[str, float | None]:
    """Replace values that are not finite by None, which is null in JSON."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _temporary(path: Path) -> Path:
    """Return a hidden path in the same folder that no other process uses."""
    return path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
