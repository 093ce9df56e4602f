"""Benchmark: stage predict on many parcels: its memory, and the speed of each step.

It is also the command of the candidates that write predictions, ours or with geopandas' defaults:

    python -m benchmarks.predicting ours|geopandas FOLDER OUT
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import shapely
import yaml

from benchmarks.harness import OUT, ROOT, Benchmark, Candidate, Threshold
from benchmarks.pixel_set_data import BANDS, CODES, MEDIAN_PIXELS, NOMENCLATURE, ingested
from geo.register.columns import row_checksums, with_codes
from pipeline.classes.crop_class import Classes, CropClass
from pipeline.classes.ledger import write_ledger
from pipeline.dataset.metadata import write_labels, write_metadata, write_names
from pipeline.dataset.normalisation_pickle import write_normalisation
from pipeline.dataset.packed_tiles import header
from pipeline.workflow.paths import INGESTED, DatasetPaths

OURS, GEOPANDAS = "parcelwise", "geopandas' defaults"
PIXELS = "83 pixels, 24 dates x 10 bands"
MANY = "MANY_PARCELS"
"""Environment variable: parcels of the largest prediction; a million takes 42 GB and minutes."""

N_DATES = 24
DIFFERENT = 2000  # parcels with different pixels; they are repeated
CORNERS = 12  # of an outline


def predicting(work: Path, quick: bool) -> list[Benchmark]:
    """Predict few and many parcels; write the predictions, also as geopandas would.

    Ours are written part by part, and the outlines for fiboa are checked and repaired.
    """
    few, many = (1000, 2000) if quick else (20_000, int(os.environ.get(MANY, 200_000)))
    folders = {n: make_many(work / f"{n}-parcels", n) for n in (few, many)}
    return [_flatness(folders, few, many), _writing(folders[many], many)]


def _flatness(folders: dict[int, Path], few: int, many: int) -> Benchmark:
    names = {n: f"{n:,} parcels" for n in (many, few)}
    peak = "peak_anonymous_mb"
    return Benchmark(
        f"predict, parcels of {PIXELS}, with register, 2 threads",
        [Candidate(name, _predict(folders[n])) for n, name in names.items()],
        [Threshold(peak, names[many], over=names[few], at_most=1.5)],
        runs=1,
    )


def _predict(folder: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "pipeline", "predict", "--config", str(folder / "config.yaml")),
        *("--dataset", str(ingested(folder)), "--models", str(folder / "weights")),
        *("--ledger", str(folder / "ledger.parquet"), "--register", str(register_of(folder))),
        *("--predictions", f"{OUT}/parcels.gpkg", "--threads", "2"),
    ]


def _writing(folder: Path, n_parcels: int) -> Benchmark:
    words = [sys.executable, "-m", "benchmarks.predicting"]
    ways = {OURS: "ours", GEOPANDAS: "geopandas"}
    steps = ("GeoPackage", "GeoParquet", "CSV", "Parquet")
    return Benchmark(
        f"predictions of {n_parcels:,} parcels written",
        [Candidate(name, [*words, way, str(folder), OUT]) for name, way in ways.items()],
        [
            # Twice as fast as the fastest inference that is aimed at; each step ten times.
            Threshold("parcels_per_second", OURS, at_least=14_000),
            *(Threshold(f"{step}_per_second", OURS, at_least=70_000) for step in steps),
        ],
    )


def register_of(folder: Path) -> Path:
    """Return the path of the register, a GeoPackage."""
    return folder / "register.gpkg"


def make_many(folder: Path, n_parcels: int) -> Path:
    """Write what stage predict reads, once, always the same; n_parcels is a multiple of 1,000.

    It reads packed pixels, not a file per parcel. All parcels have the median size of the paper's
    dataset, and the pixels of 2,000 parcels are repeated.
    """
    if (folder / "complete").is_file():
        return folder
    rng = np.random.default_rng(n_parcels)
    paths = DatasetPaths(ingested(folder))
    paths.root.mkdir(parents=True, exist_ok=True)
    ids = [f"{i + 1:07}" for i in range(n_parcels)]
    codes = np.resize(CODES, n_parcels)
    write_metadata(
        paths,
        tiles=[INGESTED],
        dates=[date(2018, 1, 10) + timedelta(11 * t) for t in range(N_DATES)],
        sizes=dict.fromkeys(ids, MEDIAN_PIXELS),
        n_dates=dict.fromkeys(ids, N_DATES),
        description={
            "bands": ["B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"],
            "crs": None,
            "fill": "linear",
            "simulated": True,
        },
    )
    table = Classes(
        NOMENCLATURE,
        [CropClass(code, f"class {code}", class_index=i) for i, code in enumerate(CODES)],
    )
    write_labels(paths, {NOMENCLATURE: dict(zip(ids, codes.tolist(), strict=True))}, table)
    write_names(paths, table)
    features = rng.random((n_parcels, 4)).round(6).tolist()
    paths.features.write_text(json.dumps(dict(zip(ids, features, strict=True))))
    write_normalisation(paths.normalisation, np.full(BANDS, 5000.0), np.full(BANDS, 2900.0))
    tile = paths.tile(INGESTED)
    tile.root.mkdir(parents=True, exist_ok=True)
    _write_pixels(tile.pixels, n_parcels, rng)
    np.save(tile.clear, np.ones((n_parcels * MEDIAN_PIXELS, N_DATES), bool))
    _write_tables(folder, ids, codes, rng)
    (folder / "config.yaml").write_text(
        yaml.safe_dump(
            {"train": {"device": "cpu"}, "predict": {"weights": str(folder / "weights")}}
        )
    )
    words = [sys.executable, "-m", "benchmarks.own_models", "weights", str(folder)]
    subprocess.run(words, check=True, cwd=ROOT, capture_output=True)
    (folder / "complete").touch()
    return folder


def _write_pixels(path: Path, n_parcels: int, rng: np.random.Generator) -> None:
    size = MEDIAN_PIXELS * N_DATES * BANDS
    block = rng.integers(0, 10_000, (min(DIFFERENT, n_parcels), size), np.uint16)
    with path.open("wb") as file:
        file.write(header((n_parcels * MEDIAN_PIXELS, N_DATES, BANDS), block.dtype.str))
        for first in range(0, n_parcels, len(block)):
            file.write(block[: n_parcels - first].data)


def _write_tables(
    folder: Path, ids: list[str], codes: np.ndarray, rng: np.random.Generator
) -> None:
    """Write the ledger and the register, fields of 100 m in rows of a thousand."""
    n = len(ids)
    angle = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    radius = rng.uniform(30, 45, (n, CORNERS, 1))
    centre = np.stack([np.arange(n) % 1000, np.arange(n) // 1000], 1)[:, None] * 100.0
    corners = centre + radius * np.stack([np.cos(angle), np.sin(angle)], 1)
    outlines = shapely.polygons(np.concatenate([corners, corners[:, :1]], axis=1))
    columns = {
        "ID_PARCEL": ids,
        "CODE_CULTU": codes.astype(str),
        "SURF_PARC": rng.random(n).round(2),
    }
    register = geopandas.GeoDataFrame(columns, geometry=outlines, crs="EPSG:2154")
    pyogrio.write_dataframe(register, register_of(folder), layer="parcels", driver="GPKG")
    ledger = {
        **{"parcel_id": ids, "status": "used", "reason": "", "code": codes},
        "checksum": with_codes(row_checksums(register.geometry, register["ID_PARCEL"]), []),
        **{"geometry_type": "Polygon", "n_pixels": MEDIAN_PIXELS, "n_dates": N_DATES},
    }
    write_ledger(folder / "ledger.parquet", pd.DataFrame(ledger))


def ours(table: Any, folder: Path, out: Path) -> tuple[int, dict[str, float]]:
    """Write with the code of stage predict."""
    from pipeline.classes.ledger import read_ledger
    from pipeline.classes.register import matched_parts
    from pipeline.predictions.columns import LEDGER_COLUMNS
    from pipeline.predictions.files import PredictionFiles
    from pipeline.stages.predict import ROWS_AT_A_TIME, write_rows
    from pipeline.workflow.config import load

    ledger = read_ledger(folder / "ledger.parquet", LEDGER_COLUMNS).assign(area_m2=np.nan)
    parts = matched_parts(
        register_of(folder), ledger, load({"parcels": {"id": "ID_PARCEL"}}).parcels, ROWS_AT_A_TIME
    )
    with PredictionFiles(out / "parcels.gpkg") as files:
        files.add_layers(
            Counter(ledger["geometry_type"]),
            classes={str(code): (f"class {code}", "#e69f00") for code in CODES},
            collection="made",
            code_list=None,
            last_date=date(2018, 9, 30),
            simulated=True,
        )
        n = write_rows(table, ledger, files, parts)
    return n, files.seconds


def by_geopandas(table: Any, folder: Path, out: Path) -> tuple[int, dict[str, float]]:
    """Write the same columns, all rows at once."""
    from pipeline.classes.ledger import read_ledger
    from pipeline.predictions.columns import LEDGER_COLUMNS, with_register

    seconds: dict[str, float] = {}

    @contextmanager
    def timed(step: str) -> Any:
        start = time.perf_counter()
        yield
        seconds[step] = time.perf_counter() - start

    with timed("register"):
        register = geopandas.read_file(register_of(folder))
    with timed("joining"):
        ledger = read_ledger(folder / "ledger.parquet", LEDGER_COLUMNS)
        rows = table.join(ledger.assign(area_m2=np.nan))
        parcels = with_register(rows, register)
    with timed("GeoPackage"):
        parcels.to_file(out / "parcels.gpkg", layer="parcels")
    with timed("GeoParquet"):
        parcels.to_parquet(out / "parcels_fiboa.parquet")
    rows = pd.DataFrame(parcels.drop(columns="geometry"))
    with timed("CSV"):
        rows.to_csv(out / "parcels.csv", index=False)
    with timed("Parquet"):
        rows.to_parquet(out / "parcels.parquet")
    return len(parcels), seconds


def _table(folder: Path) -> Any:
    from pipeline.dataset.pixel_set_dataset import PixelSetDataset
    from pipeline.predictions.columns import ENSEMBLE, Choices, PredictionTable

    dataset = PixelSetDataset.open(ingested(folder))
    n, classes = len(dataset), dataset.classes
    choices = Choices.empty(n, classes)
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(len(classes)), n)
    choices.put(0, probabilities, np.full(n, ENSEMBLE, np.int8))
    return PredictionTable(dataset, choices)


def main() -> None:
    """Write the predictions of a made dataset and print parcels per second of every step."""
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=("ours", "geopandas"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    table = _table(options.folder)
    way = ours if options.way == "ours" else by_geopandas
    # Imported before the clock starts: the stage has loaded it, too.
    importlib.import_module("pipeline.stages.predict")
    start = time.perf_counter()
    n, seconds = way(table, options.folder, options.out)
    rates = {f"{step}_per_second": n / max(spent, 1e-9) for step, spent in seconds.items()}
    print(json.dumps({"parcels_per_second": n / (time.perf_counter() - start), **rates}))


if __name__ == "__main__":
    main()
