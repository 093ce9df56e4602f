"""The state of a training on disk, from which it goes on after a kill."""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.model_description import ModelDescription
from models.model_files import write_bytes
from models.pixel_sets import PixelSets, arrays_of
from models.training.divergence import all_finite
from models.training.options import TrainingSettings

_logger = logging.getLogger(__name__)


class TrainingState:
    """Keep the state of one training in a file.

    Nothing random needs to be kept: every epoch draws from generators of its own, seeded by the
    training's seed and the epoch's number.

    Parameters
    ----------
    path
        The file; its folder is created.
    digest
        Digest of everything that the training depends on: a state with another one is ignored.

    Attributes
    ----------
    every
        Epochs from one writing to the next.
    """

    every = 5

    def __init__(self, path: Path, digest: str) -> None:
        self.path = path
        self._digest = digest

    def read(self) -> dict[str, Any] | None:
        """Read the state; None where there is none of this training."""
        if not self.path.is_file():
            return None
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        # What torch raises of a file that is cut off or damaged. The training begins anew.
        except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError):
            _logger.warning("%s cannot be read as a training state: it is ignored", self.path)
            return None
        if state.get("digest") != self._digest:
            _logger.info("%s is of other settings or data: it is ignored", self.path)
            return None
        if not all_finite(state):
            _logger.warning("%s is of a training that diverged: it is ignored", self.path)
            return None
        return dict(state)

    def write(self, **state: Any) -> None:
        """Write the state, whole or not at all."""
        buffer = io.BytesIO()
        torch.save({"digest": self._digest, **state}, buffer)
        write_bytes(self.path, buffer.getvalue())

    def remove(self) -> None:
        """Remove the file, as the training has ended and its result is written."""
        self.path.unlink(missing_ok=True)


def training_digest(
    data: PixelSets,
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    description: ModelDescription,
    settings: TrainingSettings,
    device: torch.device,
) -> str:
    """Compute a digest of all that decides the result of `train_fold`: its arguments, the software.

    For an array that is mapped from a file, the file's name, size and time stand for the content.
    """
    digest = hashlib.blake2b(digest_size=16)
    told = description.to_json()
    described = (
        *(told[name] for name in ("hyperparameters", "normalisation", "feature_scaling")),
        *(asdict(settings), data.ids, device.type, torch.__version__, np.__version__),
    )
    digest.update(repr(described).encode())
    clear = (None,) if data.clear is None else arrays_of(data.clear)
    arrays = (data.offsets, data.days, data.labels, *clear, data.observed, data.features)
    for array in (train, validation, *arrays_of(data.pixels), *arrays):
        if array is None:
            digest.update(b"none")
            continue
        if isinstance(array, np.memmap) and array.filename is not None:
            # Reading gigabytes to their end would take longer than many an epoch.
            file = Path(array.filename).stat()
            digest.update(repr((str(array.filename), file.st_size, file.st_mtime_ns)).encode())
            continue
        digest.update(repr((array.shape, array.dtype.str)).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
