"""The command line `parcelwise`: run, inspect, and a subcommand for every stage."""

from __future__ import annotations

import argparse
import errno
import importlib
import inspect
import logging
import os
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geo.errors import InputError, did_you_mean
from models.errors import InputError as ModelInputError
from models.memory import MB, is_out_of_memory, room
from pipeline.command import command, end_with_workflow
from pipeline.workflow.messages import LIBRARY
from pipeline.workflow.software import environment, environment_of
from pipeline.workflow.writing import write_json, write_text

if TYPE_CHECKING:
    from pipeline.workflow.sections.values import Section

# Errors of a disk, a quota and a limit of the shell.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FREE_SPACE = ". Free space, and repeat the command: it continues with what is missing."

PACKAGES = ("geo", "models", "pipeline", "demo")

STAGES = {
    "inputs": "record which inputs a run has, by size, time and digest",
    "index": "list the acquisitions of the imagery and say which are used",
    "clean": "mend the polygons of the register, place them on tiles, check every row",
    "rasterise": "find the pixels of a tile's parcels on its grid",
    "extract": "read the parcels' pixels of one acquisition",
    "assemble": "pack the pixels of a tile's parcels, all acquisitions together",
    "export": "write META of the dataset, and a file a parcel",
    "label": "choose the classes, label the parcels, and account for every row",
    "names": "name the classes where they are shown",
    "features": "compute the geometric features of the parcels",
    "ingest": "check an existing Pixel-Set dataset and complete it for the run",
    "normalise": "compute the means and standard deviations of the dataset",
    "variogram": "measure how far parcels are alike, and suggest a side of blocks",
    "split": "divide the labelled parcels into folds",
    "train": "train the model of one fold",
    "calibrate": "predict the labelled parcels out of fold, and fit the temperatures",
    "evaluate": "score the trained folds on their test parcels, beside baselines",
    "model_card": "describe the trained models, for people and for catalogues",
    "mlflow": "add the trainings and scores of a run to a database of MLflow",
    "evaluate_season": "score the classes by the last date available, and say when they stay",
    "predict": "predict a class for every usable parcel",
    "explain": "measure on which dates the models look, and whether this explains predictions",
    "sen4cap": "write the predictions in the columns of Sen4CAP",
    "areas": "estimate the area of every class, with confidence intervals",
    "worklist": "list the declarations to check, and draw a sample to assess the verdicts",
    "report": "write the report of a run",
    "provenance": "record what a run was made from and with",
}

