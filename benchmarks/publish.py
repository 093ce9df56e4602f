"""Keep results for the readers: `python -m benchmarks.publish RESULTS.json [RESULTS.json ...]`."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from benchmarks.results import read_json, write_report

MEASURED = Path(__file__).parent / "measured"


def publish(files: list[Path], folder: Path) -> Path:
    """Write the tables and plots of one run or of several, and the values, into a fresh folder.

    Returns
    -------
    Path
        The tables.
    """
    results = [read_json(file) for file in files]
    if quick := [str(file) for file, run in zip(files, results, strict=True) if run.quick]:
        raise SystemExit(f"These runs were only to test the benchmarks: {', '.join(quick)}")
    shutil.rmtree(folder, ignore_errors=True)
    report = write_report(results, folder, "README")
    for number, file in enumerate(files, 1):
        shutil.copy(file, folder / f"run-{number}.json")
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.publish", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="RESULTS.json")
    print(publish(parser.parse_args().files, MEASURED))
