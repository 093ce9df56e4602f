"""Keep short what Snakemake writes: lists of files, and everything after Ctrl-C.

`python -m pipeline.workflow.messages` is `snakemake`, whose import Ctrl-C ends in one line, too.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

# Snakemake logs through this logger; the lists are attributes of its records.
LOGGER = "snakemake.logging"
# What the logs of jobs begin a warning of a library with.
LIBRARY = "library "
LISTS = ("input", "output")
SHOWN = 5


# How Snakemake reports an error of a function of the Snakefile.
_INPUT_ERROR = re.compile(r"InputFunctionException.*?\bInputError: (.*?)\nWildcards:", re.DOTALL)


# How it reports that the command of a job failed, before it reports the job.
_COMMAND_FAILED = re.compile(
    r"RuleException:\nCalledProcessError.*(?:non-zero exit status (\d+)|died with <\S+ (\d+)>)",
    re.DOTALL,
)
# A line of a job's log that begins a message of ours.
_MESSAGE = re.compile(r"^(?:pipeline|geo|models|demo)[\w.]*: (.*)", re.MULTILINE)
_ENDED_BY_SIGNAL = 128


def _reason(log: Path | None, status: int | None) -> str:
    """Return in one line why a job failed, by its log and the exit status of its command."""
    text = ""
    if log is not None and log.is_file():
        text = log.read_text(encoding="utf-8", errors="replace")
    if status is not None and status > _ENDED_BY_SIGNAL:
        number = status - _ENDED_BY_SIGNAL
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        memory = ", as the system does if memory runs out" if number == signal.SIGKILL else ""
        return f"ended by {name}{memory}"
    if "\nTraceback " in text:
        return f"a bug, {text.rstrip().splitlines()[-1]}"
    messages = _MESSAGE.findall(text)
    return messages[-1] if messages else "without a message"


class Shortener(logging.Filter):
    """Report a failed job in one line, shorten lists of files, and drop messages after Ctrl-C.

    Snakemake would show all inputs of the job, thousands for some rules, and its command, and so
    for each job that ends by Ctrl-C. What a job said is in its log.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_interrupted = False
        # Exit status of the command that failed last in a thread.
        self._failed = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is logged; shorten its lists."""
        text = record.getMessage()
        if (error := _INPUT_ERROR.search(text)) is not None:
            record.msg, record.args = f"\n{error[1]}", ()
        if (failed := _COMMAND_FAILED.match(text)) is not None:
            self._failed.status = int(failed[1] or _ENDED_BY_SIGNAL + int(failed[2]))
            return False  # the error of the job follows
        event = getattr(getattr(record, "event", None), "name", None)
        if event == "GROUP_ERROR":
            return False  # an error of each of its jobs follows, also of those that succeeded
        if event == "JOB_ERROR":
            made = getattr(record, "output", None) or ()
            if getattr(record, "indent", False) and all(map(os.path.exists, map(str, made))):
                return False
            record.msg, record.args, record.event = self._failure(record), (), None
        for name in LISTS:
            files = getattr(record, name, None)
            if isinstance(files, list) and len(files) > SHOWN:
                setattr(record, name, [*map(str, files[:SHOWN]), f"... ({len(files)} in total)"])
        return not self.is_interrupted

    def _failure(self, record: logging.LogRecord) -> str:
        """Return what failed and why, and where the log is, in one line."""
        logs = [str(log) for log in getattr(record, "log", None) or ()]
        rule, status = getattr(record, "rule_name", ""), getattr(self._failed, "status", None)
        self._failed.status = None
        stem = Path(logs[0]).stem if logs else rule
        job = rule if stem == rule else f"{rule} {stem}"
        where = f" Log: {', '.join(logs)}" if logs else ""
        reason = _reason(Path(logs[0]) if logs else None, status)
        return f"Failed: {job}: {reason.rstrip('.:')}.{where}"

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


def keep_messages_short() -> None:
    """Shorten what Snakemake writes from now on."""
    shortener = Shortener()
    logging.getLogger(LOGGER).addFilter(shortener)
    _on_ctrl_c(shortener.interrupt)


def _on_ctrl_c(handler: Callable[[int, FrameType | None], None]) -> None:
    """Replace the handler of Ctrl-C; a shell starts background jobs with Ctrl-C ignored."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)


def run_snakemake() -> None:
    """Run Snakemake with the arguments of this process."""
    _on_ctrl_c(_end)
    from snakemake.cli import main  # type: ignore[import-untyped]

    sys.argv[0] = "snakemake"  # the name in its messages
    main(sys.argv[1:])


if __name__ == "__main__":
    run_snakemake()
