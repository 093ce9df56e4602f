"""Flip declarations on purpose, and measure how well they are found and how much they harm.

    python -m benchmarks.accuracy_doubts DATA DEMO WORK

DATA contains canada-2017. DEMO is the folder of a finished run of configs/demo.yaml, results/demo,
whose scene is SIMULATED. Missing ones are skipped. What trained models predicted is written to WORK
and read from there the next time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score

from benchmarks.model_choice import CPU, Task, divided, read_canada
from models.crop_model import CropModel
from models.metrics import confusion_matrix, overall_metrics
from pipeline.dataset.pixel_set_dataset import Fold, PixelSetDataset
from pipeline.evaluation.baselines import fill_gaps, parcel_means
from pipeline.evaluation.doubts import (
    DOUBT_FACTOR,
    SUPPOSED_WRONG,
    Verdict,
    found_by_visits,
    judge,
    margins,
)
from pipeline.evaluation.out_of_fold import probabilities_at
from pipeline.evaluation.temperature import fit_temperature
from pipeline.stages.evaluate import add_up
from pipeline.stages.train import training_settings
from pipeline.workflow.settings import TrainSettings, part_of

PLAIN = "as usual"
# Of CONFLICT; at the last one, whatever is contradicted gets DOUBT.
RATES = (0.02, 0.05, 0.2)
VERDICTS = {
    "CONFLICT": [Verdict.CONFLICT],
    "CONFLICT or DOUBT": [Verdict.CONFLICT, Verdict.DOUBT],
}
FLIPPED = 0.05
# Lengths of a list of the most doubtful declarations, as shares of all.
LIST_LENGTHS = (0.01, 0.02, 0.05, 0.1)
# Numbers of visits of the work list.
VISITS = np.array([10, 25, 50, 100])
# A trusted parcel has this many times the weight of a doubtful one, at the same number of steps.
WEIGHT = 3
EPOCHS = 36
# Fixed, so that what was measured stays when the default recipe changes.
TRAIN = {"epochs": EPOCHS, "date_dropping": 0}


@dataclass(frozen=True, eq=False)
class Condition:
    """A task whose declarations are partly wrong.

    Attributes
    ----------
    name
        Task and flips.
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
        yield Condition(f"{task.name}, no flips", task, truth, seed)
        nearest = nearest_classes(task)
        for name, others in (("random", None), ("similar", nearest)):
            labels = flip(task.data.labels, truth, task.n_classes, others, seed)
            flipped = replace(task, data=replace(task.data, labels=labels))
            yield Condition(f"{task.name}, {name} flips", flipped, truth, seed)


def tasks(data: Path, demo: Path) -> Iterator[tuple[Task, NDArray[np.int64]]]:
    """Yield the tasks whose data are present, and their true labels."""
    if (file := data / "canada-2017" / "points.parquet").is_file():
        points, _ = read_canada(file)
        yield Task("Canada", points, divided(points), TRAIN), points.labels
    if (demo / "dataset").is_dir():
        opened = PixelSetDataset.open(demo / "dataset")
        parcels = opened.pixel_sets(with_features=True)
        table = pd.read_csv(demo / "raw" / "register.truth.csv", dtype=str)
        codes = dict(zip(table["ID_PARCEL"], table["true_code"], strict=True))
        index = {str(crop.code): i for i, crop in enumerate(opened.classes)}
        truth = np.array([index.get(codes[i], -1) for i in parcels.ids], np.int64)
        train = {**TRAIN, "pixels": 32}
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
    path = folder / f"{condition.name}, {condition.seed}" / f"{name}.npz"
    if path.is_file():
        with np.load(path) as saved:
            return Predicted(saved["validation"], saved["test"])
    print(f"{condition.name}, {condition.seed}: {name}", file=sys.stderr, flush=True)
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


