"""Kill a run at random moments until every stage was hit, and resume it each time."""

import signal
import time
from collections import Counter

import numpy as np
import pandas as pd

from pipeline.__main__ import STAGES
from tests.endurance.small_run import RUN, TARGETS, SmallRun, differing, end, stages_of

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT)
# What ends before its random moment came, or is killed between two jobs.
BETWEEN = "between jobs"


def kill(folder, kills=40, seed=0, until=float("inf"), show=print, targets=TARGETS):
    """Kill a run again and again, and return what went wrong, one line each.

    Parameters
    ----------
    folder
        Gets an undisturbed run and one that is killed.
    kills
        Number of kills. A round of them goes from the first stage to the last one, and hits each
        stage that was not hit yet, or as many of them, drawn at random, as kills are left.
    seed
        Draws stages and moments.
    until
        Time of `time.monotonic` after which no more run is killed.
    show
        Called with every line of progress.
    targets
        What is asked for. Every stage on the way to it can be hit.
    """
    rng = np.random.default_rng(seed)
    plain = SmallRun(folder / "plain", targets)
    plain.finish()
    expected, lengths = plain.contents(), _lengths(plain)
    run, faults, n = SmallRun(folder / "killed", targets), [], 0
    counts = Counter(dict.fromkeys(lengths, 0))
    words: list[str] = []
    while n < kills and time.monotonic() < until:
        # Stages that were not hit yet come first.
        chosen = set(sorted(rng.permutation(list(lengths)).tolist(), key=counts.get)[: kills - n])
        while chosen and n < kills and time.monotonic() < until:
            number = SIGNALS[n % len(SIGNALS)]
            hit, has_ended = _kill_in(run, words, chosen, lengths, rng, number)
            if hit is None:
                break  # the run ended before a chosen stage was seen
            n += 1
            counts.update(hit or [BETWEEN])
            chosen -= hit
            name = f"kill {n} of {kills}: {number.name} in {', '.join(sorted(hit)) or BETWEEN}"
            if not has_ended:
                faults.append(f"{name}: the run or one of its jobs does not end")
            if "Traceback" in run.output:
                faults.append(f"{name}: a traceback is shown:\n{run.output[-3000:]}")
            show(name)
            words = []
        if chosen and n < kills:
            show(f"not seen in this round: {', '.join(sorted(chosen))}")
        run.finish()
        faults += [
            f"after kill {n}: {path} differs" for path in differing(run.contents(), expected)
        ]
        faults += [f"after kill {n}: {path} is left" for path in run.leftovers()]
        # The next round writes everything again, over the files that are there.
        words = ["--forcerun", "simulate", "index"]
    show(table(counts))
    if n >= len(lengths):
        faults += [f"{stage} was never hit" for stage in lengths if not counts[stage]]
    return faults


def _lengths(run):
    """Return the seconds that the longest job of every stage took, in the order of the stages."""
    lengths = {}
    for file in (run.folder / RUN / "benchmarks").rglob("*.tsv"):
        stage = file.relative_to(run.folder / RUN / "benchmarks").parts[0].removesuffix(".tsv")
        stage = stage.replace("train_season", "train")
        seconds = pd.read_csv(file, sep="\t")["s"].max()
        lengths[stage] = max(lengths.get(stage, 0.0), float(seconds))
    return {stage: lengths[stage] for stage in ("simulate", *STAGES) if stage in lengths}


def _kill_in(run, words, chosen, lengths, rng, number):
    """Start a run and kill it in a chosen stage; return the stages hit, and whether it ended.

    The stages are None if the run ended before one of them was seen.
    """
    if any((run.folder / ".snakemake" / "locks").glob("*")):
        run("--unlock")
    started = run.start(*words)
    while not (seen := stages_of(started) & chosen):
        if started.poll() is not None:
            return None, True
        time.sleep(0.02)
    # Later moments are more likely: a job first imports its libraries, and writes at its end.
    stage = min(seen)
    time.sleep(lengths.get(stage, 1.0) * rng.uniform() ** 0.5)
    hit = stages_of(started)
    return hit, end(started, number)


def table(counts):
    """Return the counts as lines of text."""
    lines = [f"{stage:18}{hits:5}" for stage, hits in counts.items()]
    return "\n".join([f"{'stage':18} hits", *lines])
