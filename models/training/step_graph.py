"""A training step recorded as a CUDA graph.

The kernels of a step are so short that a GPU waits for Python to start each of them. A graph starts
all kernels of the forward and the backward pass at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

# Steps before the recording, in which libraries choose their kernels and allocate their buffers.
_WARM_UP_STEPS = 3

Compute = Callable[[Sequence[Tensor | None], Tensor], tuple[Tensor, Tensor]]


class StepGraph:
    """Loss, logits and gradients of batches of one shape, computed by a CUDA graph.

    Parameters
    ----------
    compute
        Computes the loss and the logits from the inputs of the model and the labels.
    model
        The model. Its weights and buffers are the same after the recording as before.
    inputs, labels
        A batch of the shape to record, on the GPU.
    """

    def __init__(
        self,
        compute: Compute,
        model: nn.Module,
        inputs: Sequence[Tensor | None],
        labels: Tensor,
    ) -> None:
        self._inputs = [None if tensor is None else _own_memory(tensor) for tensor in inputs]
        self._labels = labels.clone()
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side), warnings.catch_warnings():
            # Torch's compiler warns of what a user cannot change.
            warnings.simplefilter("ignore")
            for _ in range(_WARM_UP_STEPS):
                compute(self._inputs, self._labels)[0].backward()
        torch.cuda.current_stream().wait_stream(side)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
        # The recorded backward pass then creates gradients in the graph's own memory.
        self._set_gradients([None] * len(self._parameters))
        self._graph = torch.cuda.CUDAGraph()
        # Another thread prepares the next batch meanwhile, which the mode "global" would refuse.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            loss, logits = compute(self._inputs, self._labels)
            loss.backward()
        self._loss, self._logits = loss.detach(), logits.detach()
        self._gradients = [p.grad for p in self._parameters]

    def fits(self, inputs: Sequence[Tensor | None], labels: Tensor) -> bool:
        """Return whether a batch has the recorded shape."""
        return _shapes([*inputs, labels]) == _shapes([*self._inputs, self._labels])

    def run(self, inputs: Sequence[Tensor | None], labels: Tensor) -> tuple[Tensor, Tensor]:
        """Set the gradients of a batch; return its loss and logits, until the next run."""
        for own, new in zip([*self._inputs, self._labels], [*inputs, labels], strict=True):
            if own is not None and new is not None:
                own.copy_(new, non_blocking=True)
        self._graph.replay()
        self._set_gradients(self._gradients)
        return self._loss, self._logits

    def _set_gradients(self, gradients: Iterable[Tensor | None]) -> None:
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient


def _own_memory(tensor: Tensor) -> Tensor:
    """Copy a tensor to memory of the same order, in which every element has a place of its own."""
    if 0 in tensor.stride():  # expanded
        return tensor.clone(memory_format=torch.contiguous_format)
    return torch.empty_like(tensor, memory_format=torch.preserve_format).copy_(tensor)


def _shapes(tensors: Sequence[Tensor | None]) -> list[torch.Size | None]:
    return [None if tensor is None else tensor.shape for tensor in tensors]
