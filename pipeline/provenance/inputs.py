"""The inputs of a run, as the stage `inputs` writes them: path, size, time and digest of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, TypeAdapter

from geo.imagery.acquisition import is_address, local_file, read_item
from pipeline.provenance.digests import FileState, digest_all
from pipeline.workflow.artefacts import read_typed
from pipeline.workflow.writing import json_lines, write_text

# What an input is. Files of these kinds are digested by samples, all others as a whole.
SAMPLED = {"imagery", "cloud masks", "pixels"}


class Input(BaseModel):
    """One input: a file, a folder, or an address."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    role: str
    """what it is: register, imagery, ..."""

    path: str
    """path as in the settings, or address without its query, which may contain a signature"""

    state: FileState | None = None
    """size, time and digest; None for an address"""

    @property
    def is_sampled(self) -> bool:
        """Whether only samples of a large file were digested."""
        return self.role in SAMPLED


_INPUTS = TypeAdapter(list[Input])


def imagery_sources(items: Iterable[Path]) -> list[str]:
    """Return the files and addresses that the items of acquisitions name, each once.

    Parameters
    ----------
    items
        STAC items that the stage index wrote, of the acquisitions that are used.
    """
    found: dict[str, None] = {}
    for path in items:
        item = read_item(path)
        for layer in (*item.bands.values(), *item.masks.values()):
            source = layer.source
            found[_unsigned(source) if is_address(source) else str(local_file(source))] = None
    return list(found)


def _unsigned(address: str) -> str:
    """Return an address without user, query and fragment, which may contain credentials."""
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def digest_inputs(named: Sequence[tuple[str, str]], threads: int) -> list[Input]:
    """Digest inputs.

    Parameters
    ----------
    named
        (role, path or address) of each.
    threads
        Number of files that are read at a time.
    """
    local = [(role, path) for role, path in named if not is_address(path)]
    states = digest_all([(Path(path), role in SAMPLED) for role, path in local], threads)
    found = dict(zip(local, states, strict=True))
    return [Input(role=role, path=path, state=found.get((role, path))) for role, path in named]


def write_inputs(path: Path, inputs: Iterable[Input]) -> None:
    """Write inputs as a JSON list, one of them a line."""
    write_text(path, json_lines(_INPUTS.dump_python(list(inputs), exclude_none=True)))


def read_inputs(path: Path) -> list[Input]:
    """Read back what `write_inputs` wrote.

    Raises
    ------
    InputError
        If the file is missing or does not list inputs.
    """
    return read_typed(path, list[Input], "a list of inputs")
