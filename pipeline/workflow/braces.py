"""Paths with braces on their way through Snakemake, which takes braces in a text for wildcards."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def escaped(text: object) -> str:
    """Double the braces of a text that Snakemake formats."""
    return str(text).replace("{", "{{").replace("}", "}}")


def verbatim(value: Any) -> Callable[[Any], Any]:
    """Return a value as a function of wildcards: a parameter that Snakemake takes as it is."""
    return lambda wildcards: value  # noqa: ARG005 (Snakemake calls it by this name)


def without_braces(paths: Iterable[Path | str]) -> list[Path | str]:
    """Return the files that Snakemake can watch: those without braces."""
    return [path for path in paths if "{" not in str(path)]


def states_of_others(paths: Iterable[Path | str]) -> list[list[str | int]]:
    """Return path, size and time (ns) of the other files, a parameter that triggers reruns."""
    states: list[list[str | int]] = []
    for path in map(Path, paths):
        if "{" in str(path) and path.exists():
            stat = path.stat()
            states.append([str(path), stat.st_size, stat.st_mtime_ns])
    return states
