"""Benchmark: few parcels on a whole tile in SAFE, whose JPEG 2000 blocks are decoded in parts."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.extraction_making import safe_scene, with_other_parcels
from benchmarks.extraction_scene import Scene
from benchmarks.harness import OUT, Benchmark, Candidate, Threshold

PARTS = "parcelwise"
WHOLE = "parcelwise, whole blocks"
DECODING = "decoding alone"
CANDIDATE = [sys.executable, "-m", "benchmarks.extraction_candidates"]


@dataclass(frozen=True)
class _Sizes:
    side: int
    parcels: int
    sweep: tuple[int, ...]


# A 10 m block of the whole tile contains 1 to 33 of the parcels, a 20 m block 3 to 110.
FULL = _Sizes(side=10_980, parcels=500, sweep=(125, 250, 1000, 2000, 4000))
QUICK = _Sizes(side=1200, parcels=5, sweep=(20,))


def extraction_sparse(work: Path, quick: bool) -> list[Benchmark]:
    """Measure the processor time of extraction beside that of decoding, for more and more parcels.

    On one thread, because the time of the processor is compared.
    """
    sizes = QUICK if quick else FULL
    first = safe_scene(work / "safe", side=sizes.side, parcels=sizes.parcels)
    scenes = {sizes.parcels: first}
    for n in sizes.sweep:
        folder = work / f"{n}-parcels"
        scenes[n] = with_other_parcels(first, folder, side=sizes.side, parcels=n, median=83)
    return [_benchmark(n, scene, sizes) for n, scene in sorted(scenes.items())]


def _benchmark(parcels: int, scene: Scene, sizes: _Sizes) -> Benchmark:
    ways = {PARTS: "ours", WHOLE: "whole", DECODING: "decode"}
    candidates = [
        Candidate(name, [*CANDIDATE, way, str(scene.folder), OUT, "--threads", "1"])
        for name, way in ways.items()
    ]
    thresholds = [Threshold("cpu_seconds", PARTS, over=WHOLE, at_most=1.05)]
    if parcels == sizes.parcels:
        thresholds.append(Threshold("cpu_seconds", PARTS, over=DECODING, at_most=0.3))
    return Benchmark(
        f"extraction, {parcels} parcels spread over a SAFE product of {sizes.side} x {sizes.side} "
        "px: 4 bands at 10 m, 6 and the classification at 20 m, lossless JP2, 1024 px tiles",
        candidates,
        thresholds,
        check=[*CANDIDATE, "check", f"{{out:{PARTS}}}", f"{{out:{WHOLE}}}"],
    )
