"""Benchmark: the pixels of parcels out of dated GeoTIFFs and of a whole tile in SAFE."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.extraction_making import geotiff_scene, safe_scene, with_other_parcels
from benchmarks.extraction_scene import Scene
from benchmarks.harness import OUT, Benchmark, Candidate, Threshold, missing_package

OURS = "parcelwise"
INDEXED = "parcelwise, rasterise included"
PROCESSES = "parcelwise, a process a date"
DECODING = "decoding alone"
MASK = "rasterio.mask, parcel by parcel, 1 process"
EXACTEXTRACT = "exactextract, 2 processes, 2 dates stand for all"
RASTERSTATS = "rasterstats, 2 processes, 2 dates stand for all"

# One file per date, as GDAL writes them: pixel-interleaved, tiled, deflated with a predictor.
LAYOUT = "512 px tiles, deflated"


# Medians of the parcels' numbers of pixels.
MEDIANS = (20, 83, 330)

CANDIDATE = [sys.executable, "-m", "benchmarks.extraction_candidates"]


@dataclass(frozen=True)
class _Sizes:
    side: int
    parcels: int
    dates: int
    tile_side: int
    tile_parcels: int


FULL = _Sizes(side=2745, parcels=5000, dates=24, tile_side=10_980, tile_parcels=20_000)
QUICK = _Sizes(side=600, parcels=100, dates=8, tile_side=1200, tile_parcels=300)


def extraction(work: Path, quick: bool) -> list[Benchmark]:
    """Measure extraction beside decoding alone and beside its peers, and how its cost grows."""
    sizes = QUICK if quick else FULL
    scene = geotiff_scene(
        work / "geotiff",
        dates=sizes.dates,
        side=sizes.side,
        parcels=sizes.parcels,
        interleave="pixel",
    )
    few = sizes.dates // 4
    counts = (sizes.parcels // 5, sizes.parcels, 5 * sizes.parcels)
    by_count = {count: _other(scene, work, sizes, count, 83) for count in counts}
    by_median = {median: _other(scene, work, sizes, sizes.parcels, median) for median in MEDIANS}
    return [
        _peers(scene, sizes, few),
        _dates(scene, sizes, few),
        _band_interleaved(work, sizes, few),
        _whole_tile(work, sizes),
        _growth("dates", {dates: (scene, dates, 2) for dates in (few, 2 * few)}),
        _growth("parcels", {n: (other, few, 2) for n, other in by_count.items()}),
        _growth("pixels per parcel (median)", {n: (o, few, 2) for n, o in by_median.items()}),
        _growth("threads", {threads: (scene, few, threads) for threads in (1, 2)}),
    ]


def _peers(scene: Scene, sizes: _Sizes, dates: int) -> Benchmark:
    some = {"dates": 2, "times": dates // 2}
    candidates = [
        _candidate(OURS, "ours", scene, dates=dates),
        _candidate(INDEXED, "indexed", scene, dates=dates),
        _candidate(PROCESSES, "processes", scene, dates=dates),
        _candidate(DECODING, "decode", scene, dates=dates),
        _candidate(MASK, "mask", scene, dates=dates),
        _candidate(EXACTEXTRACT, "exactextract", scene, needs="exactextract", **some),
        _candidate(RASTERSTATS, "rasterstats", scene, needs="rasterstats", **some),
    ]
    thresholds = [
        *_near_decoding(500),
        Threshold("seconds", MASK, over=INDEXED, at_least=10),
        Threshold("seconds", EXACTEXTRACT, over=INDEXED, at_least=1),
        Threshold("seconds", RASTERSTATS, over=INDEXED, at_least=1),
    ]
    equal = (INDEXED, PROCESSES, MASK, RASTERSTATS)
    check = [*CANDIDATE, "check", *(f"{{out:{name}}}" for name in (OURS, *equal))]
    return Benchmark(_name(sizes, dates), candidates, thresholds, check)


def _dates(scene: Scene, sizes: _Sizes, few: int) -> Benchmark:
    """Extract all dates, and few for comparison of the memory."""
    less = f"{OURS}, {few} dates"
    candidates = [
        _candidate(OURS, "ours", scene),
        _candidate(DECODING, "decode", scene),
        _candidate(less, "ours", scene, dates=few),
    ]
    thresholds = [*_near_decoding(500), Threshold("peak_mb", OURS, over=less, at_most=1.1)]
    return Benchmark(_name(sizes, sizes.dates), candidates, thresholds)


def _band_interleaved(work: Path, sizes: _Sizes, dates: int) -> Benchmark:
    scene = geotiff_scene(
        work / "band-interleaved",
        dates=dates,
        side=sizes.side,
        parcels=sizes.parcels,
        interleave="band",
    )
    candidates = [_candidate(OURS, "ours", scene), _candidate(DECODING, "decode", scene)]
    name = f"{_name(sizes, dates)}, band-interleaved"
    return Benchmark(name, candidates, _near_decoding(500))


def _whole_tile(work: Path, sizes: _Sizes) -> Benchmark:
    side = sizes.tile_side
    scene = safe_scene(work / "safe", side=side, parcels=sizes.tile_parcels)
    return Benchmark(
        f"extraction, {sizes.tile_parcels} parcels, a SAFE product of {side} x {side} px: 4 bands "
        "at 10 m, 6 and the classification at 20 m, lossless JP2, 1024 px tiles, 2 threads",
        [_candidate(OURS, "ours", scene), _candidate(DECODING, "decode", scene)],
        _near_decoding(1500),
        check=[*CANDIDATE, "check", f"{{out:{OURS}}}", "--scene", str(scene.folder)],
    )


def _growth(axis: str, sizes: Mapping[int, tuple[Scene, int, int]]) -> Benchmark:
    """Compare sizes on an axis: {size: (scene, dates, threads)}."""
    candidates = [
        _candidate(f"{size} {axis}, {name}", way, scene, dates=dates, threads=threads)
        for size, (scene, dates, threads) in sizes.items()
        for name, way in ((OURS, "ours"), (DECODING, "decode"))
    ]
    return Benchmark(f"extraction, growth with {axis}", candidates)


def _other(scene: Scene, work: Path, sizes: _Sizes, parcels: int, median: int) -> Scene:
    folder = work / f"{parcels}-parcels-of-{median}"
    return with_other_parcels(scene, folder, side=sizes.side, parcels=parcels, median=median)


def _near_decoding(megabytes: float) -> list[Threshold]:
    return [
        Threshold("seconds", OURS, over=DECODING, at_most=1.25),
        Threshold("work_seconds", OURS, over=DECODING, at_most=1.25),
        Threshold("peak_mb", OURS, at_most=megabytes),
    ]


def _name(sizes: _Sizes, dates: int) -> str:
    return (
        f"extraction, {sizes.parcels} parcels, {dates} dates x 10 bands x {sizes.side} x "
        f"{sizes.side} px, a GeoTIFF a date, {LAYOUT}, 2 threads"
    )


def _candidate(
    name: str, way: str, scene: Scene, *, needs: str = "geopandas", **options: int
) -> Candidate:
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    command = [*CANDIDATE, way, str(scene.folder), OUT, *words]
    return Candidate(name, command, missing=missing_package(needs))
