"""The log of a command: to the terminal and, with every detail, to the file of a job."""

from __future__ import annotations

import logging
import os
from pathlib import Path

PACKAGES = ("geo", "models", "pipeline", "demo")
# What a warning of a library begins with in the log of a job.
LIBRARY = "library "


def _is_own(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] in PACKAGES


_LINE = "%(name)s: %(message)s"


class _Format(logging.Formatter):
    """Write the origin of a message before it, and mark those of libraries."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        text = super().format(record)
        return text if _is_own(record) else f"{LIBRARY}{text.rstrip()}"


class _Libraries(logging.Filter):
    """Let each warning of a library pass once: many blocks of an image repeat the same.

    Parameters
    ----------
    is_shown
        False: no warning of a library passes. A job's are in its log, and the summary of the run
        groups those of all jobs.
    """

    def __init__(self, *, is_shown: bool = True) -> None:
        super().__init__()
        self._is_shown = is_shown
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is logged."""
        if _is_own(record):
            return True
        text = record.getMessage()
        is_new = text not in self._seen
        self._seen.add(text)
        return is_new and self._is_shown


def start_logging(log: Path | None) -> None:
    """Log to the terminal and, with every detail, to a file."""
    terminal = logging.StreamHandler()
    terminal.setLevel(logging.INFO)
    terminal.addFilter(_Libraries(is_shown=log is None))
    handlers: list[logging.Handler] = [terminal]
    # Several processes train together under torchrun: only the first one logs.
    first = os.environ.get("RANK", "0") == "0"
    if not first:
        terminal.setLevel(logging.WARNING)
    if log is not None:
        # A job with a log file runs beside others, and their progress bars would mix.
        os.environ.setdefault("TQDM_DISABLE", "1")
        if first:
            handlers.append(log_to(log))
    logging.basicConfig(level=logging.WARNING, handlers=handlers)
    terminal.setFormatter(_Format(_LINE))
    log_all()


def log_to(log: Path) -> logging.Handler:
    """Return a handler that writes the log file of a job."""
    log.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(log, mode="w")
    handler.addFilter(_Libraries())
    handler.setFormatter(_Format(_LINE))
    return handler


def log_all() -> None:
    """Let our packages log everything, and libraries log their warnings."""
    logging.captureWarnings(True)
    # A log that cannot be written, as on a full disk, must not hide why.
    logging.raiseExceptions = False
    for package in PACKAGES:
        logging.getLogger(package).setLevel(logging.DEBUG)
