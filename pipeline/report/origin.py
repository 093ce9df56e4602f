"""What the report says about the origin of a run: software, time and inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pipeline.provenance.inputs import Input, read_inputs
from pipeline.provenance.record import Environment
from pipeline.workflow.artefacts import read_typed
from pipeline.workflow.paths import RunPaths
from pipeline.workflow.software import environment_of

# Inputs that are listed; provenance.json has all of them.
SHOWN = 100


@dataclass(frozen=True)
class Origin:
    """Software, time and inputs of a run.

    Attributes
    ----------
    software
        Version and commit with which the job `predict` ran; None if it left no record.
    ended
        Time at which it ended; None if that is not known.
    inputs
        The inputs, those that are digested as a whole first.
    """

    software: str | None
    ended: datetime | None
    inputs: Sequence[Input]

    @property
    def shown(self) -> Sequence[Input]:
        """The inputs that are listed."""
        return self.inputs[:SHOWN]


def read_origin(paths: RunPaths) -> Origin:
    """Read what is known about the origin of a run; nothing of one that an earlier version made."""
    software, ended = None, None
    file = environment_of(paths.log("predict"))
    if file.is_file():
        own = read_typed(file, Environment, "software of a job")
        commit = "" if own.commit is None else f", commit {own.commit[:7]}"
        changed = ", with changed files" if own.modified else ""
        software = f"Parcelwise {own.parcelwise}{commit}{changed}"
    if (benchmark := paths.benchmark("predict")).is_file():
        ended = datetime.fromtimestamp(benchmark.stat().st_mtime, UTC)
    inputs = read_inputs(paths.inputs) if paths.inputs.is_file() else []
    return Origin(software, ended, sorted(inputs, key=lambda one: one.is_sampled))
