"""Detect that a training diverges: its loss, a gradient or its state is no longer finite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.errors import InputError
from models.training.distributed import ALONE, Processes


class DivergedError(InputError):
    """A training that cannot continue; the message says where it diverged."""


class StepWatch:
    """Check the loss and the gradient of every step of an epoch.

    A single process on a CPU checks them after every step. On a GPU, every step would then have to
    wait for the GPU. Several processes must stop together, or the others would wait for the one
    that stopped. In both cases the values are checked at the end of the epoch.

    Parameters
    ----------
    ids
        Ids of all parcels.
    epoch, n_steps
        The epoch's number, and its number of steps.
    device
        Device of the losses.
    processes
        The processes that train the model together.
    """

    def __init__(
        self,
        ids: Sequence[str],
        epoch: int,
        n_steps: int,
        device: torch.device,
        processes: Processes = ALONE,
    ) -> None:
        self._ids = ids
        self._epoch = epoch
        self._processes = processes
        self._at_once = device.type == "cpu" and processes.count == 1
        self._values = torch.zeros(n_steps, 2, device=device)
        self._parcels: list[NDArray[np.int64]] = []

    def add(self, loss: Tensor, gradient_norm: Tensor, parcels: NDArray[np.int64]) -> None:
        """Add a step: its loss, the norm of its gradient, the indices of its batch's parcels.

        Raises
        ------
        DivergedError
            On a CPU, if either is not finite.
        """
        step = len(self._parcels)
        self._values[step, 0] = loss.detach()
        self._values[step, 1] = gradient_norm
        self._parcels.append(parcels)
        if self._at_once:
            self._check(step)

    def end(self, state: Any) -> None:
        """Check all steps of the epoch, and the state of the learner.

        Raises
        ------
        DivergedError
            If a loss, a gradient or the state is not finite in any process.
        """
        self._check(0)
        broken = torch.tensor(int(not all_finite(state)), device=self._values.device)
        self._processes.add_up(broken)
        if broken.item():
            raise self._error(len(self._parcels) - 1, "weights or the optimizer's state are")

    def _check(self, first: int) -> None:
        """Check the steps from number `first` on."""
        broken = (~self._values[first : len(self._parcels)].isfinite()).int()
        self._processes.add_up(broken)
        if (found := broken.cpu().numpy().nonzero())[0].size:
            step, value = found[0][0], found[1][0]
            raise self._error(first + int(step), ("loss is", "gradient is")[value])

    def _error(self, step: int, what: str) -> DivergedError:
        parcels = self._parcels[step]
        return DivergedError(
            f"epoch {self._epoch}, batch {step + 1} of {len(self._values)}: the {what} not finite. "
            f"The batch holds {len(parcels)} parcels: "
            f"{', '.join(self._ids[i] for i in parcels[:5])}{', ...' * (len(parcels) > 5)}"
        )


def all_finite(state: Any) -> bool:
    """Return whether every tensor in nested dicts, lists and tuples is finite."""
    return all(bool(tensor.isfinite().all()) for tensor in _tensors(state))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
