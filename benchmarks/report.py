"""The results of a run of the benchmarks: kept as JSON, shown as Markdown tables.

`python -m benchmarks.report RESULTS.json [RESULTS.json ...]` writes the tables of one run, or of
several, to the folder `measured`, which is kept in git.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.harness import ROOT, Result, Spread, Threshold

MEASURED = Path(__file__).parent / "measured"

_PACKAGES = (
    *("torch", "numpy", "rasterio", "geopandas", "pyogrio", "exactextract", "rasterstats"),
    "snakemake",
)
_TITLES = {
    "seconds": "s, whole process",
    "peak_mb": "peak MB",
    "peak_anonymous_mb": "peak MB, mapped files apart",
}


@dataclass(frozen=True)
class Run:
    """The results of one run of the benchmarks.

    Attributes
    ----------
    started
        Date and time.
    machine
        See `describe_machine`.
    runs
        How often each candidate ran, unless its benchmark sets it.
    quick
        Whether the sizes were small, to test the benchmarks themselves.
    results
        One for each benchmark.
    """

    started: str
    machine: dict[str, str]
    runs: int
    quick: bool
    results: list[Result]

    @property
    def failed(self) -> bool:
        """Whether a candidate or a check failed."""
        return any(result.failed for result in self.results)


def write_json(run: Run, path: Path) -> None:
    """Write a run with every value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(run), indent=1) + "\n")


def read_json(path: Path) -> Run:
    """Read what `write_json` wrote."""
    values = json.loads(path.read_text())
    results = [
        Result(**{**result, "thresholds": [Threshold(**t) for t in result["thresholds"]]})
        for result in values.pop("results")
    ]
    return Run(**values, results=results)


def publish(files: Sequence[Path], folder: Path) -> Path:
    """Write the tables of one run or of several, and their JSON files, to a fresh folder.

    Returns
    -------
    Path
        The tables.
    """
    runs = [read_json(file) for file in files]
    if quick := [str(file) for file, run in zip(files, runs, strict=True) if run.quick]:
        raise SystemExit(f"These runs only tested the benchmarks: {', '.join(quick)}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, file in enumerate(files, 1):
        shutil.copy(file, folder / f"run-{number}.json")
    report = folder / "README.md"
    report.write_text("\n".join(map(tables, runs)))
    return report


def tables(run: Run) -> str:
    """Return the thresholds, the figures of every benchmark, and what was left out or failed."""
    parts = ["# Benchmarks", _introduction(run)]
    rows = [_threshold_row(r, threshold) for r in run.results for threshold in r.thresholds]
    if rows:
        head = ("benchmark", "figure", "measured", "threshold", "met")
        parts += ["## Thresholds", _table(head, rows)]
    for result in run.results:
        parts += [f"## {result.name[:1].upper()}{result.name[1:]}", _figures(result)]
    left_out = {f"- {name}: {why}" for r in run.results for name, why in r.left_out.items()}
    failed = [
        f"- {r.name}, {name}:\n\n```\n{printed}\n```"
        for r in run.results
        for name, printed in r.failed.items()
    ]
    for title, lines in (("Left out", sorted(left_out)), ("Failed", failed)):
        if lines:
            parts += [f"## {title}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _introduction(run: Run) -> str:
    """Return when, on which machine and how often it was measured."""
    machine = dict(run.machine)
    hardware = f"{machine.pop('processor')}, {machine.pop('cores')} cores, {machine.pop('memory')}"
    hardware += f"; GPU: {machine.pop('gpu')}; {machine.pop('system')}"
    software = ", ".join(f"{name} {version}" for name, version in machine.items())
    runs = "1 run" if run.runs == 1 else f"medians of {run.runs} runs or more (least to most)"
    text = f"{run.started}, {runs}. {hardware}. {software}."
    if run.quick:
        text += " **Small sizes, to test the benchmarks themselves: the figures mean nothing.**"
    return text


def _threshold_row(result: Result, threshold: Threshold) -> tuple[str, ...]:
    figure = f"{_title(threshold.figure)}, {threshold.of}"
    if threshold.over is not None:
        figure += f" over {threshold.over}"
    if threshold.at_most is not None:
        bound = f"at most {_number(threshold.at_most)}"
    else:
        bound = f"at least {_number(threshold.at_least or 0)}"
    measured = result.spread(threshold.figure, threshold.of, threshold.over)
    if measured is None:
        return result.name, figure, "not measured", bound, ""
    met = "yes" if threshold.met(measured.median) else "**no**"
    return result.name, figure, _spread(measured), bound, met


def _figures(result: Result) -> str:
    """Return a table with a row for each candidate and a column for each figure."""
    names = list(dict.fromkeys(n for figures in result.figures.values() for n in figures))
    rows = [
        (candidate, *(_spread(result.spread(name, candidate)) for name in names))
        for candidate in result.figures
    ]
    return _table(("", *map(_title, names)), rows)


def _title(figure: str) -> str:
    """Return the name of a figure for people: parcels/s for parcels_per_second."""
    written = figure.replace("_per_second", "/s").replace("_per_", " per ").replace("_", " ")
    return _TITLES.get(figure, written.replace("mb", "MB"))


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    if spread.least == spread.most:
        return _number(spread.median)
    return f"{_number(spread.median)} ({_number(spread.least)} to {_number(spread.most)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose columns are as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        return f"| {' | '.join(padded)} |"

    rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
    return "\n".join([line(head), rule, *map(line, rows)])


def describe_machine() -> dict[str, str]:
    """Return the hardware, the versions of the software, and the commit."""
    commit = _printed("git", "rev-parse", "--short=12", "HEAD") or "unknown"
    changed = _printed("git", "status", "--porcelain", "--untracked-files=no")
    installed = {d.name: d.version for d in importlib.metadata.distributions()}
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "gpu": _printed("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") or "none",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: installed[name] for name in _PACKAGES if name in installed},
        "commit": f"{commit}{' and changes' if changed else ''}",
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _printed(*command: str) -> str:
    """Return what a command prints; nothing if it fails or is not installed."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return ", ".join(done.stdout.strip().splitlines()) if done.returncode == 0 else ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="RESULTS.json")
    print(publish(parser.parse_args().files, MEASURED))
