"""Stage variogram: measure how far parcels are alike, and suggest a side of blocks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geo.errors import InputError
from models.pixel_sets import PixelSets
from pipeline.dataset.groups import blocks_of
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.evaluation.baselines import parcel_means
from pipeline.evaluation.variogram import choose_side, measure, sample_pairs
from pipeline.workflow.settings import VariogramSettings
from pipeline.workflow.writing import write_json

logger = logging.getLogger(__name__)

RED, NEAR_INFRARED = "B04", "B08"
# Parcels whose pixels are in memory at once.
PARCELS_AT_A_TIME = 500


def variogram(dataset: Path, variogram: Path, settings: VariogramSettings) -> None:
    """Measure how far labelled parcels are alike, and suggest a side of blocks.

    The features are the means of every band and of NDVI over pixels and dates.

    Parameters
    ----------
    dataset
        Pixel-Set dataset with positions.
    variogram
        Written: JSON, see `Autocorrelation`; block_m, the side in metres that split.block_m: auto
        uses; n_blocks, the number of these blocks that have parcels; text, the reason.
    settings
        split: folds, seed.

    Raises
    ------
    InputError
        If no parcel has a label, or the dataset has no positions.
    """
    data, options = PixelSetDataset.open(dataset), settings.split
    labelled = np.flatnonzero(data.labels >= 0)
    if not len(labelled):
        raise InputError(
            "No parcel of the dataset has a label, so that it cannot be told how far parcels of a "
            "class are alike. Set parcels.labels and parcels.classes (dataset.classes for an "
            "existing dataset), or use existing weights (predict.weights)."
        )
    positions, labels = data.positions[labelled], data.labels[labelled]
    generator = np.random.default_rng(options.seed)
    pairs = sample_pairs(positions, generator)
    sets = data.pixel_sets(with_features=False)
    features, names = season_means(sets, data.bands, labelled[pairs.parcels])
    found = measure(positions, labels, features, names, pairs, generator)
    side, text = choose_side(found, positions, options.folds)
    n_blocks = len(np.unique(blocks_of(positions, side)))
    write_json(variogram, {"block_m": side, "n_blocks": n_blocks, "text": text, **found.as_json()})
    logger.info("%s %d blocks of this side have labelled parcels.", text, n_blocks)


def season_means(
    data: PixelSets, bands: Sequence[str], parcels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], list[str]]:
    """Average every band and NDVI over the clear pixels and the dates of some parcels.

    Parameters
    ----------
    data
        All parcels.
    bands
        Names of its C channels.
    parcels
        int64 (n,).

    Returns
    -------
    means, names
        float64 (n, C + 1), without NDVI if the bands for it are absent; and the C + 1 names.
    """
    has_ndvi = RED in bands and NEAR_INFRARED in bands
    n_parts = -(-len(parcels) // PARCELS_AT_A_TIME)
    parts = []
    for part in np.array_split(parcels, n_parts):
        series = parcel_means(data, part)
        if data.observed is not None:
            series[~data.observed[part]] = np.nan
        if has_ndvi:
            red, infrared = (series[:, :, bands.index(b)] for b in (RED, NEAR_INFRARED))
            ndvi = (infrared - red) / np.maximum(infrared + red, 1)
            series = np.concatenate([series, ndvi[:, :, None]], axis=2)
        parts.append(np.nanmean(series, axis=1))
    return np.concatenate(parts), [*bands, *(["NDVI"] if has_ndvi else [])]
