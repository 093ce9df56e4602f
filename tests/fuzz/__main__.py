"""Damage inputs of every kind at random, and report how each mutant is read.

    python -m tests.fuzz                         all kinds, 20 mutants each
    python -m tests.fuzz --mutants 100 --seed 7 --only safe,stac
    python -m tests.fuzz --only safe --number 13 one mutant again, with its traceback

Every mutant is refused by a message, or is read. A mutant that is read with another result than the
good input is judged by `inputs.REASONS`. The exit code is 1 if a mutant ends in a traceback, crash
or hang, or has another result without a reason.
"""

import argparse
import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from contextlib import suppress

from tests.builders.paths import ROOT
from tests.fuzz.inputs import KINDS, reason

LONGEST_S = 60  # for one mutant, the first of a process too, which imports the libraries
MOST_GROWN_MB = 1000
BAD = ("traceback", "crash", "hang", "memory", "unjudged")


def fuzz(kinds, numbers, seed, jobs):
    """Read mutants of the kinds in processes that can be killed, and yield their results."""
    cases, results = queue.Queue(), queue.Queue()
    for number in numbers:
        for kind in kinds:
            cases.put((kind, seed, number))
    n_cases = cases.qsize()
    threads = [threading.Thread(target=_work, args=(cases, results)) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for _ in range(n_cases):
        yield results.get()
    for thread in threads:
        thread.join()


def _work(cases, results):
    """Pass cases to a worker process, and start another one if it dies or hangs."""
    with tempfile.TemporaryFile("w+") as errors, suppress(queue.Empty):
        while True:
            command = [sys.executable, "-m", "tests.fuzz.worker"]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
            with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as worker:
                while True:
                    kind, seed, number = cases.get_nowait()
                    line, timed_out = _answer(worker, json.dumps([kind, seed, number]))
                    result = json.loads(line or "{}")
                    if not line:
                        errors.seek(0)
                        detail = f"exit code {worker.wait()}: {errors.read()[-2000:]}"
                        outcome = "hang" if timed_out else "crash"
                        result = {"done": "?", "outcome": outcome, "detail": detail}
                        result |= {"parts": [], "grown_mb": 0}
                    results.put({"kind": kind, "number": number, **judged(kind, result)})
                    if not line:
                        break


def _answer(worker, case):
    """Return the worker's line about a case, empty if it died, and whether it was killed."""
    timer = threading.Timer(LONGEST_S, worker.kill)
    timer.start()
    worker.stdin.write(f"{case}\n")
    worker.stdin.flush()
    line = worker.stdout.readline()
    timed_out = not timer.is_alive()
    timer.cancel()
    return line, timed_out


def judged(kind, result):
    """Return a result whose outcome says whether a silent difference has a reason."""
    if result["grown_mb"] > MOST_GROWN_MB:
        return result | {"outcome": "memory", "detail": f"{result['grown_mb']} MB"}
    if result["outcome"] != "read" or not result["parts"]:
        return result
    unjudged = [part for part in result["parts"] if reason(kind, part) is None]
    return result | {"outcome": "unjudged" if unjudged else "differs"}


def main():
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mutants", type=int, default=20, help="of each kind (default: 20)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help=f"kinds, separated by commas: {', '.join(KINDS)}")
    parser.add_argument("--number", type=int, help="only this mutant of each kind")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    options = parser.parse_args()
    kinds = options.only.split(",") if options.only else list(KINDS)
    numbers = range(options.mutants) if options.number is None else [options.number]
    counts = Counter()
    for result in fuzz(kinds, numbers, options.seed, options.jobs):
        kind, outcome = result["kind"], result["outcome"]
        counts[kind, outcome] += 1
        if outcome in BAD or options.number is not None:
            print(f"{outcome}: {kind} {result['number']}: {result['done']}")
            print(f"    {', '.join(result['parts'])} {result['detail']}", flush=True)
    outcomes = ["refused", "read", "differs", *BAD]
    print(f"{'':18}" + "".join(f"{outcome:>10}" for outcome in outcomes))
    for kind in kinds:
        print(f"{kind:18}" + "".join(f"{counts[kind, outcome]:10}" for outcome in outcomes))
    n_bad = sum(counts[kind, outcome] for kind in kinds for outcome in BAD)
    print(f"{counts.total()} mutants, {n_bad} of them read in a wrong way.")
    sys.exit(n_bad > 0)


if __name__ == "__main__":
    main()
