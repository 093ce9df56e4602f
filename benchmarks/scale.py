"""Whole runs on made imagery of many parcels, dates, classes, columns or tiles, measured by stage.

    python -m benchmarks.scale million --work FOLDER
    python -m benchmarks.scale --list

Imagery, register and run stay in FOLDER/<scene>; a second call goes on where the first one stopped.
The parcels are squares in rows, each with the mean reflectance of its class on every date, plus
noise. Every job runs in benchmarks/launcher.py, so CPU time and memory are those that the kernel
counts. The values are made: scores of these runs say nothing about crops.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
import shapely
import yaml
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window

from benchmarks.harness import ROOT

CRS, X_MIN, Y_MAX, PIXEL_M = "EPSG:32631", 300_000.0, 5_000_040.0, 10.0
BLOCK = 512  # pixels of the side of a block
TILES = tuple(f"T31T{column}{row}" for row in "MN" for column in "CDEFG")
ALL_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")


@dataclass(frozen=True)
class Scene:
    """What is made: the numbers of everything that can grow.

    Attributes
    ----------
    parcels
        Of every tile.
    side_px, gap_px
        Side of a square parcel, and its distance to the next.
    dates, bands, tiles, classes
        Numbers of them.
    columns
        Further columns of the register.
    settings
        Settings that differ from those of `_settings`.
    """

    parcels: int
    side_px: int = 5
    gap_px: int = 4
    dates: int = 6
    bands: int = 4
    tiles: int = 1
    classes: int = 12
    columns: int = 0
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def step_px(self) -> int:
        """Distance between the corners of neighbouring parcels."""
        return self.side_px + self.gap_px

    @property
    def in_a_row(self) -> int:
        """Number of parcels in a row of a tile."""
        return int(np.ceil(np.sqrt(self.parcels)))

    @property
    def width_px(self) -> int:
        """Rows and columns of a tile, a multiple of the blocks."""
        return -(-self.in_a_row * self.step_px // BLOCK) * BLOCK


SCENES = {
    "small": Scene(1_000),
    "tenth": Scene(100_000),
    "million": Scene(1_000_000),
    "tiles": Scene(1_000, side_px=8, gap_px=7, dates=24, bands=10, tiles=10),
    "dates": Scene(2_000, side_px=9, dates=150, bands=10),
    "large_parcels": Scene(400, side_px=100, dates=24, bands=10),
    "classes": Scene(10_000, classes=1000, settings={"parcels": {"classes": {"min_parcels": 3}}}),
    "columns": Scene(500_000, side_px=3, gap_px=2, dates=2, bands=2, columns=100),
}


def main(arguments: list[str] | None = None) -> int:
    """Make a scene, run the workflow on it, and print a table of its stages."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("scene", nargs="?", choices=SCENES, default="small")
    parser.add_argument("--list", action="store_true", help="print the scenes")
    parser.add_argument("--work", type=Path, help="folder of the scenes; needed to run one")
    parser.add_argument("--cores", default="2")
    options = parser.parse_args(arguments)
    if options.list or options.work is None:
        for name, scene in SCENES.items():
            print(f"{name:14} {scene}")
        return 0
    folder = (options.work / options.scene).resolve()
    config = make(folder, SCENES[options.scene])
    code = run(folder, config, options.cores)
    print(table(folder))
    return code


def make(folder: Path, scene: Scene) -> Path:
    """Write imagery, register and settings, once; return the settings file."""
    config = folder / "config.yaml"
    if config.is_file():
        return config
    shutil.rmtree(folder, ignore_errors=True)
    imagery = folder / "imagery"
    imagery.mkdir(parents=True)
    rng = np.random.default_rng(scene.parcels)
    means = rng.integers(300, 4500, (scene.classes, scene.dates, scene.bands), dtype=np.uint16)
    classes = rng.permutation(np.resize(np.arange(scene.classes), scene.parcels * scene.tiles))
    of_tile = classes.reshape(scene.tiles, scene.parcels)
    for tile in range(scene.tiles):
        for t in range(scene.dates):
            day = date(2021, 1, 5) + timedelta(int(t * 330 / scene.dates))
            image = imagery / f"{TILES[tile]}_{day:%Y%m%d}.tif"
            _write_image(image, scene, tile, means[:, t], of_tile[tile], rng)
    _write_register(folder / "register.gpkg", scene, of_tile, rng)
    config.write_text(yaml.safe_dump(_settings(folder, scene), sort_keys=False))
    return config


def _settings(folder: Path, scene: Scene) -> dict[str, Any]:
    """Return the settings: the shortest training, and no file per parcel."""
    settings: dict[str, Any] = {
        "run": folder.name,
        "imagery": {
            "path": str(folder / "imagery"),
            "bands": list(ALL_BANDS[: scene.bands]),
            "file_bands": list(ALL_BANDS[: scene.bands]),
            "radiometry": "trust",
        },
        "clouds": {"mask": "none"},
        "parcels": {
            "path": str(folder / "register.gpkg"),
            "id": "ID",
            "labels": {"crop": "CROP"},
        },
        "dataset": {"npy_files": False},
        "split": {"folds": 3, "by": "random"},
        "train": {"epochs": 1, "members": 1, "pixels": 16},
    }
    for section, values in scene.settings.items():
        settings[section] |= values
    return settings


def _origin(scene: Scene, tile: int) -> float:
    """Return the western edge of a tile; tiles lie side by side."""
    return X_MIN + tile * scene.width_px * PIXEL_M


