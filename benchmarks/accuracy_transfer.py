"""Measure transfer between two regions of canada-2017: as it is, refitted, tuned, from scratch.

    python -m benchmarks.accuracy_transfer DATA

DATA contains canada-2017. Its cells are divided by longitude into two regions with as many points.
A model is trained on one region. The cells of the other one are divided into two halves; each is
the test once, and from the rest 25 or 100 labelled points are drawn: to fit a temperature, to
fine-tune the model, or to train from scratch. All are scored on the same points. The seeds change
the models and the points that are drawn. --rates and --normalise compare ways of fine-tuning.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
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
from pipeline.evaluation.calibration_error import expected_calibration_error
from pipeline.evaluation.out_of_fold import probabilities_at
from pipeline.evaluation.temperature import fit_temperature
from pipeline.stages.train import training_settings
from pipeline.workflow.settings import TrainSettings, part_of

# The classes that `read_canada` reads.
CODES = [1110, 1120, 1200, 4100, 7920, 9120]
SEEDS = (1, 2, 3)
LABELLED = (25, 100)
METRICS = ("accuracy", "macro F1", "log loss", "ECE")

Scored = tuple[str, NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Transfer:
    """A model of one region, and the points of the other one.

    Attributes
    ----------
    task, seed
        Data and settings; seed of the trainings.
    trained
        The model.
    pool, test
        int64: the points of the other region to draw labelled ones from, in order, and those to
        score.
    source, target
        Normalisation by the points of each region.
    """

    task: Task
    seed: int
    trained: CropModel
    pool: NDArray[np.int64]
    test: NDArray[np.int64]
    source: Normalisation
    target: Normalisation

    def scored(self, rates: list[float], normalise: list[str]) -> Iterator[Scored]:
        """Yield every method and its probabilities of the test points, (n, K)."""
        given = self.trained.log_probabilities(self.task.data, self.test, 256)
        yield "as it is", probabilities_at(given, 1.0)
        for n in LABELLED:
            labelled = self.pool[:n]
            known = self.trained.log_probabilities(self.task.data, labelled, 256)
            temperature, _ = fit_temperature(known, self.task.data.labels[labelled])
            yield f"temperature of {n}", probabilities_at(given, temperature)
        for n in LABELLED:
            yield f"from scratch, {n}", self._fitted(n, self.target)
            for by in normalise:
                for rate in rates:
                    name = f"fine-tuned, {n}"
                    name += f", normalised by {by}" * (len(normalise) > 1)
                    name += f", rate x {rate:g}" * (len(rates) > 1)
                    yield name, self._fitted(n, getattr(self, by), self.trained, rate)

    def _fitted(
        self, n: int, by: Normalisation, start: CropModel | None = None, rate: float = 1.0
    ) -> NDArray[np.float64]:
        model = fit(self.task, self.pool[:n], self.seed, by, start, rate)
        return probabilities_at(model.log_probabilities(self.task.data, self.test, 256), 1.0)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[1.0], help="factors of train.learning_rate"
    )
    parser.add_argument("--normalise", nargs="+", default=["source"], choices=["source", "target"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    data, cells, longitude = read_regions(options.data / "canada-2017" / "points.parquet")
    task = Task("", data, [], {"epochs": options.epochs})
    west = longitude < np.median(longitude)
    scores: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    for seed in SEEDS:
        for regions, is_source in (("west to east", west), ("east to west", ~west)):
            for transfer in transfers(task, is_source, cells, seed):
                for method, p in transfer.scored(options.rates, options.normalise):
                    own = score(data.labels[transfer.test], p)
                    scores.setdefault((regions, method), []).append(own)
    print(f"| regions | method | {' | '.join(METRICS)} |\n|---|---|{'---:|' * len(METRICS)}")
    for key, values in scores.items():
        print(f"| {' | '.join((*key, *map(spread, zip(*values, strict=True))))} |")


def transfers(
    task: Task, is_source: NDArray[np.bool_], cells: NDArray[np.int64], seed: int
) -> Iterator[Transfer]:
    """Train on one region, and yield the transfer to each half of the other one."""
    source, target = np.flatnonzero(is_source), np.flatnonzero(~is_source)
    by_source, by_target = (normalisation_of(task.data, points) for points in (source, target))
    trained = fit(task, source, seed, by_source)
    for one, other in GroupKFold(2).split(target, groups=cells[target]):
        pool = np.random.default_rng(seed).permutation(target[one])
        yield Transfer(task, seed, trained, pool, target[other], by_source, by_target)


def fit(
    task: Task,
    points: NDArray[np.int64],
    seed: int,
    normalisation: Normalisation,
    start: CropModel | None = None,
    rate: float = 1.0,
) -> CropModel:
    """Train on some points, and keep the last epoch."""
    training = training_settings(part_of(task.settings, TrainSettings))
    return CropModel.fit(
        *(task.data, np.sort(points), points[:0]),
        about=replace(task.about, normalisation=normalisation),
        architecture={"name": task.settings.model.name},
        training=replace(training, seed=seed, learning_rate=rate * training.learning_rate),
        device=CPU,
        start=start,
    )


def read_regions(file: Path) -> tuple[PixelSets, NDArray[np.int64], NDArray[np.float64]]:
    """Read canada-2017: points, the cell of each, and the mean longitude of its cell."""
    data, cells = read_canada(file)
    table = pd.read_parquet(file, columns=["h3_l3_cell", "CROPTYPE_LABEL", "lon", "sample_id"])
    # `read_canada` orders the points by id.
    points = table[table["CROPTYPE_LABEL"].isin(CODES)].groupby("sample_id").first()
    longitude = points.groupby("h3_l3_cell")["lon"].transform("mean").to_numpy(np.float64)
    return data, cells, longitude


def normalisation_of(data: PixelSets, points: NDArray[np.int64]) -> Normalisation:
    """Compute mean and deviation per channel of some points."""
    pixels = data.pixels[points].astype(np.float64)
    return Normalisation(pixels.mean((0, 1)), pixels.std((0, 1)))


def score(labels: NDArray[np.int64], p: NDArray[np.float64]) -> tuple[float, ...]:
    """Return accuracy and macro F1 in per cent, log loss, and calibration error in per cent."""
    overall = overall_metrics(confusion_matrix(labels, p.argmax(1), p.shape[1]))
    own = p[np.arange(len(labels)), labels]
    ece = expected_calibration_error(p.max(1), p.argmax(1) == labels)
    loss = float(-np.log(np.maximum(own, np.finfo(np.float32).tiny)).mean())
    return 100 * overall["Accuracy"], 100 * overall["MACRO_F1-score"], loss, 100 * ece


def spread(values: tuple[float, ...]) -> str:
    """Return mean and standard deviation (ddof 1) over the seeds and halves."""
    digits = 2 if max(values) < 5 else 1
    return f"{statistics.fmean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


if __name__ == "__main__":
    main()
