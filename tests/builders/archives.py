"""Small archives as their providers name them, and what is right for each date."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

import numpy as np
import rasterio
from affine import Affine

from tests.builders.tiffs import TRANSFORM, write_tiff

SHAPE = (12, 16)
SENTINEL = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
DAYS = (date(2018, 4, 5), date(2018, 5, 2), date(2022, 6, 15))


@dataclass(frozen=True)
class Image:
    """One date: reflectance x 10,000 by band, NaN without data, and which pixels are clear."""

    day: date
    tile: str
    reflectance: dict[str, np.ndarray]
    clear: np.ndarray | None = None


def draw(rng, nodata=0, dtype="int16", low=1):
    """Return raw numbers, a tenth of them nodata, and what they are as reflectance x 10,000."""
    raw = rng.integers(low, 9000, SHAPE).astype(dtype)
    is_nodata = rng.random(SHAPE) < 0.1
    raw[is_nodata] = nodata
    return raw, np.where(is_nodata, np.nan, raw.astype(float))


def per_pixel(values, is_clear: Callable[[int], bool]):
    return np.array([[is_clear(int(value)) for value in row] for row in values])


def scl_is_clear(value):
    return value not in (0, 1, 3, 8, 9, 10)


def fmask_is_clear(value):
    """HLS User Guide V2.0, table 9: 1 cloud, 2 adjacent, 3 shadow; 255 is fill."""
    return value != 255 and not any(value >> bit & 1 for bit in (1, 2, 3))


def qai_is_clear(value):
    """FORCE, Level 2 output format: 0 nodata, 1-2 cloud state, 3 shadow, 9 saturation."""
    return not value & 1 and (value >> 1) & 3 == 0 and not value >> 3 & 1 and not value >> 9 & 1


def qa60_is_clear(value):
    return not (value >> 10 & 1 or value >> 11 & 1)


def draw_scl(rng):
    values = rng.integers(0, 12, SHAPE).astype("uint8")
    return values, per_pixel(values, scl_is_clear)


HLS_NAME = "HLS.{sensor}.T31TFM.{day:%Y%j}T104619.v2.0.{band}"


def hls(folder, rng, sensor="S30", bands=None, name=HLS_NAME):
    """Write HLS; baseline 04.00 in the tags is that of the product that HLS was made from."""
    bands = bands or {band: band for band in ("B02", "B05", "B8A", "B11")}
    for day in DAYS:
        reflectance = {}
        for band, ours in bands.items():
            raw, expected = draw(rng, -9999)
            path = folder / f"{name.format(sensor=sensor, day=day, band=band)}.tif"
            write_tiff(path, raw[None], nodata=-9999, scales=(1e-4,), offsets=(0,))
            with rasterio.open(path, "r+") as raster:
                raster.update_tags(PROCESSING_BASELINE="04.00")
            if ours is not None:
                reflectance[ours] = expected
        mask = rng.integers(0, 256, SHAPE).astype("uint8")
        path = folder / f"{name.format(sensor=sensor, day=day, band='Fmask')}.tif"
        write_tiff(path, mask[None], nodata=255)
        angle = rng.integers(0, 9000, SHAPE).astype("uint16")
        write_tiff(folder / f"{name.format(sensor=sensor, day=day, band='SZA')}.tif", angle[None])
        tile = "31TFM" if "T31TFM" in name else "scene"
        yield Image(day, tile, reflectance, per_pixel(mask, fmask_is_clear))


def hls_l30(folder, rng):
    bands = {"B01": "B01", "B04": "B04", "B05": "B8A", "B06": "B11", "B07": "B12"}
    bands |= {"B09": None, "B10": None, "B11": None}
    return hls(folder, rng, "L30", bands)


def hls_of_appeears(folder, rng):
    return hls(folder, rng, name="HLS{sensor}.020_{band}_doy{day:%Y%j}_aid0001_31N")


def force(folder, rng, sensor="SEN2A", layers=SENTINEL, described=()):
    for tile, days in (("X0065_Y0040", DAYS[1:]), ("X0066_Y0040", DAYS[:1])):
        for day in days:
            pairs = [draw(rng, -9999) for _ in layers]
            stem = folder / tile / f"{day:%Y%m%d}_LEVEL2_{sensor}"
            raw = np.stack([values for values, _ in pairs])
            write_tiff(stem.with_name(f"{stem.name}_BOA.tif"), raw, described, nodata=-9999)
            # All combinations of the lowest four bits, saturation, and bits that hide nothing.
            mask = rng.integers(0, 16, SHAPE) + 512 * rng.integers(0, 2, SHAPE)
            mask = (mask + 64 * rng.integers(0, 8, SHAPE)).astype("int16")
            write_tiff(stem.with_name(f"{stem.name}_QAI.tif"), mask[None], nodata=1)
            write_tiff(stem.with_name(f"{stem.name}_HOT.tif"), mask[None], nodata=-9999)
            reflectance = {b: values for b, (_, values) in zip(layers, pairs, strict=True)}
            yield Image(day, tile, reflectance, per_pixel(mask, qai_is_clear))


def force_of_landsat(folder, rng):
    return force(folder, rng, "LND08", ("B02", "B03", "B04", "B8A", "B11", "B12"))


def force_with_descriptions(folder, rng):
    names = ["BLUE", "GREEN", "RED", "REDEDGE1", "REDEDGE2", "REDEDGE3", "BROADNIR", "NIR"]
    names += ["SWIR1", "SWIR2"]
    return force(folder, rng, described=names)


def force_series(folder, rng):
    """Time series stacks: a file for each band, a layer for each date; an index beside them."""
    names = {"BLU": "B02", "GRN": "B03", "BNR": "B08", "NIR": "B8A", "RE1": "B05", "SW1": "B11"}
    images = [Image(day, "X0065_Y0040", {}) for day in DAYS]
    stem = folder / "X0065_Y0040" / "2018-2022_001-365_HL_TSA_SEN2L"
    layers = [f"{day:%Y%m%d}_SEN2A" for day in DAYS]
    for name, band in names.items():
        pairs = [draw(rng, -9999) for _ in DAYS]
        raw = np.stack([values for values, _ in pairs])
        write_tiff(stem.with_name(f"{stem.name}_{name}_TSS.tif"), raw, layers, nodata=-9999)
        for image, (_, values) in zip(images, pairs, strict=True):
            image.reflectance[band] = values
    write_tiff(stem.with_name(f"{stem.name}_NDV_TSS.tif"), raw, layers, nodata=-9999)
    return images


def sits(folder, rng):
    for day in DAYS:
        reflectance = {}
        for band in ("B02", "B08", "B8A", "B11"):
            raw, reflectance[band] = draw(rng, -9999)
            path = folder / f"SENTINEL-2_MSI_20LKP_{band}_{day}.tif"
            write_tiff(path, raw[None], nodata=-9999)
        scl, clear = draw_scl(rng)
        write_tiff(folder / f"SENTINEL-2_MSI_20LKP_CLOUD_{day}.tif", scl[None])
        write_tiff(folder / f"SENTINEL-2_MSI_20LKP_NDVI_{day}.tif", raw[None], nodata=-9999)
        yield Image(day, "20LKP", reflectance, clear)
    path = folder / f"SENTINEL-2_MSI_20LKP_{DAYS[0]}_{DAYS[-1]}_class_v1.tif"
    write_tiff(path, scl[None])


def sits_of_landsat(folder, rng):
    """CLOUD has the bits of QA_PIXEL: 0 fill, 1 dilated, 2 cirrus, 3 cloud, 4 shadow, 5 snow."""
    for day in DAYS:
        reflectance = {}
        for name, band in {"RED": "B04", "NIR08": "B8A", "SWIR16": "B11"}.items():
            raw, reflectance[band] = draw(rng, -9999)
            write_tiff(folder / f"LANDSAT_OLI_224067_{name}_{day}.tif", raw[None], nodata=-9999)
        qa = rng.integers(0, 256, SHAPE).astype("uint16")
        write_tiff(folder / f"LANDSAT_OLI_224067_CLOUD_{day}.tif", qa[None])
        yield Image(day, "224067", reflectance, per_pixel(qa, lambda value: value & 0b11111 == 0))


def terrascope(folder, rng):
    for day in DAYS:
        stem = f"S2B_{day:%Y%m%d}T104619_31UDS"
        product = folder / f"{day:%Y}" / f"{day:%m}" / f"{day:%d}" / f"{stem}_TOC_V210"
        reflectance = {}
        for band, size in (("B02", 10), ("B8A", 20), ("B01", 60)):
            raw, reflectance[band] = draw(rng, 32767)
            path = product / f"{stem}_TOC-{band}_{size}M_V210.tif"
            transform = Affine(size, 0, 500_000, 0, -size, 5_600_000)
            options = {"nodata": 32767, "scales": (1e-4,), "offsets": (0,)}
            write_tiff(path, raw[None], transform=transform, **options)
        scl, clear = draw_scl(rng)
        write_tiff(product / f"{stem}_SCENECLASSIFICATION_20M_V210.tif", scl[None], nodata=0)
        write_tiff(product / f"{stem}_AOT_60M_V210.tif", raw[None], nodata=32767)
        yield Image(day, "31UDS", reflectance, clear)


def _earth_engine_layers(rng, bands=("B2", "B8A", "B12")):
    """Return raw layers by name of Earth Engine, and reflectance and clear pixels."""
    layers, reflectance = {}, {}
    for band in bands:
        layers[band], values = draw(rng, 0, "uint16")
        reflectance[band if len(band) == 3 else f"B0{band[1]}"] = values
    layers["AOT"] = rng.integers(0, 300, SHAPE).astype("uint16")
    qa60 = 1024 * rng.integers(0, 2, SHAPE) + 2048 * rng.integers(0, 2, SHAPE)
    layers["QA60"] = qa60.astype("uint16")
    return layers, reflectance, per_pixel(qa60, qa60_is_clear)


def earth_engine(folder, rng):
    for day in DAYS:
        layers, reflectance, clear = _earth_engine_layers(rng)
        # The second time is that of the processing, of another day in old products.
        path = folder / f"{day:%Y%m%d}T105431_2023{day:%m%d}T105430_T31UES.tif"
        write_tiff(path, np.stack(list(layers.values())), list(layers))
        yield Image(day, "31UES", reflectance, clear)


def earth_engine_series(folder, rng):
    """One file with the bands of all dates, as `toBands` names them."""
    values, names, images = [], [], []
    for day in DAYS:
        layers, reflectance, clear = _earth_engine_layers(rng)
        names += [f"{day:%Y%m%d}T105431_{day:%Y%m%d}T105430_T31UES_{name}" for name in layers]
        values += layers.values()
        images.append(Image(day, "31UES", reflectance, clear))
    write_tiff(folder / "series_exported_20240101.tif", np.stack(values), names)
    return images


SCRIPT = """//VERSION=3
function setup() {{ return {{ input: [{{bands: {inputs}, units: "{units}"}}],
  output: {{ bands: {n}, sampleType: "{kind}" }} }}; }}