def training_passes(
    condition: Condition, number: int, folder: Path
) -> dict[str, Callable[[], Predicted]]:
    """Return the ways to train a fold on wrong declarations, from the cheapest on."""
    fold = condition.task.folds[number - 1]

    def on(name: str, train: NDArray[np.int64], epochs: int = EPOCHS) -> Predicted:
        return trained(condition, replace(fold, train=train), f"{name}_{number}", folder, epochs)

    def weighted() -> Predicted:
        trusted = np.setdiff1d(fold.train, flagged(condition, number, folder))
        repeated = np.concatenate([fold.train, *(WEIGHT - 1) * [trusted]])
        return on("weighted", repeated, EPOCHS // WEIGHT)

    known = np.setdiff1d(fold.train, np.flatnonzero(condition.is_wrong))
    oracle = "plain" if len(known) == len(fold.train) else "oracle"
    return {
        PLAIN: lambda: on("plain", fold.train),
        "wrong ones left out, if they were known": lambda: on(oracle, known),
        "doubtful ones left out": lambda: on(
            "removed", np.setdiff1d(fold.train, flagged(condition, number, folder))
        ),
        f"doubtful ones with 1 / {WEIGHT} of the weight": weighted,
    }


def calibrated(scores: Predicted, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the probabilities of the test part, by the temperature of the validation part."""
    return probabilities_at(scores.test, fit_temperature(scores.validation, labels)[0])


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


@dataclass(frozen=True, eq=False)
class Judged:
    """The declarations of a condition, in the order of the test parts.

    Attributes
    ----------
    labels, probabilities
        int64 (N,), float64 (N, K): the declared class, and out-of-fold probabilities.
    is_wrong
        bool (N,).
    """

    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    is_wrong: NDArray[np.bool_]

    @classmethod
    def of(cls, condition: Condition, folder: Path) -> Judged:
        """Read or train the out-of-fold predictions of a condition."""
        labels = condition.task.data.labels
        parts = []
        for number, fold in enumerate(condition.task.folds, 1):
            scores = training_passes(condition, number, folder)[PLAIN]()
            parts.append(calibrated(scores, labels[fold.validation]))
        tested = np.concatenate(condition.task.parts)
        return cls(labels[tested], np.concatenate(parts), condition.is_wrong[tested])


def label_qualities(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Compute the candidates for the order of the list; the lowest is the most doubtful."""
    rows = np.arange(len(labels))
    declared = probabilities[rows, labels]
    margin = margins(probabilities)[rows, labels]
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    thresholds = np.bincount(labels, declared, probabilities.shape[1]) / np.maximum(counts, 1)
    adjusted = probabilities - thresholds + thresholds.max()
    adjusted /= adjusted.sum(axis=1, keepdims=True)
    largest = probabilities.max(axis=1)
    share = np.array(
        [(margin[labels == c] <= m).mean() for c, m in zip(labels, margin, strict=True)]
    )
    return {
        "most confident contradictions": np.where(margin < 0, -largest, largest),
        "self-confidence": declared,
        "normalised margin": margin,
        "self-confidence, adjusted for class thresholds": adjusted[rows, labels],
        "normalised margin, adjusted for class thresholds": margins(adjusted)[rows, labels],
        "share of the class with a lower margin": np.array(share),
    }


def found_by_list(quality: NDArray[np.float64], is_wrong: NDArray[np.bool_]) -> list[float]:
    """Return precision at n wrong ones, 1 and 2 %, recall at 5 and 10 %, average precision."""
    ordered = is_wrong[np.argsort(quality, kind="stable")]
    n, wrong = len(ordered), int(is_wrong.sum())
    return [
        float(ordered[:wrong].mean()),
        *(float(ordered[: round(share * n)].mean()) for share in (0.01, 0.02)),
        *(float(ordered[: round(share * n)].sum() / wrong) for share in (0.05, 0.1)),
        float(average_precision_score(is_wrong, -quality)),
    ]


def verdict_row(judged: Judged, rate: float, at_least: Sequence[Verdict]) -> list[float]:
    """Return share with a verdict, precision, recall, and the share of false alarms."""
    verdicts = judge(judged.labels, judged.probabilities, rate).verdict
    alarm, wrong = np.isin(verdicts, at_least), judged.is_wrong
    return [
        float(alarm.mean()),
        float(wrong[alarm].mean()) if alarm.any() else np.nan,
        float(alarm[wrong].mean()) if wrong.any() else np.nan,
        float(alarm[~wrong].mean()),
    ]


def scores_of(
    condition: Condition, way: str, folder: Path
) -> tuple[list[float], NDArray[np.bool_]]:
    """Score a way of training on the test parcels whose declaration is right.

    Returns
    -------
    Accuracy and macro F1; and bool (n,), which of these parcels are predicted as declared.
    """
    task = condition.task
    matrices, hits = [], []
    for number, fold in enumerate(task.folds, 1):
        scores = training_passes(condition, number, folder)[way]().test
        right = ~condition.is_wrong[fold.test]
        labels, predicted = task.data.labels[fold.test][right], scores.argmax(axis=1)[right]
        matrices.append(confusion_matrix(labels, predicted, task.n_classes))
        hits.append(labels == predicted)
    metrics = overall_metrics(add_up(matrices))
    return [metrics["Accuracy"], metrics["MACRO_F1-score"]], np.concatenate(hits)


def table(title: str, *columns: str) -> None:
    """Print the head of a table."""
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")


def line(*names: str, values: Sequence[Sequence[float]]) -> None:
    """Print a row of a table: means over the seeds, in per cent."""
    means = (f"{100 * value:.1f}" for value in np.mean(values, axis=0))
    print(f"| {' | '.join((*names, *means))} |", flush=True)


def print_orders(judged: Mapping[str, Sequence[Judged]]) -> None:
    """Compare the orders of the list."""
    lists = ("precision at n wrong", "in the first 1 %", "2 %", "recall in the first 5 %", "10 %")
    table("Order of the list", "declarations", "order", *lists, "average precision")
    for name, own in judged.items():
        qualities = [label_qualities(one.labels, one.probabilities) for one in own]
        for order in qualities[0] if own[0].is_wrong.any() else ():
            pairs = zip(qualities, own, strict=True)
            line(name, order, values=[found_by_list(q[order], o.is_wrong) for q, o in pairs])


def print_verdicts(judged: Mapping[str, Sequence[Judged]]) -> None:
    """Compare stated and measured shares of false alarms."""
    columns = ("stated", "get it", "precision", "recall", "false alarms")
    table("Verdicts", "declarations", "verdict", *columns)
    for name, own in judged.items():
        for rate in RATES:
            for verdict, at_least in VERDICTS.items():
                stated = rate * (1 if len(at_least) == 1 else DOUBT_FACTOR)
                rows = [verdict_row(one, rate, at_least) for one in own]
                line(name, verdict, f"{100 * stated:.0f}", values=rows)


def print_estimates(judged: Mapping[str, Sequence[Judged]]) -> None:
    """Compare the share of wrong declarations in the list, estimated and measured."""
    lengths = (f"first {100 * length:.0f} %" for length in LIST_LENGTHS)
    table("Wrong declarations found by the list", "declarations", "", *lengths)
    for name, own in judged.items():
        estimates = [estimate_list(one.labels, one.probabilities) for one in own]
        line(name, "estimated", values=[estimate.tolist() for estimate in estimates])
        if own[0].is_wrong.any():
            found = []
            for one in own:
                rank = judge(one.labels, one.probabilities, RATES[0]).rank
                listed = [one.is_wrong[rank <= s * len(rank)].sum() for s in LIST_LENGTHS]
                found.append([float(n / one.is_wrong.sum()) for n in listed])
            line(name, "found", values=found)


def estimate_list(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Estimate the share of the wrong declarations in lists of `LIST_LENGTHS`, knowing none.

    The share SUPPOSED_WRONG of the declarations is supposed to be of a random other class. NaN for
    a single class.
    """
    margin = margins(probabilities)
    n, n_classes = margin.shape
    declared = margin[np.arange(n), labels]
    wrong = margin[np.arange(n_classes) != labels[:, None]]
    if not len(wrong):
        return np.full(len(LIST_LENGTHS), np.nan)
    weights = np.repeat([(1 - SUPPOSED_WRONG) / n, SUPPOSED_WRONG / len(wrong)], [n, len(wrong)])
    order = np.argsort(np.concatenate([declared, wrong]), kind="stable")
    length = np.cumsum(weights[order])
    found = np.cumsum(np.where(order < n, 0.0, 1 / len(wrong)))
    return np.asarray(np.interp(LIST_LENGTHS, length, found), np.float64)


def wrong_per_visit(judged: Judged) -> tuple[list[float], list[float]]:
    """Return wrong declarations per visit of the work list, estimated and found, for `VISITS`.

    Found is NaN where the list is shorter.
    """
    n = len(judged.labels)
    share = found_by_visits(judged.labels, judged.probabilities, RATES[0], VISITS / n)
    doubts = judge(judged.labels, judged.probabilities, RATES[0])
    order = np.argsort(doubts.rank)
    listed = judged.is_wrong[order[doubts.verdict[order] != Verdict.CONFORM]]
    found = [float(listed[:v].mean()) if v <= len(listed) else np.nan for v in VISITS]
    return (share * SUPPOSED_WRONG * n / VISITS).tolist(), found


def print_visits(judged: Mapping[str, Sequence[Judged]]) -> None:
    """Compare visits of the work list with as many of parcels at random."""
    columns = (f"first {v}" for v in VISITS)
    table("Wrong declarations per 100 visits", "declarations", "", *columns, "at random")
    for name, own in judged.items():
        estimated, found = zip(*map(wrong_per_visit, own), strict=True)
        line(name, "estimated", values=[[*row, SUPPOSED_WRONG] for row in estimated])
        if own[0].is_wrong.any():
            rows = zip(found, own, strict=True)
            line(name, "found", values=[[*row, one.is_wrong.mean()] for row, one in rows])


def print_trainings(by_name: Mapping[str, Sequence[Condition]], folder: Path) -> None:
    """Compare the ways of training; p is that of McNemar's exact test against the usual one."""
    columns = ("parcels gained", "lost", "p", "accuracy", "macro F1")
    table("Ways of training", "declarations", "training", *columns)
    for name, own in by_name.items():
        usual = [scores_of(condition, PLAIN, folder)[1] for condition in own]
        for way in training_passes(own[0], 1, folder):
            metrics, hits = zip(*(scores_of(c, way, folder) for c in own), strict=True)
            gained = sum(
                int((now & ~before).sum()) for now, before in zip(hits, usual, strict=True)
            )
            lost = sum(int((before & ~now).sum()) for now, before in zip(hits, usual, strict=True))
            p = f"{binomtest(gained, gained + lost).pvalue:.2f}" if gained + lost else ""
            line(name, way, str(gained), str(lost), p, values=metrics)


def main() -> None:
    """Train, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="folder of canada-2017")
    parser.add_argument("demo", type=Path, help="results/demo")
    parser.add_argument("work", type=Path, help="where predictions are kept")
    parser.add_argument("--seeds", type=int, default=2, help="seeds of flips and training")
    parser.add_argument(
        "--training-seeds", type=int, default=1, help="of the ways of training; 0: none"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    by_name: dict[str, list[Condition]] = {}
    for seed in range(1, options.seeds + 1):
        for condition in conditions(options.data, options.demo, seed):
            by_name.setdefault(condition.name, []).append(condition)
    judged = {name: [Judged.of(c, options.work) for c in own] for name, own in by_name.items()}
    print_orders(judged)
    print_verdicts(judged)
    print_estimates(judged)
    print_visits(judged)
    if options.training_seeds:
        few = {name: own[: options.training_seeds] for name, own in by_name.items()}
        print_trainings(few, options.work)


if __name__ == "__main__":
    main()
