"""Measure calibration and prediction sets on real points: out of fold, and on parcels kept apart.

    python -m benchmarks.accuracy_calibration DATA WORK

DATA contains canada-2017. A sixth of the points is kept apart, at random or as whole cells of
100 km; the others are divided into five folds in the same way. The points kept apart stand for
parcels without a label, which all folds predict together. The predictions of trained models are
written to WORK, and read from there the next time.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.model_choice import CPU, Task, read_canada
from models.crop_model import CropModel
from pipeline.stages.split import divide
from pipeline.stages.train import training_settings
from pipeline.workflow.settings import TrainSettings, part_of

FOLDS = 5
TRAIN = {"epochs": 40, "members": 3}


def main() -> None:
    """Measure on both divisions and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of canada-2017")
    parser.add_argument("work", type=Path, help="folder of the models' predictions")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for task, apart in tasks(options.data):
        predict_folds(task, apart, options.work / task.name)


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
        {validation, test, apart: float32 (n, K), log-probabilities} of each fold.
    """
    predicted = []
    for number, fold in enumerate(task.folds, 1):
        path = folder / f"Fold_{number}.npz"
        if not path.is_file():
            model = CropModel.fit(
                *(task.data, fold.train, fold.validation),
                about=task.about,
                architecture={"name": task.settings.model.name},
                training=training_settings(part_of(task.settings, TrainSettings)),
                device=CPU,
                members=task.settings.train.members,
            )
            parts = {"validation": fold.validation, "test": fold.test, "apart": apart}
            scores = {p: model.log_probabilities(task.data, i, 256) for p, i in parts.items()}
            folder.mkdir(parents=True, exist_ok=True)
            np.savez(path, allow_pickle=False, **scores)
            print(path, flush=True)
        with np.load(path) as saved:
            predicted.append({part: saved[part] for part in ("validation", "test", "apart")})
    return predicted


if __name__ == "__main__":
    main()
