"""Scenes to extract from: dated GeoTIFFs, a SAFE product of a whole tile, and parcels on them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray

from benchmarks.extraction_scene import BANDS, RESOLUTION_M, TILE, Scene
from demo.clouds import CLOUD_HIGH
from geo.grid import Grid
from geo.imagery.acquisition import to_item
from geo.imagery.discovery import find_acquisitions
from geo.pixels.pixel_index import index_pixels

CRS = "EPSG:32631"
X_MIN, Y_MAX = 600_000.0, 4_900_020.0
# Sensor noise and texture, in digital numbers: a lossless JPEG 2000 of them has 7 to 8 bits per
# pixel, like those of Sentinel-2.
NOISE = 20.0
# Side of a field, which has one mean reflectance, in pixels.
FIELD = 12

GEOTIFF = {
    "driver": "GTiff",
    "dtype": "uint16",
    "tiled": True,
    "blockxsize": 512,
    "blockysize": 512,
    "compress": "deflate",
    "predictor": 2,
}
# As in Sentinel-2, but lossless.
JP2 = {
    "driver": "JP2OpenJPEG",
    "count": 1,
    "blockxsize": 1024,
    "blockysize": 1024,
    "quality": "100",
    "reversible": "YES",
    "resolutions": 5,
    "precincts": ",".join(5 * ["{256,256}"]),
    "plt": "YES",
}


def geotiff_scene(
    folder: Path, *, dates: int, side: int, parcels: int, median: float = 83, interleave: str
) -> Scene:
    """Make dated GeoTIFFs of ten bands, all at 10 m, once.

    Parameters
    ----------
    folder
        Where they are kept.
    dates
        Number of files.
    side
        Number of rows and of columns.
    parcels, median
        Number of parcels, and the median of their numbers of pixels.
    interleave
        pixel: the bands of a tile are deflated together, GDAL's default; band: separately.
    """
    with _once(folder) as missing:
        for part in missing:
            _write_parcels(part, side, parcels, median)
            bands = ", ".join(BANDS)
            (part / "settings.yaml").write_text(f"imagery: {{bands: [{bands}]}}\n")
            numbers = _Numbers(side)
            for n in range(dates):
                day = date(2018, 1, 5) + timedelta(days=5 * n)
                _write_geotiff(part / f"{day:%Y%m%d}_T{TILE}.tif", numbers, interleave)
    return _with_items(Scene(folder))


def with_other_parcels(
    scene: Scene, folder: Path, *, side: int, parcels: int, median: float
) -> Scene:
    """Make a scene of the same GeoTIFFs with other parcels, once."""
    with _once(folder) as missing:
        for part in missing:
            _write_parcels(part, side, parcels, median)
            shutil.copy(scene.settings, part / scene.settings.name)
            for product in scene.products:
                (part / product.name).symlink_to(product)
    return _with_items(Scene(folder))


def safe_scene(folder: Path, *, side: int, parcels: int, median: float = 83) -> Scene:
    """Make a SAFE product of four bands at 10 m, and six and the classification at 20 m, once."""
    name = f"S2A_MSIL2A_20180405T105031_N0206_R051_T{TILE}_20180405T150000.SAFE"
    with _once(folder) as missing:
        for part in missing:
            _write_parcels(part, side, parcels, median)
            (part / "settings.yaml").write_text("imagery: {format: safe}\n")
            _write_safe(part / name, side)
    return _with_items(Scene(folder))


def _with_items(scene: Scene) -> Scene:
    """Write the STAC item of every product, as stage index does, once."""
    for product in scene.products:
        item = scene.item(product)
        if not item.is_file():
            item.parent.mkdir(exist_ok=True)
            (acquisition,) = find_acquisitions(product, bands=BANDS)
            item.write_text(json.dumps(to_item(acquisition, item.parent, "")))
    return scene


@contextmanager
def _once(folder: Path) -> Iterator[list[Path]]:
    """Yield a temporary folder to fill, which is then renamed; nothing if the folder exists."""
    if folder.is_dir():
        yield []
        return
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    yield [part]
    part.rename(folder)


class _Numbers:
    """Draw digital numbers of a landscape of fields with sensor noise; no two dates are equal."""

    def __init__(self, side: int) -> None:
        self.side = side
        self._random = np.random.default_rng(side)
        # Larger than a codec's window, so that repeating it does not help compression.
        noise = self._random.normal(0, NOISE, (2048, 2048))
        self._noise = np.round(noise).astype(np.int16)

    def draw(self) -> NDArray[np.uint16]:
        """Return the next band, uint16 (side, side), without 0, which is nodata in SAFE."""
        n_fields = -(-self.side // FIELD)
        means = self._random.normal(1500, 500, (n_fields, n_fields)).clip(300, 6000)
        place = np.arange(self.side)
        field, (down, right) = place // FIELD, self._random.integers(0, 2048, 2)
        values = means.astype(np.int16)[np.ix_(field, field)]
        values += self._noise[np.ix_((place + down) % 2048, (place + right) % 2048)]
        return values.astype(np.uint16)


def _write_geotiff(path: Path, numbers: _Numbers, interleave: str) -> None:
    profile = _georeference(numbers.side, 10) | GEOTIFF
    profile |= {"count": len(BANDS), "interleave": interleave, "num_threads": "all_cpus"}
    with rasterio.open(path, "w", **profile) as image:
        image.write(np.stack([numbers.draw() for _ in BANDS]))
        image.descriptions = BANDS


def _write_safe(path: Path, side: int) -> None:
    """Write a product; its metadata contain only what is read."""
    stem = f"T{TILE}_20180405T105031"
    granule = f"GRANULE/L2A_T{TILE}_A014554_20180405T105031/IMG_DATA"
    numbers = {10: _Numbers(side), 20: _Numbers(side // 2)}
    entries = []

    def write(file: Path, values: NDArray[np.generic], resolution_m: int) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        profile = _georeference(len(values), resolution_m) | JP2 | {"dtype": values.dtype.name}
        with rasterio.open(file, "w", **profile) as image:
            image.write(values, 1)

    with ThreadPoolExecutor(2) as pool:
        jobs = []
        for band, resolution_m in {**RESOLUTION_M, "SCL": 20}.items():
            entries.append(f"{granule}/R{resolution_m}m/{stem}_{band}_{resolution_m}m")
            values = numbers[resolution_m].draw()
            if band == "SCL":
                values = np.where(values > 2000, CLOUD_HIGH, 4).astype(np.uint8)
            jobs.append(pool.submit(write, path / f"{entries[-1]}.jp2", values, resolution_m))
        for job in jobs:
            job.result()
    images = "".join(f"<IMAGE_FILE>{entry}</IMAGE_FILE>" for entry in entries)
    (path / "MTD_MSIL2A.xml").write_text(f"""<?xml version="1.0" encoding="UTF-8"?>