def _write_image(
    path: Path,
    scene: Scene,
    tile: int,
    means: NDArray[np.uint16],
    classes: NDArray[np.intp],
    rng: np.random.Generator,
) -> None:
    """Write one date of a tile block row by block row, so that a whole tile is never in memory."""
    noise = rng.normal(0, 20, (BLOCK, scene.width_px + BLOCK)).astype(np.int16)
    # Between the parcels lies the mean of the class after the last.
    rest = np.full(scene.in_a_row**2 - len(classes), len(means))
    row_of = np.append(classes, rest).reshape(scene.in_a_row, scene.in_a_row)
    values = np.vstack([means, np.full(means.shape[1], 1000)]).astype(np.int16)
    index, inside = _places(scene)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        dtype="uint16",
        count=scene.bands,
        width=scene.width_px,
        height=scene.width_px,
        crs=CRS,
        transform=Affine(PIXEL_M, 0, _origin(scene, tile), 0, -PIXEL_M, Y_MAX),
        tiled=True,
        blockxsize=BLOCK,
        blockysize=BLOCK,
        interleave="band",
        compress="zstd",
        zstd_level=1,
        num_threads="all_cpus",
        nodata=0,
    ) as image:
        for top in range(0, scene.width_px, BLOCK):
            rows = slice(top, top + BLOCK)
            covers = row_of[np.ix_(index[rows], index)]
            covers[~(inside[rows, np.newaxis] & inside)] = len(means)
            for band in range(scene.bands):
                shift = int(rng.integers(BLOCK))
                pixels = values[:, band][covers] + noise[:, shift : shift + scene.width_px]
                window = Window(0, top, scene.width_px, BLOCK)
                image.write(pixels.clip(1).astype(np.uint16), band + 1, window=window)


def _places(scene: Scene) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return the row of parcels of every row of pixels, and whether it is inside of a parcel."""
    place = np.arange(scene.width_px)
    index = place // scene.step_px
    inside = (place % scene.step_px < scene.side_px) & (index < scene.in_a_row)
    return index.clip(max=scene.in_a_row - 1), inside


def _write_register(
    path: Path, scene: Scene, classes: NDArray[np.intp], rng: np.random.Generator
) -> None:
    """Write the parcels of all tiles, with numbers and texts in the further columns."""
    step, side = scene.step_px * PIXEL_M, scene.side_px * PIXEL_M
    row, column = np.divmod(np.arange(scene.parcels), scene.in_a_row)
    west = np.concatenate([_origin(scene, t) + column * step for t in range(scene.tiles)])
    north = np.tile(Y_MAX - row * step, scene.tiles)
    n = len(west)
    data = {"ID": np.arange(n), "CROP": np.char.mod("C%04d", classes.ravel())}
    for i in range(scene.columns):
        numbers = rng.integers(0, 1000, n)
        data[f"COLUMN_{i}"] = np.char.mod("text %d", numbers) if i % 2 else numbers
    # A metre inwards: a border through the centre of a pixel is nobody's.
    outlines = shapely.box(west + 1, north - side + 1, west + side - 1, north - 1)
    gpd.GeoDataFrame(pd.DataFrame(data), geometry=outlines, crs=CRS).to_file(path, layer="parcels")


def run(folder: Path, config: Path, cores: str) -> int:
    """Run the workflow; every call of `parcelwise` is measured. Return the exit code."""
    shim = folder / "bin" / "parcelwise"
    shim.parent.mkdir(exist_ok=True)
    (folder / "jobs").mkdir(exist_ok=True)
    launcher = shlex.quote(str(Path(__file__).with_name("launcher.py")))
    real = shlex.quote(str(Path(sys.executable).with_name("parcelwise")))
    file = f'{shlex.quote(str(folder / "jobs"))}/"$1"-$$.json'
    python = shlex.quote(sys.executable)
    shim.write_text(f'#!/bin/sh\nexec {python} -I -S {launcher} {file} {real} "$@"\n')
    shim.chmod(0o755)
    snakemake = [sys.executable, "-m", "pipeline.workflow.messages"]
    return subprocess.run(
        [
            *(*snakemake, "--snakefile", str(ROOT / "Snakefile"), "--configfile", str(config)),
            *("--directory", str(folder), "--cores", cores),
        ],
        env={**os.environ, "PATH": f"{shim.parent}{os.pathsep}{os.environ['PATH']}"},
        check=False,
    ).returncode


def _jobs(folder: Path) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield stage and figures of every job that ended well."""
    for file in (folder / "jobs").glob("*.json"):
        ended = json.loads(file.read_text())
        if ended["returncode"] == 0:
            yield file.stem.rpartition("-")[0], ended["figures"]


def table(folder: Path) -> str:
    """Return the stages as a table: jobs, CPU s, the longest job, and the largest memory of one."""
    jobs = pd.DataFrame([{"stage": stage, **figures} for stage, figures in _jobs(folder)])
    lines = [
        "| stage | jobs | CPU s | longest job s | peak MB | mapped files apart |",
        "|---|---|---|---|---|---|",
    ]
    if jobs.empty:
        return "\n".join(lines)
    for stage, own in jobs.groupby("stage"):
        lines.append(
            f"| {stage} | {len(own)} | {own['cpu_seconds'].sum():.1f} | {own['seconds'].max():.1f} "
            f"| {own['peak_mb'].max():.0f} | {own['peak_anonymous_mb'].max():.0f} |"
        )
    size = sum(file.stat().st_size for file in (folder / "results").rglob("*") if file.is_file())
    imagery = sum(file.stat().st_size for file in (folder / "imagery").iterdir())
    lines.append(f"\nImagery {imagery / 1e9:.2f} GB, results {size / 1e9:.2f} GB.")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
