"""Memory that the jobs of a run request on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

MB = 1_000_000

# {stage: (MB of a small run, further MB for each MB of the files that the rule names)}. They are
# the largest memory without pages of files, raised by half at least. Measured with 1,000 and
# 100,000 or a million parcels of six dates and four bands (`python -m benchmarks.scale`). A job
# that is killed nevertheless requests more (--retries).
NEEDS: Mapping[str, tuple[int, int]] = {
    "simulate": (2000, 0),
    "inputs": (500, 0),
    "index": (1000, 0),
    # Register.
    "clean": (600, 15),
    # Parcels of the tile.
    "rasterise": (500, 100),
    # Pixel index of the tile: 8 bytes a pixel.
    "extract": (500, 12),
    "assemble": (1000, 0),
    # Rows of the register.
    "label": (600, 45),
    "names": (500, 0),
    "export": (1000, 0),
    # Parcels of all tiles.
    "features": (600, 30),
    "ingest": (2000, 0),
    "normalise": (1000, 0),
    # Labels of the dataset, about 18 bytes a parcel. A large batch of train needs more.
    "variogram": (1000, 60),
    "split": (600, 40),
    "train": (4000, 50),
    "calibrate": (2000, 80),
    "evaluate": (2000, 100),
    "evaluate_season": (2000, 100),
    "model_card": (500, 0),
    "mlflow": (1000, 0),
    "predict": (2000, 130),
    "explain": (2000, 80),
    "areas": (600, 80),
    "worklist": (1000, 100),
    "sen4cap": (1000, 130),
    "report": (1500, 400),
    "provenance": (1000, 0),
}


def memory(
    stage: str, *files: Path | Callable[[Any], Path], more_mb: int = 0
) -> Callable[[Any, int], int]:
    """Return the resource mem_mb of a rule, as Snakemake evaluates it before it submits a job.

    Parameters
    ----------
    stage
        Name of the rule.
    files
        Files and folders by whose size the memory grows, or functions of the wildcards. Those that
        do not exist count as empty: Snakemake asks again when the inputs of the job exist.
    more_mb
        What a setting allows the stage to use in addition.
    """
    fixed, growth = NEEDS[stage]

    def mem_mb(wildcards: Any, attempt: int) -> int:
        paths = (file(wildcards) if callable(file) else file for file in files)
        return attempt * (fixed + more_mb + growth * _size(paths) // MB)

    return mem_mb


def _size(paths: Iterable[Path]) -> int:
    """Return the bytes of files, and of all files below folders."""
    return sum(
        file.stat().st_size
        for path in paths
        for file in (path.rglob("*") if path.is_dir() else [path])
        if file.is_file()
    )
