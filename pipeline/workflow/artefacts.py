"""Read the artefacts of a run: an error names the file, and the stage that writes it again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from geo.errors import InputError, reading
from models.errors import InputError as ModelInputError
from pipeline.workflow.paths import writer_of

T = TypeVar("T")


@contextmanager
def artefact(path: Path, expected: str) -> Iterator[None]:
    """Raise an error that names a damaged or missing artefact, and the stage to run again.

    Only the reading and parsing of the file belongs into the block, see `reading`.

    Parameters
    ----------
    path
        The file. If it is not an artefact of a run, but of a dataset or model that was made
        elsewhere, no stage is named.
    expected
        Expected content, such as "a ledger".

    Raises
    ------
    InputError
        If the file is missing or does not have the expected content.
    """
    remedy = remedy_for(path)
    try:
        with reading(path, expected, remedy):
            yield
    except ModelInputError as error:
        if writer_of(path) is None:
            raise
        raise InputError(f"{str(error).rstrip('.')}. {remedy}") from error


def remedy_for(path: Path) -> str:
    """Return a sentence about how to get a damaged file again."""
    stage = writer_of(path)
    if stage is None:
        return "Correct the file, or write it again."
    return f"Make it again: snakemake -R {stage}."


def read_json(
    path: Path, parse: Callable[[Any], T] = lambda values: values, expected: str = "valid JSON"
) -> T:
    """Read and parse a JSON file; a byte order mark is skipped.

    Parameters
    ----------
    path
        The file.
    parse
        Makes the result from the JSON; its errors are those of the file.
    expected
        Expected content, for the message.

    Raises
    ------
    InputError
        If the file is missing, is not JSON, repeats a key, or does not have the expected content.
    """
    with artefact(path, expected):
        return parse(json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=once))


def read_typed(path: Path, kind: type[T], expected: str) -> T:
    """Read a JSON file of a type of pydantic.

    Raises
    ------
    InputError
        As `read_json`; the first value of another type is named.
    """

    def parse(values: Any) -> T:
        try:
            return TypeAdapter(kind).validate_python(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from None

    return read_json(path, parse, expected)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make the object of JSON; refuse a repeated key, of which Python would use the last."""
    values = dict(pairs)
    if len(values) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"the key {counts.most_common(1)[0][0]!r} occurs more than once")
    return values
