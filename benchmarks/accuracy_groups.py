"""Compare the class shares of folds of whole groups of parcels, for three ways to divide.

    python -m benchmarks.accuracy_groups DATA/flanders-2018

The groups are the Flemish fields from which the pieces of parcels_subdivided.gpkg were cut, and
SIMULATED farms of few crops each. Means over 20 seeds.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import geopandas as gpd
import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from pipeline.stages.split import divide

SEEDS = range(20)
FEWEST_PIECES = 5
Integers = NDArray[np.int64]
Parts = list[Integers]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("flanders", type=Path, help="folder of flanders-2018")
    options = parser.parse_args()
    print("| groups | folds | way | standard deviation of a class's share | class absent | sizes |")
    print("|---|---:|---|---:|---:|---|")
    for name, labels, groups in _tasks(options.flanders):
        for n_folds in (3, 5):
            for way, divided in _ways(labels, groups, n_folds).items():
                print(f"| {name} | {n_folds} | {way} | {_evenness(labels, divided)} |")


def _tasks(folder: Path) -> Iterator[tuple[str, Integers, Integers]]:
    """Yield name, labels and groups of the Flemish pieces and of simulated farms."""
    pieces, fields = (
        gpd.read_file(folder / name) for name in ("parcels_subdivided.gpkg", "parcels.gpkg")
    )
    inside = pieces.set_geometry(pieces.representative_point())
    joined = inside.sjoin(fields[["geometry"]], predicate="within")
    frequent = joined["CT"].map(joined["CT"].value_counts()) >= FEWEST_PIECES
    joined = joined[frequent]
    n_fields = joined["index_right"].nunique()
    name = f"{len(joined)} pieces of {n_fields} Flemish fields"
    yield name, joined["CT"].to_numpy(np.int64), joined["index_right"].to_numpy(np.int64)
    generator = np.random.default_rng(0)
    sizes = np.maximum(1, generator.lognormal(1.5, 1, 300).astype(int))
    farms = np.repeat(np.arange(300), sizes)
    crops = generator.dirichlet([5, 3, 1, 0.5, 0.2, 0.1], 300)
    labels = np.array([generator.choice(6, p=crops[farm]) for farm in farms])
    yield f"{len(farms)} parcels of 300 SIMULATED farms", labels, farms


def _ways(labels: Integers, groups: Integers, n_folds: int) -> dict[str, list[Parts]]:
    """Divide in three ways, with every seed."""

    def of(splitter: Callable[..., GroupKFold | StratifiedGroupKFold], seed: int) -> Parts:
        made = splitter(n_folds, shuffle=True, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of classes with few parcels
            return [test for _, test in made.split(labels, labels, groups)]

    return {
        "GroupKFold": [of(GroupKFold, seed) for seed in SEEDS],
        "StratifiedGroupKFold": [of(StratifiedGroupKFold, seed) for seed in SEEDS],
        "split.by: group": [
            divide(labels, n_folds, by="group", blocks=groups, seed=seed) for seed in SEEDS
        ],
    }


def _evenness(labels: Integers, divided: list[Parts]) -> str:
    """Return the cells of a table: mean spread of a class's share, absent classes, sizes."""
    spreads, absent, sizes = [], [], []
    for parts in divided:
        counts = np.array([[(labels[p] == c).sum() for c in np.unique(labels)] for p in parts])
        spreads.append((counts / counts.sum(axis=0)).std(axis=0).mean())
        absent.append((counts == 0).mean())
        sizes += [len(part) for part in parts]
    return f"{np.mean(spreads):.3f} | {100 * np.mean(absent):.0f} % | {min(sizes)} to {max(sizes)}"


if __name__ == "__main__":
    main()
