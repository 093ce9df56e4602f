"""Command line: `parcelwise <stage> --…`, one subcommand a stage."""

from __future__ import annotations

import argparse
import importlib
import inspect
import logging
import os
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from geo.errors import InputError
from models.errors import InputError as ModelInputError
from models.fast_cpu.memory_allocator import keep_freed_memory
from pipeline.workflow.sections import Section
from pipeline.workflow.settings import from_json, part_of
from pipeline.workflow.writing import write_text

PACKAGES = ("geo", "models", "pipeline", "demo")

STAGES = {
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
    "split": "divide the labelled parcels into folds",
    "train": "train the model of one fold",
    "evaluate": "score the trained folds on their test parcels, beside baselines",
    "predict": "predict a class for every usable parcel",
    "report": "write the report of a run",
}

# No stages: they leave no artefact of the run, and no rule calls them.
CHECKS = {"inspect": "show what a run would use, before anything is done"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage; what the user can mend ends with its message alone and exit code 1."""
    width = max(map(len, STAGES))
    stages, checks = (
        "\n".join(f"  {name:{width}}  {text}" for name, text in commands.items())
        for commands in (STAGES, CHECKS)
    )
    top = argparse.ArgumentParser(
        prog="parcelwise",
        usage="%(prog)s stage [--help] [--log LOG] ...",
        description="From Sentinel-2 imagery and a parcel register to a crop class per parcel.",
        epilog=f"stages:\n{stages}\n\nbefore all stages:\n{checks}\n\n"
        "`parcelwise <stage> --help` explains one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("stage", choices=[*STAGES, *CHECKS], metavar="stage", help="what to do")
    given = list(sys.argv[1:] if arguments is None else arguments)
    stage = top.parse_args(given[:1]).stage
    # Only the stage that is named is imported, so that --help answers at once.
    room = "stages" if stage in STAGES else "inspection"
    function = getattr(importlib.import_module(f"pipeline.{room}.{stage}"), stage)
    return run(
        function,
        given[1:],
        program=f"parcelwise {stage}",
        logger=f"pipeline.{stage}",
        leaves_record=stage in STAGES,
    )


def run(
    function: Callable[..., None],
    arguments: Sequence[str],
    *,
    program: str,
    logger: str,
    leaves_record: bool = True,
) -> int:
    """Run one function from the command line.

    Parameters
    ----------
    function
        Its signature makes the options: paths, strings, integers, and lists and optional ones of
        them; `settings`, of the type that is annotated.
    arguments
        What follows the program's name on the command line.
    program, logger
        Names for the help and for the lines of the log.
    leaves_record
        Whether it takes --record.

    Returns
    -------
    int
        Exit code: 0, or 1 after an error: what the user can mend is logged as its message alone.
    """
    kinds = typing.get_type_hints(function)
    values = vars(
        _parser(function, kinds, program, leaves_record=leaves_record).parse_args(arguments)
    )
    log, record = values.pop("log"), values.pop("record", None)
    config, passed = values.pop("config", None), values.pop("settings", None)
    _start_logging(log)
    log_of = logging.getLogger(logger)
    try:
        if "settings" in kinds:
            kind = kinds["settings"]
            values["settings"] = _read(config, kind) if config else from_json(passed, kind)
        function(**values)
        if record is not None:
            write_text(record, values["settings"].model_dump_json())
    except (InputError, ModelInputError, OSError) as error:
        log_of.error("%s", error)
        return 1
    except Exception:
        where = f", which is also in {log}" if log else ""
        log_of.exception("This is a bug in Parcelwise. Please report it with this text%s.", where)
        return 1
    return 0


def _read(config: Sequence[Path], kind: type[Section]) -> Section:
    """Read settings from YAML files, cut to a type."""
    # A stage that a rule calls has them as JSON.
    from pipeline.workflow.config import read

    return part_of(read(*config), kind)


def _parser(
    function: Callable[..., None],
    kinds: Mapping[str, Any],
    program: str,
    *,
    leaves_record: bool,
) -> argparse.ArgumentParser:
    """Make the options of a function from its signature."""
    parser = argparse.ArgumentParser(
        prog=program,
        description=inspect.getdoc(function),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, parameter in inspect.signature(function).parameters.items():
        if name == "settings":
            _add_settings(parser, leaves_record=leaves_record)
            continue
        _add_argument(parser, name, kinds[name], parameter)
    parser.add_argument("--log", type=Path, help="also write the log to this file")
    return parser


def _add_settings(parser: argparse.ArgumentParser, *, leaves_record: bool) -> None:
    """Add the two ways to give settings, and where to record those that were used."""
    ways = parser.add_mutually_exclusive_group(required=True)
    ways.add_argument(
        "--config",
        type=Path,
        nargs="+",
        help="settings: your own file or results/<run>/config.yaml; of several, each is laid over "
        "those before it",
    )
    ways.add_argument("--settings", metavar="JSON", help="the stage's settings, as a rule has them")
    if leaves_record:
        parser.add_argument(
            "--record", type=Path, help="write the settings used to this file, after success"
        )


def _add_argument(
    parser: argparse.ArgumentParser, name: str, kind: Any, parameter: inspect.Parameter
) -> None:
    """Add one argument: paths, strings, integers, and lists and optional ones of them."""
    inner = [k for k in typing.get_args(kind) if k is not type(None)]
    many = typing.get_origin(kind) is list
    base = inner[0] if inner else kind
    options: dict[str, Any] = {"type": base, "metavar": base.__name__.upper()}
    if many:
        options["nargs"] = "*"
    if parameter.default is inspect.Parameter.empty:
        options["required"] = True
    else:
        options["default"] = parameter.default
        options["help"] = f"default: {parameter.default}"
    parser.add_argument(f"--{name.replace('_', '-')}", **options)


def _start_logging(log: Path | None) -> None:
    """Log to the terminal and, with every detail, to a file."""
    terminal = logging.StreamHandler()
    terminal.setLevel(logging.INFO)
    handlers: list[logging.Handler] = [terminal]
    # Of the processes that torchrun starts, the first speaks for all.
    first = os.environ.get("RANK", "0") == "0"
    if not first:
        terminal.setLevel(logging.WARNING)
    if log is not None:
        # A job with a log of its own is one of several: their bars would overwrite each other.
        os.environ.setdefault("TQDM_DISABLE", "1")
        if first:
            log.parent.mkdir(parents=True, exist_ok=True)
            handlers.append(logging.FileHandler(log, mode="w"))
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", handlers=handlers)
    logging.captureWarnings(True)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(logging.DEBUG)


def command() -> None:
    """Run the command of the terminal, and end the process with its exit code."""
    # Stages name their threads themselves; libraries that spin up one per core would compete.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Every stage works in blocks, each as large as the one before.
    keep_freed_memory()
    sys.exit(main())


if __name__ == "__main__":
    command()
