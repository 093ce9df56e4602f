"""Level 2A products of THEIA (MAJA processor, MUSCATE format), as folders.

Facts of the format are from CNES/CESBIO, https://www.cesbio.cnrs.fr/maja/sentinel-2-output-format/:
FRE is surface reflectance corrected for the slope of the ground, too, SRE is not; MASKS holds the
cloud mask CLM at 10 m (R1) and 20 m (R2).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from geo.errors import InputError
from geo.formats.conventions import band_name, bands_and_masks
from geo.imagery.acquisition import MASKS, Acquisition, Band
from geo.imagery.discovery import Damaged, read_each, theia_folders
from geo.imagery.raster_reading import read_header

# SENTINEL2A_20180505-105355-460_L2A_T31UDS_C_V2-2_FRE_B2.tif
_IMAGE = re.compile(r"_(?P<kind>FRE|SRE)_(?P<band>B\d[\dA]?)\.tif$", re.IGNORECASE)

_AGAIN = "download the product again."


@dataclass(frozen=True)
class TheiaMetadata:
    """What a product says of itself.

    Parameters
    ----------
    sensed, platform, generated
        As in `geo.imagery.acquisition.Acquisition`.
    tile
        Without its leading T.
    cloud_fraction
        0 to 1; None where the product does not tell.
    quantification
        Digital numbers of reflectance 1.
    nodata
        Digital number of pixels without data.
    """

    sensed: datetime
    platform: str
    generated: str | None
    tile: str
    cloud_fraction: float | None
    quantification: float
    nodata: float


def find(
    path: Path, bands: Sequence[str] | None, damaged: list[Damaged] | None
) -> list[Acquisition]:
    """Find the products at a path and below; see `geo.imagery.discovery.find_acquisitions`."""
    products = theia_folders(path)
    if not products:
        raise InputError(
            f"There is no product of THEIA in {path}: a product is a folder with "
            "SENTINEL2..._L2A_..._MTD_ALL.xml in it. Unpack zipped ones."
        )
    return read_each(products, partial(_read_product, bands=bands), damaged)


def read_metadata(path: Path) -> TheiaMetadata:
    """Read the metadata of a product, ..._MTD_ALL.xml.

    Raises
    ------
    InputError
        If the file is damaged or lacks an element.
    """
    try:
        root = ElementTree.parse(path).getroot()  # noqa: S314 (the user's own product)
    except ElementTree.ParseError as error:
        raise InputError(f"{path} is damaged ({error}): {_AGAIN}") from error

    def text(place: str) -> str | None:
        return (root.findtext(f".//{place}") or "").strip() or None

    def required(place: str) -> str:
        found = text(place)
        if found is None:
            raise InputError(f"{path} has no {place}: {_AGAIN}")
        return found

    cloudy = text("QUALITY_INDEX[@name='CloudPercent']")
    try:
        return TheiaMetadata(
            sensed=datetime.fromisoformat(required("ACQUISITION_DATE")).replace(tzinfo=None),
            platform=required("PLATFORM").replace("SENTINEL", "Sentinel-"),
            generated=text("PRODUCTION_DATE"),
            tile=required("GEOGRAPHICAL_ZONE").removeprefix("T"),
            cloud_fraction=None if cloudy is None else float(cloudy) / 100,
            quantification=float(required("REFLECTANCE_QUANTIFICATION_VALUE")),
            nodata=float(required("SPECIAL_VALUE[@name='nodata']")),
        )
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path}: {error}: {_AGAIN}") from error


def _read_product(product: Path, bands: Sequence[str] | None) -> Acquisition:
    """Read metadata and image headers of one product."""
    metadata = read_metadata(next(iter(product.glob("*_MTD_ALL.xml"))))
    files = _images(product)
    cloud_mask = sorted(product.glob("MASKS/*_CLM_R1.tif")) or sorted(
        product.glob("MASKS/*_CLM_R2.tif")
    )
    if cloud_mask:
        files["CLM"] = cloud_mask[0]
    wanted, masks = bands_and_masks(files, bands)
    return Acquisition(
        # Its name, which tells satellite, time, tile and version.
        id=product.name,
        tile=metadata.tile,
        date=metadata.sensed.date(),
        product=product,
        format="theia",
        baseline=None,
        platform=metadata.platform,
        cloud_fraction=metadata.cloud_fraction,
        bands={name: _band(name, file, metadata) for name, file in wanted.items()},
        masks={name: _band(name, file, metadata) for name, file in masks.items()},
        sensed=metadata.sensed,
        generated=metadata.generated,
    )


def _images(product: Path) -> dict[str, Path]:
    """Return the image of every band: flat reflectance (FRE), or SRE if the product has no FRE."""
    kinds: dict[str, dict[str, Path]] = {"FRE": {}, "SRE": {}}
    for file in sorted(product.iterdir()):
        match = _IMAGE.search(file.name)
        name = band_name(match["band"]) if match else None
        if match is not None and name is not None:
            kinds[match["kind"].upper()][name] = file
    return kinds["FRE"] or kinds["SRE"]


def _band(name: str, file: Path, metadata: TheiaMetadata) -> Band:
    """Describe one band or mask."""
    header = read_header(file)
    is_mask = name in MASKS
    return Band(
        name=name,
        source=str(file),
        layer=1,
        grid=header.grid,
        block_shape=header.block_shapes[0],
        scale=1.0 if is_mask else 10_000 / metadata.quantification,
        offset=0.0,
        nodata=None if is_mask else metadata.nodata,
    )
