"""Benchmark: acquisitions become packed pixels, these become files, and files are packed.

It is also the command of the candidates that write or pack files:

    python -m benchmarks.assembling files WAY N_PARCELS
    python -m benchmarks.assembling pack|copy DATASET OUT
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import yaml

from benchmarks.harness import OUT, ROOT, Benchmark, Candidate, Threshold
from benchmarks.pixel_set_data import BANDS, MEDIAN_PIXELS
from geo.grid import Grid
from geo.pixels.pixel_index import PixelIndex
from pipeline.dataset.npy_files import write_parcel
from pipeline.workflow.acquisition_table import AcquisitionRow, write_acquisitions
from pipeline.workflow.paths import RunPaths

OURS, COPY = "parcelwise", "copy of the packed file"
N_DATES = 24
ARRAYS = "24 dates x 10 bands x 83 pixels"
TILE = "31TFM"
CLEAR = 0.7
"""Share of the parcels' observations that are clear."""
THREADS = 2
IN_MEMORY = Path("/dev/shm")  # noqa: S108 - a temporary folder is made in it
# numpy rewrites every file at every date, which takes long: only one parcel in so many is written.
SHARE_OF_REWRITTEN = 10


def assembling(work: Path, quick: bool) -> list[Benchmark]:
    """Measure the writing of files, the packing, and whether memory stays flat."""
    few, many = (200, 400) if quick else (5000, 20_000)
    runs = {n: make_extracted(work / f"{n}-parcels", n, N_DATES) for n in (few, many)}
    for run in runs.values():
        _complete(run)
    return [_files(few), _packing(runs[few]), _growth(runs, few, many)]


def _files(n_parcels: int) -> Benchmark:
    words = [sys.executable, "-m", "benchmarks.assembling", "files"]
    ways = {
        OURS: "ours",
        "numpy.save": "numpy",
        "open, write, close (pixels only)": "bare",
        "numpy.save once a date (pixels only)": "rewritten",
    }
    cost = "microseconds_per_parcel"
    return Benchmark(
        f"files of {n_parcels} parcels of {ARRAYS}, in memory",
        [Candidate(name, [*words, way, str(n_parcels)]) for name, way in ways.items()],
        [
            Threshold(cost, OURS, at_most=80),
            Threshold(cost, OURS, over="numpy.save", at_most=1),
            Threshold(cost, OURS, over="numpy.save once a date (pixels only)", at_most=0.1),
        ],
    )


def _packing(run: RunPaths) -> Benchmark:
    words = [sys.executable, "-m", "benchmarks.assembling"]
    dataset = str(run.dataset.root)
    return Benchmark(
        f"packing of files of {ARRAYS}, 2 threads",
        [
            Candidate(OURS, [*words, "pack", dataset, OUT]),
            Candidate(COPY, [*words, "copy", dataset, OUT]),
        ],
        # More than inference reads; the copy shows the upper limit.
        [Threshold("mb_per_second", OURS, at_least=300)],
        check=["cmp", f"{{out:{OURS}}}/pixels.npy", f"{{out:{COPY}}}/pixels.npy"],
    )


def _growth(runs: dict[int, RunPaths], few: int, many: int) -> Benchmark:
    """Assemble by the stage, 200 MB of pixels at once."""
    names = {n: f"{n} parcels" for n in (many, few)}
    peak = Threshold("peak_anonymous_mb", names[many], over=names[few], at_most=1.3)
    return Benchmark(
        f"assemble, {ARRAYS}, 2 threads, assemble.memory_mb: 200",
        [Candidate(name, _assemble(runs[n], OUT)) for n, name in names.items()],
        [peak],
    )


def _assemble(run: RunPaths, tile: str) -> list[str]:
    return [
        *(sys.executable, "-m", "pipeline", "assemble", "--config", str(run.config)),
        *("--acquisitions", str(run.acquisitions), "--extracted", str(run.extractions)),
        *("--pixel-index", str(run.pixel_index(TILE)), "--tile", tile, "--threads", "2"),
    ]


