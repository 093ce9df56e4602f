"""Sentinel-2 products in SAFE folders, level 2A or 1C."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from geo.acquisitions import (
    BANDS,
    MASKS,
    SCENE_CLASSIFICATION,
    Acquisition,
    AcquisitionError,
    Band,
    first_five,
    read_each,
)
from geo.reading import read_header

METADATA = ("MTD_MSIL2A.xml", "MTD_MSIL1C.xml")

# Metres at which the instrument senses a band; level 2A adds coarser and finer copies of some.
NATIVE_RESOLUTION_M = {
    **dict.fromkeys(("B02", "B03", "B04", "B08"), 10),
    **dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12", SCENE_CLASSIFICATION), 20),
    **dict.fromkeys(("B01", "B09", "B10"), 60),
}

# ".../T33XWJ_20220413T150759_B02_10m" at level 2A, ".../T33XWJ_20220413T150759_B02" at 1C.
_IMAGE = re.compile(r"T(?P<tile>\w{5})_\d{8}T\d{6}_(?P<band>B\d[\dA]|SCL)(?:_(?P<m>\d\d)m)?$")

# ESA delivers JPEG 2000; some archives hold GeoTIFFs under the same names.
_IMAGE_ENDINGS = (".jp2", ".tif")


_AGAIN = "download the product again."


@dataclass(frozen=True)
class SafeMetadata:
    """What a product says of itself.

    Parameters
    ----------
    tile, sensed, generated, baseline, platform
        As in `geo.acquisitions.Acquisition`.
    cloud_fraction, valid_fraction
        0 to 1; None where the product does not tell.
    quantification
        Digital numbers of reflectance 1.
    offsets
        By band, digital numbers to add; empty before baseline 04.00.
    images
        By band, path inside the product of its image at native resolution, without ending.
    """

    tile: str
    sensed: datetime
    generated: str
    baseline: str
    platform: str
    cloud_fraction: float | None
    valid_fraction: float | None
    quantification: float
    offsets: Mapping[str, float]
    images: Mapping[str, str]


def find(path: Path, bands: Sequence[str] | None) -> list[Acquisition]:
    """Find the products in a folder and below; see `geo.acquisitions.find_acquisitions`."""
    folders = product_folders(path)
    if not folders:
        raise AcquisitionError(
            f"There is no SAFE product in {path}: a product is a folder with {METADATA[0]} or "
            f"{METADATA[1]} in it. Unpack zipped ones."
        )
    by_level = {name: [str(f) for f in folders if (f / name).is_file()] for name in METADATA}
    if all(by_level.values()):
        raise AcquisitionError(
            f"{path} mixes {len(by_level[METADATA[0]])} products of level 2A with "
            f"{len(by_level[METADATA[1]])} of level 1C, whose reflectances differ: keep one level. "
            f"Level 1C: {first_five(by_level[METADATA[1]])}."
        )
    return read_each(folders, partial(_read_product, bands=bands))


def product_folders(path: Path) -> list[Path]:
    """List the SAFE products at a path and below it, with or without the ending .SAFE, sorted."""
    found = []
    for folder, subfolders, files in os.walk(path, followlinks=True):
        if not set(METADATA).isdisjoint(files):
            found.append(Path(folder))
            subfolders.clear()
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
    return sorted(found)


def read_metadata(path: Path) -> SafeMetadata:
    """Read the metadata of a product, MTD_MSIL2A.xml or MTD_MSIL1C.xml; no image is needed.

    Raises
    ------
    AcquisitionError
        If the file is damaged, lacks an element, or offsets only some of the bands.
    """
    texts, offsets = _parse(path)

    def one(*tags: str) -> str:
        for tag in tags:
            if texts.get(tag):
                return texts[tag][0]
        raise AcquisitionError(f"{path} has no {' or '.join(tags)}: {_AGAIN}")

    def share(tag: str) -> float | None:
        return float(texts[tag][0]) / 100 if texts.get(tag) else None

    tile, images = _native_images(path, texts.get("IMAGE_FILE", []))
    missing = [band for band in images if band in BANDS and band not in offsets]
    if offsets and missing:
        raise AcquisitionError(
            f"{path} gives additive offsets, but none for {', '.join(missing)}, whose reflectance "
            f"cannot be known then: {_AGAIN}"
        )
    try:
        no_data = share("NODATA_PIXEL_PERCENTAGE")
        return SafeMetadata(
            tile=tile,
            sensed=datetime.fromisoformat(one("DATATAKE_SENSING_START")).replace(tzinfo=None),
            generated=one("GENERATION_TIME"),
            baseline=one("PROCESSING_BASELINE"),
            platform=one("SPACECRAFT_NAME"),
            cloud_fraction=share("Cloud_Coverage_Assessment"),
            valid_fraction=None if no_data is None else 1 - no_data,
            quantification=float(one("BOA_QUANTIFICATION_VALUE", "QUANTIFICATION_VALUE")),
            offsets={band: float(text) for band, text in offsets.items()},
            images=images,
        )
    except AcquisitionError:
        raise
    except ValueError as error:
        raise AcquisitionError(f"{path}: {error}: {_AGAIN}") from error


def _parse(path: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Read the texts of a metadata file by element name, and the additive offset of every band."""
    texts: dict[str, list[str]] = {}
    offsets: dict[str, str] = {}
    try:
        tree = ElementTree.parse(path)  # noqa: S314 (the user's own product)
        for element in tree.iter():
            # Namespaces differ between versions of the specification.
            tag = element.tag.rpartition("}")[2]
            text = (element.text or "").strip()
            if text:
                texts.setdefault(tag, []).append(text)
            # BOA_ADD_OFFSET at level 2A, RADIO_ADD_OFFSET at 1C.
            if tag in ("BOA_ADD_OFFSET", "RADIO_ADD_OFFSET"):
                offsets[BANDS[int(element.attrib["band_id"])]] = text
    except (ElementTree.ParseError, KeyError, IndexError, ValueError) as error:
        raise AcquisitionError(
            f"{path} is not the metadata of a product ({error}): {_AGAIN}"
        ) from error
    return texts, offsets


