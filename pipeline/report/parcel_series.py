"""The observations of a parcel over time, and those of its class, for the card of the parcel."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.report.ndvi import MOST_PARCELS, NEAR_INFRARED, RED, parcel_ndvi

# Between these quantiles are four of five parcels of a class.
ENVELOPE = (0.1, 0.9)
# Quantiles of fewer parcels are too uncertain to draw.
FEWEST_PARCELS = 5
NDVI = "NDVI"
_REFLECTANCE = 10_000


@dataclass(frozen=True, eq=False)
class ParcelSeries:
    """Medians over the clear pixels of a parcel, on its T dates.

    Attributes
    ----------
    dates
        The T dates.
    days
        int64 (T,), days since day 0 of the parcel's season: seasons lie on each other.
    clear_fraction
        float64 (T,), share of the parcel's pixels that are clear.
    names
        The B quantities: NDVI, if there are red and near infrared, and the bands.
    values
        float64 (T, B): NDVI, and reflectance from 0 to 1; NaN where no pixel is clear.
    """

    dates: list[date]
    days: NDArray[np.int64]
    clear_fraction: NDArray[np.float64]
    names: list[str]
    values: NDArray[np.float64]

    def on(self, days: NDArray[np.int64]) -> NDArray[np.float64]:
        """Interpolate linearly between clear dates, float64 (len(days), B); NaN outside of them."""
        found = np.full((len(days), len(self.names)), np.nan)
        for column, values in zip(found.T, self.values.T, strict=True):
            if (known := np.isfinite(values)).any():
                own = self.days[known], values[known]
                column[:] = np.interp(days, *own, left=np.nan, right=np.nan)
        return found


def read_series(dataset: PixelSetDataset, i: int) -> ParcelSeries:
    """Read the series of a parcel, by its position in the dataset."""
    parcel = dataset[i]
    own_dates = dataset.parcel_dates
    clear = parcel["clear"]  # (T, S)
    bands = np.full(parcel["pixels"].shape[:2], np.nan)  # (T, C)
    seen = clear.any(axis=1)
    pixels = np.where(clear[seen, None], parcel["pixels"][seen], np.nan)
    bands[seen] = np.nanmedian(pixels, axis=2) / _REFLECTANCE
    names, values = list(dataset.bands), bands
    if {RED, NEAR_INFRARED} <= set(names):
        channels = [names.index(RED), names.index(NEAR_INFRARED)]
        values = np.column_stack([parcel_ndvi(parcel, channels), bands])
        names = [NDVI, *names]
    return ParcelSeries(
        dataset.dates if own_dates is None else own_dates[dataset.ids[i]],
        parcel["days"],
        clear.mean(axis=1),
        names,
        values,
    )


def envelope(
    dataset: PixelSetDataset, label: int, days: NDArray[np.int64], without: int
) -> NDArray[np.float64] | None:
    """Compute the quantiles ENVELOPE of the parcels that are declared as a class.

    At most `MOST_PARCELS` of them are used, evenly spaced in the dataset's order. Each is
    interpolated linearly between its clear dates.

    Parameters
    ----------
    dataset
        The dataset.
    label
        Index of the class.
    days
        int64 (T,), as in `ParcelSeries.days`.
    without
        Position of a parcel that is left out, so that it is not compared with itself.

    Returns
    -------
    float64 (T, B, 2), NaN where less than FEWEST_PARCELS have a value; None if this is so
    everywhere.
    """
    members = np.flatnonzero((dataset.labels == label) & (np.arange(len(dataset)) != without))
    if len(members) < FEWEST_PARCELS:
        return None
    shown = members[:: -(-len(members) // MOST_PARCELS)].tolist()
    values = np.stack([read_series(dataset, i).on(days) for i in shown])  # (parcels, T, B)
    enough = np.isfinite(values).sum(axis=0) >= FEWEST_PARCELS
    found = np.full((*enough.shape, 2), np.nan)
    found[enough] = np.nanquantile(values[:, enough], ENVELOPE, axis=0).T
    return found if enough.any() else None
