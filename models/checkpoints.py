"""Trained models on disk, in the reference's format.

A model is a folder `Fold_<k>` with `model.pth.tar`, the reference's {'epoch', 'state_dict',
'optimizer'}, and `model.json` beside it: all that is needed to run the model on new data. Where a
fold has several members, the others are `model_2.pth.tar` and so on.
"""

from __future__ import annotations

import io
import json
import re
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
from models.model_files import ModelMetadata, parse_metadata, read_archive, write_bytes
from models.positional_encoding import sinusoid_encoding

WEIGHTS_FILE = "model.pth.tar"
_POSITION_TABLE = "temporal_encoder.position_enc.weight"


def member_file(name: str, member: int) -> str:
    """Name a file of a fold's member: model.json is model_2.json for the second."""
    stem, dot, suffix = name.partition(".")
    return name if member == 1 else f"{stem}_{member}{dot}{suffix}"


def save_checkpoint(
    folder: Path,
    *,
    epoch: int,
    state_dict: dict[str, Tensor],
    optimizer_state: dict[str, Any],
    hyperparameters: Hyperparameters,
    days: NDArray[np.int64],
    member: int = 1,
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
    member
        Number of the model in its fold, from 1.

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
    torch.save(_interned(checkpoint), buffer)
    return write_bytes(folder / member_file(WEIGHTS_FILE, member), buffer.getvalue())


def load_model(
    folder: Path, hyperparameters: Hyperparameters, device: torch.device, member: int = 1
) -> ParcelClassifier:
    """Read `model.pth.tar`, ours or the reference's, into a model in evaluation mode.

    Parameters
    ----------
    folder
        Fold_<k>.
    hyperparameters
        What to build.
    device
        Where to put the model.
    member
        Number of the model in its fold, from 1.

    Raises
    ------
    InputError
        If the file is not there, is no such checkpoint, or has other weights than the
        hyper-parameters say.
    """
    state_dict = load_state_dict(folder, member)
    path = folder / member_file(WEIGHTS_FILE, member)
    return build_model(hyperparameters, state_dict, path).to(device)


def load_state_dict(folder: Path, member: int = 1) -> dict[str, Tensor]:
    """Read the weights of `model.pth.tar`, ours or the reference's.

    Raises
    ------
    InputError
        If the file is not there, is damaged, or is not a checkpoint of the reference.
    """
    path = folder / member_file(WEIGHTS_FILE, member)
    content = read_archive(path)
    try:
        checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can make torch raise anything
        # Leave out torch's advice on how to execute code from the file.
        reason = str(error).rpartition("WeightsUnpickler error: ")[2].strip() or repr(error)
        raise InputError(
            f"{path} is not a file that torch.save wrote: {reason.splitlines()[0][:200]}"
        ) from error
    state_dict = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(state_dict, dict):
        raise InputError(f"{path}: expected 'epoch', 'state_dict' and 'optimizer' in it")
    if wrong := [str(k) for k, v in state_dict.items() if not _is_weight(k, v)]:
        raise InputError(f"{path}: not weights: {', '.join(wrong[:5])[:200]}")
    state_dict = {k: v for k, v in state_dict.items() if k != _POSITION_TABLE}
    # A tensor with stride 0 repeats one stored number any number of times.
    if sum(value.nbytes for value in state_dict.values()) > len(content):
        raise InputError(f"{path}: its weights are larger than the file")
    return state_dict


def _is_weight(name: object, value: object) -> bool:
    return (
        isinstance(name, str)
        and isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_complex()
        and not value.is_quantized
    )


def build_model(
    hyperparameters: Hyperparameters, state_dict: dict[str, Tensor], path: Path
) -> ParcelClassifier:
    """Build a model in evaluation mode with weights that were read from a path.

    Raises
    ------
    InputError
        If they are not those of the hyper-parameters, or not all are finite.
    """
    try:
        # The meta device allocates nothing: the file may not have weights of this size.
        with torch.device("meta"):
            model = ParcelClassifier(hyperparameters)
    except RuntimeError as error:
        raise InputError(f"{path}: no such model can be built: {error}") from None
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
                "Take weights of a training that did not diverge."
            )
        if name.endswith("running_var") and bool((value < 0).any()):
            raise InputError(f"{path}: {name} has negative variances")
    return model.eval()


def fold_folders(folder: Path) -> dict[int, Path]:
    """Find the folders `Fold_<k>`, in order of k; anything else beside them is ignored.

    Raises
    ------
    InputError
        If there is none, or one has no model in it.
    """
    numbered = {
        int(match[1]): path
        for path in folder.glob("Fold_*")
        if (match := re.fullmatch(r"Fold_(\d+)", path.name)) and path.is_dir()
    }
    if not numbered:
        raise InputError(f"{folder}: expected folders Fold_1, Fold_2, ...; found none")
    folds = dict(sorted(numbered.items()))
    if missing := [path.name for path in folds.values() if not (path / WEIGHTS_FILE).is_file()]:
        raise InputError(f"{folder}: no {WEIGHTS_FILE} in {', '.join(missing[:5])}")
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


def _interned(value: Any) -> Any:
    """Copy nested values so that equal strings are one object.

    A pickle refers back to an object that it holds already, so the bytes depend on which strings
    are the same object: others in a training that was read back than in an unbroken one.
    """
    if isinstance(value, str):
        return sys.intern(value)
    if isinstance(value, dict):
        return {_interned(key): _interned(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_interned(item) for item in value)
    return value


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