def _complete(run: RunPaths) -> None:
    """Assemble and export once, for the benchmark of packing."""
    tile = run.dataset.tile(TILE)
    if run.dataset.tiles.is_file():
        return
    words = ["export", "--config", str(run.config), "--tiles", str(tile.root)]
    export = [sys.executable, "-m", "pipeline", *words, "--dataset", str(run.dataset.root)]
    for command in (_assemble(run, str(tile.root)), export):
        subprocess.run(command, check=True, cwd=ROOT, capture_output=True)


def make_extracted(folder: Path, n_parcels: int, n_dates: int) -> RunPaths:
    """Write the results of the stages before assemble for a tile, once, always the same.

    All parcels have the median size of the paper's dataset. A parcel is clear or cloudy as a whole
    on a date.

    Parameters
    ----------
    folder
        Folder of the run; if it is complete, nothing is written.
    n_parcels, n_dates
        Numbers of parcels and dates.
    """
    run = RunPaths(folder)
    if (folder / "complete").is_file():
        return run
    rng = np.random.default_rng([n_parcels, n_dates])
    for made in (run.extractions, run.pixel_index(TILE).parent):
        made.mkdir(parents=True, exist_ok=True)
    ids = [str(i + 1) for i in range(n_parcels)]
    n_pixels = n_parcels * MEDIAN_PIXELS
    place = np.arange(n_pixels, dtype=np.int32)
    grid = Grid("EPSG:32631", 600_000, 5_000_000, 10, 10, 10_980, 10_980)
    offsets = np.arange(n_parcels + 1) * MEDIAN_PIXELS
    index = PixelIndex(ids, offsets, place // 10_980, place % 10_980, TILE, grid)
    index.save(run.pixel_index(TILE))
    rows = []
    for t in range(n_dates):
        name = f"acquisition_{t:03}"
        day = date(2018, 1, 1) + timedelta(10 * t)
        rows.append(AcquisitionRow(name, TILE, day, folder, "safe", "", "", "0", None, True, ""))
        values = rng.integers(0, 10_000, (BANDS, n_pixels), np.uint16)
        np.save(run.extracted(name), values)
        clear = rng.random(n_parcels) < CLEAR
        np.save(run.extracted_valid(name), np.repeat(clear, MEDIAN_PIXELS))
    write_acquisitions(run.acquisitions, rows)
    run.config.write_text(yaml.safe_dump({"assemble": {"memory_mb": 200}}))
    (folder / "complete").touch()
    return run


def write_files(way: str, n_parcels: int) -> None:
    """Write the arrays of parcels into a folder in memory and time it.

    On a disk, the time would depend on what was deleted before: ext4 checks every file that was
    deleted in the last minutes before it creates one, which takes longer than writing it.
    """
    rng = np.random.default_rng(0)
    shape = (N_DATES, BANDS, n_parcels * MEDIAN_PIXELS)
    values = rng.integers(0, 10_000, shape, np.uint16)
    # Stage export reads packed pixels.
    source = np.ascontiguousarray(values.transpose(2, 0, 1)) if way == "ours" else values
    n = n_parcels // SHARE_OF_REWRITTEN if way == "rewritten" else n_parcels
    parent = IN_MEMORY if IN_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=parent) as temporary:
        folder = Path(temporary)
        start = time.perf_counter()
        WAYS[way](folder, source, n)
        seconds = time.perf_counter() - start
        last = np.load(min(folder.rglob(f"{n}.npy")))
    np.testing.assert_array_equal(last, values[:, :, MEDIAN_PIXELS * (n - 1) : MEDIAN_PIXELS * n])
    print(json.dumps({"microseconds_per_parcel": seconds / n * 1e6}))


