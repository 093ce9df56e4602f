"""Candidate: the reference's training and inference, by its own unmodified code.

    REFERENCE=CHECKOUT python -m benchmarks.reference_models training FOLDER [--workers 0]

Its modules are imported from the checkout: `train.train_epoch`, `inference.predict`, the model, the
dataset, the loss and the initial weights are its own, with its own defaults. Only what its scripts
hard-code for a GPU, or fix as the names of one dataset, is done here.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import pickle
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Subset, SubsetRandomSampler

from benchmarks.harness import ROOT
from benchmarks.own_models import N_COMPARED, WEIGHTS, print_figures
from benchmarks.pixel_set_data import CODES, NOMENCLATURE, given

REFERENCE = "REFERENCE"
"""Environment variable with the folder of a checkout of VSainteuf/pytorch-psetae."""

TUNED_MALLOC = {
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}
"""Environment in which glibc keeps freed memory: the best a user can do from outside."""

_BATCH_SIZE, _N_PIXELS = 128, 64


def missing_reference() -> str | None:
    """Return how to get the reference; None if REFERENCE names a checkout of it."""
    folder = os.environ.get(REFERENCE)
    if folder is None:
        return (
            "clone VSainteuf/pytorch-psetae from GitHub and pass its folder with --reference, or "
            "with REFERENCE=... make bench"
        )
    if not (Path(folder) / "models" / "stclassifier.py").is_file():
        return f"{folder} has no models/stclassifier.py: pass a checkout of pytorch-psetae"
    return None


def main() -> None:
    """Do one of the works and print its figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=("training", "inference"))
    parser.add_argument("folder", type=Path, help="of the dataset")
    parser.add_argument("--out", type=Path, required=True, help="where scores are written")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=2, help="the first warms up")
    parser.add_argument("--workers", type=int, default=0, help="of its DataLoader")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    _see_only_the_reference(Path(os.environ[REFERENCE]))
    {"training": training, "inference": inference}[options.work](options)


def training(options: argparse.Namespace) -> None:
    """Train with its `train_epoch` and time the epochs after the first."""
    script = importlib.import_module("train")
    data = _dataset(options.folder)
    n = len(data) - 1
    sampler = SubsetRandomSampler(range(n))
    loader = DataLoader(data, _BATCH_SIZE, sampler=sampler, num_workers=options.workers)
    model = script.PseTae(**_model_config(data))
    model.apply(script.weight_init)
    optimizer = torch.optim.Adam(model.parameters())
    criterion = script.FocalLoss(1)
    device, config = torch.device("cpu"), {"num_classes": len(CODES), "display_step": 50}
    ends, metrics = [], {}
    for _ in range(options.epochs):
        model.train()
        metrics = script.train_epoch(model, optimizer, criterion, loader, device, config)
        ends.append(time.perf_counter())
    loss = float(metrics["train_loss"])
    print_figures(n * (len(ends) - 1), ends[-1] - ends[0], loss=loss)


def inference(options: argparse.Namespace) -> None:
    """Predict with its `predict`, in evaluation mode, which its script does not set."""
    script = importlib.import_module("inference")
    data = _dataset(options.folder, return_id=True)
    config = {"device": "cpu", "output_dir": str(options.out)}
    weights = str(options.folder / WEIGHTS)
    model = script.PseTae_pretrained(weights, _model_config(data), device="cpu")
    for instance in model.model_instances:
        instance.eval()

    def loader(parcels: Any) -> DataLoader[Any]:
        return DataLoader(parcels, _BATCH_SIZE, num_workers=options.workers)

    script.predict(model, loader(Subset(data, range(_BATCH_SIZE))), config)
    start = time.perf_counter()
    script.predict(model, loader(data), config)
    seconds = time.perf_counter() - start
    _save_scores(model, data, options.out)
    print_figures(len(data), seconds)


def _save_scores(model: Any, data: Any, out: Path) -> None:
    """Write the scores of the first parcels whose pixels are all taken, none drawn at random."""
    data.jitter = None
    files = (np.load(f"{data.data_folder}/{i}.npy", mmap_mode="r") for i in data.pid)
    small = [i for i, pixels in enumerate(files) if pixels.shape[2] <= _N_PIXELS][:N_COMPARED]
    scores, ids = [], []
    for x, _, names in DataLoader(Subset(data, small), _BATCH_SIZE):
        scores.append(model(x).numpy())
        ids.extend(names)
    np.savez(out / "scores.npz", ids=ids, scores=np.concatenate(scores))


def _dataset(folder: Path, **options: Any) -> Any:
    with (given(folder) / "normalisation_values.pkl").open("rb") as file:
        values = pickle.load(file)  # noqa: S301 (written by ourselves)
    return importlib.import_module("dataset").PixelSetData(
        str(given(folder)),
        labels=NOMENCLATURE,
        npixel=_N_PIXELS,
        sub_classes=list(CODES),
        norm=values,
        extra_feature="geomfeat",
        **options,
    )


def _model_config(data: Any) -> dict[str, Any]:
    """Return the defaults of its scripts; most are those of PseTae."""
    return {"len_max_seq": None, "positions": data.date_positions, "extra_size": 4}


def _see_only_the_reference(folder: Path) -> None:
    """Import `models`, which both projects have, from the reference; replace a missing torchnet."""
    sys.path[:] = [str(folder), *(p for p in sys.path if Path(p).resolve() != ROOT)]
    if importlib.util.find_spec("torchnet") is None:
        meters = types.SimpleNamespace(ClassErrorMeter=_Accuracy, AverageValueMeter=_Average)
        sys.modules["torchnet"] = types.ModuleType("torchnet")
        sys.modules["torchnet"].meter = meters  # type: ignore[attr-defined]


class _Average:
    """As torchnet's AverageValueMeter: the mean of what is added."""

    def __init__(self) -> None:
        self._sum, self._n = 0.0, 0

    def add(self, value: float) -> None:
        """Add a value."""
        self._sum, self._n = self._sum + value, self._n + 1

    def value(self) -> list[float]:
        """Return the mean, first in a list."""
        return [self._sum / self._n]


class _Accuracy:
    """As torchnet's ClassErrorMeter with accuracy=True: the percentage of correct classes."""

    def __init__(self, accuracy: bool) -> None:
        self._accuracy, self._right, self._n = accuracy, 0, 0

    def add(self, output: torch.Tensor, target: torch.Tensor) -> None:
        """Add the scores and the classes of a batch."""
        self._right += int((output.argmax(1) == target).sum())
        self._n += len(target)

    def value(self) -> list[float]:
        """Return the percentage, first in a list."""
        right = 100 * self._right / self._n
        return [right if self._accuracy else 100 - right]


if __name__ == "__main__":
    main()
