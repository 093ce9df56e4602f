"""Keep short what Snakemake writes: lists of files, and everything after Ctrl-C.

`python -m pipeline.workflow.messages` is `snakemake`, whose import Ctrl-C ends in one line, too.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

# Snakemake logs through this logger; the lists are attributes of its records.
LOGGER = "snakemake.logging"
# What the logs of jobs begin a warning of a library with.
LIBRARY = "library "
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


def _protected(file: str) -> str:
    return (
        f"\n{file} cannot be written: the disk is read-only, or the permission is missing. Write "
        "results elsewhere: parcelwise run FILE --directory DIR, or snakemake --directory DIR."
    )


def _is_mistake(log: str) -> bool:
    """Return whether a job ended with a message for the user, by its log."""
    path = Path(str(log))
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return re.search("^pipeline", text, re.MULTILINE) is not None and "\nTraceback " not in text


class Shortener(logging.Filter):
    """Shorten lists of files and errors of the user, and drop the messages after Ctrl-C.

    Otherwise each job that ends by Ctrl-C is reported as failed, with its files and its command.
    A job that a user's mistake ended has said so in its log, which Snakemake shows.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_interrupted = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is logged; shorten its lists."""
        for name in LISTS:
            files = getattr(record, name, None)
            if isinstance(files, list) and len(files) > SHOWN:
                setattr(record, name, [*map(str, files[:SHOWN]), f"... ({len(files)} in total)"])
        text = record.getMessage()
        if (error := _INPUT_ERROR.search(text)) is not None:
            record.msg, record.args = f"\n{error[1]}", ()
        if _LOCK_ERROR in text:
            record.msg, record.args = _LOCKED, ()
        if (protected := _PROTECTED.search(f"{text}\n")) is not None:
            record.msg, record.args = _protected(protected[1]), ()
        if any(map(_is_mistake, getattr(record, "log", None) or ())):
            record.input = record.output = []
            record.shellcmd = None
        # The error of the job follows, and names its log.
        return not (self.is_interrupted or text.startswith("RuleException:\nCalledProcessError"))

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
