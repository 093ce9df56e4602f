"""How the classes green up and ripen: NDVI over time, from the dataset."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.dataset.pixel_set_dataset import PixelSetDataset

RED, NEAR_INFRARED = "B04", "B08"
# So many parcels show how a class behaves; reading all of a large dataset would take minutes.
MOST_PARCELS = 200


def ndvi_by_class(dataset: PixelSetDataset) -> dict[str, NDArray[np.float64]]:
    """Compute the quartiles of NDVI (Rouse et al. 1974) of every class on every date.

    Of a parcel its clear pixels' median counts; of a class at most `MOST_PARCELS` parcels, evenly
    spaced in the dataset's order.

    Returns
    -------
    dict
        {code: float64 (T, 3)}: quartiles over the parcels, NaN where none was seen clearly. Empty
        if the dataset lacks a band. Classes without parcels are left out.
    """
    bands = dataset.bands
    if not {RED, NEAR_INFRARED} <= set(bands):
        return {}
    channels = bands.index(RED), bands.index(NEAR_INFRARED)
    labels, own = dataset.labels, dataset.parcel_dates
    place = {day: i for i, day in enumerate(dataset.dates)}
    series = {}
    for index, land in enumerate(dataset.classes):
        members = np.flatnonzero(labels == index)
        if len(members):
            step = -(-len(members) // MOST_PARCELS)
            shown = members[::step]
            parcels = np.full((len(shown), len(place)), np.nan)
            for row, i in zip(parcels, shown, strict=True):
                dates = list(place) if own is None else own[dataset.ids[i]]
                row[[place[day] for day in dates]] = _parcel_ndvi(dataset[i], *channels)
            series[str(land.code)] = _quartiles(parcels)
    return series


def _parcel_ndvi(parcel: dict[str, Any], red: int, near_infrared: int) -> NDArray[np.float64]:
    """Compute the median NDVI of a parcel's clear pixels, float64 (T,)."""
    pixels = parcel["pixels"][:, [red, near_infrared]].astype(np.float64)
    total = pixels.sum(axis=1)
    clear = parcel["clear"] & (total > 0)
    ndvi = np.divide(
        pixels[:, 1] - pixels[:, 0], total, out=np.full_like(total, np.nan), where=clear
    )
    median = np.full(len(ndvi), np.nan)
    seen = clear.any(axis=1)
    median[seen] = np.nanmedian(ndvi[seen], axis=1)
    return median


def _quartiles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute quartiles over the first axis where anything was seen: (N, T) to (T, 3)."""
    quartiles = np.full((values.shape[1], 3), np.nan)
    seen = np.isfinite(values).any(axis=0)
    quartiles[seen] = np.nanquantile(values[:, seen], [0.25, 0.5, 0.75], axis=0).T
    return quartiles
