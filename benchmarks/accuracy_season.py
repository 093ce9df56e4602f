"""How early crops are known on real points, from one training with random ends.

    python -m benchmarks.accuracy_season DATA WORK

DATA contains canada-2017. Scores of trained models are written to WORK, and read from there the
next time. Printed are the accuracy by the last date available, of a training with random ends and
of one on whole series; how near one training comes to a training for each date; and what changes
if nodata is interpolated, also from later dates, instead of masked.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.model_choice import CPU, SEEDS, Task, divided, read_canada
from models.crop_model import CropModel
from models.metrics import confusion_matrix, overall_metrics
from models.pixel_sets import PixelSets
from pipeline.evaluation.season import first_to_stay
from pipeline.stages.train import training_parts, training_settings
from pipeline.workflow.settings import TrainSettings, part_of

# Last months of the trainings with which one training for all months is compared.
CUT_OFFS = (4, 6, 8)
METRICS = ("Accuracy", "MACRO_F1-score")


@dataclass(frozen=True)
class Trained:
    """A kind of training: random ends, or a fixed last date (its position), or all dates.

    If it is not masked, nodata is interpolated, also from later dates, and used.
    """

    name: str
    ends: str = "last"
    last: int | None = None
    masked: bool = True


WHOLE = Trained("whole series")
RANDOM = Trained("random ends", "random")
INTERPOLATED = Trained("random ends, interpolated", "random", masked=False)


def main() -> None:
    """Train, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--epochs", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    points, _ = read_canada(options.data / "canada-2017" / "points.parquet", masked=True)
    task = Task("Canada, at random", points, divided(points), {"epochs": options.epochs})
    folder = options.work / "season"
    chosen = {kind: _of_seeds(task, kind, folder) for kind in (WHOLE, RANDOM)}
    print("| last month | parcels observed | random ends | whole series, cut off |")
    print("|---|---:|---:|---:|")
    for e in range(points.n_dates):
        seen = int((chosen[RANDOM][0][:, e] >= 0).sum())
        cells = (_spread(task, [one[:, e] for one in chosen[kind]]) for kind in (RANDOM, WHOLE))
        print(f"| {e + 1} | {seen} | {' | '.join(cells)} |", flush=True)
    first = [first_to_stay(one) for one in chosen[RANDOM]]
    for share in (0.5, 0.8, 0.95):
        months = [int(np.quantile(one[one >= 0], share, method="higher")) + 1 for one in first]
        print(f"{100 * share:g} % of the points keep their class from month {months} on (seeds)")
    print("\nseed 1\n\n| last month | one training, random ends | a training for this month |")
    print("|---|---:|---:|")
    for last in CUT_OFFS:
        own = _out_of_fold(task, Trained(f"until {last + 1}", last=last), SEEDS[0], folder)
        cells = (_spread(task, [one[:, last]]) for one in (chosen[RANDOM][0], own))
        print(f"| {last + 1} | {' | '.join(cells)} |", flush=True)
    print("\nseed 1\n\n| last month | nodata masked | nodata interpolated |\n|---|---:|---:|")
    filled = _out_of_fold(task, INTERPOLATED, SEEDS[0], folder)
    for last in range(points.n_dates):
        cells = (_spread(task, [one[:, last]]) for one in (chosen[RANDOM][0], filled))
        print(f"| {last + 1} | {' | '.join(cells)} |", flush=True)


def _of_seeds(task: Task, kind: Trained, folder: Path) -> list[NDArray[np.int16]]:
    """Return for every seed the classes of all points by the last month, int16 (N, E)."""
    return [_out_of_fold(task, kind, seed, folder) for seed in SEEDS]


def _out_of_fold(task: Task, kind: Trained, seed: int, folder: Path) -> NDArray[np.int16]:
    """Train every fold and predict its test part, or read the classes of an earlier run."""
    path = folder / f"{kind.name}_{seed}.npy"
    if path.is_file():
        return np.asarray(np.load(path), np.int16)
    data = task.data if kind.last is None else _until(task.data, kind.last)
    data = data if kind.masked else replace(data, clear=None)
    used = part_of(task.settings, TrainSettings)
    settings = training_settings(used, kind.ends)
    chosen = np.full((len(data), data.n_dates), -1, np.int16)
    for fold in task.folds:
        model = CropModel.fit(
            *(data, *training_parts(fold, used)),
            about=task.about,
            architecture={"name": "pseltae"},
            training=replace(settings, seed=seed),
            device=CPU,
        )
        scores = model.log_probabilities_until(data, fold.test, data.days[0], batch_size=256)
        seen = ~np.isnan(scores[:, :, 0])
        chosen[fold.test] = np.where(seen, scores.argmax(2), -1)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, chosen)
    return chosen


def _until(data: PixelSets, last: int) -> PixelSets:
    """Return the points with only the dates up to the one at position `last`."""
    observed = np.zeros((len(data), data.n_dates), np.bool_)
    observed[:, : last + 1] = True
    return replace(data, observed=observed)


def _spread(task: Task, chosen: Sequence[NDArray[np.int16]]) -> str:
    """Return mean ± standard deviation (ddof 1) over seeds of accuracy / macro F1, in per cent."""
    found = []
    for one in chosen:
        known = (one >= 0) & (task.data.labels >= 0)
        matrix = confusion_matrix(task.data.labels[known], one[known], task.n_classes)
        found.append(overall_metrics(matrix))
    texts = []
    for metric in METRICS:
        values = [100 * of_seed[metric] for of_seed in found]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        texts.append(f"{statistics.fmean(values):.1f}{spread}")
    return " / ".join(texts)


if __name__ == "__main__":
    main()
