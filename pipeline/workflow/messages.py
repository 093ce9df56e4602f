"""Keep short what Snakemake writes: lists of files, and everything after Ctrl-C.

`python -m pipeline.workflow.messages` is `snakemake`, whose import Ctrl-C ends in one line, too.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from models.memory import is_out_of_memory

# Snakemake logs through this logger; the lists are attributes of its records.
LOGGER = "snakemake.logging"
LISTS = ("input", "output")
SHOWN = 5


# How Snakemake reports a lock, and an error of a function of the Snakefile.
_LOCK_ERROR = "Directory cannot be locked"
_LOCKED = (
    "\nAnother run is at work on the same files. Wait for its end, or write results elsewhere "
    "(--directory DIR). If there is none, a killed run left its lock: remove it by `parcelwise run "
    "FILE -- --unlock`, and repeat the command."
)
_PROTECTED = re.compile(
    r"Write-protected output files for rule .*?affected files:\s+(.*?)\n", re.DOTALL
)
_INPUT_ERROR = re.compile(r"InputFunctionException.*?\bInputError: (.*?)\nWildcards:", re.DOTALL)


# How it reports that the command of a job failed, before it reports the job.
_COMMAND_FAILED = re.compile(
    r"RuleException:\nCalledProcessError.*(?:non-zero exit status (\d+)|died with <\S+ (\d+)>)",
    re.DOTALL,
)
# How it reports that it could not run the command, or what the rule does after it.
_RULE_FAILED = re.compile(r"RuleException:\n(\w+) in file [^\n]*:\n([^\n]*)")
# The last line of a traceback of an error of the system, such as a missing permission.
_SYSTEM_ERROR = re.compile(r"^\w+: \[Errno \d+\] .*$")
# A line of a job's log that begins a message of ours, and one that names a mistake of the user.
_MESSAGE = re.compile(r"^(?:pipeline|geo|models|demo)[\w.]*: (.*)", re.MULTILINE)
_MISTAKE = re.compile(r"^pipeline\.\w+: ", re.MULTILINE)
_TRACEBACK = "\nTraceback "
# Why a job failed whose log says nothing, as a log on a full disk does.
_SILENT = "without a message"
_FULL = "the disk is full. Free space, and repeat the command: it continues with what is missing"
_FULL_BYTES = 1_000_000
_ENDED_BY_SIGNAL = 128
# When this process began, and by how many seconds the clock of a node may be behind.
_START = time.time()
_CLOCKS_DIFFER = 60
# How long a command may take to end.
_END_S = 10


def _read_log(logs: Sequence[str]) -> str:
    """Return what a job said; "" if it did not begin: then its log is of an earlier run."""
    path = Path(logs[0]) if logs else None
    if path is None or not path.is_file() or path.stat().st_mtime < _START - _CLOCKS_DIFFER:
        return ""
    return path.read_text(encoding="utf-8", errors="replace")


def _reason(text: str, status: int | None, of_cluster: str = "") -> str:
    """Return in one line why a job failed.

    Parameters
    ----------
    text
        Its log.
    status
        Exit status of its command; None if that ran on a cluster, or did not run.
    of_cluster
        What the executor of a cluster says, such as why it could not submit the job.
    """
    if status is not None and status > _ENDED_BY_SIGNAL:
        number = status - _ENDED_BY_SIGNAL
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        memory = ", as the system does if memory runs out" if number == signal.SIGKILL else ""
        return f"ended by {name}{memory}"
    if _TRACEBACK in text:
        return f"a bug, {text.rstrip().splitlines()[-1]}"
    messages = _MESSAGE.findall(text)
    if messages:
        return str(messages[-1])
    return of_cluster.strip().partition("\n")[0] or _SILENT


def _reason_of_workflow(kind: str, text: str) -> str:
    """Return why Snakemake could not run a command: the type of its error, and its text."""
    is_memory = kind == "MemoryError" or is_out_of_memory(RuntimeError(text))
    memory = ". There is not enough memory: raise the limit, or run fewer jobs at a time (--cores)"
    return f"the workflow could not run it: {text or kind}{memory * is_memory}"


def _end_command(log: str) -> None:
    """End the command of a job, found by its log, which Snakemake started but could not watch.

    Snakemake removes the outputs of the failed job next; the command would write them afterwards.
    """
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if log in " ".join(process.cmdline()):
                process.terminate()
                process.wait(_END_S)


def _reason_of_snakemake(text: str) -> str | None:
    """Return in one line why Snakemake itself ends with a traceback; None if it is a bug."""
    last = text.rstrip().splitlines()[-1].strip().rstrip(".")
    if is_out_of_memory(RuntimeError(last)):
        why = f"There is not enough memory for Snakemake itself: {last}. Raise the limit, and"
    elif _SYSTEM_ERROR.match(last):
        why = f"Snakemake itself cannot go on: {last}. Mend what this names, and"
    else:
        return None
    return f"\n{why} repeat the command: it continues with what is missing."


def _reason_of_disk(folder: Path) -> str:
    """Return why the log of a job says nothing: what is wrong with the folder of the logs."""
    if folder.is_dir() and shutil.disk_usage(folder).free < _FULL_BYTES:
        return _FULL
    if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
        return f"{folder} cannot be written: the disk is read-only, or the permission is missing"
    return _SILENT


def _protected(file: str) -> str:
    return (
        f"\n{file} cannot be written: the disk is read-only, or the permission is missing. Write "
        "results elsewhere: parcelwise run FILE --directory DIR, or snakemake --directory DIR."
    )


class Shortener(logging.Filter):
    """Report a failed job in one line, shorten lists of files, and drop messages after Ctrl-C.

    Snakemake would show all inputs of the job, thousands for some rules, and its command, and so
    for each job that ends by Ctrl-C. What a job said is in its log.

    Parameters
    ----------
    on_mistake
        Called when a mistake of the user ended a job, which more memory would not mend.
    """

    def __init__(self, on_mistake: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.is_interrupted = False
        self._on_mistake = on_mistake
        # Of the job that failed last in a thread: the exit status of its command, or why the
        # workflow could not run it.
        self._failed = threading.local()

    def filter(self, record: Any) -> bool:
        """Return whether the record is logged; shorten its lists."""
        text = record.getMessage()
        if (error := _INPUT_ERROR.search(text)) is not None:
            record.msg, record.args = f"\n{error[1]}", ()
        if _LOCK_ERROR in text:
            record.msg, record.args = _LOCKED, ()
        if (protected := _PROTECTED.search(f"{text}\n")) is not None:
            record.msg, record.args = _protected(protected[1]), ()
        if (failed := _COMMAND_FAILED.match(text)) is not None:
            self._failed.status = int(failed[1] or _ENDED_BY_SIGNAL + int(failed[2]))
            return False  # the error of the job follows
        if (failed := _RULE_FAILED.match(text)) is not None:
            self._failed.by_workflow = _reason_of_workflow(failed[1], failed[2])
            return False
        if "Traceback " in text and (why := _reason_of_snakemake(text)) is not None:
            record.msg, record.args = why, ()
        # Snakemake's own type of these names would slow down the import of this module.
        event = getattr(getattr(record, "event", None), "name", None)
        if event == "JOB_ERROR" and getattr(record, "indent", False):
            return False  # the error of its group has named it
        if event == "JOB_ERROR":
            logs = list(map(str, getattr(record, "log", None) or ()))
            failure = self._failure(record.rule_name, logs, getattr(record, "rule_msg", None) or "")
            record.msg, record.args, record.event = failure, (), None
        if event == "GROUP_ERROR":
            record.msg, record.args, record.event = self._group_failure(record), (), None
        for name in LISTS:
            files = getattr(record, name, None)
            if isinstance(files, list) and len(files) > SHOWN:
                setattr(record, name, [*map(str, files[:SHOWN]), f"... ({len(files)} in total)"])
        return not self.is_interrupted

    def _failure(self, rule: str, logs: Sequence[str], of_cluster: str = "") -> str:
        """Return what failed and why, and where the log is, in one line."""
        said = vars(self._failed).copy()
        vars(self._failed).clear()
        text = _read_log(logs)
        reason = said.get("by_workflow") or _reason(text, said.get("status"), of_cluster)
        if "by_workflow" in said and logs:
            _end_command(logs[0])
        if reason == _SILENT and logs:
            reason = _reason_of_disk(Path(logs[0]).parent)
        if _MISTAKE.search(text) and _TRACEBACK not in text:
            logs = logs[:1]  # that of a cluster says the same
            if "memory" not in text:
                self._on_mistake()
        stem = Path(logs[0]).stem if logs else rule
        job = rule if stem == rule else f"{rule} {stem}"
        where = f" Log: {', '.join(logs)}" if logs else ""
        return f"Failed: {job}: {reason.rstrip('.:')}.{where}"

    def _group_failure(self, record: Any) -> str:
        """Return a line for every job of a group that said why it failed, or one for the group."""
        lines = []
        for info in record.job_error_info:
            logs = list(map(str, info["log"]))
            text = _read_log(logs)
            if _MISTAKE.search(text) or _TRACEBACK in text:
                lines.append(self._failure(info["rule_name"], logs))
        logs = list(map(str, record.aux_logs))
        where = f" Log: {', '.join(logs)}" if logs else ""
        n = len(record.job_error_info)
        reason = _reason("", None, record.getMessage())
        return "\n".join(lines) or f"Failed: a group of {n} jobs: {reason.rstrip('.:')}.{where}"

    def interrupt(self, number: int, _: FrameType | None) -> None:
        """Handle Ctrl-C: say it in one line, and let Snakemake end its jobs.

        Snakemake handles SystemExit as KeyboardInterrupt, but shows no traceback if there are no
        jobs yet.
        """
        if not self.is_interrupted:
            self.is_interrupted = True
            sys.stderr.write("\nInterrupted: the jobs end. The same command continues the run.\n")
        raise SystemExit(128 + number)


def _end(number: int, _: FrameType | None) -> None:
    """Handle Ctrl-C before Snakemake does anything."""
    sys.stderr.write("\nInterrupted.\n")
    sys.stderr.flush()
    os._exit(128 + number)


def keep_messages_short(on_mistake: Callable[[], None] = lambda: None) -> None:
    """Shorten what Snakemake writes from now on; call `on_mistake` when a mistake ended a job."""
    shortener = Shortener(on_mistake)
    logging.getLogger(LOGGER).addFilter(shortener)
    threading.excepthook = _end_of_thread
    _on_ctrl_c(shortener.interrupt)


def _end_of_thread(end: threading.ExceptHookArgs) -> None:
    """Say in one line that a thread of Snakemake, such as that of a benchmark, has no memory."""
    if end.exc_value is None or not is_out_of_memory(end.exc_value):
        threading.__excepthook__(end)
        return
    sys.stderr.write(f"A thread of Snakemake ends for lack of memory: {end.exc_value}.\n")


def end_on_sigterm(scheduler: Any) -> None:
    """Let SIGTERM end the run once its jobs have ended, also while jobs are being chosen.

    Snakemake's own handler takes a lock of the scheduler (tried with 9.27). If the thread that it
    interrupts has that lock, both wait for each other. Another thread can wait for it.

    Parameters
    ----------
    scheduler
        Snakemake's, with the method `exit_gracefully`.
    """

    def end(_: int, __: FrameType | None) -> None:
        threading.Thread(target=scheduler.exit_gracefully).start()

    signal.signal(signal.SIGTERM, end)


def _on_ctrl_c(handler: Callable[[int, FrameType | None], None]) -> None:
    """Replace the handler of Ctrl-C; a shell starts background jobs with Ctrl-C ignored."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)


def run_snakemake() -> None:
    """Run Snakemake with the arguments of this process."""
    _on_ctrl_c(_end)
    from snakemake.cli import main

    if ("--executor", "dask") in pairwise(sys.argv):
        from pipeline.workflow.dask_executor import register

        register()
    sys.argv[0] = "snakemake"  # the name in its messages
    main(sys.argv[1:])


if __name__ == "__main__":
    run_snakemake()
