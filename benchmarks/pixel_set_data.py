"""A made Pixel-Set dataset that the reference and this project both read."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import yaml

from benchmarks.harness import ROOT

NOMENCLATURE = "label_44class"
CODES = (1, 3, 4, 5, 6, 8, 9, 12, 13, 14, 16, 18, 19, 23, 28, 31, 33, 34, 36, 39)
"""The 20 classes of the PSE+TAE paper, which the reference's scripts name."""

BANDS = 10
MEDIAN_PIXELS = 83
"""Median number of pixels of the parcels of the paper's dataset, S2-2017-T31TFM."""

_SPREAD_OF_SIZES = 0.9  # standard deviation of the logarithm
_MOST_PIXELS = 5000
_SEASON_DAYS = 270


def given(folder: Path) -> Path:
    """Name the dataset as the reference reads it: DATA, META and a pickle."""
    return folder / "given"


def ingested(folder: Path) -> Path:
    """Name the same dataset as this project takes it over."""
    return folder / "dataset"


def make_dataset(folder: Path, n_parcels: int, n_dates: int) -> Path:
    """Write a dataset once, the same every time, and ingest it.

    Sizes are log-normal with the median of the paper's dataset. Each class has its own course
    over the season, each parcel its own level, and each value noise, so the classes can be learnt.

    Parameters
    ----------
    folder
        Where; what is there already is taken as it is.
    n_parcels, n_dates
        How many.

    Returns
    -------
    Path
        The folder.
    """
    if (folder / "complete").is_file():
        return folder
    rng = np.random.default_rng([n_parcels, n_dates])
    pixels, meta = given(folder) / "DATA", given(folder) / "META"
    for made in (pixels, meta):
        made.mkdir(parents=True, exist_ok=True)
    sizes = rng.lognormal(np.log(MEDIAN_PIXELS), _SPREAD_OF_SIZES, n_parcels)
    sizes = np.clip(sizes, 1, _MOST_PIXELS).astype(np.int64)
    labels = np.arange(n_parcels) % len(CODES)
    courses = _courses(rng, n_dates)
    sums = np.zeros((2, BANDS))
    for i, size in enumerate(sizes):
        level = rng.normal(1, 0.15) * courses[labels[i], :, :, None]
        values = level + rng.normal(0, 250, (n_dates, BANDS, size)).astype(np.float32)
        stored = np.clip(values, 0, 20_000).astype(np.uint16)
        np.save(pixels / f"{i + 1}.npy", stored)
        as_float = stored.astype(np.float64)
        sums += as_float.sum((0, 2)), (as_float**2).sum((0, 2))
    means, squares = sums / (sizes.sum() * n_dates)
    (given(folder) / "normalisation_values.pkl").write_bytes(
        pickle.dumps((means, np.sqrt(squares - means**2)))
    )
    days = np.linspace(0, _SEASON_DAYS, n_dates).astype(int)
    dates = [(date(2017, 1, 10) + timedelta(int(day))).strftime("%Y%m%d") for day in days]
    ids = [str(i + 1) for i in range(n_parcels)]
    side = np.sqrt(sizes) * 10.0
    features = np.stack([4 * side, sizes, rng.uniform(0.4, 1, n_parcels), 4 / side], 1)
    for name, content in (
        ("labels", {NOMENCLATURE: {i: CODES[c] for i, c in zip(ids, labels, strict=True)}}),
        ("dates", {str(t): int(day) for t, day in enumerate(dates)}),
        ("sizes", dict(zip(ids, sizes.tolist(), strict=True))),
        ("geomfeat", dict(zip(ids, features.tolist(), strict=True))),
    ):
        (meta / f"{name}.json").write_text(json.dumps(content))
    _ingest(folder)
    (folder / "complete").touch()
    return folder


def _courses(rng: np.random.Generator, n_dates: int) -> np.ndarray:
    """Draw a course of every class over the season, float32 (20, T, C), reflectance x 10,000."""
    at = np.linspace(0, np.pi, n_dates)[None, :, None]
    phase, height = rng.uniform(0, np.pi, (2, len(CODES), 1, BANDS))
    return np.asarray(2500 + 400 * height * np.sin(at + phase), np.float32)


def _ingest(folder: Path) -> None:
    """Let this project take the dataset over, as a run does."""
    config = folder / "config.yaml"
    dataset = {"path": str(given(folder)), "nomenclature": NOMENCLATURE, "classes": list(CODES)}
    config.write_text(yaml.safe_dump({"dataset": dataset}))
    command = [
        *(sys.executable, "-m", "pipeline", "ingest", "--config", str(config)),
        *("--source", str(given(folder)), "--dataset", str(ingested(folder))),
        *("--ledger", str(folder / "ledger.parquet"), "--classes", str(folder / "classes.json")),
        *("--threads", "2", "--log", str(folder / "ingest.log")),
    ]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
