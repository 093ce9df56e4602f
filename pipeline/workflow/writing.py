"""Write artefacts whole or not at all: text, JSON, and what `models.whole_files` offers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.whole_files import (
    flush,
    flush_folder,
    replacing,
    replacing_folder,
    sweep,
    temporary_folder,
)

__all__ = [
    "as_json",
    "finite_or_null",
    "json_lines",
    "replacing",
    "replacing_folder",
    "sweep",
    "write_changed",
    "write_json",
    "write_text",
]


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all. NaN and infinity raise ValueError."""
    write_text(path, as_json(value))


def json_lines(values: Mapping[str, Any] | Sequence[Any]) -> str:
    """Return a list, or the values of a mapping, as JSON with one value a line."""
    if isinstance(values, Mapping):
        start, end = "{", "}"
        lines = [f"{json.dumps(key)}: {as_json(value)}" for key, value in values.items()]
    else:
        start, end = "[", "]"
        lines = list(map(as_json, values))
    return "\n".join([start, ",\n".join(lines), end]) + "\n" if lines else f"{start}{end}\n"


def as_json(value: Any) -> str:
    """Return a value as JSON in one line. NaN and infinity raise ValueError."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    # The bytes of a file name that is not UTF-8 are escaped, as JSON reads them.
    return text.encode("utf-8", "backslashreplace").decode()


def finite_or_null(values: Mapping[str, float]) -> dict[str, float | None]:
    """Replace values that are not finite by None, which is null in JSON."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def write_changed(texts: Mapping[Path, str], folder: Path) -> None:
    """Write the files of a folder that are new or changed, and remove its other JSON files."""
    for path in folder.glob("*.json"):
        if path not in texts:
            path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    changed = {
        path: content
        for path, content in ((path, text.encode()) for path, text in texts.items())
        if not path.is_file() or path.read_bytes() != content
    }
    if not changed:
        return
    # All of them are flushed at once, because a flush of each of thousands takes minutes.
    with temporary_folder(folder) as temporary:
        for path, content in changed.items():
            (temporary / path.name).write_bytes(content)
        flush_folder(temporary)
        for path in changed:
            (temporary / path.name).replace(path)
    flush(folder)
