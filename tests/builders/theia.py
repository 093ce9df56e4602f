"""Small products of THEIA."""

import numpy as np
from affine import Affine

from tests.builders.tiffs import write_tiff

NAME = "SENTINEL2A_20180505-105355-460_L2A_T31UDS_C_V2-2"
FINE, COARSE = ("B2", "B3", "B4", "B8"), ("B5", "B6", "B7", "B8A", "B11", "B12")
METADATA = """<?xml version="1.0" encoding="UTF-8"?>
<Muscate_Metadata_Document>
  <Dataset_Identification><GEOGRAPHICAL_ZONE type="Tile">T31UDS</GEOGRAPHICAL_ZONE>
  </Dataset_Identification>
  <Product_Characteristics>
    <ACQUISITION_DATE>2018-05-05T10:53:55.460Z</ACQUISITION_DATE>
    <PRODUCTION_DATE>2020-02-03T04:05:06.0Z</PRODUCTION_DATE>
    <PLATFORM>SENTINEL2A</PLATFORM>
  </Product_Characteristics>
  <Radiometric_Informations>
    <REFLECTANCE_QUANTIFICATION_VALUE>{quantification}</REFLECTANCE_QUANTIFICATION_VALUE>
    <Special_Values_List><SPECIAL_VALUE name="water_vapor_content_nodata">0</SPECIAL_VALUE>
    <SPECIAL_VALUE name="nodata">-10000</SPECIAL_VALUE></Special_Values_List>
  </Radiometric_Informations>
  <Quality_Informations><QUALITY_INDEX name="SnowPercent">1</QUALITY_INDEX>
  <QUALITY_INDEX name="CloudPercent">42</QUALITY_INDEX></Quality_Informations>
</Muscate_Metadata_Document>
"""


def write_image(path, values, pixel):
    transform = Affine(pixel, 0, 499_980, 0, -pixel, 5_700_000)
    write_tiff(path, values[np.newaxis], transform=transform)


def write_product(folder, rng, name=NAME, kinds=("FRE", "SRE"), quantification=10_000):
    """Write a product of 40 x 48 fine pixels and return its arrays by file."""
    product, arrays = folder / name, {}
    for kind in kinds:
        for band in (*FINE, *COARSE):
            shape = (40, 48) if band in FINE else (20, 24)
            values = rng.integers(-30, 9000, shape).astype("int16")
            values[:, :5] = -10_000
            arrays[f"{kind}_{band}"] = values
            write_image(product / f"{name}_{kind}_{band}.tif", values, 10 if band in FINE else 20)
    for mask, shape in (("R1", (40, 48)), ("R2", (20, 24))):
        for kind in ("CLM", "EDG", "MG2"):
            arrays[f"{kind}_{mask}"] = rng.integers(0, 256, shape).astype("uint8")
            path = product / "MASKS" / f"{name}_{kind}_{mask}.tif"
            write_image(path, arrays[f"{kind}_{mask}"], 10 if mask == "R1" else 20)
    write_image(product / f"{name}_ATB_R1.tif", arrays["CLM_R1"], 10)
    text = METADATA.format(quantification=quantification)
    (product / f"{name}_MTD_ALL.xml").write_text(text)
    return arrays
