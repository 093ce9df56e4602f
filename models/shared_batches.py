"""Layers that compute a process's share of a batch as if the process had the whole batch.

Several processes that train one model divide each batch. Its normalisation needs the statistics of
the whole batch, and dropout must not depend on how it is divided: otherwise the result would depend
on the number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Share:
    """The parcels of a batch that this process computes.

    Attributes
    ----------
    rows
        Slice or int64 indices of them, among the parcels of the batch.
    n_parcels
        Number of parcels of the batch.
    current
        The share that is computed now; None if this process computes whole batches. It is no
        context variable, which torch could not compile.
    """

    rows: slice | Tensor
    n_parcels: int
    current: ClassVar[Share | None] = None


@contextmanager
def sharing(rows: slice, n_parcels: int) -> Iterator[None]:
    """Compute a share of a batch within the context; arguments are those of `Share`."""
    Share.current = Share(rows, n_parcels)
    try:
        yield
    finally:
        Share.current = None


def is_sharing() -> bool:
    """Return whether this process computes a share of a batch."""
    return Share.current is not None


def added_up(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes that share the batch; it has a gradient."""
    if not is_sharing():
        return tensor
    total: Tensor = _Sum.apply(tensor)  # type: ignore[no-untyped-call]
    return total


class _Sum(torch.autograd.Function):
    """Sum over processes. Each of them uses the sum, so that the gradients are added up, too."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:  # noqa: ARG004
        return sum_of_processes(tensor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return sum_of_processes(gradient)


def sum_of_processes(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes, without a gradient."""
    total = tensor.clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(total)
    return total


class Dropout(nn.Dropout):
    """Dropout of values (B, ...), which is the same however the B parcels are divided."""

    def forward(self, values: Tensor) -> Tensor:
        """Set values to 0 at random in training, and scale the others."""
        share = Share.current
        if share is None or not self.training or self.p == 0:
            return super().forward(values)
        kept = values.new_empty(share.n_parcels, *values.shape[1:]).bernoulli_(1 - self.p)
        return values * kept.div_(1 - self.p)[share.rows]
