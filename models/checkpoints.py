"""Weights on disk: the reference's `model.pth.tar`, and safetensors. Reading executes no code."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from models.classifier import ParcelClassifier
from models.errors import InputError
from models.hyperparameters import Hyperparameters
from models.model_description import ModelDescription
from models.model_files import parse_description, read_archive, write_bytes
from models.temporal_attention import sinusoid_encoding

_POSITION_TABLE = "temporal_encoder.position_enc.weight"
# Key of the description in the header of a safetensors file: the text of `model.json`.
_DESCRIPTION_KEY = "parcelwise"


def save_checkpoint(
    path: Path,
    *,
    epoch: int,
    state_dict: dict[str, Tensor],
    optimizer_state: dict[str, Any],
    hyperparameters: Hyperparameters,
    days: NDArray[np.int64],
) -> None:
    """Write a checkpoint in the reference's format: {'epoch', 'state_dict', 'optimizer'}.

    Parameters
    ----------
    path
        The file; its folder is created if necessary.
    epoch, state_dict, optimizer_state
        State of the training.
    hyperparameters
        Hyper-parameters of the model.
    days
        int64 (T,), the days of the training dates. The reference stores the positional encoding of
        these dates with the weights; our model computes it when it runs.
    """
    table = _position_table(hyperparameters, days)
    checkpoint = {
        "epoch": epoch,
        "state_dict": {**state_dict, _POSITION_TABLE: table},
        "optimizer": optimizer_state,
    }
    # torch.save stores the file's name in the file: the bytes in a buffer do not depend on it.
    buffer = io.BytesIO()
    torch.save(_interned(checkpoint), buffer)
    write_bytes(path, buffer.getvalue())


def load_checkpoint(
    path: Path, hyperparameters: Hyperparameters, device: torch.device
) -> ParcelClassifier:
    """Load a checkpoint, ours or the reference's, as a model in evaluation mode on a device.

    Raises
    ------
    InputError
        If the file does not exist or is not a checkpoint, or if its weights do not fit the
        hyper-parameters.
    """
    return build_model(hyperparameters, load_state_dict(path), path).to(device)


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint, ours or the reference's.

    Raises
    ------
    InputError
        If the file does not exist, is damaged, or is not a checkpoint in the reference's format.
    """
    content = read_archive(path)
    try:
        checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of many types for a damaged file
        # Leave out torch's advice on how to execute code from the file.
        reason = str(error).rpartition("WeightsUnpickler error: ")[2].strip() or repr(error)
        raise InputError(
            f"{path} is not a file that torch.save wrote: {reason.splitlines()[0][:200]}"
        ) from error
    state_dict = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(state_dict, dict):
        raise InputError(f"{path}: expected 'epoch', 'state_dict' and 'optimizer' as its keys")
    if wrong := [str(k) for k, v in state_dict.items() if not _is_weight(k, v)]:
        raise InputError(f"{path}: not weights: {', '.join(wrong[:5])[:200]}")
    state_dict = {k: v for k, v in state_dict.items() if k != _POSITION_TABLE}
    # A tensor with stride 0 can be arbitrarily large and store only one number.
    if sum(value.nbytes for value in state_dict.values()) > len(content):
        raise InputError(f"{path}: its weights are larger than the file")
    return state_dict


def save_safetensors(
    path: Path, state_dict: dict[str, Tensor], description: ModelDescription
) -> None:
    """Write weights, with their description as JSON in the header, completely or not at all."""
    text = json.dumps(description.to_json(), ensure_ascii=False, allow_nan=False)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    write_bytes(path, save(tensors, {_DESCRIPTION_KEY: text}))


def load_safetensors(path: Path, device: torch.device) -> tuple[ParcelClassifier, ModelDescription]:
    """Load a model, in evaluation mode on a device, and its description.

    Raises
    ------
    InputError
        If the file does not exist or is not a safetensors file, or if its weights are not finite or
        do not fit its hyper-parameters.
    """
    if not path.is_file():
        raise InputError(f"{path} is not there")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            state_dict = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{path} is not a safetensors file: {error}") from error
    if _DESCRIPTION_KEY not in header:
        raise InputError(f"{path}: expected the key {_DESCRIPTION_KEY!r} in its header")
    description = parse_description(header[_DESCRIPTION_KEY], path)
    return build_model(description.hyperparameters, state_dict, path).to(device), description


def build_model(
    hyperparameters: Hyperparameters, state_dict: dict[str, Tensor], path: Path
) -> ParcelClassifier:
    """Build a model in evaluation mode with weights that were read from a path.

    Raises
    ------
    InputError
        If the weights do not fit the hyper-parameters, or are not all finite.
    """
    try:
        # The meta device allocates no memory: the hyper-parameters may be wrong and huge.
        with torch.device("meta"):
            model = ParcelClassifier(hyperparameters)
    except RuntimeError as error:
        raise InputError(f"{path}: such a model cannot be built: {error}") from None
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state_dict.items()}
    if expected != found:
        names = sorted(
            name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
        )
        listed = "; ".join(
            f"{name}: expected {expected.get(name)}, found {found.get(name)}" for name in names[:5]
        )
        raise InputError(
            f"{path}: {len(names)} weights are not those of the hyper-parameters: {listed}"
        )
    model = ParcelClassifier(hyperparameters)
    model.load_state_dict(state_dict)
    # Check after loading: a finite float64 may be infinite as float32.
    for name, value in model.state_dict().items():
        if wrong := int((~value.isfinite()).sum()):
            raise InputError(
                f"{path}: {wrong} of the {value.numel()} numbers of {name} are not finite. "
                "Use weights of a training that did not diverge."
            )
        if name.endswith("running_var") and bool((value < 0).any()):
            raise InputError(f"{path}: {name} contains negative variances")
    return model.eval()


def _is_weight(name: object, value: object) -> bool:
    return (
        isinstance(name, str)
        and isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_complex()
        and not value.is_quantized
    )


def _position_table(hyperparameters: Hyperparameters, days: NDArray[np.int64]) -> Tensor:
    """Compute the reference's table of positional encodings, one row per date."""
    if hyperparameters.positions == "days":
        positions = torch.tensor(days)
    else:
        positions = torch.arange(len(days) + 1)  # ranks start at 1; row 0 is unused
    if hyperparameters.name == "psetae":
        return sinusoid_encoding(positions, hyperparameters.mlp2[-1], hyperparameters.T).float()
    n_head = hyperparameters.n_head
    encoding = sinusoid_encoding(positions, hyperparameters.width // n_head, hyperparameters.T)
    return encoding.float().repeat(1, n_head)


def _interned(value: Any) -> Any:
    """Copy nested values so that equal strings are one object.

    A pickle stores a repeated object as a reference to the first, so the bytes depend on which
    equal strings are the same object. An uninterrupted and a resumed training differ in this.
    """
    if isinstance(value, str):
        return sys.intern(value)
    if isinstance(value, dict):
        return {_interned(key): _interned(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_interned(item) for item in value)
    return value
