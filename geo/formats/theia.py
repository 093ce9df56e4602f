"""Level 2A products of THEIA (MAJA processor, MUSCATE format), as folders.

The format is documented by CNES/CESBIO, https://www.cesbio.cnrs.fr/maja/sentinel-2-output-format/.
SRE is surface reflectance; FRE is surface reflectance corrected for the slope of the ground.
The folder MASKS contains the cloud mask CLM at 10 m (R1) and 20 m (R2).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from geo.documents import LARGEST_XML, parse_xml, read_limited
from geo.errors import InputError
from geo.formats.conventions import band_name
from geo.imagery.acquisition import Acquisition, Band, bands_and_masks
from geo.imagery.damaged import Damaged, read_each
from geo.imagery.file_cache import cached
from geo.imagery.imagery_files import theia_folders
from geo.imagery.raster_header import read_header

# SENTINEL2A_20180505-105355-460_L2A_T31UDS_C_V2-2_FRE_B2.tif
_IMAGE = re.compile(r"_(?P<kind>FRE|SRE)_(?P<band>B\d[\dA]?)\.tif$", re.IGNORECASE)

_AGAIN = "download it again."


def find(
    path: Path, bands: Sequence[str] | None, damaged: list[Damaged] | None
) -> list[Acquisition]:
    """Find the products at a path and below; see `geo.imagery.discovery.find_acquisitions`."""
    products = theia_folders(path)
    if not products:
        raise InputError(
            f"There is no product of THEIA in {path}. A product is a folder with "
            "SENTINEL2..._L2A_..._MTD_ALL.xml in it. Unpack zip archives."
        )

    def read(product: Path) -> Acquisition:
        return cached(
            *(("theia", product, bands), [product], Acquisition),
            lambda: _read_product(product, bands),
        )

    return read_each(products, read, damaged)


def _read_product(product: Path, bands: Sequence[str] | None) -> Acquisition:
    """Read the metadata, ..._MTD_ALL.xml, and the image headers of one product.

    Raises
    ------
    InputError
        If a file is damaged, or the metadata lack an element.
    """
    path = next(iter(product.glob("*_MTD_ALL.xml")))
    root = parse_xml(read_limited(path, LARGEST_XML), str(path))

    def text(place: str) -> str | None:
        return (root.findtext(f".//{place}") or "").strip() or None

    def required(place: str) -> str:
        found = text(place)
        if found is None:
            raise InputError(f"{path} has no {place}: {_AGAIN}")
        return found

    images, masks = bands_and_masks(_images(product), bands)
    cloud_percent = text("QUALITY_INDEX[@name='CloudPercent']")
    try:
        sensing_start = datetime.fromisoformat(required("ACQUISITION_DATE")).replace(tzinfo=None)
        cloud_fraction = None if cloud_percent is None else float(cloud_percent) / 100
        scale = 10_000 / float(required("REFLECTANCE_QUANTIFICATION_VALUE"))
        nodata = float(required("SPECIAL_VALUE[@name='nodata']"))
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(f"{path}: {error}: {_AGAIN}") from error
    return Acquisition(
        # The name contains satellite, time, tile and version.
        id=product.name,
        tile=required("GEOGRAPHICAL_ZONE").removeprefix("T"),
        date=sensing_start.date(),
        product=product,
        format="theia",
        platform=required("PLATFORM").replace("SENTINEL", "Sentinel-"),
        cloud_fraction=cloud_fraction,
        bands={name: _band(name, file, scale, nodata) for name, file in images.items()},
        masks={name: _band(name, file, 1.0, None) for name, file in masks.items()},
        sensing_start=sensing_start,
        generated=text("PRODUCTION_DATE"),
    )


def _images(product: Path) -> dict[str, Path]:
    """Return the images by band, FRE or, if the product has none, SRE, and the cloud mask CLM."""
    kinds: dict[str, dict[str, Path]] = {"FRE": {}, "SRE": {}}
    for file in sorted(product.iterdir()):
        match = _IMAGE.search(file.name)
        name = band_name(match["band"]) if match else None
        if match is not None and name is not None:
            kinds[match["kind"].upper()][name] = file
    images = kinds["FRE"] or kinds["SRE"]
    for resolution in ("R2", "R1"):  # the finer mask replaces the coarser one
        for mask in product.glob(f"MASKS/*_CLM_{resolution}.tif"):
            images["CLM"] = mask
    return images


def _band(name: str, file: Path, scale: float, nodata: float | None) -> Band:
    """Return one band or mask."""
    header = read_header(file)
    block_shape = header.block_shapes[0]
    return Band(name, str(file), 1, header.grid, block_shape, scale, nodata=nodata)
