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

    Without parcels on its tile nothing is read, and the arrays written are empty.

    Parameters
    ----------
    item
        The acquisition, as index wrote it: where its bands and masks lie, and how they are read.
    pixel_index
        Pixels of the parcels on its tile, P in all.
    pixels
        Written: uint16 (C, P), reflectance x 10,000.
    valid
        Written: bool (P,), True where observed clearly.
    settings
        imagery.bands, imagery.resampling and clouds.
    threads
        Blocks read at the same time.
    """
    acquisition = read_item(item)
    index = PixelIndex.load(pixel_index)
    if len(index.parcel_ids) == 0:
        logger.info("%s is not read: no parcel lies on tile %s", acquisition.id, index.tile)
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
    """Read reflectance and clearness of an acquisition at the pixels of the index."""
    imagery = settings.imagery
    if not acquisition.grid.is_aligned(index.grid):
        raise InputError(
            f"{acquisition.id} lies on another grid than the one that the parcels were indexed on: "
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
