"""The device of a process, and the processes that train one model together, one on each GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from models.errors import InputError
from models.shared_batches import sharing


@dataclass(frozen=True)
class Processes:
    """Number of this process among those that train a model together.

    Attributes
    ----------
    rank
        Number of this process, from 0. Only process 0 writes files and logs.
    count
        Number of processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    @property
    def share(self) -> slice:
        """Slice of a sequence that this process works on."""
        return slice(self.rank, None, self.count)

    @property
    def least(self) -> int:
        """Smallest number of parcels in a batch: two have statistics, and each process has one."""
        return max(2, self.count)

    @contextmanager
    def computing(self, n_parcels: int) -> Iterator[None]:
        """Compute a model on this process's share of a batch as if on the whole batch.

        Within the context, batch statistics are those of all processes, and dropout draws for all
        parcels. All processes must compute the same layers.

        Parameters
        ----------
        n_parcels
            Number of parcels in the whole batch.
        """
        if self.count == 1:
            yield
            return
        with sharing(self.share, n_parcels):
            yield

    def add_up_gradients(self, gradients: Sequence[Tensor]) -> None:
        """Replace gradients, in place, by their sums over all processes, all in one message."""
        if self.count == 1:
            return
        together = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(together)
        sums = together.split([gradient.numel() for gradient in gradients])
        for gradient, total in zip(gradients, sums, strict=True):
            gradient.copy_(total.view_as(gradient))

    def add_up(self, tensor: Tensor) -> None:
        """Replace a tensor, in place, by its sum over all processes."""
        if self.count > 1:
            distributed.all_reduce(tensor)

    def wait(self) -> None:
        """Wait until every process has reached this call."""
        if self.count > 1:
            distributed.barrier()


ALONE = Processes()


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Join the processes that torchrun started; without torchrun, this process is alone."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(distributed.get_rank(), count)
    finally:
        distributed.destroy_process_group()


def choose_device(name: str, threads: int) -> torch.device:
    """Return the device, for `auto` the GPU if there is one; on a CPU, set torch's threads.

    Raises
    ------
    InputError
        If the name is that of a GPU and torch finds none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        # torchrun starts one process per GPU.
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    if name == "cpu":
        torch.set_num_threads(threads)
    elif not torch.cuda.is_available():
        raise InputError(f"train.device is {name}, but torch finds no GPU. Set it to auto or cpu.")
    return torch.device(name)
