"""Long tests of whole runs on a small SIMULATED scene, bounded in time.

    python -m tests.endurance kill --kills 40      kill a run at random moments, in every stage
    python -m tests.endurance faults               full disk, permissions, memory, two runs at once
    python -m tests.endurance soak --increments 20 add acquisitions one by one, remove, replace

Every result must equal that of an undisturbed run; the exit code is 1 if one does not. What is
compared, and how, says `comparable` in tests/builders/runs.py.
"""

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from tests.endurance.faults import faults
from tests.endurance.kill import kill
from tests.endurance.soak import soak


def main():
    """Run a command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["kill", "faults", "soak"])
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--increments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--minutes", type=float, default=60, help="nothing new is begun after them")
    parser.add_argument("--only", help="faults, separated by commas")
    parser.add_argument("--folder", type=Path, help="keep the runs in this empty folder")
    options = parser.parse_args()
    begun, show = time.monotonic(), partial(print, flush=True)
    until = begun + 60 * options.minutes
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if options.folder is None else options.folder
        if options.command == "kill":
            found = kill(folder, options.kills, options.seed, until, show)
        elif options.command == "soak":
            found = soak(folder, options.increments, until, show)
        else:
            only = options.only and options.only.split(",")
            found = faults(folder, show, only, until=until)
    for text in found if options.command != "faults" else ():
        show(f"WRONG: {text}")
    show(f"{len(found)} wrong, after {(time.monotonic() - begun) / 60:.0f} minutes")
    sys.exit(len(found) > 0)


if __name__ == "__main__":
    main()
