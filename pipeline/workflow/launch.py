"""The commands run and season: check what the user wrote, then hand over to Snakemake."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from geo.cluster import SCHEDULER
from geo.errors import InputError
from models.memory import MB, room
from pipeline.workflow.config import parse_assignments, read
from pipeline.workflow.snakefile import (
    ASSIGNMENTS,
    check_folder,
    check_installation,
    check_target,
)
from pipeline.workflow.software import SOURCE

# Tried: with 700 MB, Snakemake cannot start the threads that measure jobs.
LEAST_ADDRESS_SPACE = 750 * MB


def launch(arguments: Sequence[str], target: str | None = None) -> None:
    """Check the arguments of a command, and replace this process by Snakemake's.

    Snakemake takes over the process itself, so that Ctrl-C and the exit code are its own.

    Parameters
    ----------
    arguments
        The arguments after the command.
    target
        The target of `parcelwise season`; None for `parcelwise run`, whose arguments name targets.

    Raises
    ------
    InputError
        If the settings file, a setting or a target cannot be used.
    """
    command, environment = snakemake_call(arguments, target)
    _check_address_space()
    check_folder(_folder_of(command))
    sys.stdout.flush()
    os.execve(command[0], command, {**os.environ, **environment})  # noqa: S606 (no shell is wanted)


def _check_address_space() -> None:
    """Refuse a limit of the shell under which Snakemake cannot start jobs."""
    for what, left in room().items():
        if what.startswith("address space") and left < LEAST_ADDRESS_SPACE:
            raise InputError(
                f"Not enough memory: the {what} has room for {left // MB:,} MB. Snakemake and "
                f"stages need at least {LEAST_ADDRESS_SPACE // MB:,} MB each, trainings more. "
                "Raise the limit."
            )


def _folder_of(command: Sequence[str]) -> Path:
    """Return the folder that gets results/: the last --directory, or the current one."""
    given = [command[i + 1] for i, word in enumerate(command[:-1]) if word in ("--directory", "-d")]
    return Path(given[-1]) if given else Path()


def snakemake_call(
    arguments: Sequence[str], target: str | None = None
) -> tuple[list[str], dict[str, str]]:
    """Return the command line of Snakemake, and its additional environment variables.

    Parameters are those of `launch`.

    Raises
    ------
    InputError
        As `launch`.
    """
    own, options = list(arguments), []
    if "--" in own:
        separator = own.index("--")
        own, options = own[:separator], own[separator + 1 :]
    parsed = _parse(own, target)
    words = list(parsed.words)
    file = next((word for word in words if "=" not in word or Path(word).is_file()), words[0])
    words.remove(file)
    assignments = [word for word in words if "=" in word]
    targets = [*([target] if target else []), *(word for word in words if "=" not in word)]
    settings = read(Path(file), assignments=assignments)
    check_installation(SOURCE)
    for name in targets:
        check_target(name, settings)
    if settings.dask.scheduler is not None:
        _refuse_executor(options)
    command = [
        *(sys.executable, "-m", "pipeline.workflow.messages", *targets),
        *("--snakefile", str(SOURCE / "Snakefile"), "--configfile", file),
        *(["--directory", str(parsed.directory)] if parsed.directory else []),
        # Without --cores, profiles/default sets all cores, and the profile of a cluster no limit.
        *(["--cores", parsed.cores] if parsed.cores else []),
        *(["--executor", "dask"] if settings.dask.scheduler else []),
        *options,
    ]
    # The rules call `parcelwise`. This PATH finds it even if the environment is not active.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    overrides = json.dumps(parse_assignments(assignments), default=str)
    environment = {"PATH": path, ASSIGNMENTS: overrides, SCHEDULER: settings.dask.scheduler or ""}
    return command, environment


def _refuse_executor(options: Sequence[str]) -> None:
    """Refuse options of Snakemake that name another executor, or the profile of a cluster."""
    for option in options:
        if option.partition("=")[0] in ("--executor", "-e", "--workflow-profile"):
            raise InputError(
                f"dask.scheduler is set, and {option} would send the jobs elsewhere. Remove the "
                "option, or set dask.scheduler to null."
            )


_RUN = """\
examples:
  parcelwise run configs/mine.yaml                        everything, up to the report
  parcelwise run configs/mine.yaml dataset                up to the dataset
  parcelwise run configs/mine.yaml extractions            up to the pixels of all acquisitions
  parcelwise run configs/mine.yaml train.epochs=3         with another setting
  parcelwise run configs/mine.yaml -- -n                  a dry run: show what would be done
  parcelwise run configs/mine.yaml -- --forcerun train    train again"""

_SEASON = """\
A second model is trained in every fold: it learns from series that end on random dates. Its scores
by the last date available, and the date from which on the class of each parcel stays, are written
to results/<run>/season and shown in the report. The run's own models and predictions stay."""


def _parse(arguments: Sequence[str], target: str | None) -> argparse.Namespace:
    """Parse the arguments before `--`; wrong ones end the process with exit code 2."""
    command, targets = ("season", "") if target else ("run", " [TARGET ...]")
    parser = argparse.ArgumentParser(
        prog=f"parcelwise {command}",
        usage=f"%(prog)s FILE{targets} [KEY=VALUE ...] [--cores N] [--directory DIR] "
        "[-- SNAKEMAKE OPTIONS]",
        description="Say how early in the season the classes of the parcels are known."
        if target
        else "Run the workflow on the settings of a file, or go on where it stopped.",
        epilog=_SEASON if target else _RUN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="FILE, TARGET, KEY=VALUE",
        help="the settings file (see configs/default.yaml); how far to go: dataset, models, "
        "predictions, report, a stage or a file of the run (default: everything); and settings "
        "that override those of FILE, such as train.epochs=3, with values as in YAML",
    )
    parser.add_argument("--cores", metavar="N", help="CPU cores to use at most (default: all)")
    parser.add_argument(
        "--directory",
        type=Path,
        metavar="DIR",
        help="folder that gets results/ (default: the current one)",
    )
    parsed, unknown = parser.parse_known_intermixed_args(arguments)
    if unknown:
        parser.error(
            f"unknown option {unknown[0]}. Options of Snakemake follow `--`: "
            f"parcelwise {command} FILE -- {' '.join(unknown)}"
        )
    if not parsed.words:
        parser.error("FILE is missing")
    return parsed
