"""The software and the machine that a job runs on: versions, commit, processor."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

# The folder that contains the Snakefile and the packages.
SOURCE = Path(__file__).resolve().parents[2]

# A requirement such as "numpy==2.4.6" begins with the name of the package.
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_GPUS = Path("/proc/driver/nvidia/gpus")


def version() -> str:
    """Return name and version of the installed package, with the commit if it is a git checkout."""
    commit, is_modified = git_state()
    text = f"parcelwise {metadata.version('parcelwise')}"
    return text if commit is None else f"{text} (commit {commit[:7]}{'-dirty' * is_modified})"


def software() -> dict[str, Any]:
    """Return the versions that a result depends on, as JSON values.

    Returns
    -------
    dict
        "parcelwise" (version), "commit" (of the checkout; null if it is none), "modified" (whether
        tracked files differ from that commit), "python", and "packages", {name: version} of the
        direct dependencies, with "gdal" and "cuda" if this process has loaded them.
    """
    commit, is_modified = git_state()
    return {
        "parcelwise": metadata.version("parcelwise"),
        "commit": commit,
        "modified": is_modified,
        "python": platform.python_version(),
        "packages": _packages() | _native_libraries(),
    }


def environment_of(log: Path) -> Path:
    """Return the file of software and machine of a job, beside its log."""
    return log.with_name(f"{log.stem}.json")


def environment() -> dict[str, Any]:
    """Return the software and the machine of this process, as JSON values."""
    return software() | {"machine": machine()}


def machine() -> dict[str, Any]:
    """Return system, processor, number of usable cores, memory and GPUs, as JSON values."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "memory_gb": round(memory / 1e9, 1),
        "gpus": _gpus(),
    }


def git_state() -> tuple[str | None, bool]:
    """Return the commit of the checkout, and whether tracked files differ from it.

    The commit is None if this is not a git checkout, or git is not there.
    """
    git = shutil.which("git")
    if git is None or not (SOURCE / ".git").exists():
        return None, False
    # --always without names: the commit's hash alone.
    describe = [git, "-C", str(SOURCE), "describe", "--always", "--dirty", "--exclude=*"]
    described = [*describe, "--abbrev=40"]
    # Jobs that run beside each other must not wait for the lock of git's index.
    unlocked = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    found = subprocess.run(  # noqa: S603
        described, capture_output=True, text=True, check=False, env=unlocked
    )
    if found.returncode != 0:
        return None, False
    commit, _, dirty = found.stdout.strip().partition("-")
    return commit, bool(dirty)


def _packages() -> dict[str, str]:
    """Return the versions of the direct dependencies that are installed, by name."""
    found = {}
    for requirement in metadata.requires("parcelwise") or []:
        match = _NAME.match(requirement)
        if match is None or ";" in requirement:  # of an optional group
            continue
        try:
            found[match[0]] = metadata.version(match[0])
        except metadata.PackageNotFoundError:
            continue  # a machine that only trains needs no GDAL
    return found


def _native_libraries() -> dict[str, str]:
    """Return the versions of GDAL and CUDA if this process has loaded them."""
    found = {}
    if (rasterio := sys.modules.get("rasterio")) is not None:
        found["gdal"] = rasterio.__gdal_version__
    torch = sys.modules.get("torch")
    if torch is not None and torch.version.cuda is not None:
        found["cuda"] = torch.version.cuda
    return found


def _processor() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(encoding="utf-8"), re.M)
        if found is not None:
            return found[1].strip()
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    """Return the names of the NVIDIA GPUs of the machine, without importing torch."""
    files = sorted(_GPUS.glob("*/information"))
    found = (re.search(r"^Model:\s*(.+)$", f.read_text(encoding="utf-8"), re.M) for f in files)
    return [match[1].strip() for match in found if match is not None]
