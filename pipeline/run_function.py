"""Run a function from the command line: its signature makes the options."""

from __future__ import annotations

import argparse
import errno
import inspect
import logging
import os
import signal
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geo.errors import InputError
from models.errors import InputError as ModelInputError
from models.memory import MB, claim_linear_algebra, is_out_of_memory, room
from pipeline.logs import start_logging
from pipeline.workflow.software import environment, environment_of
from pipeline.workflow.writing import write_json, write_text

if TYPE_CHECKING:
    from pipeline.workflow.sections.values import Section

# Environment variable: the process of Snakemake, which the Snakefile sets and jobs inherit.
WORKFLOW = "PARCELWISE_WORKFLOW"
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)

# Errors of a disk, a quota and a limit of the shell.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FREE_SPACE = ". Free space, and repeat the command: it continues with what is missing."


def run_function(
    function: Callable[..., None],
    arguments: Sequence[str],
    *,
    program: str,
    logger: str,
    is_stage: bool = True,
    folder: Path | None = None,
) -> int:
    """Run one function from the command line.

    Parameters
    ----------
    function
        Its signature makes the options: paths, strings, integers, and lists and optional ones of
        them; `settings`, of the annotated type.
    arguments
        The arguments after the program's name on the command line.
    program, logger
        Names for the help and for the lines of the log.
    is_stage
        Whether the settings are options, which a rule passes as JSON, and are recorded. Otherwise
        a user writes them: a file, and settings that override it.
    folder
        Folder to which paths are relative; the caller logs. None: the current folder, and the logs
        are those of this process.

    Returns
    -------
    int
        Exit code: 0, or 1 after an error. An error that the user can correct is logged as its
        message alone, a bug with its traceback.
    """
    if folder is None and is_stage:
        end_with_workflow()
    # Not above: Ctrl-C during the import of pydantic would end in a traceback.
    from pipeline.workflow.settings import from_json

    kinds = typing.get_type_hints(function)
    parser = _parser(function, kinds, program, is_stage=is_stage)
    values = vars((parser.parse_args if is_stage else parser.parse_intermixed_args)(arguments))
    if folder is not None:
        values = {name: _within(folder, value) for name, value in values.items()}
    log, record = values.pop("log"), values.pop("record", None)
    files, words = values.pop("config", None), values.pop("words", ())
    as_json = values.pop("settings", None)
    if folder is None:
        try:
            start_logging(log)
        except OSError as error:
            sys.stderr.write(f"{logger}: the log cannot be written: {error}\n")
            return 1
    log_of = logging.getLogger(logger)
    try:
        if "settings" in kinds:
            kind = kinds["settings"]
            values["settings"] = (
                from_json(as_json, kind) if files is None else _read(files, words, kind)
            )
        claim_linear_algebra()
        function(**values)
        # Before the record, without which the stage is repeated: a job has both or none.
        if is_stage and log is not None:
            write_json(environment_of(log), environment())
        if record is not None:
            # Those that were passed: the rule of split leaves out what its way of dividing ignores.
            write_text(record, values["settings"].model_dump_json(exclude_unset=True))
    except (InputError, ModelInputError, OSError) as error:
        is_full = isinstance(error, OSError) and error.errno in _FULL
        text = memory_message(error) if is_out_of_memory(error) else str(error)
        log_of.error("%s%s", text, _FREE_SPACE if is_full else "")
        return 1
    except Exception as error:
        if is_out_of_memory(error):
            log_of.error("%s", memory_message(error))
            return 1
        where = f", which is also in {log}" if log else ""
        log_of.exception("This is a bug in Parcelwise. Please report it with this text%s.", where)
        return 1
    return 0


def end_with_workflow() -> None:
    """Let the kernel end this job when the Snakemake that started it is killed.

    Otherwise the job would go on beside the next run, and write results of the earlier settings
    over those of the new ones. It does nothing on other systems than Linux.
    """
    workflow = os.environ.get(WORKFLOW)
    if workflow is None or sys.platform != "linux":
        return
    import ctypes

    if os.getppid() == int(workflow):
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM, 0, 0, 0)
    # It may have been killed before. Another parent may be a shell that it started.
    with suppress(PermissionError):
        try:
            os.kill(int(workflow), 0)
        except ProcessLookupError:
            sys.exit(128 + signal.SIGTERM)


