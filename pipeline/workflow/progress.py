"""Progress of long work: on the terminal, in the log, and for TensorBoard."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from threading import Lock

from tqdm import tqdm

Metrics = Mapping[str, float]

# What is said of an epoch, with and without a validation part
VALIDATED = "loss {train_loss:.3f}, validation accuracy {val_accuracy:.1f} %, mIoU {val_IoU:.3f}"
TRAINED = "loss {train_loss:.3f}, accuracy on the training part {train_accuracy:.1f} %"

logger = logging.getLogger(__name__)


def show_progress(fold: int, member: int, epochs: int) -> Callable[[Metrics], None]:
    """Return a function that shows the metrics of each epoch in a bar and in the log.

    The log gets a line for every twentieth of the epochs, with the remaining time. tqdm draws the
    bar only on a terminal, and not if TQDM_DISABLE is set.
    """
    # In a notebook, its import warns that a package for other bars is missing.
    from tqdm.contrib.logging import logging_redirect_tqdm

    bar = tqdm(desc=f"fold {fold}, model {member}", total=epochs, unit="epoch", disable=None)
    every = max(1, epochs // 20)
    start = time.monotonic()
    done = 0

    def show(metrics: Metrics) -> None:
        nonlocal done
        done += 1
        epoch = int(metrics["epoch"])
        # A training that continues after a kill has done fewer epochs in this process.
        bar.initial = epoch - done
        bar.n = epoch
        measured = VALIDATED if "val_accuracy" in metrics else TRAINED
        scores = measured.format(**metrics)
        bar.set_postfix_str(scores)
        if epoch == epochs:
            bar.close()
        if epoch % every == 0 or epoch in (1, epochs):
            left = (time.monotonic() - start) / done * (epochs - epoch)
            with nullcontext() if bar.disable else logging_redirect_tqdm():
                logger.info(
                    "fold %d, model %d, epoch %3d of %d: %s, %.0f min %02.0f s left",
                    *(fold, member, epoch, epochs, scores, left // 60, left % 60),
                )

    return show


def each_of(logs: Sequence[Callable[[Metrics], None]]) -> Callable[[Metrics], None]:
    """Return a function that passes the metrics to every log."""

    def log(metrics: Metrics) -> None:
        for one in logs:
            one(metrics)

    return log


class TensorBoardLog:
    """Write the metrics of every epoch to a folder that TensorBoard reads.

    Parameters
    ----------
    folder
        Epoch 1 empties it, so that it does not mix the points of two trainings.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, metrics: Metrics) -> None:
        """Write the metrics of one epoch."""
        # Imported here because it is slow, and most trainings do not write for TensorBoard.
        from torch.utils.tensorboard import SummaryWriter

        epoch = int(metrics["epoch"])
        if epoch == 1:
            shutil.rmtree(self._folder, ignore_errors=True)
        with SummaryWriter(self._folder, purge_step=epoch) as writer:
            for name, value in metrics.items():
                if name != "epoch":
                    part, _, metric = name.partition("_")
                    writer.add_scalar(f"{metric}/{part}", value, epoch)


class ProgressLog:
    """Log the progress of a long piece of work, its rate and the remaining time.

    Parameters
    ----------
    done
        The verb of the line: "packed", "predicted".
    total, unit
        Number and name of the things to do.
    every_s
        Seconds between two lines. The last thing always gets a line.
    log
        Logger of the lines.
    """

    def __init__(
        self,
        done: str,
        total: int,
        unit: str,
        every_s: float = 15,
        log: logging.Logger = logger,
    ) -> None:
        self._log, self._lock = log, Lock()
        self._words, self._total, self._unit = done, total, unit
        self._every = every_s
        self._start = self._last = time.monotonic()
        self._n = 0

    def add(self, n: int) -> None:
        """Add `n` things that are done; threads may call it."""
        with self._lock:
            self._add(n)

    def _add(self, n: int) -> None:
        self._n += n
        now = time.monotonic()
        if self._n < self._total and now - self._last < self._every:
            return
        self._last = now
        rate = self._n / max(now - self._start, 1e-9)
        left = (self._total - self._n) / max(rate, 1e-9)
        pace = f"{rate:.0f} a second" if rate >= 1 else f"{60 * rate:.1f} a minute"
        end = f", {left // 60:.0f} min {left % 60:02.0f} s left" if self._n < self._total else ""
        # One text, because Snakemake's logger does not format arguments.
        self._log.info(f"{self._words} {self._n} of {self._total} {self._unit}: {pace}{end}")
