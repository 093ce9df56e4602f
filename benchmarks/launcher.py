"""Run a command and write its time and memory to a file: `launcher.py FILE WORD ...`.

It ends with the exit code of the command, or with 1 if a signal ended it.

It is a small process, because the kernel counts the memory of the process that starts another
into the peak of the one started.
"""

import json
import os
import subprocess
import sys
import threading
import time

SECONDS_BETWEEN_LOOKS = 0.02


def main(file: str, command: list[str]) -> int:
    """Run the command to its end, whatever that is, and return its exit code."""
    start = time.perf_counter()
    process = subprocess.Popen(command)
    anonymous = [0.0]
    watch = threading.Thread(target=_watch, args=(process.pid, anonymous))
    watch.start()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    watch.join()
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    figures = {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss * unit / 1e6,
        "peak_anonymous_mb": anonymous[0],
    }
    with open(file, "w") as written:  # noqa: PTH123 (pathlib would make this process larger)
        json.dump({"returncode": process.returncode, "figures": figures}, written)
    return process.returncode if process.returncode >= 0 else 1


def _watch(pid: int, anonymous: list[float]) -> None:
    """Note the largest anonymous memory of a process until it ends."""
    while True:
        try:
            with open(f"/proc/{pid}/status") as status:  # noqa: PTH123
                found = [line for line in status if line.startswith("RssAnon")]
        except OSError:
            return
        if not found:  # it has ended, or this is no Linux
            return
        anonymous[0] = max(anonymous[0], int(found[0].split()[1]) * 1024 / 1e6)
        time.sleep(SECONDS_BETWEEN_LOOKS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
