"""Measure calibration and prediction sets on real points: out of fold, and on parcels kept apart.

    python -m benchmarks.accuracy_calibration DATA WORK

DATA contains canada-2017. A sixth of the points is kept apart, at random or as whole cells of
100 km; the others are divided into five folds in the same way. The points kept apart stand for
parcels without a label, which all folds predict together. The predictions of trained models are
written to WORK, and read from there the next time.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.model_choice import CPU, Task, read_canada
from models.crop_model import CropModel
from pipeline.evaluation.calibration_error import (
    classwise_errors,
    error_by_chance,
    expected_calibration_error,
)
from pipeline.evaluation.out_of_fold import OutOfFold, ensemble_probabilities, probabilities_at
from pipeline.evaluation.prediction_sets import PredictionSets
from pipeline.evaluation.temperature import fit_temperature
from pipeline.stages.split import divide
from pipeline.stages.train import training_parts, training_settings
from pipeline.workflow.settings import TrainSettings, part_of

FOLDS = 5
ERROR = 0.1
ERRORS = "ECE (by chance), classwise ECE, log loss"
TRAIN = {"epochs": 40, "members": 3}


def main() -> None:
    """Measure on both divisions and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of canada-2017")
    parser.add_argument("work", type=Path, help="folder of the models' predictions")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, list[str]] = {}
    for task, apart in tasks(options.data):
        predicted = predict_folds(task, apart, options.work / task.name)
        for name, value in measure(task, apart, predicted):
            rows.setdefault(name, []).append(value)
    print("| out of fold, or kept apart | random | whole cells |\n|---|---:|---:|")
    for name, values in rows.items():
        print(f"| {name} | {' | '.join(values)} |")


def tasks(data: Path) -> Iterator[tuple[Task, NDArray[np.int64]]]:
    """Yield the tasks, and the points that are kept apart."""
    points, cells = read_canada(data / "canada-2017" / "points.parquet")
    for name, by, blocks in (("random", "random", None), ("cells", "block", cells)):
        *parts, apart = divide(points.labels, FOLDS + 1, by=by, blocks=blocks, seed=1)
        yield Task(name, points, parts, TRAIN), apart


def predict_folds(
    task: Task, apart: NDArray[np.int64], folder: Path
) -> list[dict[str, NDArray[np.float32]]]:
    """Train every fold, or read what an earlier call predicted.

    Returns
    -------
    list
        {test, apart: float32 (n, K), log-probabilities} of each fold.
    """
    predicted = []
    for number, fold in enumerate(task.folds, 1):
        path = folder / f"Fold_{number}.npz"
        if not path.is_file():
            settings = part_of(task.settings, TrainSettings)
            model = CropModel.fit(
                *(task.data, *training_parts(fold, settings)),
                about=task.about,
                architecture={"name": task.settings.model.name},
                training=training_settings(settings),
                device=CPU,
                members=task.settings.train.members,
            )
            parts = {"test": fold.test, "apart": apart}
            scores = {p: model.log_probabilities(task.data, i, 256) for p, i in parts.items()}
            folder.mkdir(parents=True, exist_ok=True)
            np.savez(path, allow_pickle=False, **scores)
            print(path, flush=True)
        with np.load(path) as saved:
            predicted.append({part: saved[part] for part in ("test", "apart")})
    return predicted


