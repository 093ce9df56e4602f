"""Ways to get the parcels' pixels: python -m benchmarks.extraction_contestants <way> scene out.

Those that give pixels leave <date>.npy, uint16 (10, pixels of all parcels one after the other).
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.extraction_scenes import Scene, band_layers, image_files

# A share of the products or parcels that stands for all; what is read but once for all is small.
Shares = tuple[slice, slice]


def ours(scene: Scene, out: Path, products: list[Path], threads: int) -> None:
    """Run stage extract on one acquisition after the other."""
    from pipeline.config import read, view
    from pipeline.extract import extract

    settings = view(read(scene.settings), "extract")
    for product in products:
        name = product.name
        identifier = f"{name[:8]}_{name[10:15]}"
        if name.endswith(".SAFE"):
            identifier = "_".join(name.split("_")[i] for i in (2, 5, 3)).replace("_T", "_")
        extract(
            product,
            identifier,
            scene.pixel_index,
            out / f"{name[:8]}.npy",
            out / f"{name[:8]}_valid.npy",
            settings,
            threads,
        )


def rasterise_and_ours(scene: Scene, out: Path, products: list[Path], threads: int) -> None:
    """Index the parcels' pixels before, as stage rasterise does."""
    import geopandas as gpd

    from geo.burning import index_pixels
    from geo.reading import read_header

    table = gpd.read_parquet(scene.parcels)
    grid = read_header(next(iter(band_layers(products[0]).values()))[0]).grid
    index = index_pixels(table.geometry.to_numpy(), table["parcel_id"].tolist(), grid, "31TFM")
    index.save(out / scene.pixel_index.name)
    (out / scene.settings.name).write_text(scene.settings.read_text())
    ours(Scene(out), out, products, threads)


def decode(_scene: Scene, _out: Path, products: list[Path], threads: int) -> None:
    """Decode every block of every file once, all bands of it at a time, and keep nothing."""
    import rasterio

    files = [file for product in products for file in image_files(product)]
    opened = threading.local()

    def read(file: Path, window: Any) -> None:
        if getattr(opened, "file", None) != file:
            opened.file, opened.image = file, rasterio.open(file, sharing=False)
        opened.image.read(window=window)

    tasks = []
    for file in files:
        with rasterio.open(file) as image:
            tasks += [(file, window) for _, window in image.block_windows(1)]
    with ThreadPoolExecutor(threads) as pool:
        for job in [pool.submit(read, *task) for task in tasks]:
            job.result()


def mask(scene: Scene, out: Path, products: list[Path], _threads: int) -> None:
    """Cut every parcel out of every date, as the reference prepares its data."""
    import geopandas as gpd
    import numpy as np
    import rasterio
    from rasterio.mask import raster_geometry_mask

    table = gpd.read_parquet(scene.parcels)
    for product in products:
        pixels = []
        with rasterio.open(product) as image:
            for shape in table.geometry:
                outside, _, window = raster_geometry_mask(image, [shape], crop=True)
                pixels.append(image.read(window=window)[:, ~outside])
        np.save(out / f"{product.name[:8]}.npy", np.concatenate(pixels, axis=1))


def exactextract(scene: Scene, out: Path, products: list[Path], _threads: int) -> None:
    """Take the values and covered shares of all cells that a parcel touches."""
    import geopandas as gpd
    import numpy as np
    import rasterio
    from exactextract import exact_extract
    from exactextract.raster import RasterioRasterSource

    table = gpd.read_parquet(scene.parcels)
    for product in products:
        with rasterio.open(product) as image:
            bands = [RasterioRasterSource(image, b, name=f"band_{b}") for b in image.indexes]
            found = exact_extract(
                bands,
                table,
                ["values", "coverage"],
                strategy=os.environ.get("STRAT", "feature-sequential"),
                output="pandas",
            )
        values = [
            np.concatenate(found[f"band_{b}_values"].to_numpy()) for b in range(1, len(bands) + 1)
        ]
        np.save(out / f"{product.name[:8]}.npy", np.stack(values))


def rasterstats(scene: Scene, out: Path, products: list[Path], _threads: int) -> None:
    """Take the raster of every parcel, one band after the other, as there is no other way."""
    import geopandas as gpd
    import numpy as np
    import rasterio
    from rasterstats import zonal_stats

    table = gpd.read_parquet(scene.parcels)
    for product in products:
        with rasterio.open(product) as image:
            transform = image.transform
            values = []
            for layer in image.indexes:
                found = zonal_stats(
                    table.geometry,
                    image.read(layer),
                    affine=transform,
                    nodata=65535,
                    stats=["count"],
                    raster_out=True,
                )
                values.append(np.concatenate([f["mini_raster_array"].compressed() for f in found]))
        np.save(out / f"{product.name[:8]}.npy", np.stack(values))


WAYS = {f.__name__: f for f in (ours, rasterise_and_ours, decode, mask, exactextract, rasterstats)}


def main() -> None:
    """Run one way, and say how long it took without the start of Python."""
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("scene", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dates", type=int)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    scene = Scene(given.scene)
    start = time.perf_counter()
    WAYS[given.way](scene, given.out, scene.products[: given.dates], given.threads)
    print(json.dumps({"work_seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
