"""Run the benchmarks: `python -m benchmarks [NAME ...]`."""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from benchmarks.machine import describe_machine
from benchmarks.outcome import Outcome
from benchmarks.reference import REFERENCE
from benchmarks.results import Results, write_json, write_report
from benchmarks.running import run_contest

RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run contests and write their results; 1 where a contestant or a check failed."""
    found = find_benchmarks()
    options = _parser(found).parse_args(arguments)
    if unknown := sorted(set(options.names) - set(found)):
        print(f"No benchmark is called {', '.join(unknown)}: there are {', '.join(found)}.")
        return 2
    if options.reference is not None:
        os.environ[REFERENCE] = str(options.reference.resolve())
    runs = options.runs or (1 if options.quick else 3)
    started = datetime.now().astimezone().isoformat(sep=" ", timespec="minutes")
    # Before anything runs: it is this commit that is measured, whatever is edited meanwhile.
    machine = describe_machine()
    outcomes: list[Outcome] = []
    name = options.name or started[:16].translate({ord(" "): "_", ord(":"): None})
    for module in options.names or found:
        # Input data of a benchmark are kept as long as it runs, or with --work for the next time.
        with tempfile.TemporaryDirectory(prefix="benchmarks-") as temporary:
            work = (options.work or Path(temporary)).resolve() / module
            outcomes += _run(module, work, runs, options.quick)
        results = Results(started, machine, runs, options.quick, outcomes)
        # After each of them, so that little is lost where the next one is interrupted.
        write_json(results, RESULTS / f"{name}.json")
        report = write_report([results], RESULTS, name)
    print(f"\n{report.read_text()}\nWritten to {report} and {name}.json beside it.")
    return int(results.failed)


def find_benchmarks() -> list[str]:
    """Find the modules of this package that define `contests`, without importing them."""
    modules = sorted(Path(__file__).parent.glob("*.py"))
    return [path.stem for path in modules if "\ndef contests(" in path.read_text()]


def _run(module: str, work: Path, runs: int, quick: bool) -> list[Outcome]:
    work.mkdir(parents=True, exist_ok=True)
    # Small data must not stand in for large ones, nor the other way round.
    inputs = work / ("quick" if quick else "full")
    inputs.mkdir(exist_ok=True)
    print(f"{module}: making the input data", flush=True)
    listed = importlib.import_module(f"benchmarks.{module}").contests(inputs, quick)
    outcomes = []
    outs = work / "outs"
    shutil.rmtree(outs, ignore_errors=True)
    outs.mkdir()
    for number, contest in enumerate(listed, 1):
        print(f"{module} {number}/{len(listed)}: {contest.name}", flush=True)
        outcomes.append(run_contest(module, contest, outs, runs, lambda s: print(s, flush=True)))
    shutil.rmtree(outs)
    return outcomes


def _parser(names: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure speed and memory as ratios to peers, in one run on this machine.",
        epilog=f"benchmarks: {', '.join(names)}",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which; all without one")
    parser.add_argument("--runs", type=int, help="of each contestant (default: 3)")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes and 1 run, to test the benchmarks"
    )
    parser.add_argument(
        "--work", type=Path, help="folder where the input data are kept (default: temporary)"
    )
    parser.add_argument(
        "--reference",
        type=Path,
        help=f"checkout of VSainteuf/pytorch-psetae (default: the variable {REFERENCE})",
    )
    parser.add_argument("--name", help="of the results (default: the time)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
