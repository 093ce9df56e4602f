"""Compare the pixels that contestants of extraction gave.

python -m benchmarks.extraction_check ours other ...: every array of the others equals ours.
python -m benchmarks.extraction_check --scene scene ours: ours equals a loop of rasterio.mask, in
the bands at 10 m of some parcels.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
from rasterio.mask import mask

from benchmarks.extraction_scene import BANDS, RESOLUTION_M, Scene, band_layers
from geo.pixels.pixel_index import PixelIndex

# Parcels that are compared where a loop over all would take too long.
SOME = 40


def main() -> None:
    """Compare, and end with a message where something differs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--scene", type=Path)
    parser.add_argument("ours", type=Path)
    parser.add_argument("others", type=Path, nargs="*")
    given = parser.parse_args()
    if given.scene is not None:
        _check_some(Scene(given.scene), given.ours)
    for other in given.others:
        for path in sorted(other.glob("*.npy")):
            expected, found = np.load(path), np.load(given.ours / path.name)
            if expected.dtype != found.dtype or not np.array_equal(expected, found):
                raise SystemExit(f"{path} differs from ours")


def _check_some(scene: Scene, ours: Path) -> None:
    index = PixelIndex.load(scene.pixel_index)
    shapes = gpd.read_parquet(scene.parcels).geometry
    chosen = np.linspace(0, len(shapes) - 1, min(SOME, len(shapes))).astype(int)
    for product in scene.products:
        found = np.load(ours / f"{product.stem}.npy", mmap_mode="r")
        for band, (path, layer) in band_layers(product).items():
            if RESOLUTION_M[band] != 10:
                continue
            with rasterio.open(path) as image:
                for parcel in chosen:
                    cut, _ = mask(image, [shapes[parcel]], crop=True, indexes=layer, nodata=0)
                    pixels = slice(index.offsets[parcel], index.offsets[parcel + 1])
                    if not np.array_equal(found[BANDS.index(band), pixels], cut[cut != 0]):
                        raise SystemExit(f"{band} of parcel {parcel} in {product.name} differs")


if __name__ == "__main__":
    main()
