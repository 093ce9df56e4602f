"""Tiny SAFE products with the metadata of real ones, written for tests."""

import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

RESOLUTION_M = {"B02": 10, "B03": 10, "B04": 10, "B8A": 20, "B11": 20, "B12": 20, "SCL": 20}
RESOLUTION_M |= {"B09": 60}
BAND_IDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")


@dataclass(frozen=True)
class SafeProduct:
    path: Path
    pixels: dict[str, np.ndarray]  # raw values by band


def write_safe(
    folder,
    rng,
    *,
    tile="31UDS",
    sensed="20220413T105031",
    baseline="04.00",
    generated="2022-04-13T15:00:00.000000Z",
    level="2A",
    offsets=0,  # by band id, or one number for all; None: no list of offsets
    quantification=10000,
    cloudy=12.5,  # percent, None: not stated
    no_data=0.0,
    bands=("B02", "B03", "B8A", "B11", "SCL"),
    size=60,
    x_min=500_000,
    ending=".jp2",
    name=None,
    datastrip=None,  # start of the data strip, None: not stated
    numbers=None,  # raw values by band, in place of random ones
):
    """Write a product and return its path and its pixels."""
    stamp = generated[:19].replace("-", "").replace(":", "")
    baseline_name = baseline.replace(".", "")
    full_name = f"S2A_MSIL{level}_{sensed}_N{baseline_name}_R051_T{tile}_{stamp}.SAFE"
    path = folder / (name or full_name)
    granule = f"GRANULE/L{level}_T{tile}_A026649_{sensed}/IMG_DATA"
    pixels, entries = {}, []
    for band in bands:
        resolution = RESOLUTION_M[band]
        side = size * 10 // resolution
        # If an offset is announced, the pixels contain it.
        values = rng.integers(1000 if offsets else 1, 10_000, (side, side)).astype(np.uint16)
        if band == "SCL":
            values = rng.integers(0, 12, (side, side)).astype(np.uint8)
        if numbers is not None:
            values = numbers[band]
        end = f"R{resolution}m/T{tile}_{sensed}_{band}_{resolution}m"
        entry = f"{granule}/{end}" if level == "2A" else f"{granule}/T{tile}_{sensed}_{band}"
        image = path / f"{entry}{ending}"
        image.parent.mkdir(parents=True, exist_ok=True)
        write_image(image, values, tile, resolution, x_min)
        pixels[band] = values
        entries.append(entry)
    # Level 2A also lists coarser copies and the true colour image.
    entries.append(f"{granule}/R60m/T{tile}_{sensed}_B02_60m" if level == "2A" else entries[0])
    entries.append(f"{granule}/T{tile}_{sensed}_TCI")
    path.mkdir(parents=True, exist_ok=True)
    text = _metadata(
        level, sensed, baseline, generated, offsets, quantification, cloudy, no_data, entries,
        datastrip,
    )  # fmt: skip
    (path / f"MTD_MSIL{level}.xml").write_text(text)
    return SafeProduct(path, pixels)


def zip_product(product, *, top=None, keep=False):
    """Pack a product into a zip archive beside it, in a folder `top` or in no folder."""
    archive = product.path.with_name(f"{product.path.name.removesuffix('.SAFE')}.zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(product.path.rglob("*")):
            if file.is_file():
                packed.write(file, Path(top or "", file.relative_to(product.path)))
    if not keep:
        shutil.rmtree(product.path)
    return archive


def write_image(path, values, tile, resolution, x_min, **options):
    lossless = {"quality": "100", "reversible": "YES"}
    with rasterio.open(
        path,
        "w",
        driver="JP2OpenJPEG" if path.suffix == ".jp2" else "GTiff",
        height=values.shape[0],
        width=values.shape[1],
        count=1,
        dtype=values.dtype,
        crs=f"EPSG:326{tile[:2]}",
        transform=Affine(resolution, 0, x_min, 0, -resolution, 5_600_000),
        **(lossless if path.suffix == ".jp2" else {}),
        **options,
    ) as raster:
        raster.write(values, 1)


def _metadata(
    level, sensed, baseline, generated, offsets, quantification, cloudy, no_data, entries, datastrip
):  # fmt: skip
    time = f"{sensed[:4]}-{sensed[4:6]}-{sensed[6:11]}:{sensed[11:13]}:{sensed[13:]}.024Z"
    images = "".join(f"<IMAGE_FILE>{entry}</IMAGE_FILE>" for entry in entries)
    strip = f' datastripIdentifier="S2A_OPER_MSI_DS_S{datastrip}_N{baseline}"' if datastrip else ""
    kind, added = ("BOA_", "BOA") if level == "2A" else ("", "RADIO")
    if isinstance(offsets, int):
        is_listed = offsets != 0 or baseline >= "04.00"
        offsets = dict.fromkeys(range(13), offsets) if is_listed else None
    values = "".join(
        f'<{added}_ADD_OFFSET band_id="{band}">{value}</{added}_ADD_OFFSET>'
        for band, value in (offsets or {}).items()
    )
    listed = f"<{added}_Offset_List>{values}</{added}_Offset_List>" if values else ""
    clouds = (
        "" if cloudy is None else f"<Cloud_Coverage_Assessment>{cloudy}</Cloud_Coverage_Assessment>"
    )
    missing = (
        f"<NODATA_PIXEL_PERCENTAGE>{no_data}</NODATA_PIXEL_PERCENTAGE>" if level == "2A" else ""
    )
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<n1:Level-{level}_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/{level}.xsd">
  <n1:General_Info>
    <Product_Info>
      <PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE>
      <GENERATION_TIME>{generated}</GENERATION_TIME>
      <Datatake>
        <SPACECRAFT_NAME>Sentinel-2A</SPACECRAFT_NAME>
        <DATATAKE_SENSING_START>{time}</DATATAKE_SENSING_START>
      </Datatake>
      <Granule{strip}>{images}</Granule>
    </Product_Info>
    <Product_Image_Characteristics>
      <{kind}QUANTIFICATION_VALUE unit="none">{quantification}</{kind}QUANTIFICATION_VALUE>
      <AOT_QUANTIFICATION_VALUE unit="none">1000.0</AOT_QUANTIFICATION_VALUE>
      {listed}
    </Product_Image_Characteristics>
  </n1:General_Info>
  <n1:Quality_Indicators_Info>{clouds}{missing}</n1:Quality_Indicators_Info>
</n1:Level-{level}_User_Product>
"""
