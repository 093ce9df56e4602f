"""Faults of the machine: each ends in one message, loses nothing, and the next call finishes."""

import os
import shutil
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.builders.runs import copied
from tests.endurance.small_run import RUN, TARGETS, SmallRun, differences, differing, stages_of

MB = 2**20
ADDRESS_SPACE_MB = (300, 500, 700, 900, 1100)
# Stages behind the dataset, in each of which a fault is caused.
LATE = (
    "variogram", "split", "train", "calibrate", "evaluate", "model_card", "evaluate_season",
    "predict", "explain", "sen4cap", "areas", "worklist", "report", "provenance",
)  # fmt: skip
# Those that need the most memory.
LARGE = ("train", "evaluate", "predict", "report")
# What may stand in a message beside the last one: the messages of Snakemake about a failed job.
UNWANTED = (
    *("without a message", "Traceback", "core dumped", "terminate called", "Aborted"),
    "Segmentation fault",
)


def faults(folder, show=print, only=None, targets=TARGETS, until=float("inf")):
    """Cause every fault that this machine allows, and return what went wrong, one line each.

    Parameters
    ----------
    folder
        Gets an undisturbed run, and one for each fault.
    show
        Called with every line of progress.
    only
        Names of the faults to cause; None for all.
    targets
        What is asked for.
    until
        Time of `time.monotonic` after which no more faults are caused.
    """
    expected = SmallRun(folder / "plain", targets)
    expected.finish()
    found = []
    for cause in CAUSES:
        name = cause.__name__.replace("_", " ")
        if only and name not in only:
            continue
        begun = time.monotonic()
        if begun > until:
            found.append(f"no time was left for {name}")
            continue
        run = SmallRun(folder / cause.__name__, targets)
        try:
            wrong = list(cause(run, expected))
        except Impossible as reason:
            show(f"{name}: not tried, {reason}")
            continue
        show(f"{name}: {time.monotonic() - begun:.0f} s, {len(wrong)} wrong")
        for text in wrong:
            show(f"  {text}")
        found += [f"{name}: {text}" for text in wrong]
        shutil.rmtree(run.folder, ignore_errors=True)
    return found


class Impossible(Exception):  # noqa: N818
    """The machine does not allow to cause a fault, such as mounting without being root."""


def full_disk(run, expected):
    """Write into a file system that grows a little after each failure."""
    with _mounted(run.folder / "results", 1):
        for megabytes in range(2, 60, 5):
            code, output = run()
            if code == 0:
                break
            yield from judged(output, "space")
            _command("mount", "-o", f"remount,size={megabytes}m", str(run.folder / "results"))
        else:
            yield f"the run does not finish:\n{output}"
        yield from equal(run, expected)


def disk_fills_in_each_late_stage(run, expected):
    """Fill the disk while a stage is at work."""
    _refuse_without(expected, LATE)
    filler = run.folder / "results" / "filler"

    def fill(_):
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(MB)):
                pass

    with _mounted(run.folder / "results", 100):
        copied(expected.folder, run.folder)
        for stage in LATE:
            code, output = _caused_in(run, stage, fill)
            yield from refused(code, output, "Free space", f"{stage}: ")
            filler.unlink()
            yield from unbroken(run, expected, stage)
        run.finish()
        yield from equal(run, expected)


def file_size_limit(run, expected):
    """Limit the size of a file, which some disks and quotas do."""
    run.finish(targets=("raw/register.gpkg",))
    run.wrapper = ["prlimit", f"--fsize={20_000}"]
    code, output = run()
    yield from refused(code, output, "too large")
    run.wrapper = []
    run.finish()
    yield from equal(run, expected)


def read_only(run, expected):
    """Turn the file system of a finished run read-only, and ask for stages again."""
    with _mounted(run.folder / "results", 100):
        copied(expected.folder, run.folder)
        before = run.contents()
        _command("mount", "-o", "remount,ro", str(run.folder / "results"))
        for stage in ("label", *(stage for stage in LARGE if stage in _stages(expected))):
            code, output = run("--forcerun", stage)
            yield from refused(code, output, "cannot be written", f"{stage}: ")
            yield from unchanged(run, before)
        _command("mount", "-o", "remount,rw", str(run.folder / "results"))
        run.finish()
        yield from equal(run, expected)


def permission_taken_away(run, expected):
    """Take away the permission to write into folders of the run."""
    _without_rights_of_root(run)
    copied(expected.folder, run.folder)
    before = run.contents()
    for place in (RUN / "logs", RUN):
        path = run.folder / place
        path.chmod(0o555)
        code, output = run("--forcerun", "label")
        yield from refused(code, output, "cannot be written")
        yield from unchanged(run, before)
        path.chmod(0o755)
    run.finish()
    yield from equal(run, expected)


def permission_taken_away_in_each_late_stage(run, expected):
    """Take away the permission to write into any folder of the run while a stage is at work."""
    _refuse_without(expected, LATE)
    _without_rights_of_root(run)
    copied(expected.folder, run.folder)

    def folders():
        return [run.folder / RUN, *(p for p in (run.folder / RUN).rglob("*") if p.is_dir())]

    def take(_):
        for folder in folders():
            with suppress(FileNotFoundError):  # the stage has just removed it
                folder.chmod(0o555)

    for stage in LATE:
        code, output = _caused_in(run, stage, take)
        for folder in folders():
            folder.chmod(0o755)
        yield from refused(code, output, "Permission denied", f"{stage}: ")
        yield from unbroken(run, expected, stage)
    run.finish()
    yield from equal(run, expected)


