"""Benchmark: the pixels of parcels out of dated GeoTIFFs and of a whole tile in SAFE."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contest import OUT, Contest, Contestant, Goal, missing_package
from benchmarks.extraction_making import geotiff_scene, safe_scene, with_other_parcels
from benchmarks.extraction_scene import Scene

OURS = "parcelwise"
INDEXED = "parcelwise, rasterise included"
PROCESSES = "parcelwise, a process a date"
DECODING = "decoding alone"
MASK = "rasterio.mask, parcel by parcel, 1 process"
EXACTEXTRACT = "exactextract, 2 processes, 2 dates stand for all"
RASTERSTATS = "rasterstats, 2 processes, 2 dates stand for all"

# One file a date, as GDAL writes them: pixel-interleaved, in tiles, deflated with a predictor.
LAYOUT = "512 px tiles, deflated"


# Of the pixels of a parcel, where they grow.
MEDIANS = (20, 83, 330)


@dataclass(frozen=True)
class _Sizes:
    side: int
    parcels: int
    dates: int
    tile_side: int
    tile_parcels: int


FULL = _Sizes(side=2745, parcels=5000, dates=24, tile_side=10_980, tile_parcels=20_000)
QUICK = _Sizes(side=600, parcels=100, dates=8, tile_side=1200, tile_parcels=300)


def contests(work: Path, quick: bool) -> list[Contest]:
    """Race extraction against its floor and its peers, and see how its cost grows."""
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
        *(_growth("dates", dates, scene, dates) for dates in (few, 2 * few)),
        *(_growth("parcels", count, other, few) for count, other in by_count.items()),
        *(_growth("pixels a parcel (median)", n, other, few) for n, other in by_median.items()),
        *(_growth("threads", threads, scene, few, threads) for threads in (1, 2)),
    ]


def _peers(scene: Scene, sizes: _Sizes, dates: int) -> Contest:
    some = {"dates": 2, "times": dates // 2}
    contestants = [
        _contestant(OURS, "ours", scene, dates=dates),
        _contestant(INDEXED, "indexed", scene, dates=dates),
        _contestant(PROCESSES, "processes", scene, dates=dates),
        _contestant(DECODING, "decode", scene, dates=dates),
        _contestant(MASK, "mask", scene, dates=dates),
        _contestant(EXACTEXTRACT, "exactextract", scene, needs="exactextract", **some),
        _contestant(RASTERSTATS, "rasterstats", scene, needs="rasterstats", **some),
    ]
    goals = [
        *_near_decoding(500),
        Goal("seconds", MASK, over=INDEXED, at_least=10),
        Goal("seconds", EXACTEXTRACT, over=INDEXED, at_least=1),
        Goal("seconds", RASTERSTATS, over=INDEXED, at_least=1),
    ]
    equal = (INDEXED, PROCESSES, MASK, RASTERSTATS)
    check = [*_module("check"), f"{{out:{OURS}}}", *(f"{{out:{name}}}" for name in equal)]
    return Contest(_name(sizes, dates), contestants, goals, check)


def _dates(scene: Scene, sizes: _Sizes, few: int) -> Contest:
    """Take all dates; the memory of the few stands beside."""
    less = f"{OURS}, {few} dates"
    contestants = [
        _contestant(OURS, "ours", scene),
        _contestant(DECODING, "decode", scene),
        _contestant(less, "ours", scene, dates=few),
    ]
    goals = [*_near_decoding(500), Goal("peak_mb", OURS, over=less, at_most=1.1)]
    curve = ("dates, in extraction", float(sizes.dates))
    return Contest(_name(sizes, sizes.dates), contestants, goals, curve=curve)


def _band_interleaved(work: Path, sizes: _Sizes, dates: int) -> Contest:
    scene = geotiff_scene(
        work / "band-interleaved",
        dates=dates,
        side=sizes.side,
        parcels=sizes.parcels,
        interleave="band",
    )
    contestants = [_contestant(OURS, "ours", scene), _contestant(DECODING, "decode", scene)]
    name = f"{_name(sizes, dates)}, band-interleaved"
    return Contest(name, contestants, _near_decoding(500))


def _whole_tile(work: Path, sizes: _Sizes) -> Contest:
    side = sizes.tile_side
    scene = safe_scene(work / "safe", side=side, parcels=sizes.tile_parcels)
    return Contest(
        f"extraction, {sizes.tile_parcels} parcels, a SAFE product of {side} x {side} px: 4 bands "
        "at 10 m, 6 and the classification at 20 m, lossless JP2, 1024 px tiles, 2 threads",
        [_contestant(OURS, "ours", scene), _contestant(DECODING, "decode", scene)],
        _near_decoding(1500),
        check=[*_module("check"), "--scene", str(scene.folder), f"{{out:{OURS}}}"],
    )


def _growth(axis: str, x: float, scene: Scene, dates: int, threads: int = 2) -> Contest:
    contestants = [
        _contestant(name, way, scene, dates=dates, threads=threads)
        for name, way in ((OURS, "ours"), (DECODING, "decode"))
    ]
    name = f"extraction, {dates} dates, {axis}: {x:g}"
    return Contest(name, contestants, curve=(f"{axis}, in extraction", float(x)))


def _other(scene: Scene, work: Path, sizes: _Sizes, parcels: int, median: int) -> Scene:
    folder = work / f"{parcels}-parcels-of-{median}"
    return with_other_parcels(scene, folder, side=sizes.side, parcels=parcels, median=median)


def _near_decoding(megabytes: float) -> list[Goal]:
    return [
        Goal("seconds", OURS, over=DECODING, at_most=1.25),
        Goal("work_seconds", OURS, over=DECODING, at_most=1.25),
        Goal("peak_mb", OURS, at_most=megabytes),
    ]


def _name(sizes: _Sizes, dates: int) -> str:
    return (
        f"extraction, {sizes.parcels} parcels, {dates} dates x 10 bands x {sizes.side} x "
        f"{sizes.side} px, a GeoTIFF a date, {LAYOUT}, 2 threads"
    )


def _contestant(
    name: str, way: str, scene: Scene, *, needs: str = "geopandas", **options: int
) -> Contestant:
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    command = [*_module("contestants"), way, str(scene.folder), OUT, *words]
    return Contestant(name, command, missing=missing_package(needs))


def _module(name: str) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.extraction_{name}"]
