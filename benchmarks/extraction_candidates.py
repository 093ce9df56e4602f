"""Ways to extract the parcels' pixels: python -m benchmarks.extraction_candidates <way> SCENE OUT.

Those that return pixels write <date>.npy, uint16 (10, pixels of all parcels one after the other).

`... check OURS OTHER ...` checks that every array of the other folders equals ours. `... check OURS
--scene SCENE` checks ours against a loop of rasterio.mask, in the 10 m bands of some parcels.
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

from benchmarks.extraction_scene import BANDS, RESOLUTION_M, TILE, Scene, band_layers, image_files


def ours(scene: Scene, out: Path, products: Sequence[Path], threads: int) -> None:
    """Run stage extract on one acquisition after the other, in one process."""
    _extract(scene, scene.pixel_index, out, products, threads)


def whole(scene: Scene, out: Path, products: Sequence[Path], threads: int) -> None:
    """Run stage extract as if there were no OpenJPEG beside GDAL: whole blocks are decoded."""
    from geo.imagery import jpeg2000

    jpeg2000.openjpeg = lambda: None  # type: ignore[attr-defined, assignment]
    ours(scene, out, products, threads)


def _extract(
    scene: Scene, pixel_index: Path, out: Path, products: Sequence[Path], threads: int
) -> None:
    """Run stage extract on every product."""
    from models.fast_cpu.memory_allocator import keep_freed_memory
    from pipeline.stages.extract import extract
    from pipeline.workflow.config import read, view

    keep_freed_memory()  # as the command does before any stage
    settings = view(read(scene.settings), "extract")
    for product in products:
        pixels, clear = out / f"{product.stem}.npy", out / f"{product.stem}_valid.npy"
        extract(scene.item(product), pixel_index, pixels, clear, settings, threads)


def indexed(scene: Scene, out: Path, products: Sequence[Path], threads: int) -> None:
    """Index the parcels' pixels, as stage rasterise does, then run stage extract on all."""
    import geopandas as gpd

    from geo.imagery.raster_header import read_header
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

    # The JPEG 2000 driver would use all cores, also for one thread.
    with rasterio.Env(GDAL_NUM_THREADS=threads), ThreadPoolExecutor(threads) as pool:
        for job in [pool.submit(read, *task) for task in tasks]:
            job.result()


def mask(scene: Scene, out: Path, products: Sequence[Path], _threads: int) -> None:
    """Cut every parcel out of every date, as the reference prepares its data, in one process.

    The result is written once per date, not once per parcel and date.
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
    way.__name__: way
    for way in (ours, whole, indexed, processes, decode, mask, exactextract, rasterstats)
}


# Imported before the clock starts, for the ways that are compared without the start of Python.
IMPORTED = {
    "ours": (
        "pipeline.workflow.config",
        "pipeline.stages.extract",
    ),
    "decode": ("rasterio",),
}
IMPORTED["whole"] = IMPORTED["ours"]


# Parcels to check if a loop over all would take too long.
CHECKED = 40


def check(ours: Path, others: Sequence[Path], scene: Scene | None) -> None:
    """Exit with a message if arrays differ from ours, or ours from rasterio.mask in the scene."""
    import numpy as np

    if scene is not None:
        _check_some(scene, ours)
    for path in [path for other in others for path in sorted(other.glob("*.npy"))]:
        expected, found = np.load(path), np.load(ours / path.name)
        if expected.dtype != found.dtype or not np.array_equal(expected, found):
            raise SystemExit(f"{path} differs from ours")


def _check_some(scene: Scene, ours: Path) -> None:
    import geopandas as gpd
    import numpy as np
    import rasterio
    from rasterio.mask import mask as cut_out

    from geo.pixels.pixel_index import PixelIndex

    index = PixelIndex.load(scene.pixel_index)
    shapes = gpd.read_parquet(scene.parcels).geometry
    chosen = np.linspace(0, len(shapes) - 1, min(CHECKED, len(shapes))).astype(int)
    for product in scene.products:
        found = np.load(ours / f"{product.stem}.npy", mmap_mode="r")
        for band, (path, layer) in band_layers(product).items():
            if RESOLUTION_M[band] != 10:
                continue
            with rasterio.open(path) as image:
                for parcel in chosen:
                    cut, _ = cut_out(image, [shapes[parcel]], crop=True, indexes=layer, nodata=0)
                    pixels = slice(index.offsets[parcel], index.offsets[parcel + 1])
                    if not np.array_equal(found[BANDS.index(band), pixels], cut[cut != 0]):
                        raise SystemExit(f"{band} of parcel {parcel} in {product.name} differs")


def main() -> None:
    """Run one way, and print how long it took without the start of Python and imports."""
    parser = argparse.ArgumentParser()
    ways = parser.add_subparsers(dest="way", required=True)
    for name in WAYS:
        way = ways.add_parser(name)
        way.add_argument("folder", type=Path, help="of the scene")
        way.add_argument("out", type=Path)
        way.add_argument("--dates", type=int, default=None, help="only the first so many")
        way.add_argument("--threads", type=int, default=2)
        way.add_argument("--times", type=int, default=0, help="multiply the time by this number")
    checking = ways.add_parser("check")
    checking.add_argument("ours", type=Path)
    checking.add_argument("others", type=Path, nargs="*")
    checking.add_argument("--scene", type=lambda folder: Scene(Path(folder)))
    options = parser.parse_args()
    if options.way == "check":
        check(options.ours, options.others, options.scene)
        return
    scene = Scene(options.folder)
    for module in IMPORTED.get(options.way, ()):
        importlib.import_module(module)
    start, start_cpu = time.perf_counter(), time.process_time()
    WAYS[options.way](scene, options.out, scene.products[: options.dates], options.threads)
    seconds = time.perf_counter() - start
    cpu_seconds = time.process_time() - start_cpu
    times = options.times or 1
    figures = {"work_seconds": seconds * times, "cpu_seconds": cpu_seconds * times}
    if options.times:  # without the start of Python
        figures["seconds"] = figures["work_seconds"]
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
