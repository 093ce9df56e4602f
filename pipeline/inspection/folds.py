"""What a run would divide into folds: the groups, and how far parcels are alike."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.classes.reasons import Status
from pipeline.dataset.groups import check_number, number_groups
from pipeline.evaluation.variogram import choose_side, measure, sample_pairs
from pipeline.inspection.text import section
from pipeline.workflow.artefacts import read_json
from pipeline.workflow.sections.models import Split

FEATURES_LATER = (
    "How far the pixels of parcels are alike is measured in the run: see the report, or the log of "
    "the stage variogram."
)


def folds_section(
    rows: pd.DataFrame,
    positions: NDArray[np.float64] | None,
    groups: NDArray[np.object_] | None,
    split: Split,
    variogram: Path,
) -> str:
    """Return the section on the folds; "" if no parcel has a class to train on.

    Parameters
    ----------
    rows
        Rows of the ledger: status, code.
    positions
        float64 (N, 2) of these rows, in metres; None where they are not known.
    groups
        The group of each row, "" for none; None without split.column.
    split
        The settings.
    variogram
        What the stage variogram of this run found, if it has run.

    Raises
    ------
    InputError
        If there are fewer groups than folds.
    """
    used = (rows["status"] == Status.USED).to_numpy()
    if not used.any():
        return ""
    lines = [f"{split.folds} folds of {used.sum():,} parcels, {' and '.join(split.ways)}"]
    if groups is not None and split.column is not None:
        lines.append(_group_line(groups[used], split.column, split.folds))
    if variogram.is_file():
        lines.append(read_json(variogram, lambda found: str(found["text"])))
    elif positions is not None:
        lines += [_class_line(rows.loc[used, "code"], positions[used], split), FEATURES_LATER]
    return section("Folds", [part for line in lines for part in textwrap.wrap(line, 96)])


def _group_line(groups: NDArray[np.object_], column: str, n_folds: int) -> str:
    """Say how many groups there are, and the size of the largest one."""
    check_number(groups, column, n_folds)
    numbers, n_without = number_groups(groups)
    sizes = np.unique(numbers, return_counts=True)[1]
    without = f"; {n_without:,} parcels have none and are groups by themselves" * bool(n_without)
    return (
        f"{len(sizes) - n_without:,} values of {column}, the largest of {sizes.max():,} parcels"
        f"{without}"
    )


def _class_line(codes: pd.Series[Any], positions: NDArray[np.float64], split: Split) -> str:
    """Say how far classes agree, and which blocks this suggests."""
    generator = np.random.default_rng(split.seed)
    labels = pd.factorize(codes)[0].astype(np.int64)
    pairs = sample_pairs(positions, generator)
    nothing = np.empty((len(pairs.parcels), 0))
    found = measure(positions, labels, nothing, [], pairs, generator)
    return f"By declared class alone: {choose_side(found, positions, split.folds)[1]}"