def ours(folder: Path, packed: np.ndarray, n: int) -> None:
    """Write pixels and clear masks as stage export does, with two threads."""
    opened = []
    for made in (folder / "DATA", folder / "VALID"):
        made.mkdir()
        opened.append(os.open(made, os.O_RDONLY))
    clear = np.ones(packed.shape[:2], bool)

    def write(batch: tuple[int, int]) -> None:
        for i in range(*batch):
            rows = slice(MEDIAN_PIXELS * i, MEDIAN_PIXELS * (i + 1))
            write_parcel(str(i + 1), packed[rows], clear[rows], opened)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(write, pairwise([*range(0, n, 500), n])))
    for descriptor in opened:
        os.close(descriptor)


def bare(folder: Path, values: np.ndarray, n: int) -> None:
    """Only open, write and close a file of as many bytes."""
    content = np.lib.format.magic(1, 0) + bytes(120) + values[:, :, :MEDIAN_PIXELS].tobytes()
    for i in range(n - 1):
        file = os.open(folder / str(i), os.O_WRONLY | os.O_CREAT)
        os.write(file, content)
        os.close(file)
    plain(folder, values, n, first=n - 1)


def plain(folder: Path, values: np.ndarray, n: int, first: int = 0) -> None:
    """Write pixels and clear masks by numpy.save, in a loop."""
    data, clear_masks = folder / "DATA", folder / "VALID"
    data.mkdir()
    clear_masks.mkdir()
    clear = np.ones((N_DATES, MEDIAN_PIXELS), bool)
    for i in range(first, n):
        part = values[:, :, MEDIAN_PIXELS * i : MEDIAN_PIXELS * (i + 1)]
        # numpy.save writes a non-contiguous array a few bytes at a time.
        np.save(data / f"{i + 1}.npy", np.ascontiguousarray(part))
        np.save(clear_masks / f"{i + 1}.npy", clear)


def rewritten(folder: Path, values: np.ndarray, n: int) -> None:
    """Rewrite every file at each date with one more date, as the reference's preparation does."""
    for t in range(N_DATES):
        for i in range(n):
            path = folder / f"{i + 1}.npy"
            date = values[t : t + 1, :, MEDIAN_PIXELS * i : MEDIAN_PIXELS * (i + 1)]
            np.save(path, date if t == 0 else np.concatenate([np.load(path), date]))


WAYS: dict[str, Callable[..., None]] = {
    "ours": ours,
    "bare": bare,
    "numpy": plain,
    "rewritten": rewritten,
}


def copy_all(work: str, dataset: Path, out: Path) -> None:
    """Pack the files of a dataset, or copy the packed file; time it."""
    from pipeline.dataset.existing_dataset import pack_arrays, read_parcels
    from pipeline.workflow.paths import DatasetPaths, TilePaths

    source, written = DatasetPaths(dataset), TilePaths(out)
    packed, parcels = source.tile(TILE).pixels, read_parcels(source)
    start = time.perf_counter()
    if work == "pack":
        pack_arrays(parcels, written, THREADS)
    else:
        shutil.copyfile(packed, written.pixels)
    seconds = time.perf_counter() - start
    size = written.pixels.stat().st_size
    print(json.dumps({"mb_per_second": size / seconds / 1e6}))


def main() -> None:
    """Run one of the candidates and print its figures."""
    parser = argparse.ArgumentParser()
    works = parser.add_subparsers(dest="work", required=True)
    files = works.add_parser("files")
    files.add_argument("way", choices=WAYS)
    files.add_argument("parcels", type=int)
    for work in ("pack", "copy"):
        of_dataset = works.add_parser(work)
        of_dataset.add_argument("dataset", type=Path)
        of_dataset.add_argument("out", type=Path)
    options = parser.parse_args()
    if options.work == "files":
        write_files(options.way, options.parcels)
    else:
        copy_all(options.work, options.dataset, options.out)


if __name__ == "__main__":
    main()