function evaluatePixel(sample) {{ return [{samples}]; }}
"""


def request_text(day, names, units="DN", kind="UINT16", factor="", to=None, processing=None):
    samples = ", ".join(f"{factor}sample.{name}" for name in names)
    script = SCRIPT.format(
        inputs=json.dumps(names), units=units, n=len(names), kind=kind, samples=samples
    )
    data = {
        "type": "sentinel-2-l2a",
        "dataFilter": {"timeRange": {"from": f"{day}T00:00:00Z", "to": to or f"{day}T23:59:59Z"}},
        "processing": processing or {},
    }
    payload = {"input": {"bounds": {}, "data": [data]}, "output": {}, "evalscript": script}
    return json.dumps({"request": {"url": "https://x", "payload": payload}, "response": {}})


def sentinel_hub(folder, rng):
    for number, day in enumerate(DAYS):
        pairs = [draw(rng, 0, "uint16") for _ in range(3)]
        mask = rng.choice([0, 1, 255], SHAPE).astype("uint16")
        answer = folder / f"{number:032x}"
        raw = np.stack([*(values for values, _ in pairs), mask])
        # The file of an unpacked response.tar.
        write_tiff(answer / ("default.tif" if number else "response.tiff"), raw)
        names = ["B04", "B8A", "B12", "CLM"]
        (answer / "request.json").write_text(request_text(day, names))
        reflectance = {n: v for n, (_, v) in zip(names, pairs, strict=False)}
        yield Image(day, "scene", reflectance, mask == 0)


def write_jp2(path, values, transform=TRANSFORM):
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="JP2OpenJPEG", count=1, height=values.shape[0], width=values.shape[1],
        dtype=values.dtype, crs="EPSG:32631", transform=transform, QUALITY=100, REVERSIBLE="YES",
    ) as raster:  # fmt: skip
        raster.write(values, 1)


TILE_METADATA = """<?xml version="1.0"?><n1:Level-2A_Tile_ID><n1:General_Info>
<TILE_ID metadataLevel="Brief">S2A_OPER_MSI_L2A_TL_MTI__T31TFM_N{baseline}</TILE_ID>
</n1:General_Info></n1:Level-2A_Tile_ID>"""


def aws(folder, rng):
    """Level 2A as on AWS. Since 2022, the pixels have the additive offset of their baseline."""
    for day in DAYS:
        product = folder / "tiles/31/T/FM" / f"{day.year}/{day.month}/{day.day}/0"
        offset = 1000 if day.year >= 2022 else 0
        reflectance = {}
        for band, size in (("B02", 10), ("B8A", 20), ("B02", 20)):
            raw, values = draw(rng, 0, "uint16", low=1001)
            transform = Affine(size, 0, 500_000, 0, -size, 5_600_000)
            write_jp2(product / f"R{size}m" / f"{band}.jp2", raw, transform)
            reflectance.setdefault(band, values - offset)
        scl, clear = draw_scl(rng)
        write_jp2(product / "R20m" / "SCL.jp2", scl)
        write_jp2(product / "R10m" / "AOT.jp2", raw)
        write_jp2(product / "qi" / "DETFOO_B02.jp2", scl)
        write_jp2(product / "preview" / "B02.jp2", raw)
        baseline = "04.00" if offset else "02.07"
        (product / "metadata.xml").write_text(TILE_METADATA.format(baseline=baseline))
        (product / "tileInfo.json").write_text('{"path": "tiles/31/T/FM"}')
        yield Image(day, "31TFM", reflectance, clear)


def aws_1c(folder, rng):
    """Level 1C as on AWS, with the baseline in the name of the product only."""
    for day in DAYS:
        product = folder / f"6/L/XH/{day.year}/{day.month}/{day.day}/0"
        offset = 1000 if day.year >= 2022 else 0
        reflectance = {}
        for band in ("B02", "B03"):
            raw, values = draw(rng, 0, "uint16", low=1001)
            write_jp2(product / f"{band}.jp2", raw)
            reflectance[band] = values - offset
        write_jp2(product / "preview.jp2", raw)
        baseline = "N0400" if offset else "N0206"
        name = f"S2A_MSIL1C_{day:%Y%m%d}T105031_{baseline}_R051_T06LXH_{day:%Y%m%d}T140000"
        (product / "tileInfo.json").write_text(json.dumps({"productName": name}))
        yield Image(day, "06LXH", reflectance)


def jp2_folders(folder, rng):
    """The images of products without their metadata, in R10m and R20m."""
    for day in DAYS[:2]:
        reflectance = {}
        for band, size in (("B03", 10), ("B11", 20)):
            raw, reflectance[band] = draw(rng, 0, "uint16")
            path = folder / f"IMG_DATA/R{size}m/T31TFM_{day:%Y%m%d}T105031_{band}_{size}m.jp2"
            write_jp2(path, raw, Affine(size, 0, 500_000, 0, -size, 5_600_000))
        write_jp2(path.with_name(path.name.replace("B11", "WVP")), raw)
        yield Image(day, "31TFM", reflectance)


def maja_is_clear(value):
    """MAJA product format, CLD: each bit is a cloud or a shadow."""
    return value == 0


def maja(folder, rng):
    """MAJA's native format: the bands of 10 m and of 20 m in one file each."""
    for day in DAYS:
        name = f"S2A_OPER_SSC_L2VALD_31TFM____{day:%Y%m%d}"
        stem, reflectance = folder / f"{name}.DBL.DIR" / name, {}
        for number, bands in enumerate(
            ((*SENTINEL[:3], "B08"), (*SENTINEL[3:6], *SENTINEL[7:])), 1
        ):
            transform = Affine(10 * number, 0, 500_000, 0, -10 * number, 5_600_000)
            pairs = [draw(rng, -10_000) for _ in bands]
            raw = np.stack([values for values, _ in pairs])
            for kind in ("FRE", "SRE"):
                path = stem.with_name(f"{name}_{kind}_R{number}.DBL.TIF")
                write_tiff(path, raw if kind == "FRE" else raw + 1, transform=transform)
            reflectance |= {b: values for b, (_, values) in zip(bands, pairs, strict=True)}
        mask = rng.integers(0, 2, SHAPE) * rng.integers(0, 256, SHAPE)
        write_tiff(stem.with_name(f"{name}_CLD_R1.DBL.TIF"), mask[None].astype("uint8"))
        write_tiff(stem.with_name(f"{name}_ATB_R1.DBL.TIF"), raw[:2])
        yield Image(day, "31TFM", reflectance, per_pixel(mask, maja_is_clear))


