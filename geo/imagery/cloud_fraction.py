"""The share of an acquisition that is cloudy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geo.imagery.acquisition import SCENE_CLASSIFICATION, Acquisition, Band
from geo.imagery.cloud_masks import CloudRules, is_sensed
from geo.imagery.raster_reading import block_shape, read_window
from geo.pixels.resampling import axes

# Rows that are read at once, at least.
_ROWS = 512


def cloud_fraction(acquisition: Acquisition, rules: CloudRules) -> float | None:
    """Give the share of an acquisition's sensed pixels that are not clear by its masks.

    The product's own metadata stand for masks that count the same, and where a mask is missing.

    Returns
    -------
    float or None
        0 to 1; 1 where nothing was sensed, None where neither metadata nor mask tell.
    """
    masks = rules.choose(acquisition)
    if not _must_read(acquisition, masks, rules):
        return acquisition.cloud_fraction
    n_sensed = n_cloudy = 0
    for sensed, clear in _strips(acquisition, masks, rules):
        n_sensed += int(sensed.sum())
        n_cloudy += int((sensed & ~clear).sum())
    return n_cloudy / n_sensed if n_sensed else 1.0


def stated_cloud_fraction(acquisition: Acquisition, rules: CloudRules) -> float | None:
    """Give what `cloud_fraction` gives where it needs no pixels for it, else None."""
    if _must_read(acquisition, rules.choose(acquisition), rules):
        return None
    return acquisition.cloud_fraction


def _must_read(acquisition: Acquisition, masks: dict[str, Band], rules: CloudRules) -> bool:
    """Tell whether the masks must be read, as the metadata do not tell what they would."""
    is_told = acquisition.cloud_fraction is not None and rules.agree_with_metadata(masks)
    return bool(masks) and not is_told and not rules.missing(acquisition)


def _strips(
    acquisition: Acquisition, masks: dict[str, Band], rules: CloudRules
) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Give what was sensed and what is clear, by strips of the band that tells what was sensed."""
    bands = acquisition.bands.values()
    coarsest = max(bands, key=lambda band: band.grid.pixel_width * band.grid.pixel_height)
    base = masks.get(SCENE_CLASSIFICATION, coarsest)
    step = max(block_shape(base)[0], _ROWS)
    for top in range(0, base.grid.height, step):
        rows = np.arange(top, min(top + step, base.grid.height), dtype=np.int32)
        sensed = _is_sensed(base, read_window(base, slice(top, top + step), slice(None)))
        clear = np.ones(sensed.shape, bool)
        for name, band in masks.items():
            clear &= _is_clear(name, band, base, rows, rules)
        yield sensed, clear


def _is_sensed(band: Band, values: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell which pixels of a scene classification or of a reflectance band were sensed."""
    if band.name == SCENE_CLASSIFICATION:
        return is_sensed(values, band)
    sensed: NDArray[np.bool_] = np.isfinite(values)
    return sensed if band.nodata is None else sensed & (values != band.nodata)


def _is_clear(
    name: str, mask: Band, base: Band, rows: NDArray[np.int32], rules: CloudRules
) -> NDArray[np.bool_]:
    """Tell where a mask is clear at the pixels of whole rows of another band."""
    down, right = axes(base.grid, mask.grid)
    there_rows, there_cols = down.inside[rows], right.inside
    clear = np.zeros((len(rows), base.grid.width), bool)
    if there_rows.any() and there_cols.any():
        at_row, at_col = down.nearest[rows][there_rows], right.nearest[there_cols]
        margin = rules.margin(mask)[0]
        top = max(int(at_row[0]) - margin, 0)
        window = slice(top, int(at_row[-1]) + margin + 1)
        values = rules.is_clear(name, read_window(mask, window, slice(None)), mask)
        clear[np.ix_(there_rows, there_cols)] = values[np.ix_(at_row - top, at_col)]
    return clear
