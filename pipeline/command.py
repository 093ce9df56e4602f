"""The entry of the command `parcelwise`: it imports little, so that Ctrl-C is caught at once."""

import os
import sys
from contextlib import suppress


def command() -> None:
    """Run the command of the terminal, and end the process with its exit code."""
    # Stages start their own threads. Libraries that start one thread per core would compete.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        from models.fast_cpu.memory_allocator import keep_freed_memory
        from pipeline.command_line import main

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
