"""The pickle of the normalisation values: (means, stds)."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.pixel_set_store import DatasetError
from pipeline.writing import replacing


def write_normalisation(path: Path, means: NDArray[np.float64], stds: NDArray[np.float64]) -> None:
    """Write the pickle of (means, stds), each of shape (), (C,) or (T, C)."""
    with replacing(path) as temporary:
        temporary.write_bytes(pickle.dumps((means, stds), protocol=4))


def read_normalisation(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read the pickle of (means, stds) without executing anything but numpy's arrays."""
    with path.open("rb") as file:
        means, stds = _ArrayUnpickler(file).load()
    return np.asarray(means, np.float64), np.asarray(stds, np.float64)


# What a pickle of numpy arrays names, in numpy 1 and 2.
_ARRAY_PARTS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    *(
        (f"numpy.{core}.{module}", name)
        for core in ("core", "_core")
        for module, name in (
            ("multiarray", "_reconstruct"),
            ("multiarray", "scalar"),
            ("numeric", "_frombuffer"),
        )
    ),
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAY_PARTS:
            raise DatasetError(
                f"The normalisation pickle holds {module}.{name}; only numpy arrays are read."
            )
        return super().find_class(module, name)
