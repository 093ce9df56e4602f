"""Write simulated acquisitions as Sentinel-2 Level-2A products: SAFE folders, JP2 bands, XML."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer

from demo.clouds import CIRRUS, CLOUD_CLASSES, CLOUD_HIGH, CLOUD_MEDIUM, NO_DATA, SHADOW
from demo.scene import QUANTIFICATION, Acquisition, Observation
from demo.spectra import BANDS_10M
from geo.grid import Grid

TILE = "T31TFM"
RELATIVE_ORBIT = 108
SATURATED = 65_535
TIME = "%Y%m%dT%H%M%S"
NAMESPACE = "https://psd-14.sentinel2.eo.esa.int/PSD"

# Band, resolution in m and central wavelength in nm of MSI on Sentinel-2A; the position is the
# band_id of the metadata.
SPECTRAL_BANDS = (
    ("B1", 60, 442.7), ("B2", 10, 492.7), ("B3", 10, 559.8), ("B4", 10, 664.6), ("B5", 20, 704.1),
    ("B6", 20, 740.5), ("B7", 20, 782.8), ("B8", 10, 832.8), ("B8A", 20, 864.7), ("B9", 60, 945.1),
    ("B10", 60, 1373.5), ("B11", 20, 1613.7), ("B12", 20, 2202.4),
)  # fmt: skip


def write_product(
    folder: Path, acquisition: Acquisition, observation: Observation, grid: Grid
) -> Path:
    """Write one acquisition below `folder` and return the product's path.

    The product is written under a temporary name and renamed when it is whole.
    """
    name = product_name(acquisition)
    granule = _granule_name(acquisition)
    partial = folder / f".{name}.partial"
    images = partial / "GRANULE" / granule / "IMG_DATA"
    files = []
    layers: list[tuple[str, NDArray[np.uint16] | NDArray[np.uint8]]] = [
        *observation.bands.items(),
        ("SCL", observation.scl),
    ]
    for band, numbers in layers:
        resolution_m = 10 if band in BANDS_10M else 20
        stem = f"{TILE}_{acquisition.sensing:{TIME}}_{band}_{resolution_m}m"
        path = images / f"R{resolution_m}m" / f"{stem}.jp2"
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_jp2(path, numbers, grid, resolution_m)
        files.append(path.relative_to(partial).with_suffix("").as_posix())
    _write_xml(
        partial / "MTD_MSIL2A.xml", _product_metadata(acquisition, observation.scl, grid, files)
    )
    _write_xml(partial / "GRANULE" / granule / "MTD_TL.xml", _tile_metadata(acquisition, grid))
    return partial.rename(folder / name)


def product_name(acquisition: Acquisition) -> str:
    """Return the folder name of the product in the compact naming convention."""
    return (
        f"{acquisition.spacecraft}_MSIL2A_{acquisition.sensing:{TIME}}"
        f"_N{acquisition.baseline.replace('.', '')}_R{RELATIVE_ORBIT:03d}_{TILE}"
        f"_{_processed(acquisition):{TIME}}.SAFE"
    )


def _processed(acquisition: Acquisition) -> datetime:
    """Return the time of processing: the same day, or years later if reprocessed."""
    reprocessed = acquisition.baseline >= "05.00"
    return acquisition.sensing + timedelta(days=620 if reprocessed else 0, hours=4, minutes=12)


def _absolute_orbit(acquisition: Acquisition) -> int:
    """Return a plausible absolute orbit: 143 orbits in 10 days."""
    return 30_000 + acquisition.day * 143 // 10


def _granule_name(acquisition: Acquisition) -> str:
    """Return the folder name of the only granule."""
    return f"L2A_{TILE}_A{_absolute_orbit(acquisition):06d}_{acquisition.sensing:{TIME}}"


def _tile_id(acquisition: Acquisition) -> str:
    """Return the granule's identifier, with SIM_ in place of the processing centre."""
    return (
        f"{acquisition.spacecraft}_OPER_MSI_L2A_TL_SIM__{_processed(acquisition):{TIME}}"
        f"_A{_absolute_orbit(acquisition):06d}_{TILE}_N{acquisition.baseline}"
    )


def _write_jp2(
    path: Path, numbers: NDArray[np.uint16] | NDArray[np.uint8], grid: Grid, resolution_m: int
) -> None:
    """Write one band without loss, with CRS and transform in the file (GeoJP2 and GML)."""
    rows, columns = numbers.shape
    with rasterio.open(
        path,
        "w",
        driver="JP2OpenJPEG",
        width=columns,
        height=rows,
        count=1,
        dtype=numbers.dtype.name,
        crs=grid.crs,
        transform=Affine(resolution_m, 0, grid.x_min, 0, -resolution_m, grid.y_max),
        QUALITY="100",
        REVERSIBLE="YES",
        BLOCKXSIZE=256,
        BLOCKYSIZE=256,
    ) as image:
        image.write(numbers, 1)


