"""Contestant: rows of predictions joined and written, ours and by geopandas' defaults.

python -m benchmarks.prediction_rows ours|geopandas FOLDER OUT
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections import Counter
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.many_parcels import register_of
from benchmarks.pixel_set_data import CODES, ingested


def main() -> None:
    """Write the predictions of a made dataset and print parcels per second of every step."""
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=("ours", "geopandas"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    table = _table(options.folder)
    way = ours if options.way == "ours" else by_geopandas
    # Its imports are not counted: the stage has long loaded them.
    importlib.import_module("pipeline.stages.predict")
    start = time.perf_counter()
    n, seconds = way(table, options.folder, options.out)
    rates = {f"{step}_per_second": n / max(spent, 1e-9) for step, spent in seconds.items()}
    print(json.dumps({"parcels_per_second": n / (time.perf_counter() - start), **rates}))


def ours(table: Any, folder: Path, out: Path) -> tuple[int, dict[str, float]]:
    """Write by the code of the stage predict."""
    from pipeline.classes.ledger import read_ledger
    from pipeline.classes.register import matched_parts
    from pipeline.predictions.columns import LEDGER_COLUMNS
    from pipeline.predictions.files import PredictionFiles
    from pipeline.stages.predict import ROWS_AT_A_TIME, write_rows
    from pipeline.workflow.config import load

    ledger = read_ledger(folder / "ledger.parquet", LEDGER_COLUMNS)
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
    import geopandas
    import pandas as pd

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
        rows = table.join(read_ledger(folder / "ledger.parquet", LEDGER_COLUMNS))
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
    scores = np.log(rng.dirichlet(np.ones(len(classes)), n)).astype(np.float32)
    choices.put(0, scores, np.full(n, ENSEMBLE, np.int8))
    return PredictionTable(dataset, choices, existing_weights=True)


if __name__ == "__main__":
    main()
