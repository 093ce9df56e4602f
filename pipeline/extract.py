"""Stage extract: the parcels' pixels of one acquisition."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from geo.acquisitions import AcquisitionError
from geo.finding import find_acquisitions
from geo.gather import gather, gather_clear
from geo.pixel_index import PixelIndex
from pipeline.cloud_masks import check_masks, cloud_rules, with_own_masks
from pipeline.settings import Settings
from pipeline.writing import replacing

logger = logging.getLogger(__name__)


def extract(
    product: Path,
    acquisition: str,
    pixel_index: Path,
    pixels: Path,
    valid: Path,
    settings: Settings,
    threads: int = 1,
) -> None:
    """Read the parcels' pixels of one acquisition.

    Parameters
    ----------
    product
        Product that holds the acquisition: SAFE folder, GeoTIFF, stack or STAC item.
    acquisition
        Its id in acquisitions.csv.
    pixel_index
        Pixels of the parcels, P in all.
    pixels
        Written: uint16 (C, P), reflectance x 10,000.
    valid
        Written: bool (P,), True where observed clearly.
    settings
        imagery and clouds.
    threads
        Blocks read at the same time.
    """
    imagery = settings.imagery
    found = find_acquisitions(
        product,
        imagery.format,
        bands=imagery.bands,
        file_bands=imagery.file_bands,
        reflectance_scale=imagery.reflectance_scale,
        signed_by=imagery.sign,
    )
    source = next((a for a in found if a.id == acquisition), None)
    if source is None:
        raise AcquisitionError(
            f"{product} no longer holds acquisition {acquisition}, but "
            f"{', '.join(a.id for a in found[:5])}. Run index again: snakemake -R index."
        )
    index = PixelIndex.load(pixel_index)
    if not source.grid.matches(index.grid):
        raise AcquisitionError(
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
    except AcquisitionError as error:
        raise AcquisitionError(f"{acquisition}: {error}") from error
    with replacing(pixels) as temporary:
        np.save(temporary, values)
    with replacing(valid) as temporary:
        np.save(temporary, clear)
    share = clear.mean() if len(clear) else 0.0
    logger.info(
        "%s: %d pixels of %d parcels, %.0f %% clear",
        acquisition,
        len(clear),
        len(index.parcel_ids),
        100 * share,
    )
