"""Stage normalise: compute the means and standard deviations of the dataset."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from geo.errors import InputError
from geo.pixels.band_statistics import RunningStatistics
from pipeline.dataset.normalisation_pickle import Values, write_normalisation
from pipeline.dataset.packed_tiles import batches
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.workflow.progress import ProgressLog
from pipeline.workflow.settings import NormaliseSettings

logger = logging.getLogger(__name__)

# Axes of (T, C) over which values are pooled, by the setting normalise.by.
POOLED = {"all": (0, 1), "channel": (0,), "date_channel": ()}
BATCH_BYTES = 32_000_000


def normalise(dataset: Path, normalisation: Path, settings: NormaliseSettings) -> None:
    """Compute the means and standard deviations of all pixels of the dataset.

    Cloudy observations are included if they are interpolated, and not if they are masked.

    Parameters
    ----------
    dataset
        Pixel-Set dataset.
    normalisation
        Written: pickle of (means, stds), as `statistics_of` returns them.
    settings
        normalise.by.
    """
    means, stds = statistics_of(PixelSetDataset.open(dataset), settings.normalise.by)
    write_normalisation(normalisation, means, stds)


def statistics_of(dataset: PixelSetDataset, by: str) -> Values:
    """Compute the means and standard deviations of a dataset.

    Parameters
    ----------
    dataset
        The dataset.
    by
        all, channel or date_channel.

    Returns
    -------
    means, stds
        float64, both of shape () for `all`, (C,) for `channel`, (T, C) for `date_channel`.

    Raises
    ------
    InputError
        If dates differ between parcels and `by` is date_channel.
    """
    if dataset.observed is not None and by == "date_channel":
        raise InputError(
            "normalise.by is date_channel, but dates differ between parcels, so there is no mean "
            "of a date. Set it to channel or all."
        )
    pixels, offsets = dataset.pixels, dataset.offsets
    _, n_dates, n_channels = pixels.shape
    statistics = RunningStatistics(n_dates, n_channels)
    progress = ProgressLog("averaged", len(dataset), "parcels")
    for first, last in batches(offsets, BATCH_BYTES // max(2 * n_dates * n_channels, 1)):
        rows = slice(int(offsets[first]), int(offsets[last]))
        included = None
        if dataset.masks_clouds:
            included = dataset.clear[rows]
        elif dataset.observed is not None:
            # (parcels, T) to (pixels, T)
            included = np.repeat(dataset.observed[first:last], dataset.sizes[first:last], axis=0)
        statistics.add(pixels[rows], included)
        progress.add(last - first)
    means, stds = statistics.over(POOLED[by])
    logger.info("%d pixels, means %s", statistics.count.max(), np.round(means, 1).tolist())
    return means, stds