# Not stages: no rule calls them, and they leave no artefact of a run.
COMMANDS = {
    "run": "run the workflow, or go on where it stopped",
    "season": "say how early in the season the classes are known",
    "inspect": "show what a run would use, before anything is done",
    "verify": "say whether a run, or a copy of it, still matches its provenance.json",
    "checked": "say what the visits of the sample mean for all declarations",
    "serve": "show the report of a run in a browser, with a map of any size",
    "card": "write a page on single parcels of a finished run",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    width = max(map(len, STAGES))
    commands, stages = (
        "\n".join(f"  {name:{width}}  {text}" for name, text in group.items())
        for group in (COMMANDS, STAGES)
    )
    top = argparse.ArgumentParser(
        prog="parcelwise",
        usage="%(prog)s run FILE [TARGET ...] [KEY=VALUE ...] [-- SNAKEMAKE OPTIONS]\n"
        "       %(prog)s season FILE [KEY=VALUE ...] [-- SNAKEMAKE OPTIONS]\n"
        "       %(prog)s inspect FILE [KEY=VALUE ...]\n"
        "       %(prog)s verify RUN [--all]\n"
        "       %(prog)s checked FILE\n"
        "       %(prog)s serve RUN\n"
        "       %(prog)s card FILE|RUN ID [ID ...]\n"
        "       %(prog)s --version\n"
        "       %(prog)s STAGE ...",
        description="From Sentinel-2 imagery and a parcel register to a crop class per parcel.",
        epilog=f"commands:\n{commands}\n\nstages, which the workflow calls:\n{stages}\n\n"
        "`parcelwise <command> --help` explains one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="store_true", help="show the version and exit")
    top.add_argument(
        "command", nargs="?", choices=[*COMMANDS, *STAGES], metavar="command", help="what to do"
    )
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = words[0] if words else ""
    if name and not name.startswith("-") and name not in (*COMMANDS, *STAGES):
        is_file = name.endswith((".yaml", ".yml"))
        hint = f" Did you mean `parcelwise run {name}`?" if is_file else ""
        hint = hint or did_you_mean(name, (*COMMANDS, *STAGES))
        top.error(f"there is no command {name!r}.{hint}")
    chosen = top.parse_args(words[:1])
    # A command is imported when it is chosen, so that --help answers at once.
    if chosen.version:
        from pipeline.workflow.software import version

        sys.stdout.write(f"{version()}\n")
        return 0
    name = chosen.command
    if name is None:
        top.error("name a command or a stage")
    if name in ("run", "season", "serve"):
        try:
            if name == "serve":
                from pipeline.report.serve import serve

                serve(words[1:])
            else:
                from pipeline.workflow.launch import launch

                launch(words[1:], target="season" if name == "season" else None)
        except (InputError, OSError) as error:
            sys.stderr.write(f"parcelwise {name}: {error}\n")
        return 1
    if name == "verify":
        from pipeline.inspection.verify import verify

        return verify(words[1:])
    package = "stages" if name in STAGES else "inspection"
    try:
        function = getattr(importlib.import_module(f"pipeline.{package}.{name}"), name)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        sys.stderr.write(f"pipeline.{name}: {_memory_message(error)}\n")
        return 1
    return run_function(
        function,
        words[1:],
        program=f"parcelwise {name}",
        logger=f"pipeline.{name}",
        is_stage=name in STAGES,
    )


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
        _start_logging(log)
    log_of = logging.getLogger(logger)
    try:
        if "settings" in kinds:
            kind = kinds["settings"]
            values["settings"] = (
                from_json(as_json, kind) if files is None else _read(files, words, kind)
            )
        function(**values)
        if record is not None:
            # Those that were passed: the rule of split leaves out what its way of dividing ignores.
            write_text(record, values["settings"].model_dump_json(exclude_unset=True))
        if is_stage and log is not None:
            write_json(environment_of(log), environment())
    except (InputError, ModelInputError, OSError) as error:
        is_full = isinstance(error, OSError) and error.errno in _FULL
        text = _memory_message(error) if is_out_of_memory(error) else str(error)
        log_of.error("%s%s", text, _FREE_SPACE if is_full else "")
        return 1
    except Exception as error:
        if is_out_of_memory(error):
            log_of.error("%s", _memory_message(error))
            return 1
        where = f", which is also in {log}" if log else ""
        log_of.exception("This is a bug in Parcelwise. Please report it with this text%s.", where)
        return 1
    return 0


def _within(folder: Path, value: Any) -> Any:
    """Return a path, or the paths of a list, in a folder; other values as they are."""
    if isinstance(value, list):
        return [_within(folder, item) for item in value]
    return folder / value if isinstance(value, Path) else value


def _memory_message(error: BaseException) -> str:
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


def _is_own(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] in PACKAGES


_LINE = "%(name)s: %(message)s"


class _Format(logging.Formatter):
    """Write the origin of a message before it, and mark those of libraries."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        text = super().format(record)
        return text if _is_own(record) else f"{LIBRARY}{text.rstrip()}"


class _Libraries(logging.Filter):
    """Let each warning of a library pass once: many blocks of an image repeat the same.

    Parameters
    ----------
    is_shown
        False: no warning of a library passes. A job's are in its log, and the summary of the run
        groups those of all jobs.
    """

    def __init__(self, *, is_shown: bool = True) -> None:
        super().__init__()
        self._is_shown = is_shown
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is logged."""
        if _is_own(record):
            return True
        text = record.getMessage()
        is_new = text not in self._seen
        self._seen.add(text)
        return is_new and self._is_shown


def _start_logging(log: Path | None) -> None:
    """Log to the terminal and, with every detail, to a file."""
    terminal = logging.StreamHandler()
    terminal.setLevel(logging.INFO)
    terminal.addFilter(_Libraries(is_shown=log is None))
    handlers: list[logging.Handler] = [terminal]
    # Several processes train together under torchrun: only the first one logs.
    first = os.environ.get("RANK", "0") == "0"
    if not first:
        terminal.setLevel(logging.WARNING)
    if log is not None:
        # A job with a log file runs beside others, and their progress bars would mix.
        os.environ.setdefault("TQDM_DISABLE", "1")
        if first:
            handlers.append(log_to(log))
    logging.basicConfig(level=logging.WARNING, handlers=handlers)
    terminal.setFormatter(_Format(_LINE))
    log_all()


def log_to(log: Path) -> logging.Handler:
    """Return a handler that writes the log file of a job."""
    log.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(log, mode="w")
    handler.addFilter(_Libraries())
    handler.setFormatter(_Format(_LINE))
    return handler


def log_all() -> None:
    """Let our packages log everything, and libraries log their warnings."""
    logging.captureWarnings(True)
    # A log that cannot be written, as on a full disk, must not hide why.
    logging.raiseExceptions = False
    for package in PACKAGES:
        logging.getLogger(package).setLevel(logging.DEBUG)


if __name__ == "__main__":
    command()
