"""Kill runs at random moments until every stage was hit, and resume them each time."""

import signal
import time
from collections import Counter

import numpy as np
import pandas as pd

from pipeline.command_line import STAGES
from tests.endurance.small_run import (
    RUN,
    TARGETS,
    SmallRun,
    differences,
    has_ended,
    ingested,
    send,
    stages_of,
)

# Signals, and what gets them: everything, as by Ctrl-C and at the end of a session; Snakemake
# alone, as by `kill`; or one job, as by the kernel when memory runs out.
WAYS = (
    (signal.SIGKILL, "all"), (signal.SIGTERM, "Snakemake"), (signal.SIGKILL, "Snakemake"),
    (signal.SIGINT, "all"), (signal.SIGKILL, "job"), (signal.SIGTERM, "all"),
    (signal.SIGINT, "Snakemake"),
)  # fmt: skip
# What ends before its random moment came, or is killed between two jobs.
BETWEEN = "between jobs"
# One kill of so many hits a run that begins from a Pixel-Set dataset.
INGESTED_OF = 8


def kill(folder, kills=40, seed=0, until=float("inf"), show=print, targets=TARGETS):
    """Kill runs again and again, and return what went wrong, one line each.

    Parameters
    ----------
    folder
        Gets undisturbed runs and those that are killed: from imagery, and from the dataset of that.
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
    plain, others = SmallRun(folder / "plain", targets), kills // INGESTED_OF
    plain.finish()
    killing = Killing(np.random.default_rng(seed), kills, until, show)
    killing.kill(plain, SmallRun(folder / "killed", targets), kills - others)
    if others:
        from_dataset = [
            ingested(folder / name, plain, ("all", "season"))
            for name in ("plain_ingested", "ingested")
        ]
        from_dataset[0].finish()
        killing.kill(*from_dataset, kills)
    show(killing.table())
    return killing.faults


class Killing:
    """A series of kills, what they hit and what went wrong.

    Parameters
    ----------
    rng, kills, until, show
        As in `kill`.

    Attributes
    ----------
    hits, ways
        Number of kills by stage, and by signal and receiver.
    faults
        What went wrong, one line each.
    """

    def __init__(self, rng, kills, until, show):
        self._rng, self._kills, self._until, self._show = rng, kills, until, show
        self.hits, self.ways, self.faults, self._n = Counter(), Counter(), [], 0

    def kill(self, plain, run, until_kill):
        """Kill a run until so many kills are done in all; it must equal an undisturbed one."""
        expected, lengths = plain.contents(), _lengths(plain)
        for stage in lengths:
            self.hits.setdefault(stage, 0)
        first, words = self._n, []
        while self._goes_on(until_kill):
            # Stages that were not hit yet come first.
            drawn = sorted(self._rng.permutation(list(lengths)).tolist(), key=self.hits.get)
            self._round(run, set(drawn[: until_kill - self._n]), lengths, words, until_kill)
            self.faults += [f"after kill {self._n}: {text}" for text in _finished(run, expected)]
            # The next round writes everything again, over the files that are there.
            words = ["--forcerun", next(iter(lengths))]
        if self._n - first >= len(lengths):
            self.faults += [f"{stage} was never hit" for stage in lengths if not self.hits[stage]]

    def _goes_on(self, until_kill):
        return self._n < until_kill and time.monotonic() < self._until

    def _round(self, run, chosen, lengths, words, until_kill):
        """Kill a run in each of the chosen stages, in the order in which they come."""
        while chosen and self._goes_on(until_kill):
            number, receiver = WAYS[self._n % len(WAYS)]
            hit, wrong = _kill_in(run, words, chosen, lengths, self._rng, number, receiver)
            if hit is None:
                # The run ended before a chosen stage began: what it would write is there.
                stage = next(stage for stage in lengths if stage in chosen)
                if stage in words:
                    self._show(f"not seen: {stage}")
                    chosen.remove(stage)
                words = ["--forcerun", stage]
                continue
            self._n += 1
            self.hits.update(hit or [BETWEEN])
            self.ways[f"{number.name} to {receiver}"] += 1
            chosen -= hit
            words = []
            name = f"kill {self._n} of {self._kills}: {number.name} to {receiver} in "
            name += ", ".join(sorted(hit)) or BETWEEN
            self._show(name)
            self.faults += [f"{name}: {text}" for text in wrong]

    def table(self):
        """Return the counts as lines of text."""
        lines = [
            f"{name:22}{n:5}" for counts in (self.hits, self.ways) for name, n in counts.items()
        ]
        return "\n".join([f"{'stage, and signal':22} hits", *lines])


def _lengths(run):
    """Return the seconds that the longest job of every stage took, in the order of the stages."""
    lengths = {}
    for file in (run.folder / RUN / "benchmarks").rglob("*.tsv"):
        stage = file.relative_to(run.folder / RUN / "benchmarks").parts[0].removesuffix(".tsv")
        stage = stage.replace("train_season", "train")
        seconds = pd.read_csv(file, sep="\t")["s"].max()
        lengths[stage] = max(lengths.get(stage, 0.0), float(seconds))
    return {stage: lengths[stage] for stage in ("simulate", *STAGES) if stage in lengths}


def _kill_in(run, words, chosen, lengths, rng, number, receiver):
    """Start a run and kill it in a chosen stage; return the stages hit, and what went wrong.

    The stages are None if the run ended before one of them was seen.
    """
    run.unlock()
    started = run.start(*words)
    while not (seen := set(stages_of(started)) & chosen):
        if started.poll() is not None:
            return None, []
        time.sleep(0.02)
    # Later moments are more likely: a job first imports its libraries, and writes at its end.
    stage = min(seen)
    time.sleep(lengths.get(stage, 1.0) * rng.uniform() ** 0.5)
    hit = stages_of(started)
    send(started, number, receiver, hit.get(stage))
    wrong = []
    # Jobs of a Snakemake that was killed alone: the next run begins while they end.
    if not has_ended(started, with_jobs=(number, receiver) != (signal.SIGKILL, "Snakemake")):
        wrong.append("the run or one of its jobs does not end")
    if "Traceback" in run.output:
        wrong.append(f"a traceback is shown:\n{run.output[-3000:]}")
    if receiver == "job" and stage in hit and "ended by SIGKILL" not in run.output:
        wrong.append(f"it is not said that a job was killed:\n{run.output[-3000:]}")
    return set(hit), wrong


def _finished(run, expected):
    """Finish a run; yield what differs, what is left, and what a further run would do."""
    try:
        run.finish()
    except AssertionError as error:
        yield str(error)
        return
    if not all(has_ended(started) for started in run.all_started):
        yield "jobs of a killed run do not end"
    yield from differences(run.contents(), expected)
    yield from (f"{path} is left" for path in run.leftovers())
    _, output = run("-n")
    if "Nothing to be done" not in output:
        yield f"something is left to do:\n{output[-3000:]}"
