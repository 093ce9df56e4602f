"""Contestant: the arrays of parcels as files, in our way and others; a dataset packed or copied.

python -m benchmarks.parcel_arrays files WAY N_PARCELS
python -m benchmarks.parcel_arrays pack|copy DATASET OUT
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.extracted_data import TILE
from benchmarks.pixel_set_data import BANDS, MEDIAN_PIXELS
from pipeline.dataset.npy_files import write_parcel

N_DATES = 24
THREADS = 2
IN_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of its own is made in it
# Parcels of which numpy writes every date anew: it takes so long.
SHARE_OF_REWRITTEN = 10


def main() -> None:
    """Do one of the works and print its figures."""
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


def write_files(way: str, n_parcels: int) -> None:
    """Write the arrays of parcels into a folder in memory and time it.

    A disk would say more of what lay on it before: ext4 looks at every file that was deleted in the
    last minutes before it makes a new one, which takes longer than to write it.
    """
    rng = np.random.default_rng(0)
    shape = (N_DATES, BANDS, n_parcels * MEDIAN_PIXELS)
    values = rng.integers(0, 10_000, shape, np.uint16)
    # The stage export starts from packed pixels.
    given = np.ascontiguousarray(values.transpose(2, 0, 1)) if way == "ours" else values
    n = n_parcels // SHARE_OF_REWRITTEN if way == "rewritten" else n_parcels
    parent = IN_MEMORY if IN_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=parent) as temporary:
        folder = Path(temporary)
        start = time.perf_counter()
        WAYS[way](folder, given, n)
        seconds = time.perf_counter() - start
        last = np.load(min(folder.rglob(f"{n}.npy")))
    np.testing.assert_array_equal(last, values[:, :, MEDIAN_PIXELS * (n - 1) : MEDIAN_PIXELS * n])
    print(json.dumps({"microseconds_per_parcel": seconds / n * 1e6}))


def ours(folder: Path, packed: np.ndarray, n: int) -> None:
    """Write pixels and validity as the stage export does, by two threads."""
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
    """Open, write and close a file of as many bytes, and do nothing else."""
    content = np.lib.format.magic(1, 0) + bytes(120) + values[:, :, :MEDIAN_PIXELS].tobytes()
    for i in range(n - 1):
        file = os.open(folder / str(i), os.O_WRONLY | os.O_CREAT)
        os.write(file, content)
        os.close(file)
    plain(folder, values, n, first=n - 1)


def plain(folder: Path, values: np.ndarray, n: int, first: int = 0) -> None:
    """Write pixels and validity by numpy.save, in a loop."""
    data, validity = folder / "DATA", folder / "VALID"
    data.mkdir()
    validity.mkdir()
    clear = np.ones((N_DATES, MEDIAN_PIXELS), bool)
    for i in range(first, n):
        part = values[:, :, MEDIAN_PIXELS * i : MEDIAN_PIXELS * (i + 1)]
        # Of what is not contiguous, numpy.save writes a few bytes at a time.
        np.save(data / f"{i + 1}.npy", np.ascontiguousarray(part))
        np.save(validity / f"{i + 1}.npy", clear)


def rewritten(folder: Path, values: np.ndarray, n: int) -> None:
    """Write every file once a date, each time with one more, as the reference's preparation."""
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
    """Pack the files of a dataset, or copy what was packed; time it."""
    from pipeline.dataset.existing_dataset import pack_arrays, read_parcels
    from pipeline.workflow.paths import DatasetPaths, TilePaths

    given, written = DatasetPaths(dataset), TilePaths(out)
    packed, parcels = given.tile(TILE).pixels, read_parcels(given)
    start = time.perf_counter()
    if work == "pack":
        pack_arrays(parcels, given, written, THREADS)
    else:
        shutil.copyfile(packed, written.pixels)
    seconds = time.perf_counter() - start
    size = written.pixels.stat().st_size
    print(json.dumps({"mb_per_second": size / seconds / 1e6}))


if __name__ == "__main__":
    main()
