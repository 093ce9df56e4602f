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
from pipeline.dataset.groups import (
    blocks_of,
    check_number,
    number_groups,
    read_dataset_groups,
    read_register_groups,
)
from pipeline.dataset.pixel_set_dataset import Fold, PixelSetDataset
from pipeline.workflow.artefacts import read_json
from pipeline.workflow.sections.models import Split
from pipeline.workflow.settings import SplitSettings
from pipeline.workflow.writing import write_json

logger = logging.getLogger(__name__)

# Two to train on, and one to validate.
_LEAST_BESIDE_TEST = 3


def split(
    dataset: Path,
    folds: Path,
    settings: SplitSettings,
    by: str | None = None,
    register: Path | None = None,
    variogram: Path | None = None,
) -> None:
    """Divide the labelled parcels into folds.

    Parameters
    ----------
    dataset
        Pixel-Set dataset.
    folds
        Written: {"by", "seed", "folds": [{"train": ids, "validation": ids, "test": ids}, …]}; with
        groups also "column".
    settings
        split.
    by
        How to divide; None: split.by. For the second way, split.also, the workflow passes it.
    register
        Clean's table of the register, which has the column of the groups; None if the run started
        from an existing dataset, whose groups are in META/groups.json.
    variogram
        What the stage variogram found; needed if split.block_m is auto.

    Raises
    ------
    InputError
        If there are fewer labelled parcels, or fewer blocks or groups with parcels, than folds; if
        there are no groups, or no column of this name; if a dataset to leave out has none.
    """
    data, options = PixelSetDataset.open(dataset), settings.split
    by = by or options.by
    labelled = np.flatnonzero(data.labels >= 0)
    labels, ids = data.labels[labelled], np.array(data.ids)[labelled]
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
    if by == "block":
        blocks = blocks_of(data.positions[labelled], _block_side(options, variogram))
    elif by == "group":
        blocks = _groups(ids, options, register or data.paths.groups)
    if by == "dataset":
        parts, assign = parts_by_dataset(data, labelled), leave_out
    else:
        parts = divide(labels, options.folds, by=by, blocks=blocks, seed=options.seed)
        assign = assign_roles
    written = []
    for number in range(options.folds):
        fold = assign(parts, number, options.seed)
        written.append({role: ids[part].tolist() for role, part in asdict(fold).items()})
        if missing := set(labels) - set(labels[fold.train]):
            logger.warning(
                "fold %d: %d classes are not in its training part", number + 1, len(missing)
            )
    column = {"column": options.column} if by == "group" else {}
    write_json(folds, {"by": by, **column, "seed": options.seed, "folds": written})
    logger.info("%d parcels in %d folds, %s", len(labelled), options.folds, by)


def _block_side(options: Split, variogram: Path | None) -> float:
    """Return the side of the blocks in metres: that of the settings, or the suggested one."""
    if options.block_m != "auto":
        return options.block_m
    if variogram is None:
        raise InputError("split.block_m is auto: give --variogram, the file of stage variogram.")
    side = read_json(variogram, lambda found: float(found["block_m"]))
    logger.info("blocks of %g m, as stage variogram suggests", side)
    return side


def _groups(ids: NDArray[np.str_], options: Split, file: Path) -> NDArray[np.int64]:
    """Return the number of the group of every parcel, int64 (N,)."""
    column = options.column or ""
    read = read_register_groups if file.suffix == ".parquet" else read_dataset_groups
    groups = read(file, column)
    values = [groups.get(parcel_id, "") for parcel_id in ids]
    n_groups = check_number(values, column, options.folds)
    numbers, n_without = number_groups(values)
    logger.info("%d values of %s on %d parcels", n_groups - n_without, column, len(ids) - n_without)
    if n_without:
        logger.warning(
            "%d parcels have no value in %s: each is a group by itself", n_without, column
        )
    return numbers


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
        random, stratified (each part has its share of every class), block (whole blocks, at
        random), or group (whole groups, distributed so that the parts have similar shares of every
        class).
    blocks
        int64 (N,), the block or group of each parcel, for `block` and `group`.
    seed
        Seed of the shuffling.

    Returns
    -------
    List of n_folds arrays of positions in `labels`, int64.
    """
    if blocks is not None and by in ("block", "group"):
        n_blocks = len(np.unique(blocks))
        if n_blocks < n_folds:
            raise InputError(
                f"The parcels are in {n_blocks} {by}s, fewer than the {n_folds} folds. "
                f"Lower {'split.block_m or ' if by == 'block' else ''}split.folds."
            )
    if blocks is not None and by == "group":
        return _whole_groups(labels, n_folds, blocks, seed)
    if blocks is not None and by == "block":
        parts = GroupKFold(n_folds, shuffle=True, random_state=seed).split(labels, groups=blocks)
    elif by == "stratified":
        parts = StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(labels, labels)
    else:
        parts = KFold(n_folds, shuffle=True, random_state=seed).split(labels)
    return [np.asarray(test, np.int64) for _, test in parts]


def _whole_groups(
    labels: NDArray[np.int64], n_folds: int, groups: NDArray[np.int64], seed: int
) -> list[NDArray[np.int64]]:
    """Distribute whole groups so that every part has a similar share of each class.

    Groups with a large share of a class come first, equal ones at random. Each joins the part that
    adds least to the sum of squares of the parts' class shares; among equal ones the smallest part,
    so that no part stays empty. GroupKFold ignores classes: on 14 Flemish fields it leaves a class
    out of 36 % of five parts, this greedy of 26 %, as StratifiedGroupKFold, which refuses folds
    with more parts than every class has parcels.
    """
    of_group = np.unique(groups, return_inverse=True)[1].ravel()
    of_class = np.unique(labels, return_inverse=True)[1].ravel()
    counts = np.zeros((of_group.max() + 1, of_class.max() + 1))
    np.add.at(counts, (of_group, of_class), 1)
    shares, sizes = counts / counts.sum(axis=0), counts.sum(axis=1)
    order = np.random.default_rng(seed).permutation(len(shares))
    order = order[np.argsort(-np.linalg.norm(shares[order], axis=1), kind="stable")]
    totals, n_parcels = np.zeros((n_folds, shares.shape[1])), np.zeros(n_folds)
    part = np.empty(len(shares), np.int64)
    for group in order:
        chosen = np.lexsort((n_parcels, totals @ shares[group]))[0]
        totals[chosen] += shares[group]
        n_parcels[chosen] += sizes[group]
        part[group] = chosen
    return [np.flatnonzero(part[of_group] == number) for number in range(n_folds)]


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
