"""Benchmark: the stage predict on many parcels: memory, and the speed of every step."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks.contest import OUT, Contest, Contestant, Goal
from benchmarks.many_parcels import make_many, register_of
from benchmarks.pixel_set_data import ingested

OURS, GEOPANDAS = "parcelwise", "geopandas' defaults"
PIXELS = "83 pixels, 24 dates x 10 bands"
MANY = "MANY_PARCELS"
"""Variable: how many parcels the largest prediction has; a million takes 42 GB and minutes."""


def contests(work: Path, quick: bool) -> list[Contest]:
    """Predict few and many parcels; write the predictions, also as geopandas would.

    Ours are written part by part, and the outlines of fiboa are checked and mended on the way.
    """
    few, many = (1000, 2000) if quick else (20_000, int(os.environ.get(MANY, 200_000)))
    folders = {n: make_many(work / f"{n}-parcels", n) for n in (few, many)}
    return [_flatness(folders, few, many), _writing(folders[many], many)]


def _flatness(folders: dict[int, Path], few: int, many: int) -> Contest:
    names = {n: f"{n:,} parcels" for n in (many, few)}
    peak = "peak_anonymous_mb"
    return Contest(
        f"predict, parcels of {PIXELS}, with register, 2 threads",
        [Contestant(name, _predict(folders[n])) for n, name in names.items()],
        [Goal(peak, names[many], over=names[few], at_most=1.5)],
        runs=1,
    )


def _predict(folder: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "pipeline", "predict", "--config", str(folder / "config.yaml")),
        *("--dataset", str(ingested(folder)), "--models", str(folder / "weights")),
        *("--ledger", str(folder / "ledger.parquet"), "--register", str(register_of(folder))),
        *("--predictions", f"{OUT}/parcels.gpkg", "--threads", "2"),
    ]


def _writing(folder: Path, n_parcels: int) -> Contest:
    words = [sys.executable, "-m", "benchmarks.prediction_rows"]
    ways = {OURS: "ours", GEOPANDAS: "geopandas"}
    steps = ("GeoPackage", "GeoParquet", "CSV", "Parquet")
    return Contest(
        f"predictions of {n_parcels:,} parcels written",
        [Contestant(name, [*words, way, str(folder), OUT]) for name, way in ways.items()],
        [
            # Twice, and every step ten times, as fast as the fastest inference that is aimed at.
            Goal("parcels_per_second", OURS, at_least=14_000),
            *(Goal(f"{step}_per_second", OURS, at_least=70_000) for step in steps),
        ],
    )
