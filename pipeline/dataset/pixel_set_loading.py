"""The whole dataset as the models take it: its pixels mapped, not read."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

import numpy as np
from numpy.typing import NDArray

from models.pixel_sets import PixelSets
from pipeline.dataset.packed_pixels import PackedLayout, map_pixels, map_valid, unmap
from pipeline.dataset.pixel_set_store import (
    read_dates,
    read_features,
    read_labels,
    read_parcel_dates,
)
from pipeline.workflow.paths import DatasetPaths

# Pixels of parcels that are predicted together.
PART_BYTES = 1_000_000_000


def read_pixel_sets(
    dataset: DatasetPaths, *, with_features: bool, season_start: str | date | None = None
) -> PixelSets:
    """Open the whole dataset, pixel-major, as the models take it; pixels are read as they are used.

    Where clouds were kept and masked, the validity of every observation comes with it; where they
    were filled, every observation counts. Where parcels have dates of their own, all are padded
    behind to the longest, and `observed` says which dates are true.

    Parameters
    ----------
    dataset
        The dataset, packed.
    with_features
        Whether to read the features of the parcels.
    season_start
        Day 0: a date, or MM-DD for that day in the year of the first date. None: the first date.
    """
    layout = PackedLayout.of(dataset)
    days, observed = _read_days(dataset, layout, season_start)
    return PixelSets(
        ids=layout.ids,
        pixels=map_pixels(dataset, layout),
        offsets=layout.offsets,
        valid=map_valid(dataset, layout),
        days=days,
        observed=observed,
        features=read_features(dataset) if with_features else None,
        labels=read_labels(dataset),
    )


def in_order(data: PixelSets, n_bytes: int = PART_BYTES) -> Iterator[tuple[int, PixelSets]]:
    """Give the parcels in runs, in the order in which their pixels lie in the file.

    The pixels of a run stay mapped until the next one is asked for: what is mapped is about
    `n_bytes`, or one parcel.

    Yields
    ------
    start, part
        Place of the first parcel of the run, and the run.
    """
    pixel_bytes = max(data.n_dates * data.n_channels * data.pixels.itemsize, 1)
    start = 0
    while start < len(data):
        end = data.offsets[start] + n_bytes // pixel_bytes
        stop = max(int(np.searchsorted(data.offsets, end, side="right")) - 1, start + 1)
        chosen, rows = slice(start, stop), slice(data.offsets[start], data.offsets[stop])
        yield (
            start,
            PixelSets(
                ids=data.ids[chosen],
                pixels=data.pixels[rows],
                offsets=data.offsets[start : stop + 1] - data.offsets[start],
                valid=None if data.valid is None else data.valid[rows],
                days=data.days[chosen],
                observed=None if data.observed is None else data.observed[chosen],
                features=None if data.features is None else data.features[chosen],
                labels=data.labels[chosen],
            ),
        )
        for array in (data.pixels, data.valid):
            if isinstance(array, np.memmap):
                unmap(array)
        start = stop


def day_zero(first: date, season_start: str | date | None) -> date:
    """Give the date that days are counted from; see `read_pixel_sets`."""
    if season_start is None:
        return first
    if isinstance(season_start, date):
        return season_start
    return date.fromisoformat(f"{first.year}-{season_start}")


def _read_days(
    dataset: DatasetPaths, layout: PackedLayout, season_start: str | date | None
) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
    """Read the days of every parcel's dates, int64 (N, T), and which of them are no padding."""
    dates, own = read_dates(dataset), read_parcel_dates(dataset)
    start = day_zero(dates[0], season_start)
    if own is None:
        shared = np.array([(d - start).days for d in dates], np.int64)
        return np.tile(shared, (len(layout.ids), 1)), None
    observed: NDArray[np.bool_] = np.arange(layout.width) < layout.n_dates[:, None]
    days = np.zeros(observed.shape, np.int64)
    day = {d: (d - start).days for d in dates}
    days[observed] = [day[d] for i in layout.ids for d in own[i]]
    return days, observed
