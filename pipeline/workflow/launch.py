"""The command `parcelwise run`: check what the user wrote, then hand over to Snakemake."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from pipeline.workflow.config import parse_assignments, read
from pipeline.workflow.snakefile import (
    ASSIGNMENTS,
    SOURCE,
    check_folder,
    check_installation,
    check_target,
)


def launch(arguments: Sequence[str]) -> None:
    """Check the arguments of `parcelwise run`, and replace this process by Snakemake's.

    Snakemake takes over the process itself, so that Ctrl-C and the exit code are its own.

    Raises
    ------
    InputError
        If the settings file, a setting or a target cannot be used.
    """
    command, environment = snakemake_call(arguments)
    check_folder(_folder_of(command))
    sys.stdout.flush()
    os.execve(command[0], command, {**os.environ, **environment})  # noqa: S606 (no shell is wanted)


def _folder_of(command: Sequence[str]) -> Path:
    """Return the folder that gets results/: the last --directory, or the current one."""
    given = [command[i + 1] for i, word in enumerate(command[:-1]) if word in ("--directory", "-d")]
    return Path(given[-1]) if given else Path()


def snakemake_call(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the command line of Snakemake, and its additional environment variables.

    Raises
    ------
    InputError
        As `launch`.
    """
    own, options = list(arguments), []
    if "--" in own:
        separator = own.index("--")
        own, options = own[:separator], own[separator + 1 :]
    parsed = _parse(own)
    file, *words = parsed.words
    assignments = [word for word in words if "=" in word]
    targets = [word for word in words if "=" not in word]
    settings = read(Path(file), assignments=assignments)
    check_installation(SOURCE)
    for target in targets:
        check_target(target, settings)
    command = [
        *(sys.executable, "-m", "pipeline.workflow.messages", *targets),
        *("--snakefile", str(SOURCE / "Snakefile"), "--configfile", file),
        *(["--directory", str(parsed.directory)] if parsed.directory else []),
        # Without --cores, profiles/default sets all cores, and the profile of a cluster no limit.
        *(["--cores", parsed.cores] if parsed.cores else []),
        *options,
    ]
    # The rules call `parcelwise`. This PATH finds it even if the environment is not active.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    overrides = json.dumps(parse_assignments(assignments), default=str)
    return command, {"PATH": path, ASSIGNMENTS: overrides}


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments before `--`; wrong ones end the process with exit code 2."""
    parser = argparse.ArgumentParser(
        prog="parcelwise run",
        usage="%(prog)s FILE [TARGET ...] [KEY=VALUE ...] [--cores N] [--directory DIR] "
        "[-- SNAKEMAKE OPTIONS]",
        description="Run the workflow on the settings of a file, or go on where it stopped.",
        epilog="""\
examples:
  parcelwise run configs/mine.yaml                        everything, up to the report
  parcelwise run configs/mine.yaml dataset                up to the dataset
  parcelwise run configs/mine.yaml train.epochs=3         with another setting
  parcelwise run configs/mine.yaml -- -n                  a dry run: show what would be done
  parcelwise run configs/mine.yaml -- --forcerun train    train again""",
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
            f"parcelwise run FILE -- {' '.join(unknown)}"
        )
    if not parsed.words:
        parser.error("FILE is missing")
    return parsed


def version() -> str:
    """Return the version of the installed package, with the commit if it is a git checkout."""
    text = f"parcelwise {metadata.version('parcelwise')}"
    git = shutil.which("git")
    if git is None or not (SOURCE / ".git").exists():
        return text
    describe = [git, "-C", str(SOURCE), "describe", "--always", "--dirty", "--exclude=*"]
    found = subprocess.run(describe, capture_output=True, text=True, check=False)  # noqa: S603
    return f"{text} (commit {found.stdout.strip()})" if found.returncode == 0 else text
