"""provenance.json: what a run was made from and with, and the digest of each of its files."""

from __future__ import annotations

import csv
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, TypeAdapter

from geo.errors import InputError
from geo.imagery.imagery_files import walk
from pipeline.provenance.digests import FileState, digest_all
from pipeline.provenance.inputs import Input
from pipeline.workflow.artefacts import read_json, read_typed
from pipeline.workflow.config import read_record
from pipeline.workflow.paths import RunPaths
from pipeline.workflow.software import environment, environment_of
from pipeline.workflow.writing import json_lines, write_json, write_text

logger = logging.getLogger(__name__)

# Folders of a run that contain no results: logs, the states of trainings, and what commands write
# after the run.
_NO_ARTEFACTS = re.compile(
    r"(?:logs|benchmarks|inspect|mlflow|training_state.*|tensorboard.*|report/cards)"
)


def _is_below(path: str) -> str:
    """Check that a path lies below the folder that it is relative to."""
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise ValueError(f"{path} is not a path below the folder of the run")
    return path


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Machine(_Model):
    """The machine of a job."""

    system: str
    processor: str
    cores: int
    """usable cores"""

    memory_gb: float
    gpus: list[str]


class Environment(_Model):
    """Software and machine of jobs, see `pipeline.workflow.software`."""

    parcelwise: str
    commit: str | None
    modified: bool
    python: str
    packages: dict[str, str]
    machine: Machine


class Job(_Model):
    """One job of the workflow."""

    start: str
    """time in UTC, ISO 8601"""

    end: str
    seconds: float
    max_memory_mb: float | None
    environment: int | None
    """index among the environments; None if the job left none, such as one of an earlier version"""


class Provenance(_Model):
    """What a run was made from and with."""

    run: str
    """folder of the run as its rules named it, results/<run>"""

    written: str
    """time at which this was written, in UTC, ISO 8601"""

    simulated: bool
    """whether the scene is simulated, so that its scores say nothing about real crops"""

    environments: list[Environment]
    """those of jobs that do not contradict each other are one"""

    jobs: dict[str, Job]
    """in order of their start"""

    seeds: dict[str, int]
    """{setting: seed}"""

    settings: dict[str, Any]
    """settings that the stages used, by section"""

    notes: list[str]
    """settings that were not the same in all jobs, and jobs without a record of their settings"""

    inputs: list[Input]

    artefacts: dict[Annotated[str, AfterValidator(_is_below)], FileState]
    """{path below the folder of the run: state} of all files that are results"""

    def write(self, path: Path) -> None:
        """Write it as JSON; inputs, jobs and artefacts have one line each."""
        states = {"inputs", "artefacts"}
        values = self.model_dump(mode="json", exclude=states)
        values |= self.model_dump(mode="json", include=states, exclude_none=True)
        parts = []
        for key, value in values.items():
            is_table = key in {"jobs", *states}
            text = json_lines(value).rstrip() if is_table else json.dumps(value, indent=1)
            parts.append(f"{json.dumps(key)}: {text}")
        write_text(path, "{\n" + ",\n".join(parts) + "\n}\n")

    @classmethod
    def read(cls, path: Path) -> Provenance:
        """Read back what `write` wrote.

        Raises
        ------
        InputError
            If the file is missing or was not written by `write`.
        """
        return read_typed(path, cls, "the provenance of a run")


_STATES = TypeAdapter(dict[str, FileState])


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
    files = {
        path.relative_to(paths.root).as_posix(): path
        for path in _artefacts(paths.root)
        if path not in others
    }
    earlier = _earlier(paths.digests)
    found = {
        name: earlier[name]
        for name, path in files.items()
        if name in earlier and earlier[name].is_untouched(path)
    }
    new = [name for name in files if name not in found]
    logger.info("%d files, of which %d are new or changed and are digested", len(files), len(new))
    states = digest_all([(files[name], False) for name in new], threads)
    found |= dict(zip(new, states, strict=True))
    write_json(paths.digests, _STATES.dump_python(found, exclude_none=True))
    return {name: found[name] for name in files}


def _artefacts(root: Path) -> Iterator[Path]:
    """Yield the files of a run that are results, sorted by folder."""
    for folder, subfolders, files in walk(root):
        below = folder.relative_to(root)
        subfolders[:] = [
            name for name in subfolders if not _NO_ARTEFACTS.fullmatch((below / name).as_posix())
        ]
        yield from (folder / name for name in files if not name.startswith("."))


def _earlier(path: Path) -> dict[str, FileState]:
    """Return the states of the files when they were last digested."""
    try:
        return read_typed(path, dict[str, FileState], "states of files") if path.is_file() else {}
    except InputError as error:
        logger.warning("%s: all files are digested again", error)
        return {}


def _jobs(paths: RunPaths) -> tuple[list[Environment], dict[str, Job]]:
    """Return the environments and the jobs of a run, in order of their start."""
    environments: list[Environment] = []
    jobs: dict[str, Job] = {}
    # The job that writes this has not ended; its files are those of the time before.
    own_files = paths.benchmark("provenance")
    for path in sorted({*paths.benchmarks.rglob("*.tsv")} - {own_files}):
        name = path.relative_to(paths.benchmarks).as_posix().removesuffix(path.suffix)
        file = environment_of(paths.log(name))
        own = read_typed(file, Environment, "software of a job") if file.is_file() else None
        jobs[name] = _job(path, None if own is None else _add_environment(environments, own))
    _add_environment(environments, Environment(**environment()))
    return environments, dict(sorted(jobs.items(), key=lambda job: job[1].start))


def _job(benchmark: Path, environment: int | None) -> Job:
    """Read start, end, duration and memory of a job from Snakemake's benchmark file."""
    with benchmark.open(encoding="utf-8", newline="") as file:
        row = next(csv.DictReader(file, delimiter="\t"))
    seconds, memory = float(row["s"]), row["max_rss"]
    end = datetime.fromtimestamp(benchmark.stat().st_mtime, UTC)
    return Job(
        start=_iso(end - timedelta(seconds=seconds)),
        end=_iso(end),
        seconds=seconds,
        # A job can end before its memory is measured.
        max_memory_mb=float(memory) if re.fullmatch(r"[\d.]+", memory) else None,
        environment=environment,
    )


def _add_environment(known: list[Environment], own: Environment) -> int:
    """Return the index of an environment; add it if it contradicts those that are known.

    A process that has not loaded GDAL does not state its version.
    """
    for index, one in enumerate(known):
        union = one.packages | own.packages
        if one.model_copy(update={"packages": union}) == own.model_copy(
            update={"packages": own.packages | one.packages}
        ):
            one.packages = union
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
