"""The entry of the command `parcelwise`: it imports little, so that Ctrl-C is caught at once."""

import os
import sys


def command() -> None:
    """Run the command of the terminal, and end the process with its exit code."""
    # Stages start their own threads. Libraries that start one thread per core would compete.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        from models.fast_cpu.memory_allocator import keep_freed_memory
        from pipeline.__main__ import main

        # Every stage works in blocks of the same size, so freed memory is needed again at once.
        keep_freed_memory()
        sys.exit(main())
    except KeyboardInterrupt:
        # A job has a log file, and Snakemake says that the run is interrupted.
        if "--log" not in sys.argv:
            sys.stderr.write("parcelwise: interrupted\n")
        sys.exit(130)
