"""Stage split: the labelled parcels are divided into folds, once."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold

from geo.errors import InputError
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.workflow.settings import SplitSettings
from pipeline.workflow.writing import write_json

logger = logging.getLogger(__name__)


def split(dataset: Path, folds: Path, settings: SplitSettings) -> None:
    """Divide the labelled parcels into folds.

    Each parcel is tested in exactly one fold. The validation part of a fold is the test part of
    the next one, so that it rotates too; with two folds it is half of what would be trained on.

    Parameters
    ----------
    dataset
        Pixel-Set dataset.
    folds
        Written: {"by", "seed", "folds": [{"train": ids, "validation": ids, "test": ids}, …]}.
    settings
        split.

    Raises
    ------
    InputError
        If there are fewer labelled parcels, or fewer blocks with parcels, than folds.
    """
    data = PixelSetDataset.open(dataset)
    labels = data.labels
    chosen = np.flatnonzero(labels >= 0)
    how = settings.split
    if len(chosen) < how.folds:
        raise InputError(
            f"{len(chosen)} labelled parcels cannot be divided into {how.folds} folds. "
            "Check parcels.labels and parcels.classes, or lower split.folds."
        )
    blocks = _blocks(data.positions[chosen], how.block_m) if how.by == "block" else None
    parts = divide(labels[chosen], how.folds, by=how.by, blocks=blocks, seed=how.seed)
    ids = np.array(data.ids)[chosen]
    rotated = [_roles(parts, fold, how.seed) for fold in range(how.folds)]
    write_json(
        folds,
        {
            "by": how.by,
            "seed": how.seed,
            "folds": [{role: ids[i].tolist() for role, i in roles.items()} for roles in rotated],
        },
    )
    for number, roles in enumerate(rotated, 1):
        absent = set(labels[chosen]) - set(labels[chosen][roles["train"]])
        if absent:
            logger.warning("fold %d: %d classes are not in its training part", number, len(absent))
    logger.info("%d parcels in %d folds, %s", len(chosen), how.folds, how.by)


def divide(
    labels: NDArray[np.int64],
    n_folds: int,
    *,
    by: str,
    blocks: NDArray[np.int64] | None = None,
    seed: int,
) -> list[NDArray[np.int64]]:
    """Divide parcels into disjoint parts that cover them all.

    Parameters
    ----------
    labels
        int64 (N,), class index.
    n_folds
        Number of parts.
    by
        random, stratified (each part has its share of every class) or block (whole blocks).
    blocks
        int64 (N,), the block of each parcel, for `block`.
    seed
        Of the shuffling.

    Returns
    -------
    List of n_folds arrays of positions in `labels`, int64.
    """
    if blocks is not None and by == "block":
        n_blocks = len(np.unique(blocks))
        if n_blocks < n_folds:
            raise InputError(
                f"The parcels lie in {n_blocks} blocks, fewer than the {n_folds} folds. "
                "Lower split.block_m or split.folds."
            )
        parts = GroupKFold(n_folds, shuffle=True, random_state=seed).split(labels, groups=blocks)
    elif by == "stratified":
        parts = StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(labels, labels)
    else:
        parts = KFold(n_folds, shuffle=True, random_state=seed).split(labels)
    return [np.asarray(test, np.int64) for _, test in parts]


def _blocks(positions: NDArray[np.float64], block_m: float) -> NDArray[np.int64]:
    """Say which square of side `block_m` holds each parcel's point, int64 (N,)."""
    squares = np.floor(positions / block_m).astype(np.int64)
    return np.unique(squares, axis=0, return_inverse=True)[1].ravel().astype(np.int64)


def _roles(parts: list[NDArray[np.int64]], fold: int, seed: int) -> dict[str, NDArray[np.int64]]:
    """Assign the parts to train, validation and test for one fold."""
    n_folds = len(parts)
    if n_folds == 2:
        rest = np.random.default_rng([seed, fold]).permutation(parts[1 - fold])
        half = len(rest) // 2
        return {
            "train": np.sort(rest[half:]),
            "validation": np.sort(rest[:half]),
            "test": parts[fold],
        }
    validation = (fold + 1) % n_folds
    train = [p for i, p in enumerate(parts) if i not in (fold, validation)]
    return {
        "train": np.sort(np.concatenate(train)),
        "validation": parts[validation],
        "test": parts[fold],
    }
