"""On what it was measured."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path

from benchmarks.measuring import ROOT

PACKAGES = (
    *("torch", "numpy", "rasterio", "geopandas", "pyogrio", "exactextract", "rasterstats"),
    "snakemake",
)


def describe_machine() -> dict[str, str]:
    """Say what the machine and the software are, as a table shows them."""
    return {
        "processor": _processor(),
        "cores": str(_cores()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "gpu": _gpu(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: version for name in PACKAGES if (version := _version(name))},
        "gdal": _gdal(),
        "commit": _commit(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpu() -> str:
    if shutil.which("nvidia-smi") is None:
        return "none"
    names = _printed("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines()
    return ", ".join(names) or "none"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gdal() -> str:
    try:
        import rasterio
    except ImportError:
        return "none"
    return str(rasterio.__gdal_version__)


def _commit() -> str:
    commit = _printed("git", "rev-parse", "--short=12", "HEAD")
    changed = _printed("git", "status", "--porcelain", "--untracked-files=no")
    return f"{commit or 'unknown'}{' and changes' if changed else ''}"


def _printed(*command: str) -> str:
    """Give what a command prints; nothing where it fails or is not there."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