<n1:Level-2A_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/2A.xsd">
<n1:General_Info>
<Product_Info>
<PROCESSING_BASELINE>02.06</PROCESSING_BASELINE>
<GENERATION_TIME>2018-04-05T15:00:00.000000Z</GENERATION_TIME>
<Datatake>
<SPACECRAFT_NAME>Sentinel-2A</SPACECRAFT_NAME>
<DATATAKE_SENSING_START>2018-04-05T10:50:31.024Z</DATATAKE_SENSING_START>
</Datatake>
<Granule>{images}</Granule>
</Product_Info>
<Product_Image_Characteristics>
<QUANTIFICATION_VALUE unit="none">10000</QUANTIFICATION_VALUE>
</Product_Image_Characteristics>
</n1:General_Info>
<n1:Quality_Indicators_Info></n1:Quality_Indicators_Info>
</n1:Level-2A_User_Product>
""")


def _georeference(side: int, resolution_m: int) -> dict[str, object]:
    transform = Affine(resolution_m, 0, X_MIN, 0, -resolution_m, Y_MAX)
    return {"height": side, "width": side, "crs": CRS, "transform": transform}


def _write_parcels(folder: Path, side: int, count: int, median: float) -> None:
    """Write parcels, and their pixel index.

    They are rotated rectangles, one in each cell of a grid over the scene, so that every block of
    the raster has some. Their areas are log-normal, as in registers. One in 30 overlaps another.
    """
    random = np.random.default_rng(count)
    per_row = int(np.ceil(np.sqrt(count)))
    cell = side * 10 / per_row
    rows, cols = np.divmod(np.sort(random.permutation(per_row**2)[:count]), per_row)
    x = X_MIN + (cols + random.uniform(0.3, 0.7, count)) * cell
    y = Y_MAX - (rows + random.uniform(0.3, 0.7, count)) * cell
    area = 100 * random.lognormal(np.log(median), 0.9, count)
    again = np.arange(30, count, 30)
    x[again], y[again] = x[again - 1] + 20, y[again - 1]
    stretch = random.uniform(1, 1.7, count)
    width, height = np.sqrt(area) * stretch / 2, np.sqrt(area) / stretch / 2
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])[np.newaxis]
    corners = corners * np.stack([width, height], axis=1)[:, np.newaxis]
    angle = random.uniform(0, np.pi, count)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    shapes = shapely.polygons(
        np.einsum("nij,jkn->nik", corners, turn) + np.stack([x, y], axis=1)[:, np.newaxis]
    )
    ids = [str(number) for number in range(count)]
    table = gpd.GeoDataFrame({"parcel_id": ids}, geometry=shapes, crs=CRS)
    table.to_parquet(folder / "parcels.parquet")
    grid = Grid(CRS, X_MIN, Y_MAX, 10.0, 10.0, side, side)
    index_pixels(shapes, ids, grid, TILE).save(folder / "pixel_index.npz")
