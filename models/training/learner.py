"""The step of a training: loss, optimizer, learning rate schedule, precision, averaged weights."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models.classifier import ParcelClassifier
from models.training.distributed import ALONE, Processes
from models.training.options import TrainingSettings
from models.training.step_graph import StepGraph

Loss = Callable[[Tensor, Tensor], Tensor]


class Learner:
    """A model and all that changes its weights.

    Parameters
    ----------
    model
        The model, on its device.
    settings
        Settings of the training.
    loss_of
        Computes the mean loss from logits (B, n_classes) and labels (B,).
    n_steps
        Number of steps of the whole training, for the schedule of the learning rate.
    processes
        The processes that train the model together.
    compiled
        Whether to compile the model. That takes a minute, and pays in long trainings on a GPU.
    recorded
        Whether a GPU records a step as a graph and repeats it, see `StepGraph`.

    Attributes
    ----------
    model, optimizer, scheduler
        The scheduler sets the optimizer's learning rate after every step.
    """

    def __init__(
        self,
        model: ParcelClassifier,
        settings: TrainingSettings,
        loss_of: Loss,
        n_steps: int,
        processes: Processes = ALONE,
        *,
        compiled: bool = False,
        recorded: bool = True,
    ) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.optimizer = _optimizer(model, settings)
        self.scheduler = _scheduler(self.optimizer, settings, n_steps)
        self._loss_of = loss_of
        self._bfloat16 = computes_in_bfloat16(settings.precision, self.device)
        self._processes = processes
        # It is compiled again for every shape: a GPU's other batches take the plain model.
        self._fastest: Any = _compiled(model) if compiled else model
        # Several processes wait for each other in every step, which a graph cannot record.
        self._records = recorded and self.device.type == "cuda" and processes.count == 1
        self._graph: StepGraph | None = None
        self._average = None
        if settings.ema_decay > 0:
            follow = get_ema_multi_avg_fn(settings.ema_decay)
            self._average = AveragedModel(model, multi_avg_fn=follow, use_buffers=True)

    @property
    def averaged_model(self) -> ParcelClassifier:
        """The model to validate and save: an average of `model` over the steps, or `model` itself.

        If ema_decay is set, it is the exponential moving average of the weights and the BatchNorm
        statistics (as in the mean teacher, arXiv 1703.01780).
        """
        if self._average is None:
            return self.model
        return cast(ParcelClassifier, self._average.module)

    def learn(
        self, inputs: Sequence[Tensor | None], labels: Tensor, n_parcels: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Update the weights with the gradient of a batch, of all processes together.

        On a GPU, the first batch is recorded as a graph, which computes all batches of its shape.

        Parameters
        ----------
        inputs
            The arguments of `ParcelClassifier.forward`.
        labels
            int64 (B,), class indices.
        n_parcels
            Number of parcels in the batch of all processes; None: B.

        Returns
        -------
        loss, logits, norm
            The mean loss of these parcels, their logits (B, n_classes), and the norm of the
            gradient of the batch. They are valid
            until the next call.
        """
        if self._records and self._graph is None:
            compute = partial(self._loss_and_logits, self._fastest)
            self._graph = StepGraph(compute, self.model, inputs, labels)
        if self._graph is not None and self._graph.fits(inputs, labels):
            loss, logits = self._graph.run(inputs, labels)
        else:
            self.optimizer.zero_grad()
            model = self.model if self._records else self._fastest
            n_parcels = len(labels) if n_parcels is None else n_parcels
            with self._processes.computing(n_parcels):
                loss, logits = self._loss_and_logits(model, inputs, labels)
            # The gradient of the batch's mean loss is the sum of the processes' gradients.
            (loss * (len(labels) / n_parcels)).backward()
        return loss.detach(), logits.detach(), self._update()

    def _loss_and_logits(
        self, model: nn.Module, inputs: Sequence[Tensor | None], labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        with self.autocast():
            logits = model(*inputs)
            return self._loss_of(logits, labels), logits

    def _update(self) -> Tensor:
        """Take a step with the gradient of the weights; return its norm."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        self._processes.add_up_gradients(gradients)
        norm = nn.utils.get_total_norm(gradients)
        self.optimizer.step()
        self.scheduler.step()
        if self._average is not None:
            self._average.update_parameters(self.model)
        return norm

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context to compute the loss in; weights and gradients are always float32."""
        if not self._bfloat16:
            return contextlib.nullcontext()
        # A graph must convert the weights each time, instead of using those of the first step.
        return torch.autocast(self.device.type, dtype=torch.bfloat16, cache_enabled=False)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of model, optimizer, scheduler and average."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the states that `state_dict` returned."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        parts = {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}
        return parts if self._average is None else {**parts, "average": self._average}


def can_compile(device: torch.device, processes: Processes = ALONE) -> bool:
    """Return whether torch can compile a model for a device: one GPU, with Triton and a C compiler.

    Where several processes train together, it has not been tried.
    """
    if device.type != "cuda" or processes.count > 1 or find_spec("triton") is None:
        return False
    return bool(os.environ.get("CC")) or any(map(shutil.which, ("cc", "gcc", "clang")))


def _compiled(model: nn.Module) -> Any:
    # On a CPU, to test that the model can be traced: no code is generated.
    on_gpu = next(model.parameters()).device.type == "cuda"
    return torch.compile(model, dynamic=False, backend="inductor" if on_gpu else "eager")


def computes_in_bfloat16(precision: str, device: torch.device) -> bool:
    """Return whether a training with this precision setting uses bfloat16 on the device."""
    if device.type != "cuda" or precision == "float32":
        return False
    # Before capability 8.0, bfloat16 is emulated and slower than float32.
    return precision == "bfloat16" or torch.cuda.get_device_capability(device) >= (8, 0)


def _optimizer(model: ParcelClassifier, settings: TrainingSettings) -> torch.optim.Optimizer:
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    # Fused: one pass over all parameters, on the devices that support it.
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    return kind(
        model.parameters(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=fused,
    )


def _scheduler(
    optimizer: torch.optim.Optimizer, settings: TrainingSettings, n_steps: int
) -> LRScheduler:
    if settings.schedule == "onecycle":
        # One more step than are taken: the scheduler sets a rate after the last step, too.
        return OneCycleLR(optimizer, max_lr=settings.learning_rate, total_steps=n_steps + 1)
    if settings.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=n_steps)
    return ConstantLR(optimizer, factor=1.0, total_iters=0)


def focal_loss(
    logits: Tensor, labels: Tensor, *, gamma: float, class_weights: Tensor | None = None
) -> Tensor:
    """Compute the mean focal loss, -(1 - p)^gamma log p, with p the probability of the true class.

    Lin et al., arXiv 1708.02002, eq. 4. As in the reference, the factor (1 - p)^gamma is treated as
    a constant: only log p has a gradient.

    Parameters
    ----------
    logits
        Float tensor (B, n_classes).
    labels
        int64 tensor (B,) of class indices.
    gamma
        Focusing exponent; 0 for the cross-entropy.
    class_weights
        Float tensor (n_classes,), the factor alpha of each class; None for 1. As in the reference,
        the mean is not divided by the weights.

    Returns
    -------
    Tensor
        A scalar.
    """
    log_p = functional.log_softmax(logits, dim=1).gather(1, labels[:, None]).squeeze(1)
    loss = -((1 - log_p.detach().exp()) ** gamma) * log_p
    if class_weights is not None:
        loss = loss * class_weights.to(loss)[labels]
    return torch.mean(loss)
