"""The folds, as split wrote them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Fold:
    """Positions in the dataset of the parcels of one fold, int64 each."""

    train: Indices
    validation: Indices
    test: Indices


def read_folds(path: Path, ids: Sequence[str]) -> list[Fold]:
    """Read all folds.

    Parameters
    ----------
    path
        folds.json.
    ids
        Parcels of the dataset, in its order.

    Raises
    ------
    ValueError
        If a parcel of the folds is not in the dataset.
    """
    position = {parcel_id: i for i, parcel_id in enumerate(ids)}
    folds = []
    for fold in json.loads(path.read_text())["folds"]:
        unknown = [i for part in fold.values() for i in part if i not in position]
        if unknown:
            raise ValueError(
                f"{path} names {len(unknown)} parcels that the dataset lacks: "
                f"{', '.join(unknown[:5])}. Run split again: snakemake -R split."
            )
        parts = {
            role: np.array([position[i] for i in part], np.int64) for role, part in fold.items()
        }
        folds.append(Fold(**parts))
    return folds


def read_fold(path: Path, fold: int, ids: Sequence[str]) -> Fold:
    """Read one fold, by its number from 1."""
    folds = read_folds(path, ids)
    if not 1 <= fold <= len(folds):
        raise ValueError(f"{path} holds folds 1 to {len(folds)}, not {fold}.")
    return folds[fold - 1]
