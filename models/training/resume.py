"""The state of a training on disk, from which it continues after an interruption."""

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
from models.training.start import Start

_logger = logging.getLogger(__name__)

# Rows of an array that are copied together to compute a digest.
ROWS_AT_A_TIME = 100_000


class TrainingState:
    """The state file of one training.

    It contains no random state: every epoch seeds new generators with the training's seed and the
    epoch's number.

    Parameters
    ----------
    path
        The file; its folder is created.
    digest
        Digest of all that the training depends on. A state with another digest is ignored.

    Attributes
    ----------
    every
        Number of epochs between two writes.
    """

    every = 5

    def __init__(self, path: Path, digest: str) -> None:
        self.path = path
        self._digest = digest

    def read(self) -> dict[str, Any] | None:
        """Return the state; None if there is none of this training."""
        if not self.path.is_file():
            return None
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        # Errors of torch for a truncated or damaged file. The training starts from the beginning.
        except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError):
            _logger.warning("%s cannot be read as a training state: it is ignored", self.path)
            return None
        if state.get("digest") != self._digest:
            _logger.info("%s belongs to other settings or data: it is ignored", self.path)
            return None
        if not all_finite(state):
            _logger.warning("%s belongs to a training that diverged: it is ignored", self.path)
            return None
        return dict(state)

    def write(self, **state: Any) -> None:
        """Write the state, whole or not at all."""
        buffer = io.BytesIO()
        torch.save({"digest": self._digest, **state}, buffer)
        write_bytes(self.path, buffer.getvalue())

    def remove(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)


def training_digest(
    data: PixelSets,
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    description: ModelDescription,
    settings: TrainingSettings,
    device: torch.device,
    start: Start | None = None,
) -> str:
    """Compute a digest of all that determines the result of `train_fold`: arguments and software.

    A memory-mapped array is represented by its file's name, size and modification time.
    """
    digest = hashlib.blake2b(digest_size=16)
    values = description.to_json()
    described = (
        *(values[name] for name in ("hyperparameters", "normalisation", "feature_scaling")),
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
            # Reading gigabytes would take longer than an epoch.
            file = Path(array.filename).stat()
            digest.update(repr((str(array.filename), file.st_size, file.st_mtime_ns)).encode())
            continue
        digest.update(repr((array.shape, array.dtype.str)).encode())
        for first in range(0, len(array), ROWS_AT_A_TIME):  # days can be one row, repeated
            digest.update(np.ascontiguousarray(array[first : first + ROWS_AT_A_TIME]).data)
    if start is not None:
        digest.update(repr(start.rows.tolist()).encode())
        for name, weight in start.state_dict.items():
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(weight.numpy(force=True)).data)
    return digest.hexdigest()