def _within(folder: Path, value: Any) -> Any:
    """Return a path, or the paths of a list, in a folder; other values as they are."""
    if isinstance(value, list):
        return [_within(folder, item) for item in value]
    return folder / value if isinstance(value, Path) else value


def memory_message(error: BaseException) -> str:
    """Say how much memory is left, and what to do."""
    try:
        left = "; ".join(f"{what}: {free // MB:,} MB left" for what, free in room().items())
        first = (str(error) or "an allocation failed").strip().splitlines()[0]
    except MemoryError:
        left, first = "nothing is left", "an allocation failed"
    return (
        f"There is not enough memory: {first} ({left}). Raise the limit, run fewer jobs at a time "
        "(--cores), or use a machine with more memory. Then repeat the command: it continues with "
        "what is missing."
    )


def _read(files: Path | list[Path], words: Sequence[str], kind: type[Section]) -> Section:
    """Read settings that a user wrote, cut to a type."""
    # A stage that a rule calls gets its settings as JSON and needs no YAML.
    from pipeline.workflow.config import read
    from pipeline.workflow.settings import part_of

    more = [Path(word) for word in words if "=" not in word]
    paths = [*([files] if isinstance(files, Path) else files), *more]
    settings = read(*paths, assignments=[word for word in words if "=" in word])
    return settings if isinstance(settings, kind) else part_of(settings, kind)


def _parser(
    function: Callable[..., None],
    kinds: Mapping[str, Any],
    program: str,
    *,
    is_stage: bool,
) -> argparse.ArgumentParser:
    """Make the options of a function from its signature."""
    parser = argparse.ArgumentParser(
        prog=program,
        description=inspect.getdoc(function),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, parameter in inspect.signature(function).parameters.items():
        is_required = parameter.default is inspect.Parameter.empty
        if not is_stage and is_required and name != "settings":
            _add_positional(parser, name, kinds[name])
        elif name != "settings":
            _add_argument(parser, name, kinds[name], parameter)
        elif is_stage:
            _add_settings(parser)
        else:
            parser.add_argument("config", type=Path, metavar="FILE", help="settings of the run")
            parser.add_argument(
                "words",
                nargs="*",
                metavar="KEY=VALUE",
                help="settings that override those of FILE, such as train.epochs=3; a word without "
                "= is another file of settings, which overrides the one before it",
            )
    parser.add_argument("--log", type=Path, help="also write the log to this file")
    return parser


def _add_positional(parser: argparse.ArgumentParser, name: str, kind: Any) -> None:
    """Add an argument that a user writes without its name: a path, or texts, the last one."""
    many = typing.get_origin(kind) is list
    base = typing.get_args(kind)[0] if many else kind
    metavar = name.removesuffix("s").upper() if many else name.upper()
    parser.add_argument(name, type=base, metavar=metavar, nargs="+" if many else None)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the two ways to pass settings to a stage, and where to record them."""
    ways = parser.add_mutually_exclusive_group(required=True)
    ways.add_argument(
        "--config",
        type=Path,
        nargs="+",
        help="settings: your own file or results/<run>/config.yaml; each file overrides those "
        "before it",
    )
    ways.add_argument("--settings", metavar="JSON", help="the stage's settings, as a rule has them")
    parser.add_argument(
        "--record", type=Path, help="write the settings used to this file, after success"
    )


def _add_argument(
    parser: argparse.ArgumentParser, name: str, kind: Any, parameter: inspect.Parameter
) -> None:
    """Add one argument: paths, strings, integers, and lists and optional ones of them."""
    if typing.get_origin(kind) is not list:
        kind = next((k for k in typing.get_args(kind) if k is not type(None)), kind)
    many = typing.get_origin(kind) is list
    base = typing.get_args(kind)[0] if many else kind
    options: dict[str, Any] = {"type": base, "metavar": base.__name__.upper()}
    if many:
        options["nargs"] = "*"
    if parameter.default is inspect.Parameter.empty:
        options["required"] = True
    else:
        options["default"] = parameter.default
        options["help"] = f"default: {parameter.default}"
    parser.add_argument(f"--{name.replace('_', '-')}", **options)
