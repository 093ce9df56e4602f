"""Sentinel-2 products in SAFE, level 2A or 1C, as folders or zip archives."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from geo.errors import InputError
from geo.formats.safe_files import SafeFiles, find_products
from geo.formats.safe_metadata import (
    NATIVE_RESOLUTION_M,
    Granule,
    SafeMetadata,
    read_metadata,
    read_quality,
)
from geo.imagery.acquisition import (
    BANDS,
    MASKS,
    SCENE_CLASSIFICATION,
    Acquisition,
    Band,
    Damaged,
    first_five,
    read_each,
    refuse_damaged,
)
from geo.imagery.raster_reading import RasterHeader, read_header

logger = logging.getLogger(__name__)

# Masks that metadata do not list among the images.
_MASK_FILES = {
    # MSK_CLDPRB_20m; in 2017 L2A_T34VFJ_20170823T094031_CLD_20m; before
    # S2A_USER_CLD_L2A_TL_SGS__20160103T174751_A002779_T32TLQ_20m.
    ("2A", "CLDPRB"): re.compile(r"(?:MSK_CLDPRB|_CLD(?:_L2A_\w+)?)_20m$"),
    # Opaque clouds, cirrus and snow as bands 1 to 3, since baseline 04.00; the first is read.
    ("1C", "MASK"): re.compile(r"MSK_CLASSI_B00$"),
}

# Side of a tile in metres; clips of products are smaller.
_TILE_M = 109_800


def find(
    path: Path, bands: Sequence[str] | None, damaged: list[Damaged] | None
) -> list[Acquisition]:
    """Find the products in a folder and below; see `geo.imagery.acquisition.find_acquisitions`."""
    failed: list[Damaged] = []
    found = find_products(path, failed)
    products = sorted(found, key=lambda product: (product.path, product.root))
    n_products = len(products) + len(failed)
    if not n_products:
        raise InputError(
            f"There is no SAFE product in {path}: a product is a folder or a zip archive with "
            "MTD_MSIL2A.xml or MTD_MSIL1C.xml in it (S2A_OPER_MTD_SAFL1C_... before 2017)."
        )
    by_level = {level: [p for p in products if p.level == level] for level in ("2A", "1C")}
    if all(by_level.values()):
        raise InputError(
            f"{path} mixes {len(by_level['2A'])} products of level 2A with {len(by_level['1C'])} "
            "of level 1C, whose reflectances differ: keep one level. "
            f"Level 1C: {first_five([str(product.path) for product in by_level['1C']])}."
        )
    granules = read_each(
        products, partial(_read_product, bands=bands), failed, lambda product: product.path
    )
    if damaged is None:
        refuse_damaged(failed, n_products)
    else:
        damaged += failed
    return [acquisition for product in granules for acquisition in product]


def _read_product(product: SafeFiles, bands: Sequence[str] | None) -> list[Acquisition]:
    """Read metadata and image headers of the granules of one product.

    Images that are not there are left out, and so are granules without any, of products that
    were downloaded in part.
    """
    metadata = read_metadata(product.parse(product.metadata), product.place(product.metadata))
    there = [granule for granule in metadata.granules if _files(product, granule)]
    if len(there) < len(metadata.granules):
        logger.info("%s: %d of %d tiles.", product.path, len(there), len(metadata.granules))
    return [
        _read_granule(product, metadata, granule, bands) for granule in there or metadata.granules
    ]


def _read_granule(
    product: SafeFiles, metadata: SafeMetadata, granule: Granule, bands: Sequence[str] | None
) -> Acquisition:
    """Read the image headers of one granule."""
    wanted = set(MASKS) | set(BANDS if bands is None else bands)
    files = _files(product, granule) | _mask_files(product, granule)
    found = {
        name: _band(name, file, product, metadata) for name, file in files.items() if name in wanted
    }
    cloudy, valid = metadata.cloud_fraction, metadata.valid_fraction
    if len(metadata.granules) > 1:
        cloudy, valid = _quality(product, granule)
    # The two halves of a tile that a change of data strip cuts apart share the datatake's time.
    start = granule.datastrip or f"{metadata.sensed:%Y%m%dT%H%M%S}"
    return Acquisition(
        id=f"{start}_{granule.tile}_N{metadata.baseline.replace('.', '')}",
        tile=granule.tile,
        date=metadata.sensed.date(),
        product=product.path,
        format="safe",
        baseline=metadata.baseline,
        platform=metadata.platform,
        cloud_fraction=cloudy,
        bands={name: found[name] for name in BANDS if name in found},
        masks={name: found[name] for name in MASKS if name in found},
        sensed=metadata.sensed,
        valid_fraction=valid,
        generated=metadata.generated,
        datastrip=granule.datastrip,
    )


def _files(product: SafeFiles, granule: Granule) -> dict[str, str]:
    """Name, by band, the images of a granule that are there.

    They are looked for by name alone: archives differ in their folders, and some hold GeoTIFFs.
    """
    stems = {band: PurePosixPath(image).name for band, image in granule.images.items()}
    return {band: product.by_stem[stem] for band, stem in stems.items() if stem in product.by_stem}


def _mask_files(product: SafeFiles, granule: Granule) -> dict[str, str]:
    """Name the masks of a granule that its metadata do not list."""
    return {
        mask: name
        for (level, mask), pattern in _MASK_FILES.items()
        for stem, name in product.by_stem.items()
        if level == product.level and name.startswith(granule.folder) and pattern.search(stem)
    }


def _quality(product: SafeFiles, granule: Granule) -> tuple[float | None, float | None]:
    """Give cloud fraction and valid fraction of one of several granules, where it tells."""
    folder = PurePosixPath(granule.folder)
    for name in sorted(product.sizes):
        if PurePosixPath(name).parent == folder and name.endswith(".xml"):
            return read_quality(product.parse(name))
    return None, None


def _band(name: str, file: str, product: SafeFiles, metadata: SafeMetadata) -> Band:
    """Describe one band; the grid is the image's own, for clips of products are in circulation."""
    header = read_header(product.source(file), product.sizes[file])
    _check_size(name, file, product, header)
    is_reflectance = name in BANDS
    return Band(
        name=name,
        source=product.source(file),
        layer=1,
        grid=header.grid,
        block_shape=header.block_shapes[0],
        scale=10_000 / metadata.quantification if is_reflectance else 1.0,
        offset=metadata.offsets.get(name, 0.0) if is_reflectance else 0.0,
        # Of every level and image (Special_Values), and class 0 of SCL; 0 is an answer elsewhere.
        nodata=0.0 if is_reflectance or name == SCENE_CLASSIFICATION else None,
    )


def _check_size(name: str, file: str, product: SafeFiles, header: RasterHeader) -> None:
    """Check that the image of a whole tile has the size that manifest.safe states.

    Clips and GeoTIFFs were made from products, whose manifest they keep.
    """
    expected = product.listed_sizes.get(file)
    side = _TILE_M // NATIVE_RESOLUTION_M.get(name, 20)
    if expected is None or not file.endswith(".jp2") or header.grid.shape != (side, side):
        return
    if product.sizes[file] != expected:
        raise InputError(
            f"{product.place(file)} has {product.sizes[file]} bytes, by manifest.safe it should "
            f"have {expected}: download it again. If it was changed on purpose, remove "
            "manifest.safe."
        )
