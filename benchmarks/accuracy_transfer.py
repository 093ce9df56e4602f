"""Measure transfer between two regions of canada-2017: as they are, refitted, tuned, from scratch.

    python -m benchmarks.accuracy_transfer DATA

DATA contains canada-2017. Its cells are divided by longitude into two regions with as many points.
A model is trained on one region, and scored on whole cells of the other one. From the remaining
cells there, 25 or 100 labelled points are drawn: to fit a temperature, to fine-tune the model, or
to train from scratch. All are scored on the same points; the seeds change cells, points and models.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold

from benchmarks.model_choice import CPU, Task, read_canada
from models.crop_model import CropModel
from models.metrics import confusion_matrix, overall_metrics
from models.pixel_sets import PixelSets
from models.standardisation import Normalisation
from pipeline.stages.train import training_settings
from pipeline.workflow.settings import TrainSettings, part_of

# The classes that `read_canada` reads.
CODES = [1110, 1120, 1200, 4100, 7920, 9120]
SEEDS = (1, 2, 3)
LABELLED = (25, 100)
# Of the labelled points, the share by which the epoch is chosen.
VALIDATED = 0.2


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[1.0], help="factors of train.learning_rate"
    )
    parser.add_argument("--normalise", nargs="+", default=["source"], choices=["source", "own"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    data, cells, longitude = read_regions(options.data / "canada-2017" / "points.parquet")
    west = longitude < np.median(longitude)
    task = Task("", data, [], {"epochs": options.epochs})
    scores: dict[tuple[str, ...], list[tuple[float, ...]]] = {}
    for seed in SEEDS:
        for name, source in (("west to east", west), ("east to west", ~west)):
            for method, log_p, test in measured(task, source, cells, seed, options):
                scores.setdefault((name, method), []).append(score(data.labels[test], log_p))
                print(seed, name, method, scores[name, method][-1], flush=True)
    print("| regions | method | accuracy | macro F1 | log loss |\n|---|---|---:|---:|---:|")
    for key, values in scores.items():
        print(f"| {' | '.join((*key, *map(spread, zip(*values, strict=True))))} |")


def measured(
    task: Task,
    source: NDArray[np.bool_],
    cells: NDArray[np.int64],
    seed: int,
    options: argparse.Namespace,
) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.int64]]]:
    """Yield method, log-probabilities float32 (n, K), and the n test points, for one seed."""
    rng = np.random.default_rng(seed)
    data = task.data
    own = normalisation_of(data, np.flatnonzero(source))
    there = normalisation_of(data, np.flatnonzero(~source))
    trained = fit(task, np.flatnonzero(source), seed, rng, own)
    for pool, test in halves(np.flatnonzero(~source), cells):
        yield "as it is", trained.log_probabilities(data, test, 256), test
        yield from adapted(task, trained, rng.permutation(pool), test, seed, (own, there), options)


def adapted(
    task: Task,
    trained: CropModel,
    pool: NDArray[np.int64],
    test: NDArray[np.int64],
    seed: int,
    normalisations: tuple[Normalisation, Normalisation],
    options: argparse.Namespace,
) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.int64]]]:
    """Yield the same for what is made with the first labelled points of the pool."""
    data, (own, there) = task.data, normalisations
    for n in LABELLED:
        labelled = pool[:n]
        scratch = fit(task, labelled, seed, np.random.default_rng(seed), there)
        yield f"from scratch, {n}", scratch.log_probabilities(data, test, 256), test
        for by in options.normalise:
            for rate in options.rates:
                tuned = fit(
                    *(task, labelled, seed, np.random.default_rng(seed)),
                    own if by == "source" else there,
                    trained,
                    rate,
                )
                name = f"fine-tuned, {n}, normalised by {by}, rate x {rate:g}"
                yield name, tuned.log_probabilities(data, test, 256), test


def fit(
    task: Task,
    parcels: NDArray[np.int64],
    seed: int,
    rng: np.random.Generator,
    normalisation: Normalisation,
    start: CropModel | None = None,
    rate: float = 1.0,
) -> CropModel:
    """Train on some points; a fifth of them choose the epoch."""
    training = training_settings(part_of(task.settings, TrainSettings))
    order = rng.permutation(parcels)
    n = round(VALIDATED * len(order))
    return CropModel.fit(
        *(task.data, np.sort(order[n:]), np.sort(order[:n])),
        about=replace(task.about, normalisation=normalisation),
        architecture={"name": task.settings.model.name},
        training=replace(training, seed=seed, learning_rate=rate * training.learning_rate),
        device=CPU,
        start=start,
    )


def read_regions(
    file: Path,
) -> tuple[PixelSets, NDArray[np.int64], NDArray[np.float64]]:
    """Read canada-2017: points, the cell of each, and the mean longitude of its cell."""
    data, cells = read_canada(file)
    table = pd.read_parquet(file, columns=["h3_l3_cell", "CROPTYPE_LABEL", "lon", "sample_id"])
    # `read_canada` orders the points by id, and numbers the cells in order of their names.
    points = table[table["CROPTYPE_LABEL"].isin(CODES)].groupby("sample_id").first()
    longitude = points.groupby("h3_l3_cell")["lon"].transform("mean").to_numpy(np.float64)
    return data, cells, longitude


def halves(
    points: NDArray[np.int64], cells: NDArray[np.int64]
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Divide points into two halves of whole cells; return them in both orders."""
    parts = GroupKFold(2).split(points, groups=cells[points])
    return [(points[one], points[other]) for one, other in parts]


def normalisation_of(data: PixelSets, points: NDArray[np.int64]) -> Normalisation:
    """Compute mean and deviation per channel of some points."""
    pixels = data.pixels[points].astype(np.float64)
    return Normalisation(pixels.mean((0, 1)), pixels.std((0, 1)))


def score(labels: NDArray[np.int64], log_p: NDArray[np.float32]) -> tuple[float, ...]:
    """Return accuracy and macro F1 in per cent, and the log loss."""
    matrix = confusion_matrix(labels, log_p.argmax(1), log_p.shape[1])
    overall = overall_metrics(matrix)
    loss = float(-log_p[np.arange(len(labels)), labels].mean())
    return 100 * overall["Accuracy"], 100 * overall["MACRO_F1-score"], loss


def spread(values: tuple[float, ...]) -> str:
    """Return mean and standard deviation (ddof 1) over the seeds."""
    digits = 2 if max(values) < 10 else 1
    return f"{statistics.fmean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


if __name__ == "__main__":
    main()
