"""The command verify: compare a run with its provenance.json."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from geo.errors import InputError, did_you_mean, first_five
from geo.imagery.acquisition import is_address
from pipeline.provenance.digests import WHOLE_BYTES, FileState, digest_all, size_and_time
from pipeline.provenance.inputs import Input
from pipeline.provenance.record import Provenance
from pipeline.workflow.config import flat, read_values
from pipeline.workflow.paths import RunPaths, writer_of
from pipeline.workflow.software import software

# Files that are digested before the first difference among them is told.
_TOGETHER = 256
# Their versions are known only in a process that has loaded them.
_NOT_COMPARED = {"gdal", "cuda"}


def verify(arguments: Sequence[str]) -> int:
    """Compare a run with its provenance.json, and print what does not match.

    Returns
    -------
    int
        Exit code: 0 if all that could be checked matches, otherwise 1.
    """
    parser = argparse.ArgumentParser(
        prog="parcelwise verify",
        description="Compare a run with its provenance.json: settings, files, inputs and software. "
        "The first difference is named. The exit code is 1 if there is one, otherwise 0. The "
        "folder can be a copy. Inputs that are not here are named as not checked.",
    )
    parser.add_argument("run", metavar="RUN", help="name of the run, or its folder results/RUN")
    parser.add_argument("--all", action="store_true", help="name every difference")
    options = parser.parse_args(arguments)
    found = []
    try:
        comparison = Comparison.of(options.run)
        for text in comparison.differences():
            sys.stdout.write(f"{text}\n")
            found.append(text)
            if not options.all:
                break
    except (InputError, OSError) as error:
        sys.stderr.write(f"parcelwise verify: {error}\n")
        return 1
    sys.stdout.write("\n".join(_summary(comparison, len(found), named_all=options.all)) + "\n")
    return min(len(found), 1)


def _summary(comparison: Comparison, n_found: int, *, named_all: bool) -> Iterator[str]:
    """Yield the last lines: what matches, and what was not checked."""
    recorded = comparison.recorded
    if not n_found:
        n_inputs = len(recorded.inputs) - len(comparison.absent)
        yield (
            f"{comparison.paths.root} matches its provenance.json of {recorded.written}: "
            f"settings, {len(recorded.artefacts):,} files, {n_inputs:,} inputs, and software."
        )
    else:
        number = f"{n_found} differences. " * (n_found > 1) if named_all else ""
        more = "" if named_all else "This is the first difference; --all names every one. "
        yield (
            f"{number}{more}If the workflow has made files again since {recorded.written}, finish "
            "it: `parcelwise run FILE` writes provenance.json again."
        )
    if n_found and not named_all:
        return
    yield from (f"Not checked: {what}." for what in comparison.not_checked())


@dataclass(frozen=True)
class _Compared:
    """A file or folder to compare with its recorded state."""

    name: str
    path: Path
    state: FileState
    is_sampled: bool
    is_input: bool

    @property
    def remedy(self) -> str:
        """What to do if it differs."""
        if self.is_input:
            return "Restore it, or run the workflow again."
        # Tables for people have the name of one that a stage reads.
        suffixes = (self.path.suffix, ".parquet", ".json")
        stages = (writer_of(self.path.with_suffix(suffix)) for suffix in suffixes)
        stage = next(filter(None, stages), None)
        if stage is None and self.path.parent.name == "report":
            stage = "report"
        return (
            "Run the workflow again." if stage is None else f"Make it again: snakemake -R {stage}."
        )


@dataclass(frozen=True)
class Comparison:
    """A run, and what its provenance.json says about it."""

    paths: RunPaths
    recorded: Provenance

    @classmethod
    def of(cls, run: str) -> Comparison:
        """Open a run by its folder or name.

        Raises
        ------
        InputError
            If there is none in this folder, or it has no provenance.json.
        """
        named = [RunPaths(Path(run)), RunPaths.of(run)]
        paths = next((own for own in named if own.root.is_dir()), None)
        if paths is None:
            runs = Path("results").iterdir() if Path("results").is_dir() else ()
            hint = did_you_mean(Path(run).name, (path.name for path in runs))
            raise InputError(f"There is no run {run}.{hint} Name one, or its folder results/<run>.")
        if not paths.provenance.is_file():
            raise InputError(
                f"{paths.root} has no {paths.provenance.name}, which a run writes last. Finish it: "
                "parcelwise run FILE, without a target."
            )
        return cls(paths, Provenance.read(paths.provenance))

    def differences(self) -> Iterator[str]:
        """Yield what does not match: settings, sizes, contents, and then software."""
        yield from self._settings()
        settings = set(self._records())
        files = [one for one in self._artefacts() if one.path not in settings]
        compared = [*files, *self._inputs()]
        same_size = []
        for one in compared:
            difference = _difference_of_size(one)
            if difference is None:
                same_size.append(one)
            else:
                yield difference
        # The likely ones first: files that were changed since.
        same_size.sort(key=lambda one: one.state.is_untouched(one.path))
        yield from _differences_of_content(same_size)
        yield from self._software()

    def not_checked(self) -> Iterator[str]:
        """Yield what could not be compared, in words."""
        if self.absent:
            yield f"{_number(len(self.absent), 'input')} not here, such as {self.absent[0]}"
        touched = [
            one.path
            for one in self._inputs()
            if one.is_sampled
            and one.state.bytes > WHOLE_BYTES
            and not one.state.is_untouched(one.path)
        ]
        if touched:
            yield (
                f"{_number(len(touched), 'large input')} of another time than in the run, of which "
                f"only samples were compared, such as {touched[0]}"
            )
        here = software()
        unknown = [n for n, job in self.recorded.jobs.items() if job.environment is None]
        if unknown:
            stages = dict.fromkeys(name.partition("/")[0] for name in unknown)
            yield (
                f"the software of {_number(len(unknown), 'job')} without a record of it: "
                f"{', '.join(stages)}"
            )
        then = [one.modified or one.commit is None for one in self.recorded.environments]
        if any(then) or here["modified"] or here["commit"] is None:
            where = "in the run" if any(then) else "here"
            yield f"the code itself, which {where} is not exactly that of a commit"

    @cached_property
    def absent(self) -> list[str]:
        """Paths of inputs that are not here, and addresses."""
        return [one.path for one in self.recorded.inputs if self._place_of(one) is None]

    def _artefacts(self) -> Iterator[_Compared]:
        for name, state in self.recorded.artefacts.items():
            path = self.paths.root / name
            yield _Compared(name, path, state, is_sampled=False, is_input=False)

    def _inputs(self) -> Iterator[_Compared]:
        """Yield the inputs that are here."""
        for one in self.recorded.inputs:
            place = self._place_of(one)
            if place is not None and one.state is not None:
                name = f"input {one.path} ({one.role})"
                yield _Compared(name, place, one.state, one.is_sampled, is_input=True)

    def _place_of(self, one: Input) -> Path | None:
        """Return where an input is; None if it is not here."""
        if is_address(one.path):
            return None
        path, run = Path(one.path), Path(self.recorded.run)
        if path.is_relative_to(run):  # a simulated scene
            places = [self.paths.root / path.relative_to(run)]
        else:
            # Relative to the folder that contains results/, or to the current one.
            places = [self.paths.root.absolute().parent.parent / path, path]
        return next((place for place in places if place.is_file() or place.is_dir()), None)

    def _records(self) -> list[Path]:
        """Return the files of settings."""
        root, config = self.paths.root, self.paths.config
        files = [root / name for name in self.recorded.artefacts]
        return [path for path in files if path == config or self.paths.settings in path.parents]

    def _settings(self) -> Iterator[str]:
        """Yield the files of settings that differ, with the settings."""
        recorded = dict(flat(self.recorded.settings))
        records = set(self._records())
        for one in self._artefacts():
            if one.path not in records:
                continue
            if _difference_of_size(one) is None and not [*_differences_of_content([one])]:
                continue
            found = _read_settings(one.path)
            values = [
                f"{key} is {json.dumps(value)} instead of {json.dumps(recorded[key])}"
                for key, value in found.items()
                if key in recorded and value != recorded[key]
            ]
            if values:
                yield f"{one.name} has other settings than the run: {', '.join(values)}."
            else:
                yield _difference_of_size(one) or next(_differences_of_content([one]))

    def _software(self) -> Iterator[str]:
        """Yield the versions that differ from those of the run's jobs."""
        here = software()
        for index, one in enumerate(self.recorded.environments):
            jobs = [n for n, job in self.recorded.jobs.items() if job.environment == index]
            of_jobs = f" ({first_five(jobs)})" if len(self.recorded.environments) > 1 else ""
            versions = {name: v for name, v in one.packages.items() if name not in _NOT_COMPARED}
            own = {name: here["packages"].get(name, "not installed") for name in versions}
            for name in ("parcelwise", "commit", "python"):
                if None not in (there := getattr(one, name), here[name]):
                    what = "commit of parcelwise" if name == "commit" else name
                    versions[what], own[what] = there, here[name]
            for name, version in versions.items():
                if own[name] != version:
                    yield f"{name} is {own[name]} here, and was {version} in the run{of_jobs}."