def _product_metadata(
    acquisition: Acquisition, scl: NDArray[np.uint8], grid: Grid, files: list[str]
) -> ElementTree.Element:
    """Return MTD_MSIL2A.xml in the structure of the product specification (PSD 14)."""
    schema = f"{NAMESPACE}/User_Product_Level-2A.xsd"
    root = ElementTree.Element(f"{{{schema}}}Level-2A_User_Product")
    general = ElementTree.SubElement(root, f"{{{schema}}}General_Info")
    sensing, processed = acquisition.sensing, _processed(acquisition)
    info = ElementTree.SubElement(general, "Product_Info")
    _add(info, "PRODUCT_START_TIME", f"{sensing:%Y-%m-%dT%H:%M:%S}.024Z")
    _add(info, "PRODUCT_STOP_TIME", f"{sensing:%Y-%m-%dT%H:%M:%S}.024Z")
    _add(info, "PRODUCT_URI", product_name(acquisition))
    _add(info, "PROCESSING_LEVEL", "Level-2A")
    _add(info, "PRODUCT_TYPE", "S2MSI2A")
    _add(info, "PROCESSING_BASELINE", acquisition.baseline)
    _add(info, "GENERATION_TIME", f"{processed:%Y-%m-%dT%H:%M:%S}.000000Z")
    orbit = f"{_absolute_orbit(acquisition):06d}"
    take = f"G{acquisition.spacecraft}_{sensing:{TIME}}_{orbit}_N{acquisition.baseline}"
    datatake = _add(info, "Datatake", None, datatakeIdentifier=take)
    # Software recognises a simulated product by this name: no such spacecraft exists.
    _add(datatake, "SPACECRAFT_NAME", "Simulated")
    _add(datatake, "DATATAKE_TYPE", "INS-NOBS")
    _add(datatake, "DATATAKE_SENSING_START", f"{sensing:%Y-%m-%dT%H:%M:%S}.024Z")
    _add(datatake, "SENSING_ORBIT_NUMBER", str(RELATIVE_ORBIT))
    _add(datatake, "SENSING_ORBIT_DIRECTION", "DESCENDING")
    granules = _add(_add(info, "Product_Organisation", None), "Granule_List", None)
    granule = _add(granules, "Granule", None, imageFormat="JPEG2000")
    granule.set("granuleIdentifier", _tile_id(acquisition))
    for file in files:
        _add(granule, "IMAGE_FILE", file)
    _add_image_characteristics(general, acquisition)
    footprint = ElementTree.SubElement(root, f"{{{schema}}}Geometric_Info")
    for tag in ("Product_Footprint", "Product_Footprint", "Global_Footprint"):
        footprint = ElementTree.SubElement(footprint, tag)
    _add(footprint, "EXT_POS_LIST", _footprint(grid))
    _add_quality(ElementTree.SubElement(root, f"{{{schema}}}Quality_Indicators_Info"), scl)
    return root


def _add_image_characteristics(general: ElementTree.Element, acquisition: Acquisition) -> None:
    """Add special values, quantification, additive offsets (if any) and bands."""
    image = ElementTree.SubElement(general, "Product_Image_Characteristics")
    for text, index in (("NODATA", NO_DATA), ("SATURATED", SATURATED)):
        special = ElementTree.SubElement(image, "Special_Values")
        _add(special, "SPECIAL_VALUE_TEXT", text)
        _add(special, "SPECIAL_VALUE_INDEX", str(index))
    scales = ElementTree.SubElement(image, "QUANTIFICATION_VALUES_LIST")
    _add(scales, "BOA_QUANTIFICATION_VALUE", str(QUANTIFICATION), unit="none")
    _add(scales, "AOT_QUANTIFICATION_VALUE", "1000.0", unit="none")
    _add(scales, "WVP_QUANTIFICATION_VALUE", "1000.0", unit="cm")
    if acquisition.offset:
        offsets = ElementTree.SubElement(image, "BOA_ADD_OFFSET_VALUES_LIST")
        for band_id in range(len(SPECTRAL_BANDS)):
            _add(offsets, "BOA_ADD_OFFSET", str(acquisition.offset), band_id=str(band_id))
    bands = ElementTree.SubElement(image, "Spectral_Information_List")
    for band_id, (band, resolution_m, central_nm) in enumerate(SPECTRAL_BANDS):
        entry = _add(bands, "Spectral_Information", None, bandId=str(band_id), physicalBand=band)
        _add(entry, "RESOLUTION", str(resolution_m))
        _add(_add(entry, "Wavelength", None), "CENTRAL", str(central_nm), unit="nm")


