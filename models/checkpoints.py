"""Trained models on disk, in the reference's format.

A model is a folder `Fold_<k>` with `model.pth.tar`, the reference's {'epoch', 'state_dict',
'optimizer'}, and `model.json` beside it: all that is needed to run the model on new data.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import platform
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.classifier import ParcelClassifier
from models.hyperparameters import Hyperparameters
from models.positional_encoding import sinusoid_encoding
from models.standardisation import FeatureScaling, Normalisation

WEIGHTS_FILE = "model.pth.tar"
METADATA_FILE = "model.json"
_POSITION_TABLE = "temporal_encoder.position_enc.weight"


class CheckpointError(ValueError):
    """A checkpoint that is not there, or not what it should be."""


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": str(torch.__version__),
    }


@dataclass(frozen=True, eq=False)
class ModelMetadata:
    """Say what a model expects and what it predicts.

    Attributes
    ----------
    hyperparameters, normalisation, feature_scaling
        To build and to feed the model with; no scaling where it uses no features.
    n_pixels
        Pixels drawn of a parcel in training.
    bands
        Names of the channels, in order.
    class_codes, class_names
        Of the class indices, in order.
    first_date
        ISO date of day 0.
    seed
        Of the training.
    versions
        Of the software that trained it.
    """

    hyperparameters: Hyperparameters
    normalisation: Normalisation
    feature_scaling: FeatureScaling | None
    n_pixels: int
    bands: list[str]
    class_codes: list[str]
    class_names: list[str]
    first_date: str
    seed: int
    versions: dict[str, str] = field(default_factory=_versions)

    def to_json(self) -> dict[str, Any]:
        """Give plain JSON values."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        scaling = self.feature_scaling
        return values | {
            "hyperparameters": self.hyperparameters.to_json(),
            "normalisation": self.normalisation.to_json(),
            "feature_scaling": None if scaling is None else scaling.to_json(),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ModelMetadata:
        """Read back what `to_json` gave."""
        expected = set(cls.__dataclass_fields__)
        if values.keys() != expected:
            raise CheckpointError(
                f"model metadata: expected the keys {', '.join(sorted(expected))}; found "
                f"{', '.join(sorted(values))}"
            )
        scaling = values["feature_scaling"]
        return cls(
            **values
            | {
                "hyperparameters": Hyperparameters.from_json(values["hyperparameters"]),
                "normalisation": Normalisation.from_json(values["normalisation"]),
                "feature_scaling": None if scaling is None else FeatureScaling.from_json(scaling),
            }
        )


def save_checkpoint(
    folder: Path,
    *,
    epoch: int,
    state_dict: dict[str, Tensor],
    optimizer_state: dict[str, Any],
    hyperparameters: Hyperparameters,
    days: NDArray[np.int64],
) -> Path:
    """Write `model.pth.tar`, so that the reference can read it too.

    Parameters
    ----------
    folder
        Created where it is not there.
    epoch, state_dict, optimizer_state
        Of the training.
    hyperparameters
        Of the model.
    days
        int64 (T,), the dates of the training data, from which the reference's table of positions
        is made; ours has none.

    Returns
    -------
    Path
        The file.
    """
    table = _position_table(hyperparameters, days)
    checkpoint = {
        "epoch": epoch,
        "state_dict": {**state_dict, _POSITION_TABLE: table},
        "optimizer": optimizer_state,
    }
    # torch.save stores the name of the file that it writes: through a buffer, the bytes are the
    # same whatever the file's name.
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    return _write(folder / WEIGHTS_FILE, buffer.getvalue())


def save_metadata(folder: Path, metadata: ModelMetadata) -> Path:
    """Write `model.json` and return its path."""
    text = json.dumps(metadata.to_json(), indent=2, ensure_ascii=False) + "\n"
    return _write(folder / METADATA_FILE, text.encode())


def load_metadata(folder: Path) -> ModelMetadata:
    """Read `model.json`."""
    path = folder / METADATA_FILE
    if not path.is_file():
        raise CheckpointError(f"{path} is not there: it says what the model beside it expects")
    return ModelMetadata.from_json(json.loads(path.read_text(encoding="utf-8")))


def load_model(
    folder: Path, hyperparameters: Hyperparameters, device: torch.device
) -> ParcelClassifier:
    """Read `model.pth.tar`, ours or the reference's, into a model in evaluation mode.

    Raises
    ------
    CheckpointError
        If the file is not there, is no such checkpoint, or has other weights than the
        hyper-parameters say.
    """
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise CheckpointError(f"{path} is not there")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError) as error:
        raise CheckpointError(f"{path} is no file that torch.save wrote: {error}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise CheckpointError(f"{path}: expected 'epoch', 'state_dict' and 'optimizer' in it")
    state_dict = {k: v for k, v in checkpoint["state_dict"].items() if k != _POSITION_TABLE}
    model = ParcelClassifier(hyperparameters)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state_dict.items()}
    if expected != found:
        names = sorted(
            name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
        )
        listed = "; ".join(
            f"{name}: expected {expected.get(name)}, found {found.get(name)}" for name in names[:5]
        )
        raise CheckpointError(
            f"{path}: {len(names)} weights are not those of the hyper-parameters: {listed}"
        )
    model.load_state_dict(state_dict)
    return model.to(device).eval()


def fold_folders(folder: Path) -> dict[int, Path]:
    """Find the folders `Fold_<k>`, in order of k; anything else beside them is ignored.

    Raises
    ------
    CheckpointError
        If there is none, or one has no model in it.
    """
    numbered = {
        int(match[1]): path
        for path in folder.glob("Fold_*")
        if (match := re.fullmatch(r"Fold_(\d+)", path.name)) and path.is_dir()
    }
    if not numbered:
        raise CheckpointError(f"{folder}: expected folders Fold_1, Fold_2, ...; found none")
    folds = dict(sorted(numbered.items()))
    if missing := [path.name for path in folds.values() if not (path / WEIGHTS_FILE).is_file()]:
        raise CheckpointError(f"{folder}: no {WEIGHTS_FILE} in {', '.join(missing[:5])}")
    return folds


def _position_table(hyperparameters: Hyperparameters, days: NDArray[np.int64]) -> Tensor:
    """Make the table that the reference looks positions up in, one row a date."""
    if hyperparameters.positions == "days":
        positions = torch.from_numpy(days)
    else:
        positions = torch.arange(len(days) + 1)  # ranks start at 1: row 0 is never used
    if hyperparameters.name == "psetae":
        return sinusoid_encoding(positions, hyperparameters.mlp2[-1], hyperparameters.T).float()
    n_head = hyperparameters.n_head
    encoding = sinusoid_encoding(positions, hyperparameters.width // n_head, hyperparameters.T)
    return encoding.float().repeat(1, n_head)


def _write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)
    return path