def _number(n: int, name: str) -> str:
    """Return a number of things in words."""
    return f"{n:,} {name}{'s' * (n != 1)}"


def _difference_of_size(one: _Compared) -> str | None:
    """Say that a file is missing or has another size; None if neither."""
    if not (one.path.is_file() or one.path.is_dir()):
        return f"{one.name} is missing. {one.remedy}"
    size, _, files = size_and_time(one.path)
    if (size, files) == (one.state.bytes, one.state.files):
        return None
    found, then = _size(size, files), _size(one.state.bytes, one.state.files)
    return f"{one.name} has {found}, and in the run {then}. {one.remedy}"


def _size(size: int, files: int | None) -> str:
    """Return the size of a file, or of the files of a folder, in words."""
    return _number(size, "byte") + ("" if files is None else f" in {_number(files, 'file')}")


def _differences_of_content(compared: Sequence[_Compared]) -> Iterator[str]:
    """Yield which files have another content."""
    for first in range(0, len(compared), _TOGETHER):
        together = compared[first : first + _TOGETHER]
        paths = [(one.path, one.is_sampled) for one in together]
        for one, state in zip(together, digest_all(paths, os.cpu_count() or 1), strict=True):
            if state.blake2b != one.state.blake2b:
                yield f"{one.name} has another content than in the run. {one.remedy}"


def _read_settings(path: Path) -> Mapping[str, Any]:
    """Read a file of settings as {section.name: value}; {} if it cannot be read."""
    try:
        return dict(flat(read_values([path]))) if path.is_file() else {}
    except InputError:
        return {}