def _add_quality(quality: ElementTree.Element, scl: NDArray[np.uint8]) -> None:
    """Add the shares of clouds, shadows and no data, in percent, as the product reports them."""
    with_data = scl[scl != NO_DATA]
    cloudy = 100 * np.isin(with_data, CLOUD_CLASSES).mean()
    _add(quality, "Cloud_Coverage_Assessment", f"{cloudy:.6f}")
    content = ElementTree.SubElement(quality, "Image_Content_QI")
    _add(content, "NODATA_PIXEL_PERCENTAGE", f"{100 * (scl == NO_DATA).mean():.6f}")
    for tag, value in (
        ("CLOUD_SHADOW_PERCENTAGE", SHADOW),
        ("MEDIUM_PROBA_CLOUDS_PERCENTAGE", CLOUD_MEDIUM),
        ("HIGH_PROBA_CLOUDS_PERCENTAGE", CLOUD_HIGH),
        ("THIN_CIRRUS_PERCENTAGE", CIRRUS),
    ):
        _add(content, tag, f"{100 * (with_data == value).mean():.6f}")


def _tile_metadata(acquisition: Acquisition, grid: Grid) -> ElementTree.Element:
    """Return MTD_TL.xml: the position of the granule and of the sun."""
    schema = f"{NAMESPACE}/S2_PDI_Level-2A_Tile_Metadata.xsd"
    root = ElementTree.Element(f"{{{schema}}}Level-2A_Tile_ID")
    general = ElementTree.SubElement(root, f"{{{schema}}}General_Info")
    _add(general, "TILE_ID", _tile_id(acquisition), metadataLevel="Brief")
    sensing = f"{acquisition.sensing:%Y-%m-%dT%H:%M:%S}.024Z"
    _add(general, "SENSING_TIME", sensing, metadataLevel="Standard")
    geometric = ElementTree.SubElement(root, f"{{{schema}}}Geometric_Info")
    place = _add(geometric, "Tile_Geocoding", None, metadataLevel="Brief")
    _add(place, "HORIZONTAL_CS_NAME", "WGS84 / UTM zone 31N")
    _add(place, "HORIZONTAL_CS_CODE", grid.crs)
    for resolution_m in (10, 20):
        size = _add(place, "Size", None, resolution=str(resolution_m))
        _add(size, "NROWS", str(grid.height * 10 // resolution_m))
        _add(size, "NCOLS", str(grid.width * 10 // resolution_m))
    for resolution_m in (10, 20):
        position = _add(place, "Geoposition", None, resolution=str(resolution_m))
        _add(position, "ULX", f"{grid.x_min:.0f}")
        _add(position, "ULY", f"{grid.y_max:.0f}")
        _add(position, "XDIM", str(resolution_m))
        _add(position, "YDIM", str(-resolution_m))
    azimuth, elevation = acquisition.sun_angles_deg
    angles = _add(geometric, "Tile_Angles", None, metadataLevel="Standard")
    sun = ElementTree.SubElement(angles, "Mean_Sun_Angle")
    _add(sun, "ZENITH_ANGLE", f"{90 - elevation:.4f}", unit="deg")
    _add(sun, "AZIMUTH_ANGLE", f"{azimuth:.4f}", unit="deg")
    return root


def _footprint(grid: Grid) -> str:
    """Return the corners as "latitude longitude" pairs, closed."""
    x_min, y_min, x_max, y_max = grid.bounds
    to_degrees = Transformer.from_crs(grid.crs, "EPSG:4326")
    corners = [(x_min, y_max), (x_max, y_max), (x_max, y_min), (x_min, y_min), (x_min, y_max)]
    return " ".join("{:.8f} {:.8f}".format(*to_degrees.transform(*xy)) for xy in corners)


def _add(
    parent: ElementTree.Element, tag: str, text: str | None, **attributes: str
) -> ElementTree.Element:
    """Append an element with text and attributes."""
    element = ElementTree.SubElement(parent, tag, attributes)
    element.text = text
    return element


def _write_xml(path: Path, root: ElementTree.Element) -> None:
    """Write an XML document, indented."""
    ElementTree.indent(root)
    ElementTree.register_namespace("n1", root.tag[1:].partition("}")[0])
    ElementTree.ElementTree(root).write(path, encoding="UTF-8", xml_declaration=True)
