"""A small run of the whole workflow on a SIMULATED scene, as the commands kill and soak use it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import yaml

from tests.builders.paths import ROOT
from tests.builders.runs import comparable

RUN = Path("results") / "small"
# What `all` leaves out is asked for, too.
TARGETS = ("all", "season", "sen4cap")
SCENE = {"size_m": 1280, "acquisitions": 3, "parcels": 60, "seed": 3}
SETTINGS = {
    "run": "small",
    "simulate": SCENE,
    "imagery": {"path": "raw/imagery", "max_cloud_fraction": 1.0},
    "parcels": {
        "path": "raw/register.gpkg",
        "labels": {"crop": "CODE_CULTU"},
        "names": str(ROOT / "configs" / "nomenclatures" / "simulated.csv"),
        "classes": {"min_parcels": 4},
    },
    "split": {"folds": 2},
    "train": {"epochs": 2, "batch_size": 16, "pixels": 8, "members": 1},
}
ENDED_S = 60  # within which a killed run and its jobs must have ended


class SmallRun:
    """The run in a folder: started, watched, killed and compared.

    Parameters
    ----------
    folder
        Gets settings.yaml and results/.
    targets
        What is asked for.
    changes
        Sections of the settings that differ from SETTINGS.

    Attributes
    ----------
    wrapper
        Words before the command, such as `prlimit --as=1000000000`.
    printed
        File of what the last run printed.
    all_started
        The processes of all runs.
    """

    def __init__(self, folder, targets=TARGETS, **changes):
        self.folder, self.targets, self.wrapper = Path(folder), targets, []
        self.folder.mkdir(parents=True, exist_ok=True)
        self.temporary = self.folder / "tmp"
        self.temporary.mkdir(exist_ok=True)
        self.printed = self.folder / "output.txt"
        self.all_started = []
        self.write(**changes)

    @property
    def output(self):
        """What the last run printed."""
        return self.printed.read_text(errors="replace")

    def write(self, **changes):
        """Write the settings, some of them changed; None removes a section."""
        sections = {
            name: {**SETTINGS.get(name, {}), **values} if isinstance(values, dict) else values
            for name, values in {**SETTINGS, **changes}.items()
        }
        text = yaml.safe_dump({name: v for name, v in sections.items() if v is not None})
        (self.folder / "settings.yaml").write_text(text)

    def start(self, *words, targets=None):
        """Start the run, with options of Snakemake, in a process group of its own."""
        command = [
            *(*self.wrapper, sys.executable, "-m", "pipeline", "run", "settings.yaml"),
            *(*(targets or self.targets), "--cores", "2", "--", *words),
        ]
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(self.temporary),
        }
        with self.printed.open("w") as printed:
            started = subprocess.Popen(
                command, cwd=self.folder, env=environment, start_new_session=True,
                stdout=printed, stderr=subprocess.STDOUT,
                # As on a terminal: a shell starts background jobs with Ctrl-C ignored.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )  # fmt: skip
        self.all_started.append(started)
        return started

    def __call__(self, *words, **options):
        """Run to the end; return the exit code and what was printed."""
        code = self.start(*words, **options).wait()
        return code, self.output

    def unlock(self):
        """Remove the lock of a killed run."""
        if any((self.folder / ".snakemake" / "locks").glob("*")):
            self("--unlock")

    def finish(self, *words, **options):
        """Run to the end, which must succeed; remove the lock of a killed run before."""
        self.unlock()
        code, output = self(*words, **options)
        if code:
            raise AssertionError(f"the run does not finish: exit code {code}\n{output}")
        return output

    def contents(self):
        """Return all artefacts as they are compared: {path: bytes}."""
        return comparable(self.folder / RUN)

    def leftovers(self):
        """Return what a finished run should not have left: temporary files."""
        parts = (self.folder / "results").rglob(".*.part*")
        # Torch makes a folder once, for a compiler that is not used on a CPU. Snakemake's own empty
        # folder stays if it is killed, and so does what its solver reads and writes.
        known = re.compile(r"torchinductor.*|snakemake.*|[0-9a-f]+-pulp\.\w+")
        others = (path for path in self.temporary.iterdir() if not known.fullmatch(path.name))
        return sorted(map(str, [*parts, *others]))


def ingested(folder, run, targets):
    """Return a run in a folder that begins from the dataset of another run."""
    source = {"path": str(run.folder / RUN / "dataset"), "classes": {"min_parcels": 4}}
    return SmallRun(folder, targets, dataset=source, simulate=None, imagery=None, parcels=None)


def stages_of(run):
    """Return the stages that are running below a process, by the words of their commands.

    Returns
    -------
    dict
        {stage: a process of it}
    """
    return {stage: pid for pid in _below(run.pid) if (stage := _stage(pid)) is not None}


def open_files(run):
    """Return the largest number of files that a process at or below one has open."""
    counts = [0]
    for pid in [run.pid, *_below(run.pid)]:
        with suppress(OSError):
            counts.append(sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()))
    return max(counts)


def _below(pid):
    """Yield the processes that a process and its descendants started, in any of their threads."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, children.read_text().split()):
                yield child
                yield from _below(child)


def _stage(pid):
    with suppress(OSError, IndexError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        if Path(words[1]).name == "parcelwise":
            return words[2]
        if words[1:4] == ["-P", "-m", "demo"]:
            return "simulate"
    return None


def send(run, number, receiver="all", job=None):
    """Send a signal to a run: to "all", to "Snakemake" alone, or to a "job", if there is one."""
    with suppress(ProcessLookupError):
        if receiver == "Snakemake":
            os.kill(run.pid, number)
        elif receiver == "job" and job is not None:
            os.kill(job, number)
        else:
            os.killpg(run.pid, number)


def has_ended(run, *, with_jobs=True):
    """Wait for the end of a run and its jobs; return whether they end. If not, kill them."""
    until = time.monotonic() + ENDED_S
    while time.monotonic() < until:
        code = run.poll()
        try:
            os.killpg(run.pid, 0)
        except ProcessLookupError:
            return True
        if code is not None and not with_jobs:
            return True
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    return False


def differing(found, expected):
    """Return the paths that are in one only, or differ."""
    return sorted(str(p) for p in {*found, *expected} if found.get(p) != expected.get(p))


def differences(found, expected):
    """Yield a line for every path that is in one only, or differs; for JSON, what differs."""
    for path in map(Path, differing(found, expected)):
        if path not in found or path not in expected:
            yield f"{path} is {'missing' if path in expected else 'more than expected'}"
        elif path.suffix == ".json":
            own, others = (_flat(json.loads(values[path])) for values in (found, expected))
            keys = [key for key in {**own, **others} if own.get(key) != others.get(key)]
            shown = [f"{key}: {own.get(key)}, not {others.get(key)}" for key in keys[:5]]
            yield f"{path} differs: {'; '.join(shown)}"
        else:
            yield f"{path} differs"


def _flat(value, key=""):
    """Return the values of JSON by the path to them."""
    if not isinstance(value, dict | list):
        return {key: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {
        path: inner for name, one in items for path, inner in _flat(one, f"{key}/{name}").items()
    }
