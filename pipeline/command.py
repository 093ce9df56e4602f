"""The entry of the command `parcelwise`: it imports little, so that Ctrl-C is caught at once."""

import os
import signal
import sys
from contextlib import suppress

# Environment variable: the process of Snakemake, which the Snakefile sets and jobs inherit.
WORKFLOW = "PARCELWISE_WORKFLOW"
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def command() -> None:
    """Run the command of the terminal, and end the process with its exit code."""
    # Stages start their own threads. Libraries that start one thread per core would compete.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        from models.fast_cpu.memory_allocator import keep_freed_memory
        from pipeline.__main__ import main

        # Every stage works in blocks of the same size, so freed memory is needed again at once.
        keep_freed_memory()
        allow_open_files()
        sys.exit(main())
    except KeyboardInterrupt:
        # A job has a log file, and Snakemake says that the run is interrupted.
        if "--log" not in sys.argv:
            sys.stderr.write("parcelwise: interrupted\n")
        sys.exit(130)


def allow_open_files() -> None:
    """Raise the limit of open files to what this user may have.

    Stage assemble maps two files of every acquisition of a tile; many systems allow 1,024 at first.
    """
    with suppress(ImportError, OSError, ValueError):  # another system, or it refuses
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def end_with_workflow() -> None:
    """Let the kernel end this job when the Snakemake that started it is killed.

    Otherwise the job would go on beside the next run, and write results of the earlier settings
    over those of the new ones. It does nothing on other systems than Linux.
    """
    workflow = os.environ.get(WORKFLOW)
    if workflow is None or sys.platform != "linux":
        return
    import ctypes

    if os.getppid() == int(workflow):
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM, 0, 0, 0)
    # It may have been killed before. Another parent may be a shell that it started.
    with suppress(PermissionError):
        try:
            os.kill(int(workflow), 0)
        except ProcessLookupError:
            sys.exit(128 + signal.SIGTERM)
