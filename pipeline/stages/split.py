"""Stage split: divide the labelled parcels into folds."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold

from geo.errors import InputError
from pipeline.dataset.pixel_set_dataset import Fold, PixelSetDataset
from pipeline.workflow.settings import SplitSettings
from pipeline.workflow.writing import write_json

logger = logging.getLogger(__name__)

# Two to train on, and one to validate.
_LEAST_BESIDE_TEST = 3


def split(dataset: Path, folds: Path, settings: SplitSettings) -> None:
    """Divide the labelled parcels into folds.

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
        If there are fewer labelled parcels, or fewer blocks with parcels, than folds, or if a
        dataset to leave out has none.
    """
    data, options = PixelSetDataset.open(dataset), settings.split
    labelled = np.flatnonzero(data.labels >= 0)
    labels = data.labels[labelled]
    if not len(labelled):
        raise InputError(
            "No parcel of the dataset has a label, so that no model can be trained. Set "
            "parcels.labels and parcels.classes (dataset.classes for an existing dataset), or use "
            "existing weights (predict.weights). The dataset is complete."
        )
    if len(labelled) < options.folds:
        raise InputError(
            f"{len(labelled)} labelled parcels cannot be divided into {options.folds} folds. "
            "Check parcels.labels and parcels.classes, or lower split.folds."
        )
    blocks = None
    if options.by == "block":
        blocks = blocks_of(data.positions[labelled], options.block_m)
    if options.by == "dataset":
        parts, assign = parts_by_dataset(data, labelled), leave_out
    else:
        parts = divide(labels, options.folds, by=options.by, blocks=blocks, seed=options.seed)
        assign = assign_roles
    ids = np.array(data.ids)[labelled]
    written = []
    for number in range(options.folds):
        fold = assign(parts, number, options.seed)
        written.append({role: ids[part].tolist() for role, part in asdict(fold).items()})
        if missing := set(labels) - set(labels[fold.train]):
            logger.warning(
                "fold %d: %d classes are not in its training part", number + 1, len(missing)
            )
    write_json(folds, {"by": options.by, "seed": options.seed, "folds": written})
    logger.info("%d parcels in %d folds, %s", len(labelled), options.folds, options.by)


def divide(
    labels: NDArray[np.int64],
    n_folds: int,
    *,
    by: str,
    blocks: NDArray[np.int64] | None = None,
    seed: int,
) -> list[NDArray[np.int64]]:
    """Divide parcels into disjoint parts that together contain all parcels.

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
        Seed of the shuffling.

    Returns
    -------
    List of n_folds arrays of positions in `labels`, int64.
    """
    if blocks is not None and by == "block":
        n_blocks = len(np.unique(blocks))
        if n_blocks < n_folds:
            raise InputError(
                f"The parcels are in {n_blocks} blocks, fewer than the {n_folds} folds. "
                "Lower split.block_m or split.folds."
            )
        parts = GroupKFold(n_folds, shuffle=True, random_state=seed).split(labels, groups=blocks)
    elif by == "stratified":
        parts = StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(labels, labels)
    else:
        parts = KFold(n_folds, shuffle=True, random_state=seed).split(labels)
    return [np.asarray(test, np.int64) for _, test in parts]


def blocks_of(positions: NDArray[np.float64], block_m: float) -> NDArray[np.int64]:
    """Return the number of the square block, of side `block_m`, of every position, int64 (N,)."""
    squares = np.floor(positions / block_m).astype(np.int64)
    return np.unique(squares, axis=0, return_inverse=True)[1].ravel().astype(np.int64)


def parts_by_dataset(data: PixelSetDataset, labelled: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the positions in `labelled` of the parcels of each dataset that the run started from.

    Raises
    ------
    InputError
        If a dataset has no labelled parcel, or all together too few to train on.
    """
    place = {data.ids[i]: position for position, i in enumerate(labelled)}
    parts = {
        name: np.array([place[i] for i in parcels if i in place], np.int64)
        for name, parcels in data.datasets.items()
    }
    refuse_left_out({name: len(part) for name, part in parts.items()})
    return list(parts.values())


def refuse_left_out(n_labelled: Mapping[str, int]) -> None:
    """Refuse to leave out datasets in turn if one, or the others together, have too few labels.

    Parameters
    ----------
    n_labelled
        {name of a dataset: number of its labelled parcels}.
    """
    total = sum(n_labelled.values())
    for name, n in sorted(n_labelled.items(), key=lambda item: item[1]):
        if n == 0 or total - n < _LEAST_BESIDE_TEST:
            raise InputError(
                f"split.by is dataset, and {name} has {n} of the {total} labelled parcels: "
                f"expected at least 1, and {_LEAST_BESIDE_TEST} in the others. Leave it out of "
                "dataset.paths, or set split.by to random."
            )


def leave_out(parts: Sequence[NDArray[np.int64]], fold: int, seed: int) -> Fold:
    """Assign one part to the test; a fifth of the others, at random, to the validation."""
    others = np.concatenate([part for i, part in enumerate(parts) if i != fold])
    others = np.random.default_rng([seed, fold]).permutation(others)
    n = max(len(others) // 5, 1)
    return Fold(np.sort(others[n:]), np.sort(others[:n]), parts[fold])


def assign_roles(parts: Sequence[NDArray[np.int64]], fold: int, seed: int) -> Fold:
    """Assign the parts to training, validation and test of a fold.

    Each part is the test part of one fold. The validation part is the test part of the next fold,
    so that it changes from fold to fold too. With two folds it is half of the other part.
    """
    n_folds = len(parts)
    if n_folds == 2:
        rest = np.random.default_rng([seed, fold]).permutation(parts[1 - fold])
        half = len(rest) // 2
        return Fold(np.sort(rest[half:]), np.sort(rest[:half]), parts[fold])
    validation = (fold + 1) % n_folds
    train = [part for i, part in enumerate(parts) if i not in (fold, validation)]
    return Fold(np.sort(np.concatenate(train)), parts[validation], parts[fold])