def little_memory(run, expected):
    """Limit the address space of all processes."""
    for limit in ADDRESS_SPACE_MB:
        run.wrapper = ["prlimit", f"--as={limit * MB}"]
        code, output = run()
        if code:
            yield from judged(output, "memory", f"{limit} MB: ")
    run.wrapper = []
    run.finish()
    yield from equal(run, expected)


def little_memory_in_large_stages(run, expected):
    """Limit the address space of one job after another."""
    _refuse_without(expected, LARGE)
    copied(expected.folder, run.folder)
    for stage in LARGE:
        failed = 0
        for megabytes in ADDRESS_SPACE_MB:
            limit = f"--as={megabytes * MB}"
            code, output = _caused_in(
                run, stage, lambda job, limit=limit: _command("prlimit", f"--pid={job}", limit)
            )
            if code == 0:
                break
            failed += 1
            yield from judged(output, "memory", f"{stage} with {megabytes} MB: ")
            yield from unbroken(run, expected, stage)
        if not failed:
            yield f"{stage} needs less than {ADDRESS_SPACE_MB[0]} MB"
    run.finish()
    yield from equal(run, expected)


def two_runs_in_one_folder(run, expected):
    """Start a second run while the first one is at work."""
    first = run.start()
    while not (run.folder / RUN / "logs").is_dir() and first.poll() is None:
        time.sleep(0.05)
    second = SmallRun(run.folder, run.targets)
    second.printed = run.folder / "second.txt"
    code, output = second()
    yield from refused(code, output, "Another run is at work")
    if first.wait() != 0:
        yield f"the first run ends with {first.returncode}:\n{run.output}"
    yield from equal(run, expected)


def two_runs_in_two_folders(run, expected):
    """Run twice at the same time."""
    other = SmallRun(run.folder / "other", run.targets)
    started = [run.start(), other.start()]
    for one, process in zip((run, other), started, strict=True):
        if process.wait() != 0:
            yield f"a run ends with {process.returncode}:\n{one.output}"
        yield from equal(one, expected)


CAUSES = (
    full_disk, disk_fills_in_each_late_stage, file_size_limit, read_only, permission_taken_away,
    permission_taken_away_in_each_late_stage, little_memory, little_memory_in_large_stages,
    two_runs_in_one_folder, two_runs_in_two_folders,
)  # fmt: skip


def _stages(run):
    """Return the stages that a finished run has."""
    return {path.name.split(".")[0] for path in (run.folder / RUN / "benchmarks").iterdir()}


def _refuse_without(run, stages):
    if missing := set(stages) - _stages(run):
        raise Impossible(f"the run has no {', '.join(sorted(missing))}")


def _without_rights_of_root(run):
    """Let permissions apply to a run, which they do not if root calls it."""
    if os.getuid() == 0:
        run.wrapper = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


def _caused_in(run, stage, cause):
    """Run a stage again, and call `cause` with its process once it is at work; return the end."""
    started = run.start("--forcerun", stage)
    while started.poll() is None:
        if (job := stages_of(started).get(stage)) is not None:
            with suppress(subprocess.CalledProcessError):  # it has ended
                cause(job)
            break
        time.sleep(0.01)
    return started.wait(), run.output


def refused(code, output, words, prefix=""):
    """Judge the end of a run that should have failed."""
    if code == 0:
        yield f"{prefix}the run succeeds, but should say {words!r}"
    else:
        yield from judged(output, words, prefix)


def judged(output, words, prefix=""):
    """Judge what a failed run printed."""
    if words not in output:
        yield f"{prefix}{words!r} is not said:\n{output[-2500:]}"
    for unwanted in UNWANTED:
        if unwanted in output:
            yield f"{prefix}{unwanted!r} is shown:\n{output[-2500:]}"


def unchanged(run, before):
    """Judge whether a failed run lost or changed something."""
    for path in differing(run.contents(), before):
        yield f"{path} was lost or changed"


def unbroken(run, expected, stage):
    """Judge whether a failed run left a part of a file, or a temporary one."""
    whole = expected.contents()
    for path, content in run.contents().items():
        if content != whole.get(path):
            yield f"{stage}: a part of {path} is left"
    for path in run.leftovers():
        yield f"{stage}: {path} is left"


def equal(run, expected):
    """Judge a finished run."""
    yield from differences(run.contents(), expected.contents())
    for path in run.leftovers():
        yield f"{path} is left"


@contextmanager
def _mounted(folder: Path, megabytes):
    """Mount a file system of this size at a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _command("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder))
    except (OSError, subprocess.CalledProcessError):
        raise Impossible("file systems cannot be mounted") from None
    try:
        yield
    finally:
        _command("umount", "--lazy", str(folder))


def _command(*words):
    subprocess.run(words, check=True, capture_output=True)
