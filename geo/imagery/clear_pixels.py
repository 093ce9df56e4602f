"""Clear pixels of all acquisitions of a tile at the same points, for the check of their offsets."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geo.imagery.acquisition import Acquisition, Band
from geo.imagery.cloud_masks import CloudRules
from geo.imagery.damaged import setting_aside
from geo.imagery.file_cache import cached_of
from geo.imagery.reduced_reading import is_read_in_windows, read_points
from geo.imagery.valid_values import has_data

# Added to reflectance x 10,000 since baseline 04.00, in all bands.
OFFSET = 1000.0

NEAR_INFRARED = ("B8A", "B08", "B07", "B06")
# One band of each group is compared: red, short-wave infrared, blue, and near infrared.
_GROUPS = (("B04", "B05", "B03"), ("B12", "B11"), ("B02", "B03"), NEAR_INFRARED)

# Points along each axis of a tile at which pixels are compared, and how many are needed.
_SIDE = 64
MIN_PIXELS = 200
# Bands that can only be read in windows are read in this number of windows along each axis, which
# are this wide.
_WINDOWS, _WINDOW_M = 5, 1400.0


@dataclass(frozen=True)
class ClearPixels:
    """The clear pixels of an acquisition at the sampled points of its tile.

    Parameters
    ----------
    acquisition
        The acquisition that was read.
    announced
        Whether its metadata announce the offset.
    bands
        Names of the B bands.
    values
        float32 (B, P), reflectance x 10,000 without any offset applied, NaN where a pixel is not
        clear in all bands by the cloud masks.
    """

    acquisition: Acquisition
    announced: bool
    bands: tuple[str, ...]
    values: NDArray[np.float32]

    @property
    def clear(self) -> NDArray[np.bool_]:
        """Which points are clear: bool (P,)."""
        clear: NDArray[np.bool_] = np.isfinite(self.values[0])
        return clear


def announces_offset(acquisition: Acquisition) -> bool | None:
    """Return whether the offset is announced, None if another offset is: that is not checked."""
    offsets = {band.offset * band.scale for band in acquisition.bands.values()}
    if all(abs(offset + OFFSET) < 1 for offset in offsets):
        return True
    return False if all(abs(offset) < 1 for offset in offsets) else None


def read_clear_pixels(
    found: Sequence[Acquisition],
    rules: CloudRules,
    threads: int,
    unreadable: dict[str, str] | None = None,
) -> list[ClearPixels]:
    """Read the clear pixels of the acquisitions of a tile at the same points.

    Acquisitions with another offset, or with too few clear pixels, are left out, and so are those
    that are added to `unreadable`.
    """
    names = [[name for name in group if all(name in a.bands for a in found)] for group in _GROUPS]
    bands = tuple(dict.fromkeys(group[0] for group in names if group))
    if not bands:
        return []
    x, y = _points(found, bands)

    def values_of(item: Acquisition) -> NDArray[np.float32]:
        clear = np.ones(len(x) * len(y), bool)
        for mask in rules.choose(item).values():
            clear &= read_points(mask, x, y, partial(_is_clear, rules, mask))[1]
        values = np.empty((len(bands), len(clear)), np.float32)
        for values_of_band, band in zip(values, (item.bands[name] for name in bands), strict=True):
            raw, with_data = read_points(band, x, y, partial(has_data, band))
            values_of_band[:] = raw * band.scale
            clear &= with_data
        values[:, ~clear] = np.nan
        return values

    points = hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest()

    def read(item: Acquisition) -> ClearPixels | None:
        announced = announces_offset(item)
        if announced is None:
            return None
        values = cached_of(
            item, ("clear pixels", rules, bands, points), np.ndarray, lambda: values_of(item)
        )
        n_clear = np.isfinite(values[0]).sum()
        return ClearPixels(item, announced, bands, values) if n_clear >= MIN_PIXELS else None

    def read_or_note(item: Acquisition) -> ClearPixels | None:
        found = None
        with setting_aside(item.id, unreadable):
            found = read(item)
        return found

    # Not tasks of Dask: most acquisitions are known already (see `file_cache`), and to read the few
    # values of the others takes less time than to import it.
    with ThreadPoolExecutor(threads) as pool:
        return [item for item in pool.map(read_or_note, found) if item is not None]


def _is_clear(rules: CloudRules, mask: Band, raw: NDArray[Any]) -> NDArray[np.bool_]:
    return rules.is_clear(mask.name, raw, mask)


def _points(
    found: Sequence[Acquisition], bands: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return x and y of the points of a tile: pixel centres of the coarsest band, spread evenly."""
    first, *others = (item.grid for item in found)
    x_min, y_min, x_max, y_max = first.union(others).bounds
    layers = [item.bands[name] for item in found for name in bands]
    is_in_windows = any(map(is_read_in_windows, layers))

    def along(length: float, pixel: float) -> NDArray[np.float64]:
        n_pixels = max(int(length / pixel), 1)
        if n_pixels <= _SIDE:
            at = np.arange(n_pixels)
        elif is_in_windows and length > _WINDOWS * _WINDOW_M:
            within = np.linspace(0, _WINDOW_M / pixel, _SIDE // _WINDOWS, endpoint=False)
            starts = np.linspace(0, n_pixels - _WINDOW_M / pixel, _WINDOWS)
            at = (starts[:, None] + within).astype(int).ravel()
        else:
            at = np.linspace(0, n_pixels - 1, _SIDE).astype(int)
        return np.asarray((at + 0.5) * pixel, np.float64)

    width = max(band.grid.pixel_width for band in layers)
    height = max(band.grid.pixel_height for band in layers)
    return x_min + along(x_max - x_min, width), y_max - along(y_max - y_min, height)
