"""Stage normalise: means and standard deviations of the dataset."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geo.band_statistics import RunningStatistics
from pipeline.normalisation_pickle import write_normalisation
from pipeline.paths import DatasetPaths
from pipeline.pixel_set_store import (
    DatasetError,
    read_dates,
    read_description,
    read_ids,
    read_parcel_dates,
    read_pixels,
    read_valid,
)
from pipeline.settings import Settings

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
        The dataset.
    by
        all, channel or date_channel.

    Returns
    -------
    means, stds
        float64, both of shape () for `all`, (C,) for `channel`, (T, C) for `date_channel`.

    Raises
    ------
    DatasetError
        If parcels have dates of their own and `by` is date_channel.
    """
    description = read_description(dataset)
    own_dates = read_parcel_dates(dataset) is not None
    if own_dates and by == "date_channel":
        raise DatasetError(
            "normalise.by is date_channel, but the parcels have dates of their own: there is no "
            "mean of a date. Set it to channel or all."
        )
    n_dates = 1 if own_dates else len(read_dates(dataset))
    statistics = RunningStatistics(n_dates, len(description["bands"]))
    for parcel_id in read_ids(dataset):
        pixels = read_pixels(dataset, parcel_id)
        valid = read_valid(dataset, parcel_id) if description["fill"] == "none" else None
        if own_dates:
            # Dates are pixels like any other where they are not told apart.
            pixels = pixels.transpose(1, 0, 2).reshape(1, pixels.shape[1], -1)
            valid = None if valid is None else valid.reshape(1, -1)
        statistics.add(pixels, valid)
    means, stds = statistics.over(POOLED[by])
    logger.info("%d pixels, means %s", statistics.count.max(), np.round(means, 1).tolist())
    return means, stds
