"""The parcels that a model was trained on, so that a later training does not test on them.

Ids cannot tell: another register may have the same ones, and a run may rename them. The
observations can: two parcels do not have the same series of reflectance.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geo.errors import InputError, first_five
from models.model_files import TRAINED_ON_FILE
from models.pixel_sets import PixelSets
from pipeline.dataset.packed_tiles import map_array
from pipeline.workflow.writing import replacing

logger = logging.getLogger(__name__)

# Odd, so that no power of it is 0 modulo 2^64: 2^64 over the golden ratio.
_FACTOR = 0x9E3779B97F4A7C15
_PARCELS_AT_A_TIME = 8192


def digests_of(data: PixelSets, parcels: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Compute a number for the observations of every parcel, uint64 (n,).

    It is a polynomial of the values of the parcel's first and last pixel, modulo 2^64, and does not
    depend on the padding of dates.

    Parameters
    ----------
    data, parcels
        The dataset, and int64 (n,), the parcels.
    """
    n_values = data.n_dates * data.n_channels
    powers = np.cumprod(np.full(2 * n_values + 1, _FACTOR, np.uint64), dtype=np.uint64)
    # Interleaved, so that the powers of a value do not depend on the number of dates.
    of_first, of_last = powers[1::2], powers[2::2]
    result = np.empty(len(parcels), np.uint64)
    for start in range(0, len(parcels), _PARCELS_AT_A_TIME):
        part = parcels[start : start + _PARCELS_AT_A_TIME]
        first = data.pixels[data.offsets[part]].reshape(len(part), -1).astype(np.uint64)
        last = data.pixels[data.offsets[part + 1] - 1].reshape(len(part), -1).astype(np.uint64)
        sizes = data.sizes_of(part).astype(np.uint64) * powers[0]
        result[start : start + len(part)] = first @ of_first + last @ of_last + sizes
    return result


def write_trained_on(folder: Path, digests: NDArray[np.uint64] | None) -> None:
    """Write the digests of the parcels that the model of Fold_<k> was trained on, sorted.

    None: they are not known; then there is no file.
    """
    path = folder / TRAINED_ON_FILE
    if digests is None:
        path.unlink(missing_ok=True)
        return
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.unique(digests))


def read_trained_on(folder: Path) -> NDArray[np.uint64] | None:
    """Read what `write_trained_on` wrote; None if the parcels are not known.

    They are not for models of the reference and of earlier versions, and those that started from
    such models.
    """
    path = folder / TRAINED_ON_FILE
    return map_array(path, np.uint64, 1) if path.is_file() else None


def refuse_trained_on(
    folder: Path, trained_on: NDArray[np.uint64] | None, data: PixelSets, test: NDArray[np.int64]
) -> None:
    """Refuse to test on parcels on which the weights to start from were trained.

    Parameters
    ----------
    folder
        Fold_<k> of the weights, for messages.
    trained_on
        Digests of its parcels; None if they are not known, which is logged.
    data, test
        The dataset, and int64 (n,), the test parcels of the fold to train.

    Raises
    ------
    InputError
        If there are any.
    """
    if trained_on is None:
        logger.warning(
            "train.from: it is not known which parcels %s was trained on. If the test parcels are "
            "among them, the scores are too high",
            folder,
        )
        return
    known = test[np.isin(digests_of(data, test), trained_on)]
    if len(known):
        raise InputError(
            f"train.from: {folder} was trained on {len(known)} of the {len(test)} test parcels of "
            f"this fold, such as {first_five(data.ids[i] for i in known)}, so that their scores "
            "would be too high. Use weights of another region or season. To continue a training "
            "on the same parcels, use its folds: the same split settings."
        )
