"""The folds, as split wrote them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geo.errors import InputError, reading

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
    InputError
        If a parcel of the folds is not in the dataset.
    """
    position = _positions(ids)
    return [_fold(path, parts, position) for parts in _read(path)]


def read_fold(path: Path, fold: int, ids: Sequence[str]) -> Fold:
    """Read one fold, by its number from 1."""
    folds = _read(path)
    if not 1 <= fold <= len(folds):
        raise InputError(f"{path} holds folds 1 to {len(folds)}, not {fold}.")
    return _fold(path, folds[fold - 1], _positions(ids))


def _read(path: Path) -> list[dict[str, list[str]]]:
    with reading(path, "the folds of a dataset", "Make it anew: snakemake -R split."):
        return [dict(fold) for fold in json.loads(path.read_text(encoding="utf-8"))["folds"]]


def _positions(ids: Sequence[str]) -> dict[str, int]:
    return {parcel_id: i for i, parcel_id in enumerate(ids)}


def _fold(path: Path, parts: Mapping[str, list[str]], position: Mapping[str, int]) -> Fold:
    """Return the positions of a fold's parcels."""
    places = {role: [position.get(i, -1) for i in part] for role, part in parts.items()}
    unknown = [
        parcel_id
        for role, part in parts.items()
        if -1 in places[role]
        for parcel_id, place in zip(part, places[role], strict=True)
        if place < 0
    ]
    if unknown:
        raise InputError(
            f"{path} names {len(unknown)} parcels that the dataset lacks: "
            f"{', '.join(unknown[:5])}. Run split again: snakemake -R split."
        )
    return Fold(**{role: np.array(part, np.int64) for role, part in places.items()})
