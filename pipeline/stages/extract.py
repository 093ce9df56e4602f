"""Stage extract: the parcels' pixels of one acquisition."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geo.errors import InputError
from geo.imagery.acquisition import Acquisition
from geo.imagery.discovery import find_acquisitions
from geo.pixels.parcel_pixels import gather, gather_clear
from geo.pixels.pixel_index import PixelIndex
from models.fast_cpu.memory_allocator import keep_freed_memory
from pipeline.acquisitions.cloud_rules import check_masks, cloud_rules, with_own_masks
from pipeline.workflow.settings import ExtractSettings
from pipeline.workflow.writing import replacing

logger = logging.getLogger(__name__)


def extract(
    product: Path,
    acquisition: str,
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
    product
        Product that holds the acquisition: SAFE folder, GeoTIFF, stack or STAC item.
    acquisition
        Its id in acquisitions.csv.
    pixel_index
        Pixels of the parcels on its tile, P in all.
    pixels
        Written: uint16 (C, P), reflectance x 10,000.
    valid
        Written: bool (P,), True where observed clearly.
    settings
        imagery and clouds.
    threads
        Blocks read at the same time.
    """
    keep_freed_memory()  # every block is as large as the one before
    index = PixelIndex.load(pixel_index)
    if len(index.parcel_ids) == 0:
        logger.info("%s is not read: no parcel lies on tile %s", acquisition, index.tile)
        values = np.zeros((len(settings.imagery.bands), 0), np.uint16)
        clear = np.zeros(0, bool)
    else:
        values, clear = _read(product, acquisition, index, settings, threads)
        share = 100 * clear.mean() if len(clear) else 0.0
        text = "%s: %d pixels of %d parcels, %.0f %% clear"
        logger.info(text, acquisition, len(clear), len(index.parcel_ids), share)
    with replacing(pixels) as temporary:
        np.save(temporary, values)
    with replacing(valid) as temporary:
        np.save(temporary, clear)


def _read(
    product: Path, acquisition: str, index: PixelIndex, settings: ExtractSettings, threads: int
) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """Read reflectance and clearness of an acquisition at the pixels of the index."""
    imagery = settings.imagery
    source = _find(product, acquisition, settings)
    if not source.grid.is_aligned(index.grid):
        raise InputError(
            f"{acquisition} lies on another grid than the one that the parcels were indexed on: "
            f"{source.grid} instead of {index.grid}. Index them again: snakemake -R clean."
        )
    rules = cloud_rules(settings.clouds)
    (source,) = with_own_masks([source], settings)
    check_masks([source], rules)
    try:
        values, clear = gather(
            source, index, imagery.bands, resampling=imagery.resampling, threads=threads
        )
        clear &= gather_clear(source, index, rules, threads=threads)
    except InputError as error:
        raise InputError(f"{acquisition}: {error}") from error
    return values, clear


def _find(product: Path, acquisition: str, settings: ExtractSettings) -> Acquisition:
    """Find an acquisition of the index in its product again."""
    imagery = settings.imagery
    found = find_acquisitions(
        product,
        imagery.format,
        bands=imagery.bands,
        file_bands=imagery.file_bands,
        reflectance_scale=imagery.reflectance_scale,
        signed_by=imagery.sign,
        # Others of the same folder may be: the index set them aside, or refused them.
        damaged=[],
    )
    # Acquisitions that share an id, halves of a tile, are numbered where they are seen together.
    for name in (acquisition, acquisition.rpartition("_")[0]):
        for item in found:
            if item.id == name:
                return item
    raise InputError(
        f"{product} no longer holds acquisition {acquisition}, but "
        f"{', '.join(a.id for a in found[:5])}. Run index again: snakemake -R index."
    )
