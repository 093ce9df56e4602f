"""provenance.json: what a run was made from and with, and the digest of each of its files."""

from __future__ import annotations

import csv
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from geo.errors import InputError
from geo.imagery.imagery_files import walk
from pipeline.provenance.digests import FileState, digest_all
from pipeline.provenance.inputs import Input
from pipeline.workflow.artefacts import read_json
from pipeline.workflow.config import read_record
from pipeline.workflow.paths import RunPaths
from pipeline.workflow.software import environment, environment_of
from pipeline.workflow.writing import json_lines, write_text

logger = logging.getLogger(__name__)

# Folders of a run that contain no results: logs, the states of trainings, and what commands write
# after the run.
_NO_ARTEFACTS = re.compile(
    r"(?:logs|benchmarks|inspect|mlflow|training_state.*|tensorboard.*|report/cards)"
)


@dataclass(frozen=True)
class Provenance:
    """What a run was made from and with.

    Attributes
    ----------
    run
        Folder of the run as its rules named it, results/<run>.
    written
        Time at which this was written, ISO 8601 in UTC.
    simulated
        Whether the scene is simulated, so that its scores say nothing about real crops.
    environments
        Software and machine of the jobs, see `pipeline.workflow.software`; those that do not
        contradict each other are one.
    jobs
        {job: {"start", "end", "seconds", "max_memory_mb", "environment"}}. The last is the index of
        its environment, or None if the job left none, such as one of an earlier version.
    seeds
        {setting: seed}.
    settings
        The settings that the stages used, by section.
    notes
        Settings that were not the same in all jobs, and jobs without a record of their settings.
    inputs
        The inputs.
    artefacts
        {path below the folder of the run: state} of all files that are results.
    """

    run: str
    written: str
    simulated: bool
    environments: list[dict[str, Any]]
    jobs: dict[str, dict[str, Any]]
    seeds: dict[str, int]
    settings: dict[str, Any]
    notes: list[str]
    inputs: list[Input]
    artefacts: dict[str, FileState]

    def write(self, path: Path) -> None:
        """Write it as JSON; inputs, jobs and artefacts have one line each."""
        inputs = [one.to_json() for one in self.inputs]
        artefacts = {name: state.to_json() for name, state in self.artefacts.items()}
        values = vars(self) | {"inputs": inputs, "artefacts": artefacts}
        lined = {"inputs", "jobs", "artefacts"}
        parts = (
            f"{json.dumps(key)}: "
            + (json_lines(value) if key in lined else json.dumps(value, indent=1))
            for key, value in values.items()
        )
        write_text(path, "{\n" + ",\n".join(map(str.rstrip, parts)) + "\n}\n")

    @classmethod
    def read(cls, path: Path) -> Provenance:
        """Read back what `write` wrote.

        Raises
        ------
        InputError
            If the file is missing or was not written by `write`.
        """
        return read_json(path, cls._from_json, "the provenance of a run")

    @classmethod
    def _from_json(cls, values: Mapping[str, Any]) -> Provenance:
        inputs = list(map(Input.from_json, values["inputs"]))
        artefacts = {name: FileState(**state) for name, state in values["artefacts"].items()}
        return cls(**dict(values) | {"inputs": inputs, "artefacts": artefacts})


def describe_run(
    paths: RunPaths, inputs: list[Input], records: Sequence[Path], threads: int
) -> Provenance:
    """Describe a finished run.

    Parameters
    ----------
    paths
        The run.
    inputs
        Its inputs.
    records
        Settings of the stages, which their jobs wrote.
    threads
        Number of files that are digested at a time.
    """
    record = read_record(records)
    environments, jobs = _jobs(paths)
    description = paths.dataset.description
    return Provenance(
        run=str(paths.root),
        written=_iso(datetime.now(UTC)),
        simulated=bool(read_json(description, dict).get("simulated")),
        environments=environments,
        jobs=jobs,
        seeds=dict(_seeds(record.values)),
        settings=record.values,
        notes=record.notes,
        inputs=inputs,
        artefacts=_digest_artefacts(paths, inputs, threads),
    )


