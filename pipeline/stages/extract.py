"""Stage extract: the parcels' pixels of one acquisition."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geo.cluster import Cluster, connected
from geo.errors import SET_ASIDE, AccessError, InputError, UnavailableError
from geo.imagery.acquisition import Acquisition, read_item
from geo.imagery.cloud_masks import cloud_rules
from geo.imagery.valid_values import HIGHEST, LOWEST
from geo.pixels.parcel_pixels import read_clear_mask, read_parcel_pixels
from geo.pixels.pixel_index import PixelIndex
from pipeline.workflow.settings import ExtractSettings
from pipeline.workflow.writing import replacing, write_json

logger = logging.getLogger(__name__)


def extract(
    item: Path,
    pixel_index: Path,
    pixels: Path,
    valid: Path,
    settings: ExtractSettings,
    threads: int = 1,
    counts: Path | None = None,
    damaged: str = "refuse",
    scheduler: str = "threads",
) -> None:
    """Read the parcels' pixels of one acquisition.

    If the tile has no parcels, nothing is read and empty arrays are written. The same is done if
    the acquisition cannot be read and is set aside.

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
        Number of blocks that are read at the same time; 0 counts as 1.
    counts
        Written: how many of the pixels are nodata, how many of these because a value is impossible
        as reflectance, and how many are clear; `damaged` says why the acquisition is set aside.
        None: only the log says it, and no acquisition can be set aside.
    damaged
        imagery.damaged: what happens if the acquisition cannot be read. It is not one of the
        settings, because the others need not be extracted again when it changes.
    scheduler
        Where blocks are read: "threads" of this machine, or dask.scheduler, the address of a Dask
        cluster.

    Raises
    ------
    InputError
        If the acquisition cannot be read and is refused, if its service or its folder cannot be
        reached, or if it has another grid than the pixel index.
    """
    acquisition = read_item(item)
    index = PixelIndex.load(pixel_index)
    values, clear = np.zeros((len(settings.imagery.bands), 0), np.uint16), np.zeros(0, bool)
    found: dict[str, int | str] = {"pixels": 0, "nodata": 0, "impossible": 0, "clear": 0}
    if len(index.parcel_ids) == 0:
        logger.info("%s is not read: tile %s has no parcels", acquisition.id, index.tile)
    else:
        _check_grid(acquisition, index)
        try:
            with connected(scheduler) as cluster:
                values, clear, numbers = _read(
                    acquisition, index, settings, max(threads, 1), cluster
                )
        except (UnavailableError, AccessError):
            raise  # the next acquisition would fail, too
        except InputError as error:
            # If the whole product is missing, it was moved, or its disk is not mounted.
            if damaged != "set_aside" or counts is None or not acquisition.product.exists():
                raise InputError(f"{error}\n{SET_ASIDE} What is extracted is kept.") from error
            logger.warning("Set aside: %s", error)
            found["damaged"] = str(error)
        else:
            _log(acquisition, index, numbers)
            found |= numbers
    with replacing(pixels) as temporary:
        np.save(temporary, values)
    with replacing(valid) as temporary:
        np.save(temporary, clear)
    if counts is not None:
        write_json(counts, found)


def _check_grid(acquisition: Acquisition, index: PixelIndex) -> None:
    """Check that an acquisition is on the pixels of the index."""
    if not acquisition.grid.is_aligned(index.grid):
        raise InputError(
            f"{acquisition.id} lies on another grid than the pixel index of the parcels: "
            f"{acquisition.grid} instead of {index.grid}. Index them again: snakemake -R clean."
        )


def _read(
    acquisition: Acquisition,
    index: PixelIndex,
    settings: ExtractSettings,
    threads: int,
    cluster: Cluster | None,
) -> tuple[NDArray[np.uint16], NDArray[np.bool_], dict[str, int]]:
    """Read reflectance, and which pixels are clear, at the pixels of the index; count them."""
    imagery = settings.imagery
    impossible = np.zeros(len(index.rows), bool)
    try:
        values, has_values = read_parcel_pixels(
            acquisition,
            index,
            imagery.bands,
            resampling=imagery.resampling,
            threads=threads,
            cluster=cluster,
            impossible=impossible,
        )
        rules = cloud_rules(settings.clouds)
        clear = has_values & read_clear_mask(
            acquisition, index, rules, threads=threads, cluster=cluster
        )
    except InputError as error:
        raise type(error)(f"{acquisition.id}: {error}") from error
    counts = {"nodata": ~has_values, "impossible": impossible, "clear": clear}
    return (
        values,
        clear,
        {"pixels": len(clear)} | {name: int(which.sum()) for name, which in counts.items()},
    )


def _log(acquisition: Acquisition, index: PixelIndex, counts: dict[str, int]) -> None:
    """Log the share of clear pixels, and warn of pixels that were taken out."""
    shares = {name: 100 * count / max(counts["pixels"], 1) for name, count in counts.items()}
    text = "%s: %d pixels of %d parcels, %.0f %% clear"
    n_parcels = len(index.parcel_ids)
    logger.info(text, acquisition.id, counts["pixels"], n_parcels, shares["clear"])
    if counts["impossible"]:
        logger.warning(
            "%s: %.3g %% of the parcels' pixels have values that are impossible as reflectance, "
            "below %g or above %g. They are taken for nodata.",
            *(acquisition.id, shares["impossible"], LOWEST / 10_000, HIGHEST / 10_000),
        )
