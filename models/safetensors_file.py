"""A trained model as one safetensors file, which carries all that is needed to use it.

The header's metadata holds the text of the model's `ModelMetadata` as plain JSON under the key
"parcelwise"; reading it and the weights executes nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from models.checkpoints import build_model
from models.classifier import ParcelClassifier
from models.errors import InputError
from models.model_metadata import ModelMetadata, parse_metadata, write_bytes

PORTABLE_FILE = "model.safetensors"
_KEY = "parcelwise"


def save_safetensors(path: Path, state_dict: dict[str, Tensor], metadata: ModelMetadata) -> None:
    """Write weights and metadata, whole or not at all."""
    text = json.dumps(metadata.to_json(), ensure_ascii=False, allow_nan=False)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    write_bytes(path, save(tensors, {_KEY: text}))


def load_safetensors(path: Path, device: torch.device) -> tuple[ParcelClassifier, ModelMetadata]:
    """Read a model, in evaluation mode, and its metadata.

    Raises
    ------
    InputError
        If the file is not there, is something else, or its weights are not finite or not those of
        its hyper-parameters.
    """
    if not path.is_file():
        raise InputError(f"{path} is not there")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            state_dict = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{path} is no safetensors file: {error}") from error
    if _KEY not in header:
        raise InputError(f"{path}: expected the key {_KEY!r} in its header")
    metadata = parse_metadata(header[_KEY], path)
    return build_model(metadata.hyperparameters, state_dict, path).to(device), metadata
