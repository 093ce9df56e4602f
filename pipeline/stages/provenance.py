"""Stage provenance: record what a run was made from and with, and the digest of each file."""

from __future__ import annotations

from pathlib import Path

from pipeline.provenance.inputs import read_inputs
from pipeline.provenance.record import describe_run
from pipeline.workflow.paths import RunPaths


def provenance(
    run: Path, inputs: Path, records: list[Path], provenance: Path, threads: int = 1
) -> None:
    """Record what a run was made from and with, so that `parcelwise verify` can check it.

    Parameters
    ----------
    run
        Folder of the run, results/<run>.
    inputs
        The inputs, which the stage inputs wrote.
    records
        Settings of the stages, which their jobs wrote.
    provenance
        Written: JSON of settings, seeds, software, machine, jobs, inputs, and size and digest of
        every file of the run but logs, states of trainings, and hidden files.
    threads
        Number of files that are digested at a time.
    """
    describe_run(RunPaths(run), read_inputs(inputs), records, threads).write(provenance)
