"""Show how a training goes: in the log, and for TensorBoard."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

Metrics = Mapping[str, float]

logger = logging.getLogger(__name__)


def log_progress(fold: int, member: int, epochs: int) -> Callable[[Metrics], None]:
    """Log a line a twentieth of the way, with the time that is left."""
    start = time.monotonic()
    every = max(1, epochs // 20)
    done = 0

    def log(metrics: Metrics) -> None:
        nonlocal done
        done += 1
        epoch = int(metrics["epoch"])
        if epoch % every and epoch not in (1, epochs):
            return
        # A training that goes on after a kill has done fewer than `epoch` here.
        left = (time.monotonic() - start) / done * (epochs - epoch)
        logger.info(
            "fold %d, model %d, epoch %3d of %d: loss %.3f, validation accuracy %.1f %%, "
            "mIoU %.3f, %s left",
            *(fold, member, epoch, epochs, metrics["train_loss"], metrics["val_accuracy"]),
            *(metrics["val_IoU"], f"{left // 60:.0f} min {left % 60:02.0f} s"),
        )

    return log


def each_of(logs: Sequence[Callable[[Metrics], None]]) -> Callable[[Metrics], None]:
    """Hand the metrics on to every log."""

    def log(metrics: Metrics) -> None:
        for one in logs:
            one(metrics)

    return log


class TensorBoardLog:
    """Write the metrics of every epoch to a folder that TensorBoard reads.

    Parameters
    ----------
    folder
        Emptied by epoch 1, so that an earlier training does not show among this one's points.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, metrics: Metrics) -> None:
        """Write the metrics of one epoch."""
        # Slow to import, and needed only here.
        from torch.utils.tensorboard import SummaryWriter

        epoch = int(metrics["epoch"])
        if epoch == 1:
            shutil.rmtree(self._folder, ignore_errors=True)
        with SummaryWriter(self._folder, purge_step=epoch) as writer:
            for name, value in metrics.items():
                if name != "epoch":
                    part, _, metric = name.partition("_")
                    writer.add_scalar(f"{metric}/{part}", value, epoch)