def _native_images(path: Path, entries: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Give the tile of a product and, by band, its image at native resolution."""
    images: dict[str, str] = {}
    tiles = set()
    for entry in entries:
        match = _IMAGE.search(entry)
        if match is None:  # true colour, aerosol, water vapour
            continue
        tiles.add(match["tile"])
        band = match["band"]
        if match["m"] is None or int(match["m"]) == NATIVE_RESOLUTION_M[band]:
            images[band] = entry
    if len(tiles) != 1:
        raise AcquisitionError(
            f"{path} lists images of {len(tiles)} tiles, expected one: products of the format "
            "before December 2016, with several tiles, are not read."
        )
    in_order = (*BANDS, SCENE_CLASSIFICATION)
    return tiles.pop(), {band: images[band] for band in in_order if band in images}


def _read_product(product: Path, bands: Sequence[str] | None) -> Acquisition:
    """Read metadata and image headers of one product; images that are not there are left out."""
    metadata = read_metadata(next(product / n for n in METADATA if (product / n).is_file()))
    wanted = set(metadata.images if bands is None else (*bands, SCENE_CLASSIFICATION))
    found = {}
    for name, image in metadata.images.items():
        path = _image_path(product, image)
        if name in wanted and path is not None:
            found[name] = _band(name, path, metadata)
    masks = {name: found.pop(name) for name in MASKS if name in found}
    return Acquisition(
        id=f"{metadata.sensed:%Y%m%dT%H%M%S}_{metadata.tile}_N{metadata.baseline.replace('.', '')}",
        tile=metadata.tile,
        date=metadata.sensed.date(),
        product=product,
        format="safe",
        baseline=metadata.baseline,
        platform=metadata.platform,
        cloud_fraction=metadata.cloud_fraction,
        bands=found,
        masks=masks,
        sensed=metadata.sensed,
        valid_fraction=metadata.valid_fraction,
        generated=metadata.generated,
    )


def _image_path(product: Path, image: str) -> Path | None:
    """Give the file of an image, or None where it was not downloaded."""
    candidates = (product / f"{image}{ending}" for ending in _IMAGE_ENDINGS)
    return next((path for path in candidates if path.is_file()), None)


def _band(name: str, path: Path, metadata: SafeMetadata) -> Band:
    """Describe one band; the grid is the image's own, for clips of products are in circulation."""
    header = read_header(path)
    is_reflectance = name not in MASKS
    return Band(
        name=name,
        source=str(path),
        layer=1,
        grid=header.grid,
        block_shape=header.block_shapes[0],
        scale=10_000 / metadata.quantification if is_reflectance else 1.0,
        offset=metadata.offsets.get(name, 0.0) if is_reflectance else 0.0,
        nodata=0.0,  # of every level and image (Special_Values, and class 0 of SCL)
    )
