"""Stage normalise: means and standard deviations of the dataset."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geo.errors import InputError
from geo.pixels.band_statistics import RunningStatistics
from pipeline.dataset.normalisation_pickle import write_normalisation
from pipeline.dataset.packed_pixels import PackedLayout, map_pixels, map_valid
from pipeline.dataset.pixel_set_store import read_parcel_dates
from pipeline.workflow.paths import DatasetPaths
from pipeline.workflow.progress import ProgressLog
from pipeline.workflow.settings import NormaliseSettings

logger = logging.getLogger(__name__)

# Axes of (T, C) over which each choice pools.
POOLED = {"all": (0, 1), "channel": (0,), "date_channel": ()}
BLOCK_BYTES = 32_000_000


def normalise(dataset: Path, normalisation: Path, settings: NormaliseSettings) -> None:
    """Compute the means and standard deviations of the dataset, streamed over all its pixels.

    Observations that are kept and masked (clouds.fill: none) do not count.

    Parameters
    ----------
    dataset
        Pixel-Set dataset, packed.
    normalisation
        Written: pickle of (means, stds), each of shape () for `all`, (C,) for `channel`, (T, C)
        for `date_channel`.
    settings
        normalise.by.
    """
    means, stds = statistics_of(DatasetPaths(dataset), settings.normalise.by)
    write_normalisation(normalisation, means, stds)


def statistics_of(
    dataset: DatasetPaths, by: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the means and standard deviations of a dataset.

    Parameters
    ----------
    dataset
        The dataset, packed.
    by
        all, channel or date_channel.

    Returns
    -------
    means, stds
        float64, both of shape () for `all`, (C,) for `channel`, (T, C) for `date_channel`.

    Raises
    ------
    InputError
        If parcels have dates of their own and `by` is date_channel.
    """
    own_dates = read_parcel_dates(dataset) is not None
    if own_dates and by == "date_channel":
        raise InputError(
            "normalise.by is date_channel, but the parcels have dates of their own: there is no "
            "mean of a date. Set it to channel or all."
        )
    layout = PackedLayout.of(dataset)
    pixels, valid = map_pixels(dataset, layout), map_valid(dataset, layout)
    statistics = RunningStatistics(*layout.shape[1:])
    progress = ProgressLog("averaged", len(layout.ids), "parcels")
    for first, last in layout.blocks(BLOCK_BYTES):
        part = slice(layout.offsets[first], layout.offsets[last])
        counted = None
        if valid is not None:
            counted = valid[part]
        elif layout.is_ragged:
            counted = layout.observed(first, last)
        statistics.add(pixels[part], counted)
        progress.add(last - first)
    means, stds = statistics.over(POOLED[by])
    logger.info("%d pixels, means %s", statistics.count.max(), np.round(means, 1).tolist())
    return means, stds
