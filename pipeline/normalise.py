"""Stage normalise: means and standard deviations of the dataset."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from geo.band_statistics import RunningStatistics
from pipeline.config import Settings
from pipeline.paths import DatasetPaths
from pipeline.pixel_set_store import (
    read_dates,
    read_description,
    read_ids,
    read_pixels,
    read_valid,
    write_normalisation,
)

logger = logging.getLogger(__name__)

# Axes of (T, C) over which each choice pools.
POOLED = {"all": (0, 1), "channel": (0,), "date_channel": ()}


def normalise(dataset: Path, normalisation: Path, settings: Settings) -> None:
    """Compute the means and standard deviations of the dataset, streamed over all its pixels.

    Observations that are kept and masked (clouds.fill: none) do not count.

    Parameters
    ----------
    dataset
        Pixel-Set dataset.
    normalisation
        Written: pickle of (means, stds), each of shape () for `all`, (C,) for `channel`, (T, C)
        for `date_channel`.
    settings
        normalise.by and clouds.fill.
    """
    paths = DatasetPaths(dataset)
    bands = read_description(paths)["bands"]
    statistics = RunningStatistics(len(read_dates(paths)), len(bands))
    for parcel_id in read_ids(paths):
        valid = read_valid(paths, parcel_id) if settings.clouds.fill == "none" else None
        statistics.add(read_pixels(paths, parcel_id), valid)
    means, stds = statistics.over(POOLED[settings.normalise.by])
    write_normalisation(normalisation, means, stds)
    logger.info("%d pixels, means %s", statistics.count.max(), np.round(means, 1).tolist())