def measure(
    task: Task, apart: NDArray[np.int64], predicted: Sequence[Mapping[str, NDArray[np.float32]]]
) -> Iterator[tuple[str, str]]:
    """Yield name and value of every measure: out of fold, then of the points kept apart."""
    labels = task.data.labels
    places = np.concatenate(task.parts)
    numbers = np.repeat(np.arange(1, FOLDS + 1), [len(part) for part in task.parts])
    scores = np.concatenate([own["test"] for own in predicted])

    def fitted_to(rows: NDArray[np.bool_]) -> float:
        return fit_temperature(scores[rows], labels[places[rows]])[0]

    # As calibrate does
    fitted = [fitted_to(numbers != number) for number in range(1, FOLDS + 1)]
    next_fold = [fitted_to(numbers == number % FOLDS + 1) for number in range(1, FOLDS + 1)]
    ids = [task.data.ids[i] for i in places]
    found = OutOfFold(ids, numbers, labels[places], scores, np.array(fitted))
    yield "points out of fold", str(len(places))
    ways = {
        "not calibrated": np.ones(FOLDS),
        "test part of one other fold": np.array(next_fold),
        "test parts of all other folds": np.array(fitted),
    }
    for name, temperatures in ways.items():
        yield f"temperatures: {name}", " ".join(f"{t:.2f}" for t in temperatures)
        own = replace(found, temperatures=temperatures)
        yield (
            f"out of fold, {name}: ECE (by chance), classwise ECE, log loss",
            _errors(own.probabilities, own),
        )
    sets = PredictionSets(found, ERROR)
    yield "out of fold, thresholds per class", _coverage(sets.of_tested(), found.labels)
    yield "out of fold, one threshold", _coverage(_marginal_sets(found), found.labels)

    truth, by_fold = labels[apart], [own["apart"] for own in predicted]
    yield "points apart", str(len(apart))
    averaged = {
        "mean of folds, not calibrated": ensemble_probabilities(by_fold, np.ones(FOLDS)),
        "folds calibrated, then mean": ensemble_probabilities(by_fold, found.temperatures),
    }
    best, _ = fit_temperature(np.mean(by_fold, axis=0), truth)
    at_best = probabilities_at(np.mean(by_fold, axis=0), best)
    averaged["mean of folds at the best temperature for these points"] = at_best
    for name, probabilities in averaged.items():
        yield (
            f"apart, {name}: ECE (by chance), classwise ECE, log loss",
            _errors(probabilities, truth),
        )
    yield "that temperature", f"{best:.2f}"
    pairs = zip(by_fold, fitted, strict=True)
    members = sets.of_new([probabilities_at(own, t) for own, t in pairs])
    yield "apart, each fold compared with its own", _coverage(members, truth)
    thresholds = averaged["folds calibrated, then mean"] >= _thresholds(found)
    yield "apart, thresholds on the mean of folds", _coverage(thresholds, truth)


def _errors(probabilities: NDArray[np.float64], truth: OutOfFold | NDArray[np.int64]) -> str:
    """Return calibration errors in per cent, in brackets that by chance, and log loss."""
    labels = truth.labels if isinstance(truth, OutOfFold) else truth
    right = probabilities.argmax(axis=1) == labels
    confidence = probabilities.max(axis=1)
    error = expected_calibration_error(confidence, right)
    chance = 100 * error_by_chance(confidence)
    by_class = classwise_errors(probabilities, labels).mean()
    loss = -np.log(probabilities[np.arange(len(labels)), labels]).mean()
    return f"{100 * error:.1f} % ({chance:.1f}), {100 * by_class:.1f} %, {loss:.3f}"


def _coverage(members: NDArray[np.bool_], labels: NDArray[np.int64]) -> str:
    """Return coverage over all, from the least to the most covered class, and the mean size."""
    covered = members[np.arange(len(labels)), labels]
    by_class = [100 * covered[labels == index].mean() for index in np.unique(labels)]
    return (
        f"{100 * covered.mean():.1f} % ({min(by_class):.0f} to {max(by_class):.0f}), "
        f"{members.sum(axis=1).mean():.2f} classes"
    )


def _marginal_sets(found: OutOfFold) -> NDArray[np.bool_]:
    """Make sets with one threshold for all classes, from the other folds; bool (N, K)."""
    own = np.take_along_axis(found.probabilities, found.labels[:, None], axis=1)[:, 0]
    members = np.empty(found.probabilities.shape, np.bool_)
    for number in range(1, FOLDS + 1):
        rows = found.rows_of(number)
        others = np.sort(own[found.fold != number])
        threshold = others[int(ERROR * (len(others) + 1)) - 1]
        members[rows] = found.probabilities[rows] >= threshold
    return members


def _thresholds(found: OutOfFold) -> NDArray[np.float64]:
    """Return the least probability with which a class is in a set, from all folds; float64 (K,)."""
    own = np.take_along_axis(found.probabilities, found.labels[:, None], axis=1)[:, 0]
    by_class = [np.sort(own[found.labels == index]) for index in np.unique(found.labels)]
    return np.array([values[int(ERROR * (len(values) + 1)) - 1] for values in by_class])


if __name__ == "__main__":
    main()
