"""The command line `parcelwise`: run, inspect, and a subcommand for every stage."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from geo.errors import InputError, did_you_mean
from models.memory import is_out_of_memory
from pipeline.run_function import memory_message, run_function

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
        message = f"pipeline.{name}: {memory_message(error)}\n"
        sys.stderr.write(message)
        if "--log" in words[:-1]:
            # From there, Snakemake repeats why the job failed.
            log = Path(words[words.index("--log") + 1])
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(message, encoding="utf-8")
        return 1
    return run_function(
        function,
        words[1:],
        program=f"parcelwise {name}",
        logger=f"pipeline.{name}",
        is_stage=name in STAGES,
    )
