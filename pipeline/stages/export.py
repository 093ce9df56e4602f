"""Stage export: write the dataset in the files that other software reads."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from geo.errors import InputError, first_five
from geo.grid import main_crs
from pipeline.dataset.metadata import write_metadata
from pipeline.dataset.npy_files import remove_npy_files, write_npy_files
from pipeline.dataset.packed_tiles import PackedTile, read_tile
from pipeline.dataset.pixel_set_dataset import PixelSetDataset
from pipeline.workflow.paths import DatasetPaths, TilePaths
from pipeline.workflow.settings import ExportSettings

logger = logging.getLogger(__name__)


def export(tiles: list[Path], dataset: Path, settings: ExportSettings, threads: int = 1) -> None:
    """Write META of the dataset, and a file a parcel, as the reference's PixelSetData reads them.

    Parameters
    ----------
    tiles
        Folders of the tiles' packed pixels, in the order of their parcels in the dataset.
    dataset
        Pixel-Set dataset, in which the tiles are. Written into it: META without labels and
        features; DATA/<id>.npy, uint16 (T, C, S), and VALID/<id>.npy, bool (T, S), of every
        parcel on its own dates.
    settings
        dataset.npy_files: whether DATA and VALID are written; if not, those of an earlier run are
        removed. assemble.memory_mb.
    threads
        Batches of parcels that are read and written at the same time. The memory setting applies
        to all of them together.

    Raises
    ------
    InputError
        If no parcel of any tile has enough pixels that are clear on a date.
    """
    paths = DatasetPaths(dataset)
    packed = [read_tile(TilePaths(folder)) for folder in tiles]
    _refuse_none_held(packed)
    _write_metadata(paths, packed)
    opened = PixelSetDataset.open(dataset)
    if settings.dataset.npy_files:
        write_npy_files(opened, threads, settings.assemble.memory_mb * 1_000_000)
    else:
        remove_npy_files(paths)
    logger.info("%d parcels with %d pixels", len(opened), opened.sizes.sum())


def _write_metadata(paths: DatasetPaths, tiles: Sequence[PackedTile]) -> None:
    """Join the descriptions of the tiles, and write them as META."""
    with_parcels = [tile for tile in tiles if tile.parcel_ids]
    held = [tile for tile in tiles if tile.held.any()]
    sizes: dict[str, int] = {}
    n_dates: dict[str, int] = {}
    for tile in held:
        sizes |= zip(tile.packed_ids, tile.n_pixels[tile.held].tolist(), strict=True)
        n_dates |= zip(tile.packed_ids, tile.n_dates[tile.held].tolist(), strict=True)
    damaged = {name: why for tile in tiles for name, why in tile.damaged.items()}
    parcel_dates = {i: tile.dates_of(i) for tile in held for i in tile.packed_ids}
    differ = len(set(parcel_dates.values())) > 1
    write_metadata(
        paths,
        tiles=[tile.tile for tile in held],
        dates=sorted({day for tile in held for day in tile.dates}),
        parcel_dates=parcel_dates if differ else None,
        sizes=sizes,
        n_dates=n_dates,
        description={
            "bands": tiles[0].bands,
            "tiles": {tile.tile: tile.crs for tile in with_parcels},
            "crs": main_crs((tile.crs, len(tile.parcel_ids)) for tile in with_parcels),
            "fill": tiles[0].fill,
            "mask": tiles[0].mask,
            "dropped_observations": sum(tile.dropped_observations for tile in tiles),
            "acquisitions": [a for tile in with_parcels for a in tile.acquisitions],
            "simulated": any(tile.simulated for tile in with_parcels),
            **({"damaged": damaged} if damaged else {}),
        },
    )


def _refuse_none_held(tiles: Sequence[PackedTile]) -> None:
    """Raise an error if imagery and settings leave no parcel of any tile enough pixels."""
    if any(tile.held.any() for tile in tiles):
        return
    n = sum(len(tile.parcel_ids) for tile in tiles)
    if all(tile.is_nodata for tile in tiles if tile.parcel_ids):
        acquisitions = [a for tile in tiles if tile.parcel_ids for a in tile.acquisitions]
        raise InputError(
            f"The imagery is nodata at all of the {n} parcels: none of the {len(acquisitions)} "
            f"acquisitions has a value there ({first_five(acquisitions)}). Check that these files "
            "are complete, which value they declare as nodata, and that they cover the parcels."
        )
    any_dropped = any(tile.dropped_observations for tile in tiles)
    if any_dropped and not any(tile.n_dates.any() for tile in tiles):
        limit = max(tile.min_clear_fraction for tile in tiles)
        raise InputError(
            f"clouds.min_clear_fraction is {limit:g}, and no date of any of the {n} parcels has "
            "such a share of clear pixels. Lower it."
        )
    most = max((int(tile.n_pixels.max(initial=0)) for tile in tiles), default=0)
    min_pixels = max((tile.min_pixels for tile in tiles), default=1)
    raise InputError(
        f"None of the {n} parcels has parcels.min_pixels, {min_pixels}, pixels that are clear on "
        f"at least one date: the largest number is {most}. Check clouds.mask, clouds.classes, "
        "clouds.min_clear_fraction, imagery.max_cloud_fraction and parcels.min_pixels."
    )
