"""Ways to get the parcels' pixels: python -m benchmarks.extraction_contestants <way> scene out.

Those that give pixels leave <date>.npy, uint16 (10, pixels of all parcels one after the other).
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.extraction_scene import TILE, Scene, image_files


def ours(scene: Scene, out: Path, products: Sequence[Path], threads: int) -> None:
    """Run stage extract on one acquisition after the other, in one process."""
    _extract(scene, scene.pixel_index, out, products, threads)


def _extract(
    scene: Scene, pixel_index: Path, out: Path, products: Sequence[Path], threads: int
) -> None:
    """Run stage extract on every product."""
    from pipeline.stages.extract import extract
    from pipeline.workflow.config import read, view

    settings = view(read(scene.settings), "extract")
    for product in products:
        pixels, valid = out / f"{product.stem}.npy", out / f"{product.stem}_valid.npy"
        extract(scene.item(product), pixel_index, pixels, valid, settings, threads)


def indexed(scene: Scene, out: Path, products: Sequence[Path], threads: int) -> None:
    """Index the parcels' pixels, as stage rasterise does, then run stage extract on all."""
    import geopandas as gpd

    from geo.imagery.raster_reading import read_header
    from geo.pixels.pixel_index import index_pixels

    table = gpd.read_parquet(scene.parcels)
    grid = read_header(image_files(products[0])[0]).grid
    index = index_pixels(table.geometry.to_numpy(), table["parcel_id"].tolist(), grid, TILE)
    pixel_index = out / scene.pixel_index.name
    index.save(pixel_index)
    _extract(scene, pixel_index, out, products, threads)


def processes(scene: Scene, out: Path, products: Sequence[Path], threads: int) -> None:
    """Start `python -m pipeline extract` for one acquisition after the other, as the rule does."""
    for product in products:
        subprocess.run(
            [
                *(sys.executable, "-m", "pipeline", "extract", "--config", str(scene.settings)),
                *("--item", str(scene.item(product)), "--pixel-index", str(scene.pixel_index)),
                *("--threads", str(threads)),
                *("--pixels", str(out / f"{product.stem}.npy")),
                *("--valid", str(out / f"{product.stem}_valid.npy")),
            ],
            check=True,
        )


def decode(_scene: Scene, _out: Path, products: Sequence[Path], threads: int) -> None:
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


def mask(scene: Scene, out: Path, products: Sequence[Path], _threads: int) -> None:
    """Cut every parcel out of every date, as the reference prepares its data, in one process.

    It writes what it cut out once a date, not once a parcel and date.
    """
    import geopandas as gpd
    import numpy as np
    import rasterio
    from rasterio.mask import mask as cut_out

    shapes = gpd.read_parquet(scene.parcels).geometry
    missing = np.iinfo(np.uint16).max
    for product in products:
        with rasterio.open(product) as image:
            cuts = [cut_out(image, [shape], crop=True, nodata=missing)[0] for shape in shapes]
        pixels = [np.stack([band[band != missing] for band in cut]) for cut in cuts]
        np.save(out / f"{product.stem}.npy", np.concatenate(pixels, axis=1))


def exactextract(scene: Scene, out: Path, products: Sequence[Path], threads: int) -> None:
    """Take values and covered shares of all pixels that parcels touch, a process a date."""
    with ProcessPoolExecutor(threads) as pool:
        list(pool.map(partial(_exactextract, scene, out), products))


def _exactextract(scene: Scene, out: Path, product: Path) -> None:
    import geopandas as gpd
    import numpy as np
    import rasterio
    from exactextract import exact_extract

    table = gpd.read_parquet(scene.parcels)
    with rasterio.open(product) as image:
        found = exact_extract(image, table, ["values", "coverage"], output="pandas")
    columns = [name for name in found if name.endswith("values")]
    values = [np.concatenate(found[name].to_numpy()) for name in columns]
    np.save(out / f"{product.stem}.npy", np.stack(values))


def rasterstats(scene: Scene, out: Path, products: Sequence[Path], threads: int) -> None:
    """Take the small raster of every parcel, band by band, a process a date."""
    with ProcessPoolExecutor(threads) as pool:
        list(pool.map(partial(_rasterstats, scene, out), products))


def _rasterstats(scene: Scene, out: Path, product: Path) -> None:
    import geopandas as gpd
    import numpy as np
    import rasterio
    from rasterstats import zonal_stats

    shapes = gpd.read_parquet(scene.parcels).geometry
    values = []
    with rasterio.open(product) as image:
        for band in image.read():
            found = zonal_stats(
                shapes, band, affine=image.transform, nodata=65_535, stats="count", raster_out=True
            )
            values.append(np.concatenate([f["mini_raster_array"].compressed() for f in found]))
    np.save(out / f"{product.stem}.npy", np.stack(values))


Way = Callable[[Scene, Path, Sequence[Path], int], None]
WAYS: dict[str, Way] = {
    way.__name__: way for way in (ours, indexed, processes, decode, mask, exactextract, rasterstats)
}


# What the ways that are compared without the start of Python import.
IMPORTED = {
    "ours": (
        "pipeline.workflow.config",
        "pipeline.stages.extract",
    ),
    "decode": ("rasterio",),
}


def main() -> None:
    """Run one way, and print how long it took without the start of Python and imports."""
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("scene", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dates", type=int, default=None, help="only the first so many")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--times", type=int, default=0, help="stands for so many times the work")
    given = parser.parse_args()
    scene = Scene(given.scene)
    for module in IMPORTED.get(given.way, ()):
        importlib.import_module(module)
    start = time.perf_counter()
    WAYS[given.way](scene, given.out, scene.products[: given.dates], given.threads)
    seconds = time.perf_counter() - start
    figures = {"work_seconds": seconds * (given.times or 1)}
    if given.times:  # the start of Python left out
        figures["seconds"] = figures["work_seconds"]
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
