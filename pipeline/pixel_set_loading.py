"""The whole dataset in memory, packed as the models take it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np
from numpy.typing import NDArray

from models.pixel_sets import PixelSets
from pipeline.paths import DatasetPaths
from pipeline.pixel_set_store import (
    read_dates,
    read_description,
    read_features,
    read_ids,
    read_labels,
    read_parcel_dates,
    read_pixels,
    read_sizes,
    read_valid,
)


def read_pixel_sets(
    dataset: DatasetPaths, *, with_features: bool, season_start: str | date | None = None
) -> PixelSets:
    """Load the whole dataset into memory, pixel-major, as the models take it.

    Where clouds were kept and masked, the validity of every observation comes with it; where they
    were filled, every observation counts. Where parcels have dates of their own, all are padded
    behind to the longest, and `observed` says which dates are true.

    Parameters
    ----------
    dataset
        The dataset.
    with_features
        Whether to read the features of the parcels.
    season_start
        Day 0: a date, or MM-DD for that day in the year of the first date. None: the first date.
    """
    ids, bands = read_ids(dataset), read_description(dataset)["bands"]
    days, observed = _read_days(dataset, ids, season_start)
    offsets = np.concatenate([[0], np.cumsum(read_sizes(dataset))])
    pixels = np.zeros((offsets[-1], days.shape[1], len(bands)), np.uint16)
    masked = read_description(dataset)["fill"] == "none"
    valid = np.zeros((offsets[-1], days.shape[1]), bool) if masked else None
    for parcel_id, start, stop in zip(ids, offsets[:-1], offsets[1:], strict=True):
        own = read_pixels(dataset, parcel_id)
        pixels[start:stop, : len(own)] = own.transpose(2, 0, 1)
        if valid is not None:
            valid[start:stop, : len(own)] = read_valid(dataset, parcel_id).T
    return PixelSets(
        ids=ids,
        pixels=pixels,
        offsets=offsets,
        valid=valid,
        days=days,
        observed=observed,
        features=read_features(dataset) if with_features else None,
        labels=read_labels(dataset),
    )


def day_zero(first: date, season_start: str | date | None) -> date:
    """Give the date that days are counted from; see `read_pixel_sets`."""
    if season_start is None:
        return first
    if isinstance(season_start, date):
        return season_start
    return date.fromisoformat(f"{first.year}-{season_start}")


def _read_days(
    dataset: DatasetPaths, ids: Sequence[str], season_start: str | date | None
) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
    """Read the days of every parcel's dates, int64 (N, T), and which of them are no padding."""
    dates, own = read_dates(dataset), read_parcel_dates(dataset)
    start = day_zero(dates[0], season_start)
    if own is None:
        shared = np.array([(d - start).days for d in dates], np.int64)
        return np.tile(shared, (len(ids), 1)), None
    n_dates = np.array([len(own[i]) for i in ids])
    observed: NDArray[np.bool_] = np.arange(n_dates.max()) < n_dates[:, None]
    days = np.zeros(observed.shape, np.int64)
    days[observed] = [(d - start).days for i in ids for d in own[i]]
    return days, observed
