"""Stage extract: the parcels' pixels of one acquisition."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geo.errors import InputError
from geo.imagery.acquisition import Acquisition, read_item
from geo.imagery.cloud_masks import cloud_rules
from geo.pixels.parcel_pixels import read_clear_mask, read_parcel_pixels
from geo.pixels.pixel_index import PixelIndex
from pipeline.workflow.settings import ExtractSettings
from pipeline.workflow.writing import replacing

logger = logging.getLogger(__name__)


def extract(
    item: Path,
    pixel_index: Path,
    pixels: Path,
    valid: Path,
    settings: ExtractSettings,
    threads: int = 1,
) -> None:
    """Read the parcels' pixels of one acquisition.

    If the tile has no parcels, nothing is read and empty arrays are written.

    Parameters
    ----------
    item
        The acquisition as a STAC item, written by the stage index.
    pixel_index
        Pixels of the parcels on its tile, P in total.
    pixels
        Written: uint16 (C, P), reflectance x 10,000.
    valid
        Written: bool (P,), True if the pixel is clear.
    settings
        imagery.bands, imagery.resampling and clouds.
    threads
        Number of blocks that are read at the same time.
    """
    acquisition = read_item(item)
    index = PixelIndex.load(pixel_index)
    if len(index.parcel_ids) == 0:
        logger.info("%s is not read: tile %s has no parcels", acquisition.id, index.tile)
        values = np.zeros((len(settings.imagery.bands), 0), np.uint16)
        clear = np.zeros(0, bool)
    else:
        values, clear = _read(acquisition, index, settings, threads)
        share = 100 * clear.mean() if len(clear) else 0.0
        text = "%s: %d pixels of %d parcels, %.0f %% clear"
        logger.info(text, acquisition.id, len(clear), len(index.parcel_ids), share)
    with replacing(pixels) as temporary:
        np.save(temporary, values)
    with replacing(valid) as temporary:
        np.save(temporary, clear)


def _read(
    acquisition: Acquisition, index: PixelIndex, settings: ExtractSettings, threads: int
) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """Read reflectance, and which pixels are clear, at the pixels of the index."""
    imagery = settings.imagery
    if not acquisition.grid.is_aligned(index.grid):
        raise InputError(
            f"{acquisition.id} lies on another grid than the pixel index of the parcels: "
            f"{acquisition.grid} instead of {index.grid}. Index them again: snakemake -R clean."
        )
    try:
        values, clear = read_parcel_pixels(
            acquisition, index, imagery.bands, resampling=imagery.resampling, threads=threads
        )
        rules = cloud_rules(settings.clouds)
        clear &= read_clear_mask(acquisition, index, rules, threads=threads)
    except InputError as error:
        raise InputError(f"{acquisition.id}: {error}") from error
    return values, clear
