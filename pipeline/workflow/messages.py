"""Keep short what Snakemake writes: lists of files, and everything after Ctrl-C.

`python -m pipeline.workflow.messages` is `snakemake`, whose import Ctrl-C ends in one line, too.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

# Snakemake logs through this logger; the lists are attributes of its records.
LOGGER = "snakemake.logging"
# What the logs of jobs begin a warning of a library with.
LIBRARY = "library "
LISTS = ("input", "output")
SHOWN = 5


# How Snakemake reports an error of a function of the Snakefile.
_INPUT_ERROR = re.compile(r"InputFunctionException.*?\bInputError: (.*?)\nWildcards:", re.DOTALL)


# When this process began, and by how many seconds the clock of a node may be behind.
_START = time.time()
_CLOCKS_DIFFER = 60
# How the log of a stage names an error of the user. Its other lines are of `pipeline.stages`, ...
_MISTAKE = re.compile(r"^pipeline\.\w+: ", re.MULTILINE)


def _is_mistake(log: str) -> bool:
    """Return whether a job ended with a message for the user, by its log."""
    path = Path(str(log))
    # A job that did not begin has the log of an earlier run.
    if not path.is_file() or path.stat().st_mtime < _START - _CLOCKS_DIFFER:
        return False
    text = path.read_text(encoding="utf-8", errors="replace")
    return _MISTAKE.search(text) is not None and "\nTraceback " not in text


def _mistake(log: str) -> str:
    """Return the message with which a user's mistake ended a job."""
    return _MISTAKE.split(Path(str(log)).read_text(encoding="utf-8", errors="replace"))[-1].strip()


class Shortener(logging.Filter):
    """Shorten lists of files and errors of the user, and drop the messages after Ctrl-C.

    Otherwise each job that ends by Ctrl-C is reported as failed, with its files and its command.
    A job that a user's mistake ended has said so in its log, which Snakemake shows.

    Parameters
    ----------
    on_mistake
        Called when a mistake of the user ended a job.
    """

    def __init__(self, on_mistake: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.is_interrupted = False
        self._on_mistake = on_mistake

    def filter(self, record: Any) -> bool:
        """Return whether the record is logged; shorten its lists."""
        for name in LISTS:
            files = getattr(record, name, None)
            if isinstance(files, list) and len(files) > SHOWN:
                setattr(record, name, [*map(str, files[:SHOWN]), f"... ({len(files)} in total)"])
        text = record.getMessage()
        if (error := _INPUT_ERROR.search(text)) is not None:
            record.msg, record.args = f"\n{error[1]}", ()
        # Snakemake's own type of these names would slow down the import of this module.
        event = getattr(getattr(record, "event", None), "name", None)
        if event == "GROUP_ERROR":
            self._shorten_group(record)
        elif event == "JOB_ERROR" and record.indent:
            return False  # The error of its group has named it.
        elif logs := list(filter(_is_mistake, getattr(record, "log", None) or ())):
            record.input = record.output = []
            record.shellcmd = None
            record.rule_msg = self._say_mistake(logs[0])
            # Snakemake shows these logs. That of a cluster repeats what the log of the stage says.
            record.log = logs[:1]
        # The error of the job follows, and names its log.
        return not (self.is_interrupted or text.startswith("RuleException:\nCalledProcessError"))

    def _shorten_group(self, record: Any) -> None:
        """Name the jobs of a group that ended with a mistake, or else only the log of the group."""
        failed = [
            info | {"log": logs, "output": []}
            for info in record.job_error_info
            if (logs := list(filter(_is_mistake, info["log"])))
        ]
        record.job_error_info = failed
        if failed:
            record.aux_logs = []
            record.msg, record.args = self._say_mistake(failed[0]["log"][0]), ()

    def _say_mistake(self, log: str) -> str:
        """Return the first line of the message of a job that a mistake ended."""
        text = _mistake(log)
        # More memory may help.
        if "memory" not in text:
            self._on_mistake()
        return text.partition("\n")[0]

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
    _on_ctrl_c(shortener.interrupt)


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
