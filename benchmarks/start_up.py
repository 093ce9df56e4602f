"""Benchmark: time until Snakemake finds nothing to do, and until the command prints its help."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import geopandas
import numpy as np
import rasterio
import shapely
import yaml

from benchmarks.harness import ROOT, Benchmark, Candidate, Threshold

OURS = "parcelwise"
_FLOOR = "snakemake -n, a rule without files"
_RUNS = 5
BANDS = ("B02", "B08")
_SIDE_PX, _PIXEL_M, _CORNER = 96, 10.0, (600_000.0, 5_000_000.0)
_PARCELS_IN_A_ROW = 8


def start_up(work: Path, quick: bool) -> list[Benchmark]:
    """Finish runs of several numbers of acquisitions, and start them again with nothing to do."""
    folders = {n: work / f"{n}-acquisitions" for n in ((2, 3) if quick else (25, 50, 100))}
    commands = {n: snakemake(make_finished_run(f, n), "-n") for n, f in folders.items()}
    empty = work / "Snakefile"
    empty.write_text("rule all:\n    default_target: True\n")
    floor = [sys.executable, "-m", "snakemake", "--snakefile", str(empty), "-n"]
    finished = {n: f"{OURS}, {n} acquisitions" for n in folders}
    return [
        Benchmark(
            "snakemake -n, a finished run",
            [
                *(Candidate(finished[n], commands[n], folder=f) for n, f in folders.items()),
                Candidate(_FLOOR, floor, folder=work),
            ],
            [Threshold("seconds", finished[max(folders)], at_most=3)],
            runs=_RUNS,
        ),
        Benchmark(
            "parcelwise --help",
            [
                Candidate(OURS, [sys.executable, "-m", "pipeline", "--help"]),
                Candidate("python alone", [sys.executable, "-c", ""]),
            ],
            [Threshold("seconds", OURS, at_most=0.5)],
            runs=_RUNS,
        ),
    ]


def make_finished_run(folder: Path, acquisitions: int) -> Path:
    """Run the whole workflow once on tiny images and a tiny register, with the shortest training.

    Returns
    -------
    Path
        The settings file; the run was made in `folder`.
    """
    config = folder / "config.yaml"
    if (folder / "complete").is_file():
        return config
    imagery, register = folder / "imagery", folder / "register.gpkg"
    imagery.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(acquisitions)
    for i in range(acquisitions):
        _write_image(imagery / f"{date(2018, 1, 1) + timedelta(3 * i):%Y%m%d}.tif", rng)
    _write_register(register)
    config.write_text(
        yaml.safe_dump(
            {
                "run": "finished",
                "imagery": {"path": str(imagery), "bands": list(BANDS)},
                "parcels": {
                    "path": str(register),
                    "labels": {"crop": "crop"},
                    "classes": {"min_parcels": 10},
                },
                "split": {"folds": 2},
                "train": {"epochs": 1, "members": 1, "device": "cpu"},
            }
        )
    )
    _run(folder, snakemake(config, "--cores", "2", "--quiet"))
    if "Nothing to be done" not in _run(folder, snakemake(config, "-n")):
        raise RuntimeError(f"{folder}: a finished run still has something to do")
    (folder / "complete").touch()
    return config


def snakemake(config: Path, *options: str) -> list[str]:
    """Return the command of the workflow, to be run in the folder of the run."""
    words = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    return [*words, "--configfile", str(config), *options]


def _run(folder: Path, command: list[str]) -> str:
    """Run a command with this Python first on the path, and return what it printed."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}")
    return done.stdout


def _write_image(path: Path, rng: np.random.Generator) -> None:
    values = rng.integers(500, 4000, (len(BANDS), _SIDE_PX, _SIDE_PX), dtype=np.uint16)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=_SIDE_PX,
        height=_SIDE_PX,
        count=len(BANDS),
        dtype="uint16",
        crs="EPSG:32631",
        transform=rasterio.Affine(_PIXEL_M, 0, _CORNER[0], 0, -_PIXEL_M, _CORNER[1]),
    ) as file:
        file.write(values)
        file.descriptions = BANDS


def _write_register(path: Path) -> None:
    """Write squares of 8 x 8 pixels, four pixels apart, of two crops in turn."""
    step = _SIDE_PX * _PIXEL_M / _PARCELS_IN_A_ROW
    squares, side = [], 8 * _PIXEL_M
    for row in range(_PARCELS_IN_A_ROW):
        for column in range(_PARCELS_IN_A_ROW):
            left, top = _CORNER[0] + column * step + 20, _CORNER[1] - row * step - 20
            squares.append(shapely.box(left, top - side, left + side, top))
    geopandas.GeoDataFrame(
        {
            "ID_PARCEL": [str(i) for i in range(len(squares))],
            "crop": ["wheat" if i % 2 else "maize" for i in range(len(squares))],
        },
        geometry=squares,
        crs="EPSG:32631",
    ).to_file(path, driver="GPKG")