def folders_by_band(folder, rng):
    for day in DAYS:
        reflectance = {}
        for name in ("B02", "B8A"):
            raw, reflectance[name] = draw(rng, 0, "uint16")
            write_tiff(folder / name / f"{day}.tif", raw[None])
        scl, clear = draw_scl(rng)
        write_tiff(folder / "scl" / f"{day}.tif", scl[None])
        yield Image(day, "scene", reflectance, clear)


def masks_in_their_own_folder(folder, rng):
    for day in DAYS:
        pairs = [draw(rng, 0, "uint16") for _ in range(2)]
        raw = np.stack([values for values, _ in pairs])
        write_tiff(folder / "bands" / f"S2_{day}.tif", raw, ("B02", "B8A"))
        scl, clear = draw_scl(rng)
        write_tiff(folder / "masks" / f"T31TFM_{day}_SCL.tif", scl[None])
        # Of another place.
        elsewhere = TRANSFORM * Affine.translation(1000, 0)
        write_tiff(folder / "x" / f"S2_{day}.tif", raw, ("B02", "B8A"), transform=elsewhere)
        write_tiff(folder / "y" / f"{day}_SCL.tif", scl[None], transform=elsewhere)
        reflectance = dict(zip(("B02", "B8A"), (v for _, v in pairs), strict=True))
        yield from [Image(day, "scene", reflectance, clear)] * 2


