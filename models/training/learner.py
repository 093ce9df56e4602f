"""The step of a training: loss, optimizer, learning rate schedule, precision, averaged weights."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models.classifier import ParcelClassifier
from models.training.distributed import ALONE, Processes
from models.training.options import TrainingSettings


class Learner:
    """A model and all that changes its weights.

    Parameters
    ----------
    model
        The model, on its device.
    settings
        Settings of the training.
    n_steps
        Number of steps of the whole training, for the schedule of the learning rate.
    processes
        The processes that train the model together.

    Attributes
    ----------
    model, optimizer, scheduler
        The scheduler sets the optimizer's learning rate after every step.
    """

    def __init__(
        self,
        model: ParcelClassifier,
        settings: TrainingSettings,
        n_steps: int,
        processes: Processes = ALONE,
    ) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.optimizer = _optimizer(model, settings)
        self.scheduler = _scheduler(self.optimizer, settings, n_steps)
        self._bfloat16 = computes_in_bfloat16(settings.precision, self.device)
        self._shared = processes.wrap(model)
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

    def forward(self, *inputs: Tensor | None) -> Tensor:
        """Compute logits; the backward pass averages the gradients over the processes."""
        logits: Tensor = self._shared(*inputs)
        return logits

    def step(self, loss: Tensor) -> Tensor:
        """Update the weights with the gradient of a loss; return the norm of the gradient."""
        self.optimizer.zero_grad()
        loss.backward()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
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
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

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
