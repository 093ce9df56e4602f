"""Flip declarations on purpose, and measure how well they are found and how much they harm.

    python -m benchmarks.accuracy_doubts DATA DEMO WORK

DATA contains canada-2017. DEMO is the folder of a finished run of configs/demo.yaml, results/demo,
whose scene is SIMULATED. Missing ones are skipped. What trained models predicted is written to WORK
and read from there the next time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from benchmarks.model_choice import CPU, Task, divided, read_canada
from models.crop_model import CropModel
from pipeline.dataset.pixel_set_dataset import Fold, PixelSetDataset
from pipeline.evaluation.baselines import fill_gaps, parcel_means
from pipeline.stages.train import training_settings
from pipeline.workflow.settings import TrainSettings, part_of

SEEDS = (1, 2, 3)
FLIPPED = 0.05
# A doubtful parcel gets this part of the weight of another one; the number of steps is the same.
WEIGHT = 3
EPOCHS = 36


@dataclass(frozen=True, eq=False)
class Condition:
    """A task whose declarations are partly wrong.

    Attributes
    ----------
    name
        Task, flips and seed.
    task
        Its labels are the declared ones.
    truth
        int64 (N,): the labels before the flips; for the demo the true crops, -1 for a crop that is
        not among the classes.
    seed
        Seed of the flips and of the training.
    """

    name: str
    task: Task
    truth: NDArray[np.int64]
    seed: int

    @property
    def is_wrong(self) -> NDArray[np.bool_]:
        """Whether a declaration is wrong, bool (N,)."""
        labels = self.task.data.labels
        return np.asarray((labels >= 0) & (labels != self.truth))


def conditions(data: Path, demo: Path, seed: int) -> Iterator[Condition]:
    """Yield every task as it is, with random flips, and with flips to the most similar class."""
    for task, truth in tasks(data, demo):
        yield Condition(f"{task.name}, no flips, {seed}", task, truth, seed)
        nearest = nearest_classes(task)
        for name, others in (("random", None), ("similar", nearest)):
            labels = flip(task.data.labels, truth, task.n_classes, others, seed)
            flipped = replace(task, data=replace(task.data, labels=labels))
            yield Condition(f"{task.name}, {name} flips, {seed}", flipped, truth, seed)


def tasks(data: Path, demo: Path) -> Iterator[tuple[Task, NDArray[np.int64]]]:
    """Yield the tasks whose data are present, and their true labels."""
    if (file := data / "canada-2017" / "points.parquet").is_file():
        points, _ = read_canada(file)
        yield Task("Canada", points, divided(points), {"epochs": EPOCHS}), points.labels
    if (demo / "dataset").is_dir():
        opened = PixelSetDataset.open(demo / "dataset")
        parcels = opened.pixel_sets(with_features=True)
        table = pd.read_csv(demo / "raw" / "register.truth.csv", dtype=str)
        codes = dict(zip(table["ID_PARCEL"], table["true_code"], strict=True))
        index = {str(crop.code): i for i, crop in enumerate(opened.classes)}
        truth = np.array([index.get(codes[i], -1) for i in parcels.ids], np.int64)
        train = {"epochs": EPOCHS, "pixels": 32}
        yield Task("demo (SIMULATED)", parcels, divided(parcels), train), truth


def nearest_classes(task: Task) -> NDArray[np.int64]:
    """Return for each class the one whose mean series of standardised reflectance is nearest."""
    data = task.data
    series = fill_gaps(parcel_means(data), data.days[0])
    series = (series - series.mean((0, 1))) / series.std((0, 1))
    means = np.stack([series[data.labels == c].mean(axis=0) for c in range(task.n_classes)])
    distance = np.square(means[:, None] - means).sum(axis=(2, 3))
    np.fill_diagonal(distance, np.inf)
    return np.asarray(distance.argmin(axis=1), np.int64)


def flip(
    labels: NDArray[np.int64],
    truth: NDArray[np.int64],
    n_classes: int,
    others: NDArray[np.int64] | None,
    seed: int,
) -> NDArray[np.int64]:
    """Flip 5 % of the right declarations, at random or to the class `others` of each class."""
    rng = np.random.default_rng(seed)
    right = np.flatnonzero((labels >= 0) & (labels == truth))
    chosen = rng.choice(right, round(FLIPPED * len(right)), replace=False)
    shift = rng.integers(1, n_classes, len(chosen))
    flipped = labels.copy()
    random = (labels[chosen] + shift) % n_classes
    flipped[chosen] = random if others is None else others[labels[chosen]]
    return flipped


@dataclass(frozen=True, eq=False)
class Predicted:
    """Log-probabilities of validation and test part of a fold, float32 (n, K) each."""

    validation: NDArray[np.float32]
    test: NDArray[np.float32]


def trained(
    condition: Condition, fold: Fold, name: str, folder: Path, epochs: int = EPOCHS
) -> Predicted:
    """Train one model and predict, or read what an earlier run predicted."""
    path = folder / condition.name / f"{name}.npz"
    if path.is_file():
        with np.load(path) as saved:
            return Predicted(saved["validation"], saved["test"])
    print(f"{condition.name}: {name}", file=sys.stderr, flush=True)
    task = replace(condition.task, train={**condition.task.train, "epochs": epochs})
    settings = task.settings
    options = training_settings(part_of(settings, TrainSettings))
    model = CropModel.fit(
        *(task.data, fold.train, fold.validation),
        about=task.about,
        architecture={"name": settings.model.name},
        training=replace(options, seed=condition.seed),
        device=CPU,
    )
    validation, test = (
        model.log_probabilities(task.data, part, batch_size=256)
        for part in (fold.validation, fold.test)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, validation=validation, test=test)
    return Predicted(validation, test)


def flagged(condition: Condition, number: int, folder: Path) -> NDArray[np.int64]:
    """Return the training parcels of a fold that confident learning would leave out.

    They are found by a cross-validation inside the training part, so that the labels of the test
    part decide nothing.
    """
    task = condition.task
    outer = task.folds[number - 1]
    inner = [part for part in task.parts if np.isin(part, outer.train).all()]
    found = []
    for k, part in enumerate(inner, 1):
        fold = Fold(np.setdiff1d(outer.train, part), outer.validation, part)
        scores = trained(condition, fold, f"inner_{number}_{k}", folder)
        found.append(calibrated(scores, task.data.labels[fold.validation]))
    parcels = np.concatenate(inner)
    return parcels[is_label_issue(task.data.labels[parcels], np.concatenate(found))]


def robust_passes(condition: Condition, number: int, folder: Path) -> dict[str, Predicted]:
    """Train a fold as usual, and in the ways that take doubtful declarations into account."""
    fold = condition.task.folds[number - 1]
    doubtful = flagged(condition, number, folder)
    trusted = np.setdiff1d(fold.train, doubtful)
    wrong = np.flatnonzero(condition.is_wrong)
    weighted = np.concatenate([fold.train, *(WEIGHT - 1) * [trusted]])
    passes = {
        "plain": (fold.train, EPOCHS),
        "removed": (trusted, EPOCHS),
        "weighted": (weighted, EPOCHS // WEIGHT),
    }
    if len(wrong):
        passes["oracle"] = (np.setdiff1d(fold.train, wrong), EPOCHS)
    return {
        name: trained(condition, replace(fold, train=train), f"{name}_{number}", folder, epochs)
        for name, (train, epochs) in passes.items()
    }


def calibrated(scores: Predicted, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the probabilities of the test part, by the temperature of the validation part."""
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        scaled = scores.validation.astype(np.float64) / np.exp(log_temperature)
        return float(-log_softmax(scaled, axis=1)[rows, labels].mean())

    best = minimize_scalar(loss, bounds=(-3, 3), method="bounded").x
    return np.asarray(softmax(scores.test.astype(np.float64) / np.exp(best), axis=1))


def is_label_issue(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return which labels are off the diagonal of the confident joint, bool (N,).

    A parcel counts as the class of the highest probability among those that reach the mean
    self-confidence of the parcels labelled as them (Northcutt, Jiang and Chuang 2021, J. Artif.
    Intell. Res. 70, 1373-1411, equation 2).
    """
    rows = np.arange(len(labels))
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    totals = np.bincount(labels, probabilities[rows, labels], probabilities.shape[1])
    reached = probabilities >= np.where(counts > 0, totals / np.maximum(counts, 1), np.inf)
    best = np.where(reached, probabilities, -1.0).argmax(axis=1)
    return np.asarray(reached.any(axis=1) & (best != labels))


def main() -> None:
    """Train, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("demo", type=Path)
    parser.add_argument("work", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed in SEEDS:
        for condition in conditions(options.data, options.demo, seed):
            for k, fold in enumerate(condition.task.folds, 1):
                trained(condition, fold, f"plain_{k}", options.work)
    for seed in SEEDS:
        for condition in conditions(options.data, options.demo, seed):
            for k, _ in enumerate(condition.task.folds, 1):
                robust_passes(condition, k, options.work)


if __name__ == "__main__":
    main()
