"""What a trained model expects and predicts: `model.json`, beside its weights."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.hyperparameters import Hyperparameters
from models.standardisation import FeatureScaling, Normalisation

METADATA_FILE = "model.json"


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
    members
        Number of models of the fold.
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
    members: int = 1
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


def save_metadata(folder: Path, metadata: ModelMetadata) -> Path:
    """Write `model.json` and return its path."""
    text = json.dumps(metadata.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return write_bytes(folder / METADATA_FILE, text.encode())


def load_metadata(folder: Path) -> ModelMetadata:
    """Read `model.json`."""
    path = folder / METADATA_FILE
    if not path.is_file():
        raise CheckpointError(f"{path} is not there: it says what the model beside it expects")
    return ModelMetadata.from_json(json.loads(path.read_text(encoding="utf-8")))


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all, and its folder where it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)
    return path
