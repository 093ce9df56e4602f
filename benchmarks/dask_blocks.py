"""Benchmark: extraction and filling on threads, and on a Dask cluster of two processes.

It is also the command of the candidates, which prints what the work itself takes, without the start
of Python, imports and the start of the cluster:

    python -m benchmarks.dask_blocks extract|assemble WORKERS FOLDER OUT
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from benchmarks.assembling import N_DATES, TILE, make_extracted
from benchmarks.extraction_making import geotiff_scene, safe_scene
from benchmarks.extraction_scene import Scene
from benchmarks.harness import OUT, Benchmark, Candidate, Threshold

CLUSTER = "cluster"
N_PROCESSES = 2
THREADS = {"1": "1 thread", "2": "2 threads"}
DECODING = [sys.executable, "-m", "benchmarks.extraction_candidates", "decode"]
CHECK = [sys.executable, "-m", "benchmarks.extraction_candidates", "check"]


def dask_blocks(work: Path, quick: bool) -> list[Benchmark]:
    """Measure the same stages on one thread, on two, and on two processes of a cluster."""
    side, tile_side, parcels, dates = (600, 1200, 100, 2) if quick else (2745, 5490, 5000, 6)
    geotiff = geotiff_scene(
        work / "geotiff", dates=dates, side=side, parcels=parcels, interleave="pixel"
    )
    safe = safe_scene(work / "safe", side=tile_side, parcels=parcels)
    run = make_extracted(work / "assemble", parcels, N_DATES)
    return [
        _extraction(geotiff, f"{dates} GeoTIFFs of 10 bands x {side} x {side} px", parcels, 1.25),
        _extraction(safe, f"a SAFE product of {tile_side} x {tile_side} px", parcels, 1.1),
        _benchmark(
            f"assemble with filling of clouds, {parcels} parcels, {N_DATES} dates x 10 bands",
            _candidates("assemble", run.root),
        ),
    ]


def _extraction(scene: Scene, of: str, parcels: int, at_most: float) -> Benchmark:
    """Compare extraction with decoding alone, by time and by processor time."""
    ours = _candidates("extract", scene.folder)
    decoding = [
        Candidate(f"decoding alone, {name}", [*DECODING, str(scene.folder), OUT, "--threads", n])
        for n, name in THREADS.items()
    ]
    thresholds = [
        Threshold(figure, candidate.name, over=alone.name, at_most=at_most)
        for candidate, alone in zip(ours, decoding, strict=False)  # not on the cluster
        for figure in ("cpu_seconds", "work_seconds")
    ]
    return _benchmark(f"extraction, {parcels} parcels, {of}", [*ours, *decoding], thresholds)


def _benchmark(
    name: str, candidates: list[Candidate], thresholds: list[Threshold] | None = None
) -> Benchmark:
    """Compare candidates, whose arrays must be equal."""
    check = [*CHECK, *(f"{{out:{candidate.name}}}" for candidate in candidates)]
    return Benchmark(name, candidates, thresholds or [], check)


def _candidates(work: str, folder: Path) -> list[Candidate]:
    names = THREADS | {CLUSTER: f"{N_PROCESSES} processes of a cluster"}
    command = [sys.executable, "-m", "benchmarks.dask_blocks", work]
    return [
        Candidate(name, [*command, workers, str(folder), OUT]) for workers, name in names.items()
    ]


def extract(folder: Path, out: Path, threads: int, scheduler: str) -> Callable[[], None]:
    """Return a function that runs stage extract on one acquisition after the other."""
    from pipeline.stages.extract import extract
    from pipeline.workflow.config import read, view

    scene = Scene(folder)
    settings = view(read(scene.settings), "extract")

    def work() -> None:
        for product in scene.products:
            extract(
                scene.item(product), scene.pixel_index, out / f"{product.stem}.npy",
                out / f"{product.stem}_valid.npy", settings, threads, scheduler=scheduler,
            )  # fmt: skip

    return work


def assemble(folder: Path, out: Path, threads: int, scheduler: str) -> Callable[[], None]:
    """Return a function that runs stage assemble with interpolation of clouds."""
    from pipeline.stages.assemble import assemble
    from pipeline.workflow.config import load, view
    from pipeline.workflow.paths import RunPaths

    run = RunPaths(folder)
    values = yaml.safe_load(run.config.read_text()) | {"clouds": {"fill": "linear"}}
    settings = view(load(values), "assemble")
    return lambda: assemble(
        run.acquisitions, run.extractions, run.pixel_index(TILE), out, settings, threads,
        scheduler=scheduler,
    )  # fmt: skip


WORKS: dict[str, Callable[[Path, Path, int, str], Callable[[], None]]] = {
    work.__name__: work for work in (extract, assemble)
}


@contextmanager
def workers(of: str) -> Iterator[tuple[int, str, Callable[[], float]]]:
    """Yield number of threads, address of the scheduler, and the CPU seconds of all processes."""
    if of != CLUSTER:
        yield int(of), "threads", time.process_time
        return
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            N_PROCESSES, threads_per_worker=1, host="127.0.0.1", dashboard_address=""
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        for work in WORKS:
            client.run(importlib.import_module, f"pipeline.stages.{work}")
        yield (
            N_PROCESSES,
            cluster.scheduler_address,
            lambda: time.process_time() + sum(client.run(time.process_time).values()),
        )


def main() -> None:
    """Run one of the candidates and print its figures."""
    from models.fast_cpu.memory_allocator import keep_freed_memory

    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=WORKS)
    parser.add_argument("workers", help=f"number of threads, or {CLUSTER}")
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    keep_freed_memory()  # as the command does before any stage
    for module in (f"pipeline.stages.{options.work}", "dask.threaded"):
        importlib.import_module(module)
    with workers(options.workers) as (threads, scheduler, cpu_seconds):
        work = WORKS[options.work](options.folder, options.out, threads, scheduler)
        start, start_cpu = time.perf_counter(), cpu_seconds()
        work()
        figures = {"work_seconds": time.perf_counter() - start}
        figures["cpu_seconds"] = cpu_seconds() - start_cpu
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
