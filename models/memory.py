"""How much memory this process may still use. Needs nothing but the standard library."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

MB = 1_000_000

# Errors of torch, GEOS and other libraries that run out of memory; Python raises MemoryError.
_OUT_OF_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|out of memory|std::bad_alloc"
    r"|can't start new thread|failed to launch worker thread|unable to allocate"
    r"|failed to map segment",
    re.IGNORECASE,
)


# What OpenBLAS takes for a matrix product or decomposition, once in a process (seen: 33.6 MB).
_BUFFER = 34 * MB


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that there is not enough memory."""
    if isinstance(error, MemoryError):
        return True
    # The text of a ValueError is that of an input.
    return not isinstance(error, ValueError) and _OUT_OF_MEMORY.search(str(error)) is not None


def room(system: Path = Path("/")) -> dict[str, int]:
    """Return the bytes that this process may still use, by the words for each limit that is set.

    "address space" limits what is reserved, the others what is used. Elsewhere than on Linux, no
    limit is known.

    Parameters
    ----------
    system
        Root of the file system with the folders proc and sys.
    """
    try:
        status = _kilobytes(system / "proc" / "self" / "status")
        found = dict(_limits_of_the_shell(status))
        found |= dict(_limits_of_the_group(system))
        found["available memory"] = _kilobytes(system / "proc" / "meminfo")["MemAvailable"]
    except (OSError, KeyError, ValueError):
        return {}
    return found


def claim_linear_algebra() -> None:
    """Let numpy and scipy, if imported, take the memory for linear algebra now, before other needs.

    If its memory is refused, OpenBLAS ends the process, or asks again for ever (`blas_memory_alloc`
    of an earlier version): a stage that had reached a limit of the shell would hang at its first
    matrix product. Without such a limit, this does nothing.

    Raises
    ------
    MemoryError
        If a limit leaves less.
    """
    if sys.platform != "linux":
        return
    for name in ("numpy.linalg", "scipy.linalg"):
        library = sys.modules.get(name)
        if library is None:
            continue
        limits = dict(_limits_of_the_shell(_kilobytes(Path("/proc/self/status"))))
        if not limits:
            return
        if min(limits.values()) < _BUFFER:
            raise MemoryError(f"linear algebra needs {_BUFFER // MB} MB")
        library.cholesky([[1.0]])


def _limits_of_the_shell(status: dict[str, int]) -> Iterator[tuple[str, int]]:
    import resource

    for limit, used, words in (
        (resource.RLIMIT_AS, "VmSize", "address space (ulimit -v)"),
        (resource.RLIMIT_DATA, "VmData", "address space for data (ulimit -d)"),
    ):
        most, _ = resource.getrlimit(limit)
        if most != resource.RLIM_INFINITY:
            yield words, max(most - status[used], 0)


def _limits_of_the_group(system: Path) -> Iterator[tuple[str, int]]:
    """Yield the limit of the control group (version 2), as containers and Slurm set it."""
    lines = (system / "proc" / "self" / "cgroup").read_text().splitlines()
    own = next((line[4:] for line in lines if line.startswith("0::/")), None)
    if own is None:
        return
    top = system / "sys" / "fs" / "cgroup"
    rooms = []
    for group in (top / own, *(top / own).parents):
        if group == top.parent:
            break
        text = (group / "memory.max").read_text().strip() if (group / "memory.max").exists() else ""
        if text.isdigit():
            # The kernel gives file pages back before it kills a process.
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            used = int((group / "memory.current").read_text()) - int(stat.get("inactive_file", 0))
            rooms.append(max(int(text) - used, 0))
    if rooms:
        yield "memory of the control group (memory.max)", min(rooms)


def _kilobytes(path: Path) -> dict[str, int]:
    """Return the bytes of the lines `name: number kB` of a file."""
    found = re.findall(r"^(\w+):\s+(\d+) kB$", path.read_text(), re.MULTILINE)
    return {name: 1024 * int(number) for name, number in found}
