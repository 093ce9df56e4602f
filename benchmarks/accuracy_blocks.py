"""Measure how far parcels are alike, and print which side of blocks this suggests.

    python -m benchmarks.accuracy_blocks --simulated
    python -m benchmarks.accuracy_blocks --canada DATA/canada-2017/points.parquet
    python -m benchmarks.accuracy_blocks results/demo/dataset

The points of canada-2017 lie in cells of about 100 km. --simulated compares the ranges of SIMULATED
Gaussian fields on 1,000 parcels of 10 x 10 km with those that are found.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyproj import Transformer

from benchmarks.model_choice import read_canada
from models.pixel_sets import PixelSets
from pipeline.dataset.groups import blocks_of
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.evaluation.variogram import (
    SHAPES,
    Variogram,
    choose_side,
    measure,
    sample_pairs,
)
from pipeline.stages.variogram import season_means

SEEDS = (1, 2, 3)
FOLDS = 5
CANADA_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12")


def main() -> None:
    """Print the ranges of every data set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("datasets", type=Path, nargs="*", metavar="DATASET")
    parser.add_argument("--canada", type=Path, help="points.parquet of canada-2017")
    parser.add_argument("--simulated", action="store_true", help="fields of known range")
    options = parser.parse_args()
    if options.simulated:
        for range_m in (None, 300.0, 1000.0, 3000.0):
            _print_simulated(range_m)
    if options.canada is not None:
        data, cells = read_canada(options.canada)
        positions = _canada_positions(options.canada, len(data))
        print(f"canada-2017: {len(data)} points in {len(np.unique(cells))} cells")
        _print(data, CANADA_BANDS, positions)
    for folder in options.datasets:
        dataset = PixelSetDataset.open(folder)
        simulated = ", SIMULATED" if dataset.description["simulated"] else ""
        print(f"{folder}{simulated}: {(dataset.labels >= 0).sum()} labelled parcels")
        _print(dataset.pixel_sets(with_features=False), dataset.bands, dataset.positions)


def _print_simulated(range_m: float | None) -> None:
    """Print the ranges that are found in 20 sets of nine fields; None: of noise alone."""
    found = []
    for seed in range(20):
        generator = np.random.default_rng(seed)
        positions = generator.uniform(0, 10_000, (1000, 2))
        distances = np.linalg.norm(positions[:, None] - positions, axis=2)
        alike = 0.0 if range_m is None else 0.8 * (1 - SHAPES["exponential"](distances / range_m))
        covariance = alike + (1.0 if range_m is None else 0.2) * np.eye(1000)
        fields = np.linalg.cholesky(covariance) @ generator.standard_normal((1000, 9))
        pairs = sample_pairs(positions, generator)
        names, labels = [f"field {i}" for i in range(9)], np.zeros(1000, np.int64)
        measured = measure(positions, labels, fields[pairs.parcels], names, pairs, generator)
        found.append(measured.feature_range_m)
    ranges = [r for r in found if r is not None]
    what = "noise" if range_m is None else f"range {range_m:.0f} m"
    middle = f": median {np.median(ranges):.0f} m, " if ranges else ""
    limits = f"{min(ranges):.0f} to {max(ranges):.0f} m" if ranges else ""
    print(f"SIMULATED, {what}: found in {len(ranges)} of 20{middle}{limits}")


def _canada_positions(file: Path, n_points: int) -> NDArray[np.float64]:
    """Project the points that `read_canada` returns, in its order, to metres (EPSG:3979)."""
    table = pd.read_parquet(file, columns=["sample_id", "lon", "lat", "CROPTYPE_LABEL"])
    codes = [1110, 1120, 1200, 4100, 7920, 9120]
    points = table[table["CROPTYPE_LABEL"].isin(codes)].groupby("sample_id").first()
    if len(points) != n_points:
        raise ValueError(f"{len(points)} points have a position, {n_points} were read")
    project = Transformer.from_crs("EPSG:4326", "EPSG:3979", always_xy=True)
    return np.column_stack(project.transform(points["lon"], points["lat"]))


def _print(data: PixelSets, bands: Sequence[str], positions: NDArray[np.float64]) -> None:
    """Print the ranges of every variable, one line a seed, and the suggestion."""
    labelled = np.flatnonzero(data.labels >= 0)
    positions, labels = positions[labelled], data.labels[labelled]
    for seed in SEEDS:
        generator = np.random.default_rng(seed)
        pairs = sample_pairs(positions, generator)
        features, names = season_means(data, bands, labelled[pairs.parcels])
        found = measure(positions, labels, features, names, pairs, generator)
        side, text = choose_side(found, positions, FOLDS)
        n_blocks = len(np.unique(blocks_of(positions, side)))
        print(f"  seed {seed}: {text} {n_blocks} blocks.")
        print(f"    {', '.join(_ranges([*found.features, found.classes]))}")


def _ranges(variograms: Sequence[Variogram]) -> Iterator[str]:
    """Yield the range of each variable, or that there is none."""
    for own in variograms:
        found = "none" if own.fit is None else f"{own.fit.range_m:.0f} m ({own.fit.model})"
        yield f"{own.name} {found}"


if __name__ == "__main__":
    main()