def earth_search(folder, rng):
    """Assets of Earth Search by product, other images and the metadata beside them."""
    for day in DAYS:
        product, reflectance = folder / f"S2A_T31TFM_{day:%Y%m%d}T105031_L2A", {}
        offset = 1000 if day.year >= 2022 else 0
        for name, band in {"red": "B04", "nir08": "B8A"}.items():
            raw, values = draw(rng, 0, "uint16", low=1001)
            write_tiff(product / f"{name}.tif", raw[None])
            reflectance[band] = values - offset
        for name in ("visual", "snow", "cloud", "thumbnail"):
            write_tiff(product / f"{name}.tif", np.ones((1, *SHAPE), "uint8"))
        scl, clear = draw_scl(rng)
        write_tiff(product / "scl.tif", scl[None])
        baseline = "04.00" if offset else "02.07"
        (product / "granule_metadata.xml").write_text("<TILE_ID/>")
        (product / "product_metadata.xml").write_text(
            f"<PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE>"
        )
        yield Image(day, "31TFM", reflectance, clear)


def common_names(folder, rng):
    for day in DAYS:
        reflectance = {}
        for name, band in {
            "red": "B04",
            "nir08": "B8A",
            "swir16": "B11",
            "rededge1": "B05",
        }.items():
            raw, reflectance[band] = draw(rng, 0, "uint16")
            write_tiff(folder / f"blue_valley_{day}_{name}.tif", raw[None])
        yield Image(day, "scene", reflectance)


ARCHIVES = {
    "HLS S30": hls,
    "HLS L30": hls_l30,
    "HLS of AppEEARS": hls_of_appeears,
    "FORCE": force,
    "FORCE of Landsat": force_of_landsat,
    "FORCE with descriptions": force_with_descriptions,
    "FORCE series": force_series,
    "sits": sits,
    "sits of Landsat": sits_of_landsat,
    "Terrascope": terrascope,
    "Earth Engine": earth_engine,
    "Earth Engine toBands": earth_engine_series,
    "Sentinel Hub": sentinel_hub,
    "AWS": aws,
    "AWS level 1C": aws_1c,
    "R10m and R20m": jp2_folders,
    "MAJA": maja,
    "folders by band": folders_by_band,
    "masks in their own folder": masks_in_their_own_folder,
    "Earth Search": earth_search,
    "common names": common_names,
}