def _digest_artefacts(
    paths: RunPaths, inputs: Sequence[Input], threads: int
) -> dict[str, FileState]:
    """Digest the results of a run. A file with the size and time of the last time is not read."""
    others = {Path(one.path) for one in inputs} | {paths.provenance}
    files = [path for path in _artefacts(paths.root) if path not in others]
    names = [path.relative_to(paths.root).as_posix() for path in files]
    earlier = _earlier(paths.provenance)
    known = {
        name: earlier[name]
        for name, path in zip(names, files, strict=True)
        if name in earlier and earlier[name].is_untouched(path)
    }
    new = [(n, path) for n, path in zip(names, files, strict=True) if n not in known]
    states = digest_all([(path, False) for _, path in new], threads)
    found = known | dict(zip((name for name, _ in new), states, strict=True))
    logger.info("%d files: %d new or changed, digested", len(files), len(new))
    return {name: found[name] for name in names}


def _artefacts(root: Path) -> Iterator[Path]:
    """Yield the files of a run that are results, sorted by folder."""
    for folder, subfolders, files in walk(root):
        below = folder.relative_to(root)
        subfolders[:] = [
            name for name in subfolders if not _NO_ARTEFACTS.fullmatch((below / name).as_posix())
        ]
        yield from (folder / name for name in files if not name.startswith("."))


def _earlier(path: Path) -> dict[str, FileState]:
    """Return the states of the files when provenance.json was written before, if it was."""
    try:
        return Provenance.read(path).artefacts if path.is_file() else {}
    except InputError as error:
        logger.warning("%s All files are digested again.", error)
        return {}


def _jobs(paths: RunPaths) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Return the environments and the jobs of a run, in order of their start."""
    environments: list[dict[str, Any]] = []
    jobs: dict[str, dict[str, Any]] = {}
    for path in sorted(paths.benchmarks.rglob("*.tsv")):
        name = path.relative_to(paths.benchmarks).with_suffix("").as_posix()
        file = environment_of(paths.log(name))
        own = read_json(file, dict) if file.is_file() else None
        jobs[name] = _times(path) | {
            "environment": None if own is None else _add_environment(environments, own)
        }
    jobs = dict(sorted(jobs.items(), key=lambda job: job[1]["start"]))
    # The job that writes this has not ended, and Snakemake has not measured it.
    _add_environment(environments, environment())
    return environments, jobs


def _times(path: Path) -> dict[str, Any]:
    """Return start, end, duration and memory of a job from Snakemake's benchmark file."""
    with path.open(encoding="utf-8", newline="") as file:
        row = next(csv.DictReader(file, delimiter="\t"))
    seconds, memory = float(row["s"]), row["max_rss"]
    end = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return {
        "start": _iso(end - timedelta(seconds=seconds)),
        "end": _iso(end),
        "seconds": seconds,
        # A job can end before its memory is measured.
        "max_memory_mb": float(memory) if re.fullmatch(r"[\d.]+", memory) else None,
    }


def _add_environment(known: list[dict[str, Any]], own: dict[str, Any]) -> int:
    """Return the index of an environment; add it if it contradicts those that are known.

    A process that has not loaded GDAL does not state its version.
    """
    for index, one in enumerate(known):
        both = one["packages"].keys() & own["packages"].keys()
        others = {key for key in own if key != "packages"}
        if all(one[key] == own[key] for key in others) and all(
            one["packages"][name] == own["packages"][name] for name in both
        ):
            one["packages"] |= own["packages"]
            return index
    known.append(own)
    return len(known) - 1


def _seeds(settings: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield the seeds among the settings."""
    for section, values in settings.items():
        if isinstance(values, dict) and "seed" in values:
            yield f"{section}.seed", values["seed"]


def _iso(time: datetime) -> str:
    return time.isoformat(timespec="seconds").replace("+00:00", "Z")
