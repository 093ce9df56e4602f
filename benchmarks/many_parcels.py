"""A made dataset of any number of parcels with register and weights: what the stage predict reads.

Only what predict reads is made: the packed pixels, not a file a parcel. The pixels of 2,000 parcels
come again and again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import shapely
import yaml

from benchmarks.measuring import ROOT
from benchmarks.pixel_set_data import BANDS, CODES, MEDIAN_PIXELS, NOMENCLATURE, ingested
from geo.register.columns import row_checksums, with_codes
from pipeline.classes.crop_class import Classes, CropClass
from pipeline.classes.ledger import write_ledger
from pipeline.dataset.metadata import write_labels, write_metadata, write_names
from pipeline.dataset.normalisation_pickle import write_normalisation
from pipeline.dataset.packed_tiles import header
from pipeline.workflow.paths import INGESTED, DatasetPaths

N_DATES = 24
DIFFERENT = 2000
CORNERS = 12  # of an outline


def register_of(folder: Path) -> Path:
    """Name the register: a GeoPackage."""
    return folder / "register.gpkg"


def make_many(folder: Path, n_parcels: int) -> Path:
    """Write a dataset once, the same every time; `n_parcels` is a multiple of 1,000.

    All parcels have the median size of the paper's dataset.
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
    own = {"ID_PARCEL": ids, "CODE_CULTU": codes.astype(str), "SURF_PARC": rng.random(n).round(2)}
    register = geopandas.GeoDataFrame(own, geometry=outlines, crs="EPSG:2154")
    pyogrio.write_dataframe(register, register_of(folder), layer="parcels", driver="GPKG")
    ledger = {
        **{"parcel_id": ids, "status": "used", "reason": "", "code": codes},
        "checksum": with_codes(row_checksums(register.geometry, register["ID_PARCEL"]), []),
        **{"geometry_type": "Polygon", "n_pixels": MEDIAN_PIXELS, "n_dates": N_DATES},
    }
    write_ledger(folder / "ledger.parquet", pd.DataFrame(ledger))
