"""Add up the losses and confusions of an epoch, without waiting for the device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.metrics import mean_iou
from models.training.distributed import ALONE, Processes


class Tally:
    """Add up the loss and the confusion matrix of an epoch's batches.

    The sums stay on the device until `metrics` is asked for, so that a GPU need not stop.

    Parameters
    ----------
    prefix
        "train" or "val", in front of the metrics' names.
    n_classes
        Number of classes.
    device
        Where the batches are.
    """

    def __init__(self, prefix: str, n_classes: int, device: torch.device) -> None:
        self._prefix = prefix
        self._n_classes = n_classes
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._matrix = torch.zeros(n_classes**2, dtype=torch.int64, device=device)

    def add(self, mean_loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: its mean loss, its logits (B, n_classes), its class indices (B,)."""
        self._loss += mean_loss.detach().double() * len(labels)
        cells = labels * self._n_classes + logits.detach().argmax(1)
        self._matrix.index_add_(0, cells, torch.ones_like(cells))

    def metrics(self, processes: Processes = ALONE) -> dict[str, float]:
        """Give the mean loss, the accuracy in percent and the mean IoU, as the reference logs.

        They are those of the batches of all processes.
        """
        processes.add_up(self._loss)
        processes.add_up(self._matrix)
        matrix = self._matrix.view(self._n_classes, self._n_classes).cpu().numpy()
        total = int(matrix.sum())
        return {
            f"{self._prefix}_loss": self._loss.item() / total,
            f"{self._prefix}_accuracy": 100.0 * float(np.trace(matrix)) / total,
            f"{self._prefix}_IoU": mean_iou(matrix),
        }
