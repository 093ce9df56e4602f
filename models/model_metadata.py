"""What a trained model expects and predicts: `model.json`, beside its weights."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import InputError
from models.hyperparameters import Hyperparameters, is_size
from models.standardisation import FeatureScaling, Normalisation

METADATA_FILE = "model.json"


def _versions() -> dict[str, str]:
    # Only training needs torch here: the workflow checks given models without it.
    import torch

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
        Pixels to draw of a parcel, at most. The parcels trained on may all have had fewer: more of
        a larger one make its prediction better.
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

    def __post_init__(self) -> None:
        h = self.hyperparameters
        for name in ("bands", "class_codes", "class_names"):
            _check_texts(name, getattr(self, name))
        for name, n in (("bands", h.input_dim), ("class_codes", h.n_classes)):
            if len(getattr(self, name)) != n:
                raise InputError(f"{name}: expected {n}, found {len(getattr(self, name))}")
        if len(self.class_names) != len(self.class_codes):
            raise InputError(
                f"class_names: expected {len(self.class_codes)}, found {len(self.class_names)}"
            )
        if self.normalisation.means.shape[-1:] not in {(), (h.input_dim,)}:
            raise InputError(
                f"normalisation: expected values of {h.input_dim} channels, found the shape "
                f"{self.normalisation.means.shape}"
            )
        n_features = 0 if self.feature_scaling is None else len(self.feature_scaling.means)
        if n_features != h.extra_size:
            raise InputError(
                f"feature_scaling: expected {h.extra_size} features, found {n_features}"
            )
        for name in ("n_pixels", "members"):
            if not is_size(value := getattr(self, name)):
                raise InputError(f"{name}: expected a positive whole number, found {value!r}")
        try:
            date.fromisoformat(self.first_date)
        except (TypeError, ValueError):
            raise InputError(
                f"first_date: expected YYYY-MM-DD, found {self.first_date!r}"
            ) from None

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
        if not isinstance(values, dict) or values.keys() != expected:
            found = ", ".join(sorted(values)) if isinstance(values, dict) else repr(values)
            raise InputError(
                f"expected the keys {', '.join(sorted(expected))}; found {found[:200] or 'none'}"
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
    """Read `model.json`.

    Raises
    ------
    InputError
        If it is not there, or does not say what a model expects.
    """
    path = folder / METADATA_FILE
    if not path.is_file():
        raise InputError(f"{path} is not there: it says what the model beside it expects")
    return parse_metadata(path.read_bytes(), path)


def parse_metadata(text: str | bytes, path: Path) -> ModelMetadata:
    """Read back the JSON of `ModelMetadata.to_json`; the path is that of its file.

    Raises
    ------
    InputError
        If it is something else.
    """
    try:
        return ModelMetadata.from_json(json.loads(text))
    except (InputError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} does not describe a model: {error}. Take the file that lay beside the weights "
            "when they were trained."
        ) from None


def check_alike(models: Mapping[Path, ModelMetadata]) -> None:
    """Check that models, given by their folders, take and predict the same.

    Raises
    ------
    InputError
        If one has other bands, classes or day 0 than the first.
    """
    if not models:
        return
    first = next(iter(models))
    for path, metadata in models.items():
        for what, name in (("bands", "bands"), ("classes", "class_codes"), ("day 0", "first_date")):
            found, expected = (getattr(model, name) for model in (metadata, models[first]))
            if found != expected:
                raise InputError(
                    f"{path} was trained with other {what} than {first}: {_shown(found)} instead "
                    f"of {_shown(expected)}. Use models of one training together."
                )


def _check_texts(name: str, values: object) -> None:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InputError(f"{name}: expected a list of texts, found {str(values)[:100]}")


def _shown(value: list[str] | str) -> str:
    return value if isinstance(value, str) else ", ".join(value)


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all, and its folder where it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)
    return path
