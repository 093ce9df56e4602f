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

from benchmarks.harness import Result, run_benchmark
from benchmarks.report import Run, describe_machine, tables, write_json

RESULTS = Path(__file__).parent / "results"

BENCHMARKS = {
    "extraction": "benchmarks.extraction:extraction",
    "extraction_sparse": "benchmarks.extraction_sparse:extraction_sparse",
    "dask_blocks": "benchmarks.dask_blocks:dask_blocks",
    "assembling": "benchmarks.assembling:assembling",
    "predicting": "benchmarks.predicting:predicting",
    "training": "benchmarks.models_on_cpu:training",
    "inference": "benchmarks.models_on_cpu:inference",
    "gpu": "benchmarks.gpu:gpu",
    "start_up": "benchmarks.start_up:start_up",
}
"""Name -> module:function. The function makes the input data and returns the benchmarks."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run benchmarks and write their results; return 1 if a candidate or a check failed."""
    options = _parser().parse_args(arguments)
    if unknown := sorted(set(options.names) - set(BENCHMARKS)):
        print(f"There is no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}.")
        return 2
    if options.reference is not None:
        os.environ["REFERENCE"] = str(options.reference.resolve())
    runs = options.runs or (1 if options.quick else 3)
    started = datetime.now().astimezone().isoformat(sep=" ", timespec="minutes")
    # Described before anything runs: this commit is measured, even if files are edited meanwhile.
    machine = describe_machine()
    path = RESULTS / f"{options.name or started[:16].replace(' ', '_').replace(':', '')}.json"
    run = Run(started, machine, runs, options.quick, [])
    for name in options.names or BENCHMARKS:
        # The input data are kept until the benchmark ends, or with --work for the next time.
        with tempfile.TemporaryDirectory(prefix="benchmarks-") as temporary:
            work = (options.work or Path(temporary)).resolve() / name
            run.results.extend(_run(name, work, runs, options.quick))
        if run.results:
            # Written after each benchmark, so that little is lost if the next is interrupted.
            write_json(run, path)
            path.with_suffix(".md").write_text(tables(run))
    if run.results:
        print(f"\n{tables(run)}\nWritten to {path} and {path.stem}.md beside it.")
    return int(run.failed)


def _run(name: str, work: Path, runs: int, quick: bool) -> list[Result]:
    # Small and large input data are kept apart.
    inputs, outs = work / ("quick" if quick else "full"), work / "outs"
    inputs.mkdir(parents=True, exist_ok=True)
    print(f"{name}: making the input data", flush=True)
    module, _, function = BENCHMARKS[name].partition(":")
    benchmarks = getattr(importlib.import_module(module), function)(inputs, quick)
    shutil.rmtree(outs, ignore_errors=True)
    outs.mkdir()
    results = []
    for number, benchmark in enumerate(benchmarks, 1):
        print(f"{name} {number}/{len(benchmarks)}: {benchmark.name}", flush=True)
        results.append(run_benchmark(benchmark, outs, runs, lambda s: print(s, flush=True)))
    shutil.rmtree(outs)
    return results


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure speed and memory as ratios to peers, in one run on this machine.",
        epilog=f"benchmarks: {', '.join(BENCHMARKS)}",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which; without one, all")
    parser.add_argument("--runs", type=int, help="of each candidate (default: 3)")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes and 1 run, to test the benchmarks"
    )
    parser.add_argument(
        "--work", type=Path, help="folder where the input data are kept (default: temporary)"
    )
    parser.add_argument(
        "--reference",
        type=Path,
        help="checkout of VSainteuf/pytorch-psetae (default: the variable REFERENCE)",
    )
    parser.add_argument("--name", help="of the results (default: the time)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
