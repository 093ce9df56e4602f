"""What the numbers of an existing dataset's arrays mean: their unit, and which of them are data."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geo.errors import InputError
from geo.imagery.acquisition import PLAUSIBLE_REFLECTANCE
from geo.imagery.reflectance_scale import DARK, fitting_scale

logger = logging.getLogger(__name__)

# A dataset of a run stores reflectance x 10,000.
UNIT = 10_000
# The median reflectance of a dataset that shows vegetation, soil or water is within this range.
PLAUSIBLE_MEDIAN = (0.002, 1.5)
# With more channels, one of them is infrared, in which plants and soil are bright.
_MOST_VISIBLE = 3


def factor_of(dtype: np.dtype[Any], scale: float | None) -> float:
    """Return the factor from stored values to reflectance x 10,000.

    Parameters
    ----------
    dtype
        Type of the array.
    scale
        dataset.reflectance_scale; None: floats are reflectance, and integers are reflectance x
        10,000.
    """
    if scale is None:
        return 1.0 if dtype.kind in "iu" else float(UNIT)
    # 0.0001 x 10,000 is not exactly 1 for every such number.
    return round(scale * UNIT, 9)


def is_our_unit(dtype: np.dtype[Any], scale: float | None) -> bool:
    """Return whether arrays of this type are what a run stores: uint16, reflectance x 10,000."""
    return bool(dtype == np.uint16) and factor_of(dtype, scale) == 1


def convert(
    stored: NDArray[Any], scale: float | None
) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """Convert stored values to reflectance x 10,000, and find the observations without data.

    An observation is one pixel on one date. It has no data if a channel is NaN or not plausible as
    reflectance. In uint16 of reflectance x 10,000, the format of the reference, only 65535 is not
    plausible: all other values stay as they are.

    Parameters
    ----------
    stored
        Numbers (T, C, S).
    scale
        dataset.reflectance_scale.

    Returns
    -------
    values
        uint16 (T, C, S), rounded; negative reflectance becomes 0.
    nodata
        bool (T, S).
    """
    nodata: NDArray[np.bool_]
    if is_our_unit(stored.dtype, scale):
        nodata = np.any(stored == np.iinfo(np.uint16).max, axis=1)
        return stored, nodata
    values = stored * np.float64(factor_of(stored.dtype, scale))
    low, high = (UNIT * limit for limit in PLAUSIBLE_REFLECTANCE)
    # NaN is not within any range.
    within = (values >= low) & (values <= high)
    nodata = ~np.all(within, axis=1)
    values = np.where(within, values, 0).clip(0)
    return (values + 0.5).astype(np.uint16), nodata


def check_scale(arrays: Iterable[NDArray[Any]], scale: float | None, folder: object) -> float:
    """Return the median reflectance of arrays; refuse a scale with which it is not plausible.

    Parameters
    ----------
    arrays
        Some arrays of the dataset. Zeros, NaN and infinity are ignored.
    scale
        dataset.reflectance_scale.
    folder
        Folder of the arrays, for the message.

    Raises
    ------
    InputError
        If the median is not plausible as reflectance. The message names a scale that is.
    """
    samples, dtype, n_channels = [], np.dtype(np.uint16), 0
    for array in arrays:
        dtype, n_channels = array.dtype, array.shape[1]
        numbers = array[np.isfinite(array) & (array != 0)].astype(np.float64)
        samples.append(numbers)
    stored = np.abs(np.concatenate(samples)) if samples else np.zeros(0)
    if not len(stored):
        return 0.0
    # Markers of nodata, such as -9999 and 65535, are the extremes of an array.
    middle, bright = (float(value) for value in np.quantile(stored, (0.5, 0.9)))
    factor = factor_of(dtype, scale) / UNIT
    median = middle * factor
    low, high = PLAUSIBLE_MEDIAN
    fitting = fitting_scale(bright)
    remedy = (
        f"Set dataset.reflectance_scale to {fitting:g}, if these are reflectances x {1 / fitting:g}"
        if fitting
        else "Set dataset.reflectance_scale to the factor from stored values to reflectance"
    )
    found = (
        f"{folder}: the median of the stored values, {dtype}, is {middle:.6g}, and nine tenths are "
        f"below {bright:.6g}; multiplied by {factor:g} they are"
    )
    if not low <= median <= high:
        raise InputError(
            f"{found} not plausible reflectance: expected a median from {low:g} to {high:g}. "
            f"{remedy}."
        )
    if bright * factor < DARK and scale is None and n_channels > _MOST_VISIBLE:
        logger.warning("%s as dark as water or burnt land. %s.", found, remedy)
    return median
