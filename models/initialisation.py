"""Initial weights."""

from __future__ import annotations

import torch
from torch import nn

from models.attention import LearntQueryAttention

Layer = nn.Linear | nn.Conv1d | nn.BatchNorm1d


def initialise_weights(model: nn.Module, generator: torch.Generator, kind: str = "paper") -> None:
    """Draw initial weights.

    Parameters
    ----------
    model
        Changed in place.
    generator
        Draws the weights.
    kind
        "paper": the reference's distributions. Linear layers: xavier-normal weights, N(0, 1)
        biases. Convolutions: N(0, 1). BatchNorm: N(0, 1) weights, zero biases. "torch": PyTorch's
        own. Linear layers and convolutions: uniform up to 1 / sqrt(number of inputs). BatchNorm:
        weights of 1. The queries of the L-TAE are N(0, 2 / d_k) in both.
    """
    draw = {"paper": _as_in_the_paper, "torch": _as_torch_does}[kind]
    for module in model.modules():
        if isinstance(module, LearntQueryAttention):
            nn.init.normal_(module.Q, std=(2.0 / module.d_k) ** 0.5, generator=generator)
        elif isinstance(module, Layer):
            draw(module, generator)


def _as_in_the_paper(module: Layer, generator: torch.Generator) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_normal_(module.weight, generator=generator)
    else:
        nn.init.normal_(module.weight, generator=generator)
    if isinstance(module, nn.BatchNorm1d):
        nn.init.zeros_(module.bias)
    elif module.bias is not None:
        nn.init.normal_(module.bias, generator=generator)


def _as_torch_does(module: Layer, generator: torch.Generator) -> None:
    if isinstance(module, nn.BatchNorm1d):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
        return
    bound = module.weight[0].numel() ** -0.5
    for values in (module.weight, module.bias):
        if values is not None:
            nn.init.uniform_(values, -bound, bound, generator=generator)
